"""What the rules of the contract stand on: fresh queues, connections, and ways to wait that cannot hang."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from functools import partial, wraps
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any, ClassVar, NoReturn, Protocol, TypeVar
from urllib.parse import quote

import msgspec
import pytest

from postbus.envelope import Envelope
from postbus.events import Observers
from postbus.queue_transport import QueueTransport
from postbus.testing import reporting
from postbus.testing.subject import Subject, Task
from postbus.transport import (
    Connection,
    Counts,
    Delivery,
    Guarantees,
    Outgoing,
    SupportsCount,
    SupportsKeepalive,
    SupportsSetup,
    supports,
)

T = TypeVar("T")

# The clock of a broker and the one of this process, each rounded, may differ by that many seconds.
CLOCKS_DIFFER = 0.01

# So often a rule is begun anew because the machine stood still; a busy one does so now and then, not always.
ATTEMPTS = 10


class Broker(Protocol):
    """A broker that a test may take away; it then refuses connections, and those that there are break."""

    def stop(self) -> None:
        """Stop it in an orderly way."""
        ...

    def kill(self) -> None:
        """End it as a crash would."""
        ...

    def start(self) -> None:
        """Start it at the same address, with what it had stored; return when it answers."""
        ...


class TooLate(Exception):
    """A step of a rule was taken so late that what came of it says nothing about the transport."""


class Workbench:
    """The class that rules are written in. A subclass says what is tested, by these attributes and `dsn`."""

    guarantees: ClassVar[Guarantees]
    """What the plugin promises; a rule that it does not promise is skipped."""
    plugin: ClassVar[str | None] = None
    """Where the hooks are if the plugin is not installed: ``package`` or ``package:object``."""
    short_lease: ClassVar[Mapping[str, object]] = {}
    """Options of the DSN that make a lease as short as it can safely be."""
    short_delay: ClassVar[float] = 0.5
    """A delay in seconds that is worth waiting for."""
    patience: ClassVar[float] = 10.0
    """How long, in seconds, something that must happen may take."""
    quiet: ClassVar[float] = 0.2
    """How long, in seconds, to look for something that must not happen."""
    load: ClassVar[int] = 5000
    """How many messages go through the rules about concurrency."""
    largest_to_try: ClassVar[int] = 16 * 1024 * 1024
    """The most bytes of one body; who says that more are taken is believed beyond that, or names more."""
    refused: ClassVar[Outgoing | None] = None
    """A message that the broker does not take, if there is such a thing."""

    tmp_path: Path
    """A folder for this test alone."""

    def dsn(self) -> str:
        """Return the DSN of a queue that is new and empty, another one each time."""
        raise NotImplementedError(f"{type(self).__name__} needs a method dsn().")

    def make_partial_failure(self) -> tuple[Connection, Sequence[Outgoing]] | None:
        """Return a connection, and a batch of which the broker will take a part only; None if there is no way to."""
        if self.refused is None:
            return None
        return self.connect(), [Outgoing(b"before", {}), self.refused, Outgoing(b"after", {})]

    def broker(self) -> Broker | None:
        """Return the broker that `dsn` leads to, if the test may stop it: nobody else uses it."""
        return None

    def dsn_with(self, queues: Sequence[str]) -> str | None:
        """Return the DSN of something new with queues of these names, if the plugin has such things."""
        return None

    def outgoing_for(self, queue: str, body: bytes) -> Outgoing:
        """Return a message that goes to one of the queues of `dsn_with`, and to no other."""
        raise NotImplementedError(f"{type(self).__name__} has dsn_with(), so it needs a method outgoing_for().")

    def urgent(self, body: bytes) -> Outgoing:
        """Return a message that has a higher priority than one that says nothing about it."""
        raise NotImplementedError(f"{type(self).__name__} promises priority, so it needs a method urgent().")

    def put_foreign(self, body: bytes, headers: Mapping[str, object] | None) -> bool:
        """Put a message on this test's own `queue` as a program does that knows nothing of Postbus.

        With no headers at all if these are None; otherwise with these, some of which are no text: those that the
        broker has no form for are left out. Returns whether there is a way to.
        """
        return False

    @pytest.fixture(autouse=True)
    def _lay_out_and_clear_up(self, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[None]:
        self.tmp_path = tmp_path
        self._request = request
        reporting.pytest_configure(request.config)
        self._queue: str | None = None
        self._prepared: set[str] = set()
        self._transports: list[QueueTransport] = []
        self.observers = Observers()
        yield
        wait([in_background(transport.close) for transport in self._transports], self.patience)

    # what is tested

    @property
    def queue(self) -> str:
        """The DSN of this test's own queue."""
        if self._queue is None:
            self._queue = self.dsn()
        return self._queue

    def change_queue(self) -> None:
        """Leave this test's own queue as it is, and go on with another one."""
        self._queue = None

    def subject(self, dsn: str | None = None, *, short_lease: bool = False) -> Subject:
        """Return what makes transports to a queue, this test's own unless another is given."""
        dsn = dsn or self.queue
        return Subject(with_options(dsn, self.short_lease) if short_lease else dsn, self.plugin)

    def transport(self, dsn: str | None = None, *, short_lease: bool = False, setup: bool = True) -> QueueTransport:
        """Return a transport of its own to a queue; the first to each queue sets it up."""
        transport = self.subject(dsn, short_lease=short_lease).make_transport(self.observers)
        self._transports.append(transport)
        dsn = dsn or self.queue
        if setup and dsn not in self._prepared:
            self._prepared.add(dsn)
            if supports(transport.connection, SupportsSetup):
                transport.connection.setup()
        return transport

    def connect(self, dsn: str | None = None, *, short_lease: bool = False, setup: bool = True) -> Connection:
        """Return a connection of its own to a queue, as another worker has one."""
        return self.transport(dsn, short_lease=short_lease, setup=setup).connection

    @contextmanager
    def child(self, verb: str, number: int = 0, *, short_lease: bool = False) -> Generator[Popen[str]]:
        """Run a process that has a connection of its own to the queue; kill it in the end."""
        task = Task(verb, self.subject(short_lease=short_lease), number, self.patience)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-m", "postbus.testing.child"]
        with Popen(command, stdin=PIPE, stdout=PIPE, text=True, env=environment) as process:  # noqa: S603
            try:
                tell(process, msgspec.json.encode(task).decode())
                yield process
            finally:
                process.kill()

    # what must be promised, or there is no rule

    def requires(self, **promises: object) -> None:
        """Skip the rule unless the guarantees promise this."""
        for name, wanted in promises.items():
            promised = getattr(self.guarantees, name)
            if promised != wanted:
                pytest.skip(f"Guarantees say {name}={promised!r}.")

    def unproven(self, hook: str, why: str) -> NoReturn:
        """Skip the rule because this class lacks a hook, and have that said at the end of the run."""
        if self.guarantees.shared:  # Else there is nobody else, and nothing that could be stopped.
            self._request.node.user_properties.append((reporting.UNPROVEN, (type(self).__name__, hook)))
        pytest.skip(f"{why}: see {hook}.")

    @property
    def long_delay(self) -> float:
        """A delay in seconds that no test sees the end of."""
        return min(3600.0, self.guarantees.longest_delay or 3600.0)

    # what must happen, and what must not

    def publish(self, connection: Connection, messages: Sequence[Outgoing]) -> list[str | None]:
        """Publish in batches that are no larger than promised; return the ids."""
        size = self.guarantees.publish_batch
        batches = [messages[start : start + size] for start in range(0, len(messages), size)]
        return [id for batch in batches for id in connection.publish(batch)]

    def fetch(self, connection: Connection, limit: int, wait: float) -> Sequence[Delivery]:
        """Fetch once, with a limit and a wait that are no larger than promised."""
        return connection.fetch(
            min(limit, self.guarantees.fetch_batch, 100), min(wait, self.guarantees.longest_wait or wait)
        )

    def take(self, connection: Connection, number: int) -> list[Delivery]:
        """Fetch until there are so many deliveries."""
        return self._gather(partial(self.fetch, connection), number)

    def take_on_lease(self, connection: Connection, number: int = 1) -> tuple[list[Delivery], float]:
        """Fetch until there are so many deliveries; return them, and until when no lease on them can be over."""
        lease = connection.lease if supports(connection, SupportsKeepalive) else math.inf
        deadline, until = time.monotonic() + self.patience, math.inf
        deliveries: list[Delivery] = []
        while len(deliveries) < number:
            begun = time.monotonic()
            # In small steps: a lease may have begun as early as the fetch that brought it.
            fetched = self.fetch(connection, number - len(deliveries), min(lease / 8, self.patience))
            if fetched:
                until = min(until, begun + lease - CLOCKS_DIFFER)
            deliveries += fetched
            assert len(deliveries) == number or time.monotonic() < deadline, (
                f"{len(deliveries)} of {number} messages came within {self.patience} s."
            )
        return deliveries, until

    def take_all_of(self, connection: Connection, bodies: set[bytes]) -> None:
        """Fetch until each of these bodies has come; it may come more than once."""
        deadline = time.monotonic() + self.patience
        missing = set(bodies)
        while missing and (left := deadline - time.monotonic()) > 0:
            missing -= {delivery.body for delivery in self.fetch(connection, 10, left)}
        assert set() == missing

    def receive(self, transport: QueueTransport, number: int) -> list[Envelope]:
        """Receive until there are so many envelopes."""
        return self._gather(lambda limit, wait: transport.receive(min(limit, 100), wait), number)

    def take_until(self, connection: Connection, body: bytes) -> Delivery:
        """Fetch until this body comes, and return its delivery."""
        deadline = time.monotonic() + self.patience
        while (left := deadline - time.monotonic()) > 0:
            for delivery in connection.fetch(1, left):
                if delivery.body == body:
                    return delivery
        raise AssertionError(f"{body!r} did not come within {self.patience} s.")

    def assert_not_early(self, connection: Connection, begun: float, seconds: float) -> None:
        """See that one message comes, and not before so many seconds have passed since it began."""
        looked = begun
        while True:
            looking = time.monotonic()
            deliveries = self.fetch(connection, 1, seconds / 8)
            came = time.monotonic()
            if deliveries:
                break
            assert came - begun < seconds + self.patience, f"Nothing came within {seconds} s and {self.patience} s."
            looked = looking
        assert came - begun >= seconds - CLOCKS_DIFFER
        # Had nobody looked for so long, then one that was early could have come unseen.
        not_later_than(looked + seconds / 2)

    def assert_quiet(self, connection: Connection) -> None:
        """See that nothing is delivered on this connection."""
        fetching = in_background(partial(self.fetch, connection, 10, self.quiet))
        assert [] == [delivery.body for delivery in self.in_time(fetching)]

    def assert_empty(self, connection: Connection) -> None:
        """See that nothing is delivered any more, to anybody, and that nothing is still in flight."""
        assert [] == [delivery.body for delivery in self.fetch(connection, 10, 0)]
        if supports(connection, SupportsCount) and connection.count().in_flight is not None:
            self.until(connection, waiting=0, in_flight=0)
            return
        connection.close()
        self.assert_quiet(self.connect())

    def until(self, connection: SupportsCount, **numbers: int) -> Counts:
        """Wait until the connection counts so many; what it cannot tell is passed over. Return the counts."""
        deadline = time.monotonic() + self.patience
        while True:
            counts = connection.count()
            told = {name: getattr(counts, name) for name in numbers if getattr(counts, name) is not None}
            expected = {name: numbers[name] for name in told}
            if told == expected or time.monotonic() > deadline:
                assert expected == told
                return counts
            threading.Event().wait(0.01)

    def in_time(self, future: Future[T]) -> T:
        """Return what is done in the background; it must be done soon."""
        try:
            return future.result(self.patience)
        except TimeoutError:
            raise AssertionError(f"Not done within {self.patience} s.") from None

    def assert_still_waiting(self, future: Future[Any]) -> None:
        """See that what is done in the background is not done yet."""
        assert not wait([future], self.quiet).done, f"Returned {future.result()!r} instead of waiting."

    def _gather(self, get: Callable[[int, float], Sequence[T]], number: int) -> list[T]:
        deadline = time.monotonic() + self.patience
        gathered: list[T] = []
        while len(gathered) < number and (left := deadline - time.monotonic()) > 0:
            gathered += get(number - len(gathered), left)
        assert number == len(gathered), f"{len(gathered)} of {number} messages came within {self.patience} s."
        return gathered


