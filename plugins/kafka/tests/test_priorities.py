"""Kafka has no priorities: there is a topic for each, and a worker that takes from them in order, or by turns."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from postbus import Postbus
from tests.brokers.kafka import Kafka
from tests.brokers.server import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.once]

BACKLOG, RUSH = 1000, 100
"""How much there is of either; of what is not urgent, more than a worker reads ahead."""
AHEAD = 5
"""How many messages a worker fetches at a time, and so has in hand when something urgent comes."""
OPTIONS = "partitions=2&delays[]=1&heartbeat_interval=0.3&timeout=20&prefetch=500"
PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Urgent:
    """What is to be handled before all else."""

    number: int


@dataclass(frozen=True, slots=True)
class Routine:
    """What there is much of."""

    number: int


class Handling:
    """A worker of both topics, which can be told to stand still, and the kinds of what it has handled."""

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self._topic = topic
        self.app = Postbus(transports={name: f"{kafka.dsn}/{topic}-{name}?{OPTIONS}" for name in ("high", "low")})
        self.app.message("urgent", transport="high", key="number")(Urgent)
        self.app.message("routine", transport="low", key="number")(Routine)
        self.app.handler(self._note)
        self.handled: list[type] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def _note(self, message: Urgent | Routine) -> None:
        self.may_go_on.wait(PATIENCE)
        self.handled.append(type(message))

    @contextmanager
    def running(self, **options: Any) -> Iterator[None]:
        """Let it work meanwhile."""
        worker = self.app.worker("high", "low", fetch_size=AHEAD, **options)
        thread = threading.Thread(target=worker.run)
        with closing(self.app):
            thread.start()
            try:
                yield
            finally:
                self.may_go_on.set()
                worker.stop()
                thread.join(PATIENCE)
        assert not thread.is_alive()

    def inventory(self, name: str) -> Any:
        """Return what is here of a topic."""
        transport: Any = self.app.transport(name)
        return transport.connection._membership._inventory

    def number_ready(self, name: str) -> int:
        """Return how many messages are here that may be handed out, as the broker knows that this may happen."""
        inventory = self.inventory(name)
        is_known = all(
            one.position is not None and one.position <= one._limit for one in inventory._assignments.values()
        )
        return len(inventory._backlog) if is_known else 0

    def has(self, partitions: int) -> bool:
        """Say whether it has so many partitions of each topic."""
        return all(
            partitions == sum(one.topic == f"{self._topic}-{name}" for one in self.inventory(name).partitions())
            for name in ("high", "low")
        )


def rush(workers: Sequence[Handling], name: str, messages: Sequence[Urgent | Routine]) -> list[list[type]]:
    """Send messages while all stand still, and let them go on once those are read; return what each had handled next.

    That ends when there have been so many urgent ones.
    """
    for worker in workers:
        worker.may_go_on.clear()
    begun = [len(worker.handled) for worker in workers]
    workers[0].app.dispatch_many(messages)
    in_hand = AHEAD * len(workers)
    wait_until(
        lambda: sum(worker.number_ready(name) for worker in workers) >= len(messages) - in_hand,
        "They are not read.",
        PATIENCE,
    )
    for worker in workers:
        worker.may_go_on.set()

    def came() -> list[list[type]]:
        return [worker.handled[begin:] for worker, begin in zip(workers, begun, strict=True)]

    wait_until(lambda: sum(some.count(Urgent) for some in came()) >= RUSH, "They are not handled.", PATIENCE)
    return came()


def test_what_is_urgent_overtakes_a_backlog(kafka_plain: Kafka, topic: str) -> None:
    """However much waits in the other topic; for each of two workers, too, after one has given partitions up."""
    first, second = (Handling(kafka_plain, topic) for _ in range(2))
    urgent = [Urgent(n) for n in range(RUSH)]
    with ExitStack() as stack:
        stack.enter_context(first.running())
        for workers in [first], [first, second]:
            if second in workers:
                stack.enter_context(second.running())
            wait_until(lambda workers=workers: all(one.has(2 // len(workers)) for one in workers), "It does not join.")
            first.may_go_on.clear()
            first.app.dispatch_many(Routine(n) for n in range(BACKLOG))
            for came in rush(workers, "high", urgent):
                last = len(came) - came[::-1].index(Urgent)
                assert last - came.count(Urgent) <= 3 * AHEAD, "What was not urgent came before what was."


def test_what_is_not_urgent_has_its_turns(kafka_plain: Kafka, topic: str) -> None:
    """With weights, a flood of what is urgent leaves the other topic its share."""
    worker = Handling(kafka_plain, topic)
    with worker.running(strategy="weighted", weights={"high": 3}):
        wait_until(lambda: worker.has(2), "It does not join.")
        worker.may_go_on.clear()
        worker.app.dispatch_many(Urgent(n) for n in range(2 * RUSH))
        [came] = rush([worker], "low", [Routine(n) for n in range(2 * RUSH)])

    assert RUSH // 6 <= came[: 4 * RUSH // 3].count(Routine) <= RUSH * 2 // 3
