"""What a broker gives to another worker is not begun here, from the moment at which it says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

import postbus_in_memory
from postbus import Postbus
from postbus.events import Event, LeaseLost
from postbus.hookspecs import RegisterTransport, hookimpl
from postbus.plugins import Plugin, Plugins
from postbus.queue_transport import QueueTransport
from postbus.transport import Delivery, Guarantees
from postbus_in_memory.connection import InMemoryConnection
from postbus_in_memory.queue import Queue

PATIENCE = 30.0
"""Seconds after which something that must happen counts as never happening."""


@dataclass(frozen=True)
class Task:
    number: int


class Revoking(InMemoryConnection):
    """A connection whose broker gives away, when it is told to, everything that is in hand."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker.queue)
        self._broker = broker

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        deliveries = super().fetch(limit, wait)
        self._broker.in_hand += [delivery.tag for delivery in deliveries]
        return deliveries

    def ack(self, tags: Sequence[object]) -> Sequence[object]:
        gone = [tag for tag in tags if tag in self._broker.gone]
        self._broker.acked += len(tags) - len(gone)
        return [*gone, *super().ack([tag for tag in tags if tag not in gone])]

    def revoked(self) -> Sequence[object]:
        told, self._broker.to_tell = self._broker.to_tell, []
        return told


class Broker:
    """A queue that may take back what it has given."""

    CONTRACT = 1

    def __init__(self) -> None:
        self.queue = Queue()
        self.in_hand: list[object] = []
        self.gone: list[object] = []
        self.to_tell: list[object] = []
        self.acked = 0

    @hookimpl
    def register_transports(self, register: RegisterTransport) -> None:
        register(
            "revoking",
            lambda dsn, context: QueueTransport(lambda: Revoking(self), context),
            guarantees=Guarantees(durable=True, release="own"),
        )

    def revoke(self) -> None:
        """Give everything that is in hand to somebody else."""
        self.gone = self.to_tell = list(self.in_hand)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_what_was_given_to_another_is_not_begun(concurrency: int) -> None:
    """Of a batch that goes to somebody else, only what runs already is handled, and nothing of it is settled."""
    broker = Broker()
    plugins = Plugins()
    plugins.add(broker, Plugin("revoking", "tests", "0"))
    plugins.add(postbus_in_memory, Plugin("in-memory", "tests", "0"))
    app = Postbus(transports={"tasks": "revoking://"}, routing={Task: "tasks"}, plugins=plugins)
    begun: list[int] = []
    events: list[Event] = []
    all_begun, over = threading.Event(), threading.Event()
    app.observers.add(events.append)

    @app.handler
    def handle(task: Task) -> None:
        begun.append(task.number)
        if len(begun) == concurrency:
            all_begun.set()
        assert over.wait(PATIENCE)

    app.dispatch_many(Task(number) for number in range(20))
    worker = app.worker("tasks", concurrency=concurrency, fetch_size=20)
    working = threading.Thread(target=worker.run)
    working.start()
    assert all_begun.wait(PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while len(broker.in_hand) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)

    broker.revoke()
    while broker.to_tell and time.monotonic() < deadline:
        time.sleep(0.01)
    over.set()
    while len([event for event in events if isinstance(event, LeaseLost)]) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    worker.stop()
    working.join(PATIENCE)

    assert not working.is_alive()
    assert 20 == len(broker.in_hand)
    assert 0 == broker.acked
    assert set(range(concurrency)) == set(begun)
