"""Messages that workers die of: they are found out, and cost no other message anything."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace

from postbus import Limits, Postbus, stamps
from postbus.worker.deliveries import Deliveries

PATIENCE = 30.0
"""Seconds after which something that must happen counts as never happening."""


@dataclass(frozen=True)
class Task:
    number: int


def make_app(**options: Any) -> Postbus:
    return Postbus(
        transports={"tasks": f"in-memory://{uuid4().hex}", "failed": "in-memory://"},
        routing={Task: "tasks"},
        failure_transport="failed",
        **options,
    )


def transport(app: Postbus, name: str = "tasks") -> Any:
    return app.transport(name)


def die_with(app: Postbus, number: int) -> None:
    """Fetch so many messages and neither settle them nor give them back, as a worker does that dies."""
    assert number == len(transport(app).connection.fetch(number, 0))
    transport(app).clock.move(2 * transport(app).lease)


def test_a_message_that_three_workers_died_of_is_buried(concurrency: int) -> None:
    """The fourth worker does not touch it: it is buried with that reason, however often it may be retried."""
    app = make_app(retry={"max_retries": 100})
    handled: list[int] = []
    app.handler(handles=Task)(lambda task: handled.append(task.number))
    app.dispatch(Task(13))
    for _ in range(3):
        die_with(app, 1)
    app.dispatch(Task(1))

    stopped = app.worker("tasks", limits=Limits(messages=2), concurrency=concurrency).run()

    assert ([1], 1, 1) == (handled, stopped.handled, stopped.failed)
    [buried] = transport(app, "failed").receive(10, 0)
    assert Task(13) == buried.message
    [error] = buried.all(stamps.ErrorDetails)
    assert "postbus.errors.Poisonous" == error.type
    assert "3 workers died, or lost it, while they had it in hand." == error.message


def test_the_third_try_is_a_try(concurrency: int) -> None:
    """A message that two workers died with is handled as any other, if it can be."""
    app = make_app()
    handled: list[int] = []
    app.handler(handles=Task)(lambda task: handled.append(task.number))
    app.dispatch_many(Task(n) for n in range(3))
    for _ in range(2):
        die_with(app, 3)
    app.worker("tasks", limits=Limits(messages=3), concurrency=concurrency).run()
    assert [0, 1, 2] == sorted(handled)
    assert 0 == transport(app, "failed").connection.count().waiting


def test_messages_that_killed_are_not_mixed_up_with_later_ones() -> None:
    """A worker that is never without messages forgets those that it buried: none that comes later is taken for one."""
    app = make_app()
    handled: list[int] = []
    running, over = threading.Event(), threading.Event()

    @app.handler
    def handle(task: Task) -> None:
        if task.number == 0:
            running.set()
            assert over.wait(PATIENCE)
        handled.append(task.number)
        if len(handled) == 500:
            over.set()

    app.dispatch_many(Task(n) for n in range(100))
    for _ in range(3):
        die_with(app, 100)
    killers = transport(app).connection.fetch(100, 0)
    app.dispatch(Task(0))
    worker = app.worker("tasks", limits=Limits(messages=601), concurrency=2)
    working = threading.Thread(target=worker.run)
    working.start()
    assert running.wait(PATIENCE)
    transport(app).connection.release([killer.tag for killer in killers])
    app.dispatch_many(Task(n) for n in range(100, 600))
    working.join(PATIENCE)
    assert not working.is_alive()
    assert 100 == transport(app, "failed").connection.count().waiting
    assert 501 == len(handled)


def test_failures_are_counted_apart() -> None:
    """A message that failed often, and never killed anybody, is retried as its policy says."""
    app = make_app(retry={"max_retries": 6, "delay": 0, "jitter": 0})
    attempts: list[int] = []

    @app.handler
    def fail(task: Task) -> None:
        attempts.append(task.number)
        raise ValueError("again")

    app.dispatch(Task(1))
    app.worker("tasks", limits=Limits(messages=7)).run()
    assert 7 == len(attempts)
    [buried] = transport(app, "failed").receive(10, 0)
    assert "builtins.ValueError" == buried.all(stamps.ErrorDetails)[-1].type


def test_the_last_chance_endangers_nobody(concurrency: int) -> None:
    """When a message is tried that two workers died with, everything else is settled, or with its broker."""
    app = make_app()
    seen: list[tuple[int, int | None]] = []

    @app.handler
    def handle(task: Task) -> None:
        if task.number == 13:
            counts = transport(app).connection.count()
            seen.append((counts.waiting, counts.in_flight))

    app.dispatch(Task(13))
    for _ in range(2):
        die_with(app, 1)
    app.dispatch_many(Task(n) for n in range(5))
    app.worker("tasks", limits=Limits(messages=6), concurrency=concurrency, fetch_size=6).run()
    assert [(5, 1)] == seen
    assert 6 == len(transport(app).acknowledged)


def test_the_last_chance_waits_for_what_runs_but_not_for_ever() -> None:
    """A handler that runs for long does not keep a worker from trying a message that may be harmless."""
    app = make_app()
    app.dispatch(Task(13))
    for _ in range(2):
        die_with(app, 1)
    [suspect] = transport(app).connection.fetch(1, 0)
    tried, running = threading.Event(), threading.Event()

    @app.handler
    def handle(task: Task) -> None:
        if task.number == 13:
            tried.set()
        if task.number == 1:
            running.set()
            assert tried.wait(PATIENCE)

    app.dispatch(Task(1))
    worker = app.worker("tasks", limits=Limits(messages=2), concurrency=2)
    working = threading.Thread(target=worker.run)
    working.start()
    assert running.wait(PATIENCE)
    transport(app).connection.release([suspect.tag])
    working.join(PATIENCE)
    assert not working.is_alive()
    assert tried.is_set()


def test_a_last_chance_that_is_given_back_leaves_nobody_deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it waits for so long that it goes back to its broker, the worker goes on, and gets it again."""
    monkeypatch.setattr(Deliveries, "TOO_LONG", 0.1)
    app = make_app()
    app.dispatch(Task(13))
    for _ in range(2):
        die_with(app, 1)
    [suspect] = transport(app).connection.fetch(1, 0)
    handled: list[int] = []
    running, over = threading.Event(), threading.Event()

    @app.handler
    def handle(task: Task) -> None:
        if task.number == 1:
            running.set()
            assert over.wait(PATIENCE)
        handled.append(task.number)

    app.dispatch(Task(1))
    worker = app.worker("tasks", limits=Limits(messages=12), concurrency=2)
    working = threading.Thread(target=worker.run)
    working.start()
    assert running.wait(PATIENCE)
    transport(app).connection.release([suspect.tag])
    app.dispatch_many(Task(n) for n in range(2, 12))
    end = time.monotonic() + PATIENCE
    while len(handled) < 11 and time.monotonic() < end:
        threading.Event().wait(0.01)
    over.set()
    working.join(PATIENCE)
    assert not working.is_alive()
    assert {1, 13, *range(2, 12)} == set(handled)


def test_where_the_broker_counts_what_is_given_back_there_are_more_tries() -> None:
    """A message that was only fetched ahead and given back is not taken for one that kills."""
    app = make_app()
    tasks = transport(app)
    tasks.guarantees = replace(tasks.guarantees, release="counted")
    app.dispatch(Task(1))
    for _ in range(19):
        die_with(app, 1)
    deliveries = Deliveries("tasks", tasks)
    deliveries.take_in(tasks.receive(1, 0), time.monotonic())
    [envelope] = deliveries.waiting
    assert not deliveries.suspects.has_last_chance(envelope)
    assert deliveries.suspects.deaths(envelope) is None
    deliveries.release_waiting()
    die_with(app, 1)
    deliveries.take_in(tasks.receive(1, 0), time.monotonic())
    assert 20 == deliveries.suspects.deaths(deliveries.waiting[0])
