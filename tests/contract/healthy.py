"""Six transports that keep the contract, for the mutants to break.

Each is the in-memory connection, with what some of the rules need: a broker with limits, one on which others put
messages of another form, one that has groups, one that several processes share, or one that can be stopped. And
there are awkward ones, which keep it all the same: slow ones, for the rules about leases, and one whose broker
repeats itself.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from postbus.dsn import Dsn
from postbus.errors import ConnectionLost, MessageRefused, TransportError
from postbus.hookspecs import RegisterTransport, hookimpl
from postbus.queue_transport import QueueTransport
from postbus.transport import Delivery, Guarantees, Outgoing, TransportContext
from postbus_in_memory import GUARANTEES, InMemoryConnection, InMemoryOptions
from postbus_in_memory.queue import Queue
from tests.contract.server import Groups, Interrupted, Route, Server, Urgent


class Plain(InMemoryConnection):
    """The in-memory connection as it is, and the plugin that brings it."""

    CONTRACT: ClassVar = 1
    guarantees: ClassVar[Guarantees] = GUARANTEES
    settings: ClassVar[Mapping[str, Any]] = {}
    """What the contract of this transport sets besides."""
    only: ClassVar[Sequence[str]] = ()
    """The names of the groups of rules that are for it; none means all."""
    queue_type: ClassVar[type[Queue]] = Queue
    queues: ClassVar[defaultdict[str, Queue]]

    def __init_subclass__(cls) -> None:
        cls.queues = defaultdict(cls.queue_type)

    @classmethod
    @hookimpl
    def register_transports(cls, register: RegisterTransport) -> None:
        register("in-memory", cls.make, options=InMemoryOptions, guarantees=cls.guarantees)

    @classmethod
    def make(cls, dsn: Dsn, context: TransportContext) -> QueueTransport:
        options = InMemoryOptions.from_dsn(dsn)
        return QueueTransport(lambda: cls(cls.queue_for(dsn), lease=options.lease), context)

    @classmethod
    def queue_for(cls, dsn: Dsn) -> Queue:
        return cls.queues[dsn.host or ""]

    @classmethod
    def new_dsn(cls, folder: Path) -> str:
        return f"in-memory://{uuid4()}"

    def __init__(self, queue: Queue, *, lease: float) -> None:
        super().__init__(queue, lease=lease)
        self.queue = queue


Plain.queues = defaultdict(Queue)


class Limited(Plain):
    """With the limits of some brokers: ten messages at a time, a minute's delay, 100 000 bytes.

    It takes the messages of a batch one by one, but for those that it refuses.
    """

    guarantees = Guarantees(
        durable=False,
        shared=False,
        ordering="fifo",
        longest_delay=60.0,
        lease=True,
        delivery_count=True,
        redelivery_on_crash=False,
        publish_batch=10,
        fetch_batch=10,
        largest_message=200_000,
    )
    settings: ClassVar = {"refused": Outgoing(b"refused", {})}

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        if len(messages) > 10:
            raise TransportError("There are more than 10 messages in this batch. Publish fewer.")
        refused = {n: "The broker refuses a message." for n, message in enumerate(messages) if self.refuses(message)}
        stored = {n: super(Limited, self).publish([m])[0] for n, m in enumerate(messages) if n not in refused}
        if refused:
            raise MessageRefused(refused, stored=stored)
        return list(stored.values())

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        if limit > 10:
            raise TransportError("Asked for more than 10 messages. Ask for fewer.")
        return super().fetch(limit, wait)

    def replace(self, tag: int, message: Outgoing) -> str | None:
        if self.refuses(message):
            raise MessageRefused({0: "The broker refuses the copy."})
        return super().replace(tag, message)

    @staticmethod
    def refuses(message: Outgoing) -> bool:
        return message.body == b"refused" or len(message.body) > 200_000 or message.delay > 60


class Framed(Plain):
    """Lays body and headers together in one place, as text; what others put there may have another form."""

    settings: ClassVar = {"put_foreign": lambda self, body, headers: self.connect().put_foreign(body, headers)}

    def put_foreign(self, body: bytes, headers: Mapping[str, object] | None) -> bool:
        frame = body if headers is None else self.frame(body, headers)
        with self.queue.changed:
            self.queue.put(Outgoing(frame, {}))
            self.queue.changed.notify_all()
        return True

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        return super().publish([replace(m, body=self.frame(m.body, m.headers), headers={}) for m in messages])

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        return [self.read(delivery) for delivery in super().fetch(limit, wait)]

    def browse(self, limit: int, after: str | None = None) -> Sequence[Delivery]:
        return [self.read(shown) for shown in super().browse(limit, after)]

    def find(self, id: str) -> Delivery | None:
        found = super().find(id)
        return None if found is None else self.read(found)

    def frame(self, body: bytes, headers: Mapping[str, object]) -> bytes:
        return msgspec.json.encode((body, headers))

    def read(self, delivery: Delivery) -> Delivery:
        """Return a delivery as it was before it was framed; if nobody has framed it so, with that as its problem."""
        try:
            body, headers = msgspec.json.decode(delivery.body, type=tuple[bytes, dict[str, Any]])
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return replace(delivery, problem="it has not the form of a message")
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in headers.items()}
        return replace(delivery, body=body, headers=texts)


class Grouped(Plain):
    """Delivers the messages of one group one after the other, and what was given back to the same consumer only."""

    guarantees = replace(GUARANTEES, ordering="none", groups=True, release="own")
    queue: Groups
    queue_type = Groups

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        deadline = time.monotonic() + wait
        with self.queue.changed:
            while not self._closed:
                deliveries = self.queue.take_for(self, limit, self._lease)
                left = deadline - time.monotonic()
                if deliveries or left <= 0:
                    return [replace(d, group=self.queue.group_of(self.queue.messages[d.id or ""])) for d in deliveries]
                self.queue.changed.wait(min(left, self.queue.seconds_until_next()))
        return []

    def release(self, tags: Sequence[int]) -> Sequence[int]:
        with self.queue.changed:
            self.queue.owners |= {m.id: self for tag in tags if (m := self.queue.in_flight.get(tag))}
            return super().release(tags)

    def close(self) -> None:
        with self.queue.changed:
            self.queue.owners = {id: owner for id, owner in self.queue.owners.items() if owner is not self}
            super().close()


class Shelf(Queue):
    """A queue in a file, which is read by who enters ``changed`` and written by who leaves it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = Path(path)
        self.changed = Turn(self)

    def put(self, content: Outgoing) -> str:
        return super().put(replace(content, stamps=()))  # Not all of them can be pickled.

    def load(self) -> None:
        """Take over what the file says."""
        if self.path.exists() and (content := self.path.read_bytes()):
            vars(self).update(pickle.loads(content))

    def store(self) -> None:
        """Write everything, so that whoever dies leaves the old file or the new one."""
        state = {name: value for name, value in vars(self).items() if name not in ("path", "changed", "clock")}
        new = self.path.with_suffix(f".{os.getpid()}")
        new.write_bytes(pickle.dumps(state))
        new.replace(self.path)


