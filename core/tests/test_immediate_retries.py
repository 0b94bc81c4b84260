"""Retries at once: in the worker's hands, before any wait."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from postbus import Backoff, Envelope, Limits, Postbus, Recoverable, StopWorker, Unrecoverable, stamps
from postbus.events import (
    Event,
    LeasesExtended,
    MessageFailed,
    MessageHandled,
    MessageReceived,
    MessageRetried,
    MessageRetriedAtOnce,
    MessagesAcknowledged,
    WorkerStopped,
)
from postbus.failures import PATIENCE, Bury, Retry, RetryAtOnce
from postbus.retry import attempts_of


@dataclass
class Task:
    number: int


def make_app(retry: Any = None, **options: Any) -> Postbus:
    return Postbus(
        transports=options.pop("transports", {"tasks": "in-memory://", "failed": "in-memory://"}),
        routing={Task: "tasks"},
        failure_transport="failed",
        retry=retry or Backoff(immediate=2, max_retries=1, delay=10, jitter=0),
        **options,
    )


def transport(app: Postbus, name: str = "tasks") -> Any:
    return app.transport(name)


def run(app: Postbus, messages: int, **options: Any) -> WorkerStopped:
    return app.worker("tasks", limits=Limits(messages=messages), **options).run()


def test_a_few_at_once_then_after_a_delay(concurrency: int) -> None:
    """A message is tried ``immediate`` times more each time that it is delivered, then sent again, at last buried."""
    app = make_app()
    attempts: list[int] = []

    @app.handler
    def fail(task: Task, envelope: Envelope) -> None:
        attempts.append(attempts_of(envelope))
        raise ValueError(f"attempt {len(attempts)}")

    app.dispatch(Task(1))
    stopped = run(app, 1, concurrency=concurrency)
    assert (0, 1) == (stopped.handled, stopped.failed)
    assert [0, 1, 2] == attempts
    counts = transport(app).connection.count()
    assert (0, 1, 0) == (counts.waiting, counts.delayed, counts.in_flight)

    transport(app).clock.move(10)
    run(app, 1, concurrency=concurrency)
    assert [0, 1, 2, 3, 4, 5] == attempts
    (buried,) = transport(app, "failed").receive(10, 0)
    assert [f"attempt {n}" for n in range(1, 7)] == [error.message for error in buried.all(stamps.ErrorDetails)]
    assert 0 == len(transport(app).connection.browse(10))


def test_one_that_succeeds_at_once_was_never_let_go(concurrency: int) -> None:
    """What succeeds at the second attempt is handled: nothing was stored, and observers saw each attempt."""
    app = make_app()
    events: list[Event] = []
    failures = [ValueError("not yet")]

    @app.handler
    def handle(task: Task) -> None:
        if failures:
            raise failures.pop()

    app.dispatch(Task(1))
    app.observe(events.append)
    stopped = run(app, 1, concurrency=concurrency)

    assert (1, 0) == (stopped.handled, stopped.failed)
    told = [event for event in events if type(event).__name__.startswith("Message")]
    assert [MessageReceived, MessageFailed, MessageRetriedAtOnce, MessageHandled, MessagesAcknowledged] == [
        type(event) for event in told
    ]
    assert 0 == len(transport(app).connection.browse(10))


def test_only_the_handler_that_failed_runs_again() -> None:
    """A handler that has succeeded is left out at once too, and after the delay that follows."""
    app = make_app()
    good: list[int] = []
    bad: list[int] = []

    @app.handler
    def succeed(task: Task) -> None:
        good.append(task.number)

    @app.handler
    def fail(task: Task) -> None:
        bad.append(task.number)
        if len(bad) < 4:
            raise ValueError("not yet")

    app.dispatch(Task(1))
    run(app, 1)
    transport(app).clock.move(10)
    run(app, 1)

    assert ([1], [1] * 4) == (good, bad)
    last = transport(app).acknowledged[-1]
    assert [True] == [stamp.handler.endswith("succeed") for stamp in last.all(stamps.Handled)]
    retried = last.last(stamps.Retried)
    assert (1, 2) == (retried.count, retried.immediate)


def test_each_attempt_gets_the_message_as_it_came() -> None:
    """What a handler does to the object is gone at the next attempt; the delivery is the same, and so is the id."""
    app = make_app()
    seen: list[tuple[int, Any, Any, int | None]] = []

    @app.handler
    def spoil(task: Task, envelope: Envelope) -> None:
        received, id = envelope.last(stamps.Received), envelope.last(stamps.MessageId)
        seen.append((task.number, id, received and received.tag, received and received.count))
        task.number = 99
        raise ValueError("spoilt")

    app.dispatch(Task(1))
    run(app, 1)

    assert 3 == len(seen)
    assert 1 == len(set(seen))
    (delayed,) = transport(app).connection.browse(10)
    assert b'{"number":1}' == delayed.body


def test_it_keeps_its_place() -> None:
    """With one message at a time, no other comes in between."""
    app = make_app()
    handled: list[int] = []

    @app.handler
    def handle(task: Task) -> None:
        handled.append(task.number)
        if handled.count(task.number) < 3 and task.number == 2:
            raise ValueError("not yet")

    app.dispatch_many(map(Task, [1, 2, 3]))
    run(app, 3)

    assert [1, 2, 2, 2, 3] == handled


@pytest.mark.parametrize("how", ["told", "asked"])
def test_a_worker_that_stops_hands_over_what_it_knows(how: str, concurrency: int) -> None:
    """No further attempt is made: the next worker gets the message, without the handlers that have succeeded."""
    app = make_app()
    events: list[Event] = []
    good: list[int] = []
    bad: list[int] = []
    worker = app.worker("tasks", concurrency=concurrency)

    @app.handler
    def succeed(task: Task) -> None:
        good.append(task.number)

    @app.handler
    def fail_once(task: Task) -> None:
        bad.append(task.number)
        if len(bad) > 1:
            return
        if how == "asked":
            raise StopWorker("enough")
        worker.stop("it was told to")
        raise ValueError("not yet")

    app.dispatch(Task(1))
    app.observe(events.append)
    worker.run()

    assert ([1], [1]) == (good, bad)
    counts = transport(app).connection.count()
    assert (1, 0, 0) == (counts.waiting, counts.delayed, counts.in_flight)
    assert [0.0] == [event.delay for event in events if isinstance(event, MessageRetried)]
    assert [] == [event for event in events if isinstance(event, MessageRetriedAtOnce)]

    run(app, 1)
    assert ([1], [1, 1]) == (good, bad)
    retried = transport(app).acknowledged[-1].last(stamps.Retried)
    assert (0, 1) == (retried.count, retried.immediate)


def test_a_message_that_is_somebody_elses_by_now_is_not_tried_again(concurrency: int) -> None:
    """After its lease was lost a message is left to whoever has it."""
    app = make_app(transports={"tasks": "in-memory://?lease=0.5", "failed": "in-memory://"})
    attempts: list[int] = []
    others: list[Any] = []
    noticed = threading.Event()

    @app.observe
    def notice(event: Event) -> None:
        if isinstance(event, LeasesExtended) and others:
            noticed.set()

    @app.handler
    def fail(task: Task) -> None:
        attempts.append(task.number)
        tasks = transport(app)
        with tasks.clock._changed:  # So that the controller does not come between.
            tasks.clock.move(2 * tasks.lease)
            others.extend(tasks.connection.fetch(1, 0))
        assert noticed.wait(30)
        raise ValueError("no")

    app.dispatch(Task(1))
    run(app, 1, concurrency=concurrency)

    assert ([1], 1) == (attempts, len(others))
    assert 1 == len(transport(app).connection.browse(10))


def test_the_log_says_what_happens_next(caplog: pytest.LogCaptureFixture) -> None:
    """Each line names the message, when it is tried again, which attempt that will be, and why."""
    caplog.set_level(logging.WARNING, "postbus")
    app = make_app(Backoff(immediate=1, max_retries=1, delay=10, jitter=0))

    @app.handler
    def fail(task: Task) -> None:
        raise ValueError("no")

    id = app.dispatch(Task(1)).last(stamps.MessageId)
    assert id is not None
    run(app, 1)
    transport(app).clock.move(10)
    run(app, 1)

    where = f"test_immediate_retries.py:{fail.__code__.co_firstlineno + 2} in fail"
    assert [
        f"Retrying Task {id.id} at once (attempt 2): ValueError: no",
        f"Retrying Task {id.id} in 10.0 s (attempt 3): ValueError: no",
        f"Retrying Task {id.id} at once (attempt 4): ValueError: no",
        f"Burying Task {id.id} in 'failed': ValueError: no ({where})",
    ] == [record.getMessage() for record in caplog.records]


def test_only_at_once_and_never_after_a_delay() -> None:
    """Without delayed retries a message is buried after the last immediate one."""
    app = make_app({"immediate": 2, "max_retries": 0})
    attempts: list[int] = []

    @app.handler
    def fail(task: Task) -> None:
        attempts.append(task.number)
        raise ValueError("no")

    app.dispatch(Task(1))
    run(app, 1)

    assert [1, 1, 1] == attempts
    assert 1 == transport(app, "failed").connection.count().waiting


def test_a_foreign_message_gets_its_id_at_the_first_attempt() -> None:
    """All attempts of a message that came without an id are told under the same one."""
    app = make_app()
    ids: list[Any] = []

    @app.handler
    def fail(task: Task, envelope: Envelope) -> None:
        ids.append(envelope.last(stamps.MessageId))
        raise ValueError("no")

    transport(app).connection.publish([transport(app).encode(Envelope.wrap(Task(1)))])
    run(app, 1)
    (copy,) = transport(app).connection.browse(1)

    assert 3 == len(ids)
    assert 1 == len({id.id for id in ids[1:]})
    assert ids[1].id in copy.headers["X-Message-Stamp-id"]


# What is decided.


def received() -> Envelope:
    return Envelope.wrap(Task(1), stamps.Received("tasks"))


@pytest.mark.parametrize(
    ("error", "repeats", "expected"),
    [
        (ValueError("no"), 0, RetryAtOnce()),
        (ValueError("no"), 1, RetryAtOnce()),
        (ValueError("no"), 2, Retry(10.0)),
        (ValueError("no"), None, Retry(10.0)),
        (Recoverable(), 0, RetryAtOnce()),
        (Recoverable(), 2, Retry(10.0)),
        (Recoverable(delay=0.0), 0, Retry(0.0)),
        (Recoverable(delay=5), 0, Retry(5)),
        (Unrecoverable(), 0, Bury("failed")),
        (ExceptionGroup("", [Unrecoverable(), ValueError()]), 0, RetryAtOnce()),
        (ExceptionGroup("", [ValueError(), Recoverable(delay=5)]), 0, Retry(5)),
        (ExceptionGroup("", [ValueError(), TimeoutError()]), 0, Retry(60.0)),
        (ExceptionGroup("", [ValueError(), KeyError()]), 0, RetryAtOnce()),
        (ExceptionGroup("", [ValueError(), KeyError()]), 2, Retry(10.0)),
        (TimeoutError(), 0, Retry(60.0)),
        (KeyError(), 0, Bury("failed")),
    ],
)
def test_what_is_decided(error: Exception, repeats: int | None, expected: object) -> None:
    """At once as long as nothing speaks against it: an error that names its wait, or another one that wants to wait."""
    policy = Backoff(
        immediate=2,
        delay=10,
        jitter=0,
        errors={TimeoutError: Backoff(delay=60, jitter=0), KeyError: "never"},
    )
    assert expected == make_app(policy).failures.decide(received(), error, repeats)


def test_a_recoverable_error_goes_on_after_the_policy_has_given_up() -> None:
    """It is tried at once as often as others, then again and again, with patience."""
    failures = make_app({"immediate": 1, "max_retries": 0}).failures
    assert [RetryAtOnce(), Retry(PATIENCE)] == [failures.decide(received(), Recoverable(), n) for n in range(2)]


def test_a_policy_of_ones_own_is_given_the_error_itself() -> None:
    """Any object with the two methods is a policy; it sees what the handler raised, not a wrapper."""
    seen: list[Exception] = []

    class OnceAtOnce:
        def next_delay(self, envelope: Envelope, error: Exception) -> float | None:
            seen.append(error)
            return None

        def immediate_retries(self, envelope: Envelope, error: Exception) -> int:
            return 1 if isinstance(error, ConnectionError) else 0

    app = make_app(OnceAtOnce())
    attempts: list[int] = []
    error = ConnectionError("gone")

    @app.handler
    def fail(task: Task) -> None:
        attempts.append(task.number)
        raise error

    app.dispatch(Task(1))
    run(app, 1)

    assert [1, 1] == attempts
    assert [error] == seen
