"""What is measured of every broker: an app with a queue, beside the broker's client alone with another."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from benchmarks import idle
from benchmarks.measuring import Figure, seconds_per
from benchmarks.messages import MESSAGE, TRANSPORT, make_app
from benchmarks.raw import Queue
from postbus import Limits

WORKED_OFF = 20_000
STORED = 10_000
STORED_SINGLY, SINGLE_ROUNDS = 250, 40
"""Many short rounds, because what a round trip takes changes from one moment to the next."""
TAKEN = 10_000
"""How many messages are taken off a queue of a given depth."""
SHALLOW, DEEP = 1_000, 100_000
HANDLED = 1_000_000
TAKEN_WORN, WORN_ROUNDS = 500, 3
"""Few, because each look into a table that is worn may take seconds."""
PINGS = 200
SECONDS_IDLE = 10.0

Make = Callable[[str, Any], Queue]
"""Returns the queue of a name, to store copies of a message in."""


@dataclass(frozen=True)
class Part:
    """How the client does its part, and what share of its speed is to be reached."""

    raw: str
    target: float


@dataclass(frozen=True)
class Idle:
    """What an idle worker is to reach."""

    latency: float | None = 2e-3
    """How many seconds later than the client it may get a message."""
    core: float = 0.005
    """The share of a core that its waiting may take."""


IDLE = Idle()


class Ours:
    """A queue as an app uses it; the client fills and empties it."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.app = make_app(queue.dsn)
        self.app.dispatch(MESSAGE)  # Which makes the queue.
        queue.empty()

    def work_off(self, count: int) -> float:
        """Store so many, and let the worker of a new app take as many; return the seconds for each."""
        self.queue.store(count)
        with make_app(self.queue.dsn) as app:
            return seconds_per(count, app.worker(TRANSPORT, limits=Limits(messages=count)).run)

    def dispatch_many(self, count: int) -> float:
        """Dispatch so many at once into an empty queue."""
        self.queue.empty()
        return seconds_per(count, lambda: self.app.dispatch_many([MESSAGE] * count))

    def dispatch_singly(self, count: int) -> float:
        """Dispatch one after the other into an empty queue."""
        self.queue.empty()
        return seconds_per(count, lambda: [self.app.dispatch(MESSAGE) for _ in range(count)])


class Raw:
    """A queue as the client alone uses it."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        queue.setup()

    def work_off(self, count: int) -> float:
        """Store so many, and take as many; return the seconds for each."""
        self.queue.store(count)
        return seconds_per(count, lambda: self.queue.take(count))

    def store(self, count: int) -> float:
        """Store so many, in batches, into an empty queue."""
        self.queue.empty()
        return seconds_per(count, lambda: self.queue.store(count))

    def store_singly(self, count: int) -> float:
        """Store one after the other into an empty queue."""
        self.queue.empty()
        return seconds_per(count, lambda: self.queue.store_singly(count))


class Queues:
    """Makes queues, and deletes them in the end."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._stack = ExitStack()
        self._message: Any = None

    def __enter__(self) -> Queues:
        with self._stack:  # Closed if this raises.
            queue = self.new("sample")
            with make_app(queue.dsn) as app:
                app.dispatch(MESSAGE)
            self._message = queue.pop()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def new(self, name: str) -> Queue:
        """Return a queue that does not exist yet."""
        queue = self._make(f"postbus-bench-{name}", self._message)
        self._stack.callback(queue.close)
        self._stack.callback(queue.delete)
        queue.delete()
        return queue

    def ours(self, name: str) -> Ours:
        """Return a queue that an app has made."""
        ours = Ours(self.new(name))
        self._stack.callback(ours.app.close)
        return ours

    def raw(self, name: str) -> Raw:
        """Return a queue for the client."""
        return Raw(self.new(name))


@contextmanager
def figures(
    make: Make, *, worker: Part, dispatch_many: Part, dispatch: Part, waiting: Idle = IDLE
) -> Generator[Iterable[Figure]]:
    """Give all figures of a broker, each beside what its client does."""
    with Queues(make) as queues:
        yield chain(_figures(queues, worker, dispatch_many, dispatch), idle_worker(queues, waiting))