def punctual(rule: Callable[..., None]) -> Callable[..., None]:
    """Begin a rule anew, on another queue, if it was `TooLate`; where it always is, skip it."""

    @wraps(rule)
    def judge(self: Workbench, **values: object) -> None:
        for _ in range(ATTEMPTS):
            with suppress(TooLate):
                rule(self, **values)
                return
            self.change_queue()
        pytest.skip(f"The machine stood still too often, {ATTEMPTS} times, for anything to be said.")

    return judge


def not_later_than(moment: float) -> None:
    """Give up this attempt of a rule if it is later than that."""
    if time.monotonic() > moment:
        raise TooLate


def unable(connection: Connection, ability: type) -> NoReturn:
    """Skip a rule about something that a connection cannot do, and need not."""
    pytest.skip(f"{type(connection).__name__} does not offer what {ability.__name__} asks for.")


def tell(process: Popen[str], line: str) -> None:
    """Write a line to a child."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def hear(process: Popen[str]) -> str:
    """Return the next line that a child writes; it has a minute, since a busy machine is slow to start it."""
    assert process.stdout is not None
    return in_background(process.stdout.readline).result(60).rstrip()


def in_background(work: Callable[[], T]) -> Future[T]:
    """Do something in a thread, which hinders nobody should it hang."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # A border: it comes out where the result is asked for.
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def with_options(dsn: str, options: Mapping[str, object]) -> str:
    """Return the DSN with these options put on last."""
    query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in options.items())
    return f"{dsn}{'&' if '?' in dsn else '?'}{query}" if query else dsn