class Turn:
    """In place of a condition: one thread of one process at a time, and a wait that is a short sleep."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._lock = threading.RLock()
        self._depth = 0
        self._file: Any = None

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1
        if self._depth == 1:
            self._file = self._shelf.path.with_suffix(".lock").open("w")
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._shelf.load()

    def __exit__(self, *_: object) -> None:
        if self._depth == 1:
            self._shelf.store()
            self._file.close()
        self._depth -= 1
        self._lock.release()

    def wait(self, seconds: float) -> None:
        self.__exit__()
        time.sleep(max(0.0, min(seconds, 0.01)))
        self.__enter__()

    def notify_all(self) -> None:
        """Whoever waits looks again soon."""


class Shared(Plain):
    """In a file that several processes use at once, which setup makes."""

    # Whatever is done, the whole file is read and written, so it is kept short.
    guarantees = Guarantees(
        durable=True, ordering="fifo", lease=True, delivery_count=True, notes=True, publish_batch=100
    )
    settings: ClassVar = {"patience": 8.0, "load": 100}
    queue: Shelf
    queue_type = Shelf

    @classmethod
    @hookimpl
    def register_transports(cls, register: RegisterTransport) -> None:
        register("shelf", cls.make, options=InMemoryOptions, guarantees=cls.guarantees)

    @classmethod
    def queue_for(cls, dsn: Dsn) -> Queue:
        if dsn.path not in cls.queues:
            cls.queues[dsn.path] = cls.queue_type(dsn.path)
        return cls.queues[dsn.path]

    @classmethod
    def new_dsn(cls, folder: Path) -> str:
        return f"shelf://{folder}/{uuid4()}.queue"

    def setup(self) -> None:
        self.queue.path.touch()

    def read_notes(self, names: Sequence[str]) -> Sequence[str | None]:
        return super().read_notes(names) if self.queue.path.exists() else [None] * len(names)

    def missing(self) -> Sequence[str]:
        return [] if self.queue.path.exists() else [f"There is no file {self.queue.path}."]


class Served(Plain):
    """Talks to a broker that can be stopped, over a connection that does not survive it."""

    guarantees = Guarantees(
        durable=True,
        shared=False,
        ordering="fifo",
        priority=True,
        lease=True,
        delivery_count=True,
        release="counted",
        redelivery_on_crash=False,
        notes=True,
    )
    settings: ClassVar = {
        "broker": lambda self: self.connect().queue,
        "dsn_with": lambda self, queues: f"in-memory://{uuid4()}/{'/'.join(queues)}",
        "outgoing_for": lambda self, queue, body: Outgoing(body, {}, stamps=(Route(queue),)),
        "urgent": lambda self, body: Outgoing(body, {}, stamps=(Urgent(),)),
    }
    queue: Server
    queue_type = Server

    @classmethod
    def queue_for(cls, dsn: Dsn) -> Queue:
        server = cls.queues[dsn.host or ""]
        server.names = dsn.segments or Server.names
        return server

    def __init__(self, queue: Server, *, lease: float) -> None:
        self.start = queue.starts
        super().__init__(queue, lease=lease)
        self.reach()

    def reach(self) -> None:
        """Raise if the broker has gone away since this connection was opened."""
        if not self.queue.running or self.start != self.queue.starts:
            raise ConnectionLost("The broker is gone.")

    @property
    def _queue(self) -> Server:
        # Whatever the connection does, it looks here first.
        self.reach()
        return self.queue

    @_queue.setter
    def _queue(self, queue: Server) -> None:
        self.queue = queue

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        return self.fetch_from(self.queue.names, limit, wait)

    def fetch_from(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        if unknown := set(queues) - set(self.queue.names):
            raise TransportError(f"There is no queue {unknown.pop()!r}.")
        deadline = time.monotonic() + wait
        with self.queue.changed:
            while not self._closed:
                deliveries = self._queue.take_from(queues, limit, self._lease)
                left = deadline - time.monotonic()
                if deliveries or left <= 0:
                    return deliveries
                self.queue.changed.wait(min(left, self.queue.seconds_until_next()))
        return []

    def release(self, tags: Sequence[int]) -> Sequence[int]:
        with self._queue.changed:
            lost = [tag for tag in tags if self.queue.put_back(tag) is None]
            self.queue.changed.notify_all()
        return lost

    def close(self) -> None:
        with self.queue.changed:
            self._closed = True
            self.queue.changed.notify_all()


class HandsOnTwice(Served):
    """Its broker promises, as every broker does, that a message is delivered at least once."""

    only = ("Restarts",)
    queue_type = Interrupted


class Halting(Plain):
    """On a machine that stands still once in the course of each rule, before or after a certain step."""

    only = ("Leases",)
    halts_before: ClassVar[int]
    steps: ClassVar[Counter[str]]

    def __init_subclass__(cls, *, before: int) -> None:
        super().__init_subclass__()
        cls.halts_before, cls.steps = before, Counter()

    @contextmanager
    def step(self) -> Generator[None]:
        self.tick()
        yield
        self.tick()

    def tick(self) -> None:
        """Stand still for longer than a lease, if it is time to."""
        rule = os.environ["PYTEST_CURRENT_TEST"]
        self.steps[rule] += 1
        if self.steps[rule] == self.halts_before:
            time.sleep(1.0)

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        with self.step():
            return super().publish(messages)

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        with self.step():
            return super().fetch(limit, wait)

    def ack(self, tags: Sequence[int]) -> Sequence[int]:
        with self.step():
            return super().ack(tags)

    def reject(self, tags: Sequence[int]) -> Sequence[int]:
        with self.step():
            return super().reject(tags)

    def release(self, tags: Sequence[int]) -> Sequence[int]:
        with self.step():
            return super().release(tags)

    def keepalive(self, tags: Sequence[int]) -> Sequence[int]:
        with self.step():
            return super().keepalive(tags)


HEALTHY = (Plain, Limited, Framed, Grouped, Shared, Served)
HALTING = [type(f"Halting{number}", (Halting,), {}, before=number) for number in (4, 6, 8, 10, 14, 18)]

AWKWARD = [HandsOnTwice, *HALTING]

# Their plugin is found by its name.
globals().update({connection.__name__: connection for connection in HALTING})
