"""Messages of one group are handled one after the other, in order, whatever the concurrency."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace

import postbus_in_memory
from postbus import Limits, Postbus, stamps
from postbus.hookspecs import RegisterTransport, hookimpl
from postbus.plugins import Plugin, Plugins
from postbus.queue_transport import QueueTransport
from postbus.transport import Delivery, Guarantees
from postbus.worker.deliveries import Deliveries
from postbus_in_memory.connection import InMemoryConnection
from postbus_in_memory.queue import Queue

PATIENCE = 30.0
"""Seconds after which something that must happen counts as never happening."""


@dataclass(frozen=True)
class Task:
    group: str
    number: int


class Broker:
    """A queue whose messages have an ordering key: what stands in their ``group``."""

    CONTRACT = 1

    def __init__(self, **guarantees: Any) -> None:
        self.queue = Queue()
        self.released: list[str | None] = []
        self.promised = Guarantees(durable=True, ordering="fifo", groups=True, lease=True, **guarantees)

    @hookimpl
    def register_transports(self, register: RegisterTransport) -> None:
        register(
            "grouped",
            lambda dsn, context: QueueTransport(lambda: GroupedConnection(self), context),
            guarantees=self.promised,
        )

    def app(self) -> Postbus:
        plugins = Plugins()
        plugins.add(self, Plugin("grouped", "tests", "0"))
        plugins.add(postbus_in_memory, Plugin("in-memory", "tests", "0"))
        return Postbus(
            transports={"tasks": "grouped://", "others": "in-memory://", "failed": "in-memory://"},
            routing={Task: "tasks"},
            plugins=plugins,
            failure_transport="failed",
            retry={"max_retries": 0},
        )


class GroupedConnection(InMemoryConnection):
    def __init__(self, broker: Broker) -> None:
        super().__init__(broker.queue)
        self._broker = broker

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        return [replace(delivery, group=_group_of(delivery)) for delivery in super().fetch(limit, wait)]

    def release(self, tags: Sequence[int]) -> Sequence[int]:
        with self._queue.changed:
            self._broker.released += [message.id for tag in tags if (message := self._queue.in_flight.get(tag))]
            return super().release(tags)


def _group_of(delivery: Delivery) -> str | None:
    text = delivery.body.decode()
    return None if '"group":""' in text else text.split('"group":"')[1].split('"')[0]


def until(condition: Callable[[], object]) -> bool:
    """Wait until something is so, which nobody tells; say whether it came to be."""
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        threading.Event().wait(0.01)
    return bool(condition())


class Recorder:
    """Handles messages, and takes note of what ran at the same time."""

    def __init__(self, app: Postbus) -> None:
        self.handled: list[Task] = []
        self.running: list[Task] = []
        self.together: set[frozenset[str]] = set()
        self._lock = threading.Lock()
        app.handler(handles=Task)(self.handle)

    def handle(self, task: Task) -> None:
        with self._lock:
            assert all(task.group != other.group or not task.group for other in self.running)
            self.running.append(task)
            self.together.add(frozenset(other.group for other in self.running))
        threading.Event().wait(0.002)
        with self._lock:
            self.running.remove(task)
            self.handled.append(task)


@pytest.mark.parametrize("fetch_size", [None, 50])
def test_one_group_is_in_order_and_others_are_beside_it(fetch_size: int | None) -> None:
    """With many slots, no two of a group run at once, each group is in order, and several groups run at once."""
    app = Broker().app()
    recorder = Recorder(app)
    tasks = [Task("abcde"[number % 5], number) for number in range(200)]
    app.dispatch_many(tasks)
    stopped = app.worker("tasks", limits=Limits(messages=200), concurrency=8, fetch_size=fetch_size).run()
    assert (200, 0) == (stopped.handled, stopped.failed)
    for group in "abcde":
        assert [task for task in tasks if task.group == group] == [
            task for task in recorder.handled if task.group == group
        ]
    assert any(len(groups) > 1 for groups in recorder.together)


def test_groups_hold_for_both_kinds_of_handlers() -> None:
    """Also where one message of a group has an async handler, and the next one a def handler, and so on."""

    @dataclass(frozen=True)
    class Other(Task):
        """A message of the same groups."""

    app = Broker().app()
    running: list[str] = []
    handled: dict[str, list[int]] = {group: [] for group in "abc"}

    @app.handler(handles=Task)
    async def handle(task: Task) -> None:
        assert task.group not in running
        running.append(task.group)
        await asyncio.sleep(0.001)
        running.remove(task.group)
        handled[task.group].append(task.number)

    app.handler(handles=Other, name="nothing")(lambda other: threading.Event().wait(0.001))
    tasks = [(Task, Other)[number % 7 < 2]("abc"[number % 3], number) for number in range(150)]
    app.dispatch_many(tasks)
    stopped = app.worker("tasks", limits=Limits(messages=150), concurrency=6).run()
    assert (150, 0) == (stopped.handled, stopped.failed)
    for group in "abc":
        assert [task.number for task in tasks if task.group == group] == handled[group]


def test_what_waits_for_its_group_is_overtaken() -> None:
    """A slow message keeps its own group waiting, and neither other groups, nor what has none, nor other transports."""
    app = Broker().app()
    handled: list[Task] = []
    over = threading.Event()

    @app.handler
    def handle(task: Task) -> None:
        if task == Task("slow", 0):
            assert over.wait(PATIENCE)
        handled.append(task)

    app.dispatch_many([Task("slow", 0), Task("slow", 1), Task("quick", 2), Task("", 3), Task("slow", 4), Task("", 5)])
    app.dispatch(Task("elsewhere", 6), stamps.TransportNames(["others"]))
    worker = app.worker("tasks", "others", limits=Limits(messages=7), concurrency=3, fetch_size=6)
    working = threading.Thread(target=worker.run)
    working.start()
    assert until(lambda: len(handled) == 4)
    assert {2, 3, 5, 6} == {task.number for task in handled}
    over.set()
    working.join(PATIENCE)
    assert not working.is_alive()
    assert [0, 1, 4] == [task.number for task in handled[4:]]


def test_a_message_that_fails_does_not_hold_up_its_group() -> None:
    """It is buried, or comes again as another message; what is behind it goes on, in order."""
    app = Broker().app()
    handled: list[int] = []

    @app.handler
    def handle(task: Task) -> None:
        handled.append(task.number)
        if task.number == 0:
            raise ValueError("no")

    app.dispatch_many(Task("a", number) for number in range(5))
    app.worker("tasks", limits=Limits(messages=5), concurrency=3, fetch_size=5).run()
    assert [0, 1, 2, 3, 4] == handled


def test_what_is_given_back_is_so_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a worker stops, what was in line and what waited go back in the order in which they came."""
    monkeypatch.setattr(Deliveries, "TOO_LONG", 3600.0)  # Or some of it goes back before, and comes again.
    broker = Broker()
    app = broker.app()
    running, over = threading.Event(), threading.Event()

    @app.handler
    def handle(task: Task) -> None:
        running.set()
        assert over.wait(PATIENCE)

    app.dispatch_many([Task("a", 0), *(Task("abc"[number % 3], number) for number in range(1, 12))])
    worker = app.worker("tasks", concurrency=2, fetch_size=12)
    working = threading.Thread(target=worker.run)
    working.start()
    assert running.wait(PATIENCE)
    worker.stop()
    assert until(lambda: len(broker.released) >= 10)
    over.set()
    working.join(PATIENCE)
    assert not working.is_alive()
    assert broker.released == sorted(broker.released, key=lambda id: int(id or 0))


