"""What is measured of every broker: an app with a queue, beside the broker's client alone with another."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

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
PINGS = 200
SECONDS_IDLE = 10.0

Make = Callable[[str, Any], Queue]
"""Returns the queue of a name, to store copies of a message in."""


@dataclass(frozen=True)
class Part:
    """How the client does its part, and what share of its speed is to be reached."""

    raw: str
    target: float


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
def figures(make: Make, *, worker: Part, dispatch_many: Part, dispatch: Part) -> Generator[Iterable[Figure]]:
    """Give all figures of a broker, each beside what its client does."""
    with Queues(make) as queues:
        yield _figures(queues, worker, dispatch_many, dispatch)


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
    yield from _waiting(queues)


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


def _waiting(queues: Queues) -> Iterable[Figure]:
    """Return what an idle worker is like."""
    ours, raw = queues.new("idle"), queues.raw("idle-raw").queue
    with idle.pinging(ours.dsn) as [ping], idle.listening(raw.listener, raw.ping) as [raw_ping]:
        yield Figure(
            name="idle worker: from dispatch in another process to the handler\nraw: the same two steps",
            ours=ping,
            raw=raw_ping,
            comparison="difference",
            target=2e-3,
            rounds=PINGS,
        )
    yield Figure(
        name=f"idle worker: share of a core, over {SECONDS_IDLE:.0f} s",
        ours=lambda: idle.waiting_cost(SECONDS_IDLE, ours.dsn),
        comparison="cost",
        unit="%",
        target=0.005,
        rounds=1,
        warm_up=False,
    )


def _spaced(number: int) -> str:
    return f"{number:,}".replace(",", " ")