def _figures(queues: Queues, worker: Part, dispatch_many: Part, dispatch: Part) -> Iterable[Figure]:
    ours, raw = queues.ours("ours"), queues.raw("raw")
    yield Figure(
        name=f"worker, a handler that does nothing\nraw: {worker.raw}",
        ours=lambda: ours.work_off(WORKED_OFF),
        raw=lambda: raw.work_off(WORKED_OFF),
        target=worker.target,
    )
    yield Figure(
        name=f"dispatch_many\nraw: {dispatch_many.raw}",
        ours=lambda: ours.dispatch_many(STORED),
        raw=lambda: raw.store(STORED),
        target=dispatch_many.target,
    )
    yield Figure(
        name=f"dispatch, one by one\nraw: {dispatch.raw}",
        ours=lambda: ours.dispatch_singly(STORED_SINGLY),
        raw=lambda: raw.store_singly(STORED_SINGLY),
        target=dispatch.target,
        rounds=SINGLE_ROUNDS,
    )
    yield from _depth("worker", queues.ours, target=0.9)
    yield from _depth("the client alone", queues.raw, target=None)


def _depth(who: str, make: Callable[[str], Ours | Raw], target: float | None) -> Iterable[Figure]:
    """Compare a deep queue with a shallow one."""
    deep, shallow = make(f"deep-{target}"), make(f"shallow-{target}")
    deep.queue.store(DEEP)
    shallow.queue.store(SHALLOW)
    yield Figure(
        name=f"{who}, {_spaced(DEEP)} queued\nbeside it: the same with {_spaced(SHALLOW)}",
        ours=lambda: deep.work_off(TAKEN),
        raw=lambda: shallow.work_off(TAKEN),
        target=target,
    )
    deep.queue.empty()
    shallow.queue.empty()


class Wearable(Queue, Protocol):
    """A queue in a table, which gets worn."""

    def wear(self, count: int) -> None:
        """Let so many messages have gone through it."""
        ...


def worn(
    make: Callable[..., Wearable], seen: Callable[[], AbstractContextManager[object]], recover: Callable[[], None]
) -> Iterable[Figure]:
    """Compare a table that many messages have gone through with one of few; ``make`` takes the name of a ``table``.

    ``seen`` keeps a transaction open meanwhile that could still see whatever is deleted, and ``recover`` has the server
    clear away what nobody can see.
    """

    def make_with_table(name: str, message: object) -> Wearable:
        return make(name, message, table=name.replace("-", "_"))

    with Queues(make_with_table) as queues:
        old, new = queues.ours("worn"), queues.ours("fresh")

        def figure(what: str) -> Figure:
            return Figure(
                name=f"worker, after {_spaced(HANDLED)} others, {what}\nbeside it: on a table of few",
                ours=lambda: old.work_off(TAKEN_WORN),
                raw=lambda: new.work_off(TAKEN_WORN),
                rounds=WORN_ROUNDS,
                warm_up=False,
            )

        with seen():
            old.queue.wear(HANDLED)
            yield figure("which an open transaction could still see")
        recover()
        yield figure("which nobody can see any more")


def idle_worker(queues: Queues, wanted: Idle, pings: int = PINGS) -> Iterable[Figure]:
    """Return what an idle worker is like."""
    ours, raw = queues.new("idle"), queues.raw("idle-raw").queue
    with idle.pinging(ours.dsn) as [ping], idle.listening(raw.listener, raw.ping) as [raw_ping]:
        yield Figure(
            name="idle worker: from dispatch in another process to the handler\nraw: the same two steps",
            ours=ping,
            raw=raw_ping,
            comparison="difference",
            target=wanted.latency,
            rounds=pings,
        )
    yield Figure(
        name=f"idle worker: share of a core, over {SECONDS_IDLE:.0f} s",
        ours=lambda: idle.waiting_cost(SECONDS_IDLE, ours.dsn),
        comparison="cost",
        unit="%",
        target=wanted.core,
        rounds=1,
        warm_up=False,
    )
    yield Figure(
        name=f"idle worker: share of a core that its broker takes, over {SECONDS_IDLE:.0f} s\nraw: without a worker",
        ours=lambda: idle.broker_cost(SECONDS_IDLE, ours.dsn),
        raw=lambda: idle.broker_cost(SECONDS_IDLE),
        comparison="difference",
        unit="%",
        rounds=3,
        warm_up=False,
    )
    yield Figure(
        name="idle worker: memory of its process\nraw: that of the client which waits",
        ours=lambda: idle.memory_of_worker(ours.dsn),
        raw=lambda: idle.memory_of_client(raw.listener, raw.ping),
        comparison="times",
        unit="B",
        target=1.3,
        rounds=3,
        warm_up=False,
    )


def _spaced(number: int) -> str:
    return f"{number:,}".replace(",", " ")
