"""Handlers that may take only so long: what is cancelled, what is interrupted, and what only ends with its worker."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from postbus import Handlers, Limits, Postbus, handles, stamps, time_limits
from postbus.errors import ConfigurationError, HandlerFailed, Interrupted, TimeLimitExceeded, TransportError
from postbus.events import Event, HandlerStuck, MessageFailed, MessageHandled, MessageReleased, WorkerStopped

PATIENCE = 30.0
"""Seconds after which something that must happen counts as never happening."""

LIMIT = 0.2


@dataclass(frozen=True)
class Task:
    number: int


@dataclass(frozen=True)
class Part:
    """What the handler of a `Task` dispatches itself."""


@pytest.fixture
def app() -> Postbus:
    return Postbus(
        transports={"tasks": "in-memory://", "failed": "in-memory://"},
        routing={Task: "tasks"},
        failure_transport="failed",
        retry={"max_retries": 1, "delay": 0},
    )


@pytest.fixture
def over() -> Iterator[threading.Event]:
    """Return what ends, when the test does, the handlers that it has left stuck."""
    over = threading.Event()
    yield over
    over.set()


@pytest.fixture
def no_mercy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limits, "MERCY", 0.2)


def transport(app: Postbus, name: str = "tasks") -> Any:
    return app.transport(name)


def buried(app: Postbus) -> list[str]:
    """Return the last error of each message that was buried."""
    envelopes = transport(app, "failed").receive(100, 0)
    return [details.message for one in envelopes if (details := one.last(stamps.ErrorDetails)) is not None]


def run(app: Postbus, messages: int | None = None, **options: Any) -> WorkerStopped:
    return app.worker("tasks", limits=Limits(messages=messages, time=PATIENCE), **options).run()


# cancelled and interrupted


def test_an_async_handler_is_cancelled(app: Postbus, concurrency: int) -> None:
    """At its limit it sees its cancellation, and its message is retried, then buried, with a reason that says so."""
    seen: list[type] = []

    @app.handler(time_limit=LIMIT, name="wait")
    async def wait(task: Task) -> None:
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            seen.append(type(error))
            raise

    app.dispatch(Task(1))
    stopped = run(app, 2, concurrency=concurrency)
    assert (0, 2, False) == (stopped.handled, stopped.failed, stopped.stuck)
    assert [asyncio.CancelledError] * 2 == seen
    assert [f"Handler 'wait' took longer than its time limit of {LIMIT:g} s and was cancelled."] == buried(app)
    assert 0 == transport(app).connection.count().in_flight


def test_one_at_a_time_a_handler_is_interrupted(app: Postbus, over: threading.Event) -> None:
    """In the main thread a handler that waits, or computes in Python, sees `Interrupted`, and can clear up."""
    seen: list[type] = []

    # Apart, because Python 3.13.0 forgets the `try` around a loop where that jumps back, and signals are met there.
    def compute() -> None:
        while True:
            pass

    @app.handler(time_limit=LIMIT, name="hang")
    def hang(task: Task) -> None:
        try:
            if task.number == 2:
                compute()
            over.wait(PATIENCE)
        except BaseException as error:
            seen.append(type(error))
            raise

    app.dispatch_many([Task(1), Task(2)])
    stopped = run(app, 4)
    assert (0, 4, False) == (stopped.handled, stopped.failed, stopped.stuck)
    assert [Interrupted] * 4 == seen
    assert [f"Handler 'hang' took longer than its time limit of {LIMIT:g} s and was interrupted."] * 2 == buried(app)


def test_the_traceback_says_where_a_handler_was(app: Postbus) -> None:
    """A message that is buried for it carries where in the handler the time was over."""

    def find_the_answer() -> None:
        while True:
            pass

    @app.handler(time_limit=LIMIT)
    def compute(task: Task) -> None:
        find_the_answer()

    app.dispatch(Task(1))
    run(app, 2)
    (envelope,) = transport(app, "failed").receive(1, 0)
    assert "find_the_answer" in envelope.last(stamps.ErrorDetails).traceback


def test_who_is_in_time_notices_nothing(app: Postbus, concurrency: int) -> None:
    """A limit that is not reached changes neither what a handler returns nor what it raises."""
    app.handler(handles=Task, time_limit=timedelta(minutes=1), name="returns")(lambda task: task.number)

    @app.handler(time_limit=60)
    async def check(task: Task) -> None:
        if task.number == 0:
            raise ValueError("It is zero.")

    app.dispatch_many([Task(0), Task(1)])
    stopped = run(app, 3, concurrency=concurrency)
    assert (1, 2) == (stopped.handled, stopped.failed)
    assert ["It is zero."] == buried(app)


def test_a_limit_holds_for_each_handler_by_itself(app: Postbus, concurrency: int) -> None:
    """One that has succeeded is not run again because its neighbour took too long."""
    seen: list[str] = []
    app.handler(handles=Task, name="good", priority=1)(lambda task: seen.append("good"))

    @app.handler(time_limit=LIMIT)
    async def slow(task: Task) -> None:
        seen.append("slow")
        await asyncio.Event().wait()

    app.dispatch(Task(1))
    run(app, 2, concurrency=concurrency)
    assert ["good", "slow", "slow"] == seen


def test_a_swallowed_interruption_is_a_failure(app: Postbus, over: threading.Event) -> None:
    """What a handler did before it was interrupted may be half of it, so that it returns is no success."""

    @app.handler(time_limit=LIMIT)
    async def wait(task: Task) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    @app.handler(time_limit=LIMIT)
    def hang(task: Task) -> None:
        try:
            over.wait(PATIENCE)
        except BaseException:
            raise ValueError("The connection is in an unknown state.")  # noqa: B904

    app.dispatch(Task(1))
    stopped = run(app, 2)
    assert (0, 2) == (stopped.handled, stopped.failed)
    (envelope,) = transport(app, "failed").receive(1, 0)
    assert {"postbus.errors.TimeLimitExceeded"} == {one.type for one in envelope.all(stamps.ErrorDetails)}


def test_a_handler_that_waits_for_another_has_it_cancelled(app: Postbus, concurrency: int) -> None:
    """A handler that dispatches a message and waits for its async handler is interrupted there, in a thread too."""
    cancelled = threading.Event()

    @app.handler
    async def wait(part: Part) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    app.handler(handles=Task, time_limit=LIMIT, name="outer")(lambda task: app.dispatch(Part()))
    app.dispatch(Task(1))
    stopped = run(app, 2, concurrency=concurrency)
    assert (2, False) == (stopped.failed, stopped.stuck)
    assert cancelled.wait(PATIENCE)
    assert [f"Handler 'outer' took longer than its time limit of {LIMIT:g} s and was interrupted."] == buried(app)


def test_a_handler_that_waits_for_many_others_is_interrupted_between_two(app: Postbus) -> None:
    """What it waits for may end just as it is to be cancelled; the handler is interrupted all the same."""

    @app.handler
    async def be_quick(part: Part) -> None:
        await asyncio.sleep(0)

    @app.handler(time_limit=LIMIT)
    def outer(task: Task) -> None:
        while True:
            app.dispatch(Part())

    app.dispatch_many(Task(n) for n in range(4))
    stopped = run(app, 8)
    assert (8, False) == (stopped.failed, stopped.stuck)


def test_an_inner_limit_is_a_failure_like_any_other(app: Postbus) -> None:
    """What a handler dispatches has limits of its own; who dispatched it can go on."""
    seen: list[Exception] = []

    @app.handler(time_limit=LIMIT)
    def hang(part: Part) -> None:
        while True:
            pass

    @app.handler(time_limit=60)
    def outer(task: Task) -> None:
        try:
            app.dispatch(Part())
        except HandlerFailed as error:
            seen.extend(error.errors.values())

    app.dispatch(Task(1))
    assert 1 == run(app, 1).handled
    assert [TimeLimitExceeded] == [type(error) for error in seen]


def test_outside_of_a_worker_an_async_handler_is_cancelled_too(app: Postbus) -> None:
    """Who dispatches a message that is handled at once is told."""

    @app.handler(time_limit=LIMIT)
    async def wait(task: Task) -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeLimitExceeded, match="and was cancelled"):
        app.query(Task(1))


def test_the_grace_is_no_time_limit(app: Postbus, concurrency: int) -> None:
    """A handler with a limit that is interrupted because its worker ends has not failed."""
    begun = threading.Event()

    @app.handler(time_limit=60)
    async def wait(task: Task) -> None:
        begun.set()
        await asyncio.Event().wait()

    def stop() -> None:
        begun.wait(PATIENCE)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    app.dispatch(Task(1))
    stopped = run(app, concurrency=concurrency, grace=0.1)
    assert (0, 0) == (stopped.handled, stopped.failed)
    assert 1 == transport(app).connection.count().waiting


# stuck


def test_what_cannot_be_interrupted_ends_its_worker(
    app: Postbus, over: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """A thread is reported, others finish, its message has failed, and the worker ends for another to replace it."""
    events: list[Event] = []
    app.observe(events.append)
    has_other_begun = threading.Event()

    @app.handler(name="hang", time_limit=LIMIT)
    def hang(task: Task) -> None:
        if task.number == 1:
            has_other_begun.wait(PATIENCE)
            over.wait(PATIENCE)

    @app.handler
    def other(task: Task) -> None:
        if task.number == 2:
            has_other_begun.set()
            while not any(isinstance(event, HandlerStuck) for event in events):
                threading.Event().wait(0.01)

    app.dispatch_many([Task(1), Task(2)])
    with caplog.at_level(logging.ERROR, "postbus"):
        stopped = run(app, concurrency=3, fetch_size=2)

    assert (1, 1, True) == (stopped.handled, stopped.failed, stopped.stuck)
    assert "a handler does not end within its time limit" == stopped.reason
    (stuck,) = [event for event in events if isinstance(event, HandlerStuck)]
    assert (Task(1), "tasks", "hang") == (stuck.envelope.message, stuck.transport, stuck.handler)
    assert [Task(1)] == [event.envelope.message for event in events if isinstance(event, MessageFailed)]
    assert "over.wait(PATIENCE)" in caplog.text
    (retried,) = transport(app).receive(10, 0)
    assert (1, Task(1)) == (retried.last(stamps.Retried).count, retried.message)


def test_a_stuck_message_does_not_come_for_ever(app: Postbus, over: threading.Event) -> None:
    """One worker after the other ends because of it; then it is buried, and what was done before it is not again."""
    seen: list[str] = []
    app.handler(handles=Task, name="good", priority=1)(lambda task: seen.append("good"))
    app.handler(handles=Task, name="hang", time_limit=LIMIT)(lambda task: over.wait(PATIENCE))
    app.dispatch(Task(1))
    assert [True, True] == [run(app, concurrency=2).stuck for _ in range(2)]
    assert ["good"] == seen
    assert [f"Handler 'hang' took longer than its time limit of {LIMIT:g} s and could not be stopped."] == buried(app)
    counts = transport(app).connection.count()
    assert (0, 0) == (counts.waiting, counts.in_flight)


def test_what_is_stuck_when_it_is_tried_again_at_once_keeps_what_is_known(over: threading.Event) -> None:
    """A handler that had succeeded before is not run again by the next worker."""
    app = Postbus(
        transports={"tasks": "in-memory://"}, routing={Task: "tasks"}, retry={"immediate": 1, "max_retries": 1}
    )
    seen: list[str] = []
    app.handler(handles=Task, name="good", priority=1)(lambda task: seen.append("good"))

    @app.handler(time_limit=LIMIT)
    def hang_again(task: Task) -> None:
        seen.append("bad")
        if seen.count("bad") == 1:
            raise ValueError("It is the first time.")
        over.wait(PATIENCE)

    app.dispatch(Task(1))
    assert run(app, concurrency=2).stuck
    assert ["good", "bad", "bad"] == seen
    (retried,) = app.transport("tasks").connection.fetch(1, 2)  # type: ignore[attr-defined]
    assert "good" in retried.headers["X-Message-Stamp-handled"]
    assert '"count":1,' in retried.headers["X-Message-Stamp-retried"]
    assert '"immediate":1' in retried.headers["X-Message-Stamp-retried"]


def test_a_thread_that_ends_late_has_done_its_work(app: Postbus, over: threading.Event) -> None:
    """Nobody has interrupted it; so if it ends before its worker does, what it did counts."""
    is_late_handled = threading.Event()

    @app.observe
    def observe(event: Event) -> None:
        if isinstance(event, HandlerStuck):
            over.set()
        if isinstance(event, MessageHandled) and event.envelope.message == Task(1):
            is_late_handled.set()

    app.handler(handles=Task, name="late", time_limit=LIMIT)(lambda task: task.number == 2 or over.wait(PATIENCE))
    app.handler(handles=Task, name="other")(lambda task: task.number == 1 or is_late_handled.wait(PATIENCE))
    app.dispatch_many([Task(1), Task(2)])
    stopped = run(app, concurrency=2, fetch_size=2)
    assert (2, 0, True) == (stopped.handled, stopped.failed, stopped.stuck)
    counts = transport(app).connection.count()
    assert (0, 0) == (counts.waiting, counts.in_flight)


@pytest.mark.usefixtures("no_mercy")
def test_who_ignores_its_cancellation_is_given_up(app: Postbus, over: threading.Event, concurrency: int) -> None:
    """An async handler that does not end when it is cancelled ends its worker, after a while to clear up."""

    @app.handler(time_limit=LIMIT)
    async def ignore(task: Task) -> None:
        while not over.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    app.dispatch(Task(1))
    assert [True, True] == [run(app, concurrency=concurrency).stuck for _ in range(2)]
    assert 1 == len(buried(app))


@pytest.mark.usefixtures("no_mercy")
def test_a_handler_that_blocks_the_event_loop_is_given_up(app: Postbus, concurrency: int) -> None:
    """An async handler that does not await cannot be cancelled; what waits for the loop behind it comes again."""
    over = threading.Event()

    @app.handler(time_limit=LIMIT)
    async def block(task: Task) -> None:
        over.wait(PATIENCE)

    app.dispatch(Task(1))
    try:
        stopped = run(app, concurrency=concurrency)
    finally:
        over.set()
    assert (1, True) == (stopped.failed, stopped.stuck)
    assert 1 == transport(app).receive(1, 0)[0].last(stamps.Retried).count


@pytest.mark.slow
@pytest.mark.usefixtures("no_mercy")
def test_c_code_is_abandoned(app: Postbus) -> None:
    """A handler in C code, which nothing interrupts, keeps its message no longer, and somebody may end the process."""
    abandoned: list[WorkerStopped] = []
    has_begun = threading.Event()

    @app.handler(time_limit=LIMIT)
    def hash_for_long(task: Task) -> None:
        has_begun.set()
        hashlib.pbkdf2_hmac("sha256", b"", b"", rounds)

    started = time.monotonic()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000)
    rounds = int(100_000 * 2.0 / (time.monotonic() - started))
    app.dispatch(Task(1))
    stopped = app.worker("tasks", limits=Limits(time=PATIENCE)).run(abandon=abandoned.append)
    assert [(0, 1, True)] == [(one.handled, one.failed, one.stuck) for one in abandoned]
    assert (1, True) == (stopped.failed, stopped.stuck)
    assert 1 == transport(app).receive(1, 0)[0].last(stamps.Retried).count


def test_a_message_whose_failure_cannot_be_stored_stays(app: Postbus, over: threading.Event) -> None:
    """As long as the copy cannot be stored, the original comes again."""
    events: list[Event] = []
    app.observe(events.append)

    app.handler(handles=Task, name="hang", time_limit=LIMIT)(lambda task: over.wait(PATIENCE))

    def refuse(*_: Any) -> None:
        raise TransportError("The disk is full.")

    app.dispatch(Task(1))
    transport(app).replace = transport(app).send = refuse
    assert run(app, concurrency=2).stuck
    assert [True] == [event.begun for event in events if isinstance(event, MessageReleased)]
    assert (1, 0) == (transport(app).connection.count().waiting, transport(app).connection.count().in_flight)


# declaring


def test_a_limit_can_be_given_wherever_an_option_can() -> None:
    """To a function, to a method of an object, to all of an object, and in a group; in seconds, or as a timedelta."""

    class Orders:
        @handles(time_limit=timedelta(seconds=1.5))
        def place(self, task: Task) -> None: ...

        @handles
        def cancel(self, task: Task) -> None: ...

    group = Handlers()
    group.handler(Orders(), time_limit=3)
    group.handler(handles=Task, name="function", time_limit=2.5)(lambda task: None)
    group.handler(handles=Task, name="without")(lambda task: None)
    assert [1.5, 3.0, 2.5, None] == [handler.time_limit for handler in group]


@pytest.mark.parametrize("wrong", [0, -1, "30", True, float("inf"), float("nan"), timedelta(0)])
def test_a_limit_that_is_none_is_refused(wrong: Any) -> None:
    """It is a number of seconds above 0, or a timedelta."""
    with pytest.raises(ConfigurationError) as caught:
        Handlers().handler(handles=Task, time_limit=wrong)(buried)
    assert (
        f"time_limit of {__name__}.buried() must be a number of seconds above 0, or a timedelta, got {wrong!r}."
        == str(caught.value)
    )