def test_what_only_comes_back_to_us_is_not_given_back() -> None:
    """Where nobody else gets it, what waits behind a slow message waits here, and goes round in no circle."""
    broker = Broker(release="own")
    app = broker.app()
    handled: list[int] = []
    over = threading.Event()

    @app.handler
    def handle(task: Task) -> None:
        if task.number == 0:
            assert over.wait(PATIENCE)
        handled.append(task.number)

    app.dispatch_many(Task("a", number) for number in range(10))
    worker = app.worker("tasks", limits=Limits(messages=10), fetch_size=10)
    slow = threading.Timer(4 * Deliveries.TOO_LONG, over.set)
    slow.start()
    worker.run()
    slow.join()
    assert [] == broker.released
    assert list(range(10)) == handled


@dataclass(frozen=True)
class Single:
    """A message of the same groups, which is handled by itself."""

    group: str
    number: int


@pytest.mark.parametrize("concurrency", [1, 4])
def test_groups_hold_for_batches(concurrency: int) -> None:
    """Several of a group may be in one batch, in order; what comes behind them and is not in it waits for its end."""
    app = Broker().app()
    handled: list[Task | Single] = []

    @app.handler(batch=4, wait=10 * PATIENCE)
    def handle_many(tasks: list[Task]) -> None:
        threading.Event().wait(0.01)
        handled.extend(tasks)

    @app.handler
    def handle_one(single: Single) -> None:
        handled.append(single)

    tasks = [Single("ab"[n % 2], n) if n % 7 == 0 else Task("ab"[n % 2], n) for n in range(60)]
    for task in tasks:
        app.dispatch(task, stamps.TransportNames(["tasks"]))
    stopped = app.worker("tasks", limits=Limits(messages=60), concurrency=concurrency).run()
    assert (60, 0) == (stopped.handled, stopped.failed)
    for group in "ab":
        assert [task.number for task in tasks if task.group == group] == [
            task.number for task in handled if task.group == group
        ]
