"""Transports that are paused because their messages fail, and tried again."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from postbus import Limits, Postbus, Unrecoverable
from postbus.errors import ConfigurationError
from postbus.events import Event, MessageReceived, TransportPaused, TransportProbed, TransportResumed
from postbus.transport import Outgoing
from postbus.worker.health import ailment
from postbus.worker.kill_switch import KillSwitch, Recent

PATIENCE = 30.0
"""Seconds after which something that must happen counts as never happening."""

FOR_EVER = 600.0


@dataclass(frozen=True)
class Task:
    number: int


@dataclass(frozen=True)
class Other:
    number: int


def make_app(**options: Any) -> Postbus:
    switch = {"failure_rate": 0.5, "min_messages": 4, "pause": FOR_EVER, **options}
    return Postbus(
        transports={
            "tasks": {"dsn": "in-memory://", "kill_switch": switch},
            "others": "in-memory://",
            "failed": "in-memory://",
        },
        routing={Task: "tasks", Other: "others"},
        failure_transport="failed",
        retry={"max_retries": 0},
    )


def transport(app: Postbus, name: str = "tasks") -> Any:
    return app.transport(name)


def watch(app: Postbus, *kinds: type[Event]) -> list[Any]:
    """Return a list that the app's events of these kinds come to, in the order in which they happen."""
    events: list[Any] = []
    app.observe(lambda event: events.append(event) if isinstance(event, kinds) else None)
    return events


def when(app: Postbus, kind: type[Event], do: Callable[[], object]) -> None:
    app.observe(lambda event: do() if isinstance(event, kind) else None)


def test_a_transport_is_paused_whose_messages_fail(concurrency: int) -> None:
    """What is not begun goes back to its broker, and no attempt is spent on it."""
    app = make_app()
    events = watch(app, TransportPaused, MessageReceived)
    worker = app.worker("tasks", concurrency=concurrency, fetch_size=20, limits=Limits(time=PATIENCE))

    @app.handler
    def fail(task: Task) -> None:
        raise ValueError("The database is away.")

    when(app, TransportPaused, lambda: threading.Timer(0.2, worker.stop).start())
    app.dispatch_many(Task(n) for n in range(20))
    stopped = worker.run()

    [paused] = [event for event in events if isinstance(event, TransportPaused)]
    assert ("tasks", FOR_EVER) == (paused.transport, paused.seconds)
    begun = sum(isinstance(event, MessageReceived) for event in events)
    assert 4 <= begun == stopped.failed <= 4 + concurrency
    counts = transport(app).connection.count()
    assert (20 - begun, 0) == (counts.waiting, counts.in_flight)
    assert [1] * (20 - begun) == [delivery.count for delivery in transport(app).connection.fetch(20, 0)]
    assert begun == transport(app, "failed").connection.count().waiting


def test_one_message_is_tried_and_all_goes_on(concurrency: int, caplog: pytest.LogCaptureFixture) -> None:
    """After the pause a single message decides: it is handled, so the others are, too."""
    app = make_app(pause=0.2)
    events = watch(app, TransportPaused, TransportProbed, TransportResumed)
    is_away = threading.Event()
    is_away.set()
    when(app, TransportPaused, is_away.clear)
    handled: list[int] = []

    @app.handler
    def work(task: Task) -> None:
        if is_away.is_set():
            raise ValueError("The database is away.")
        handled.append(task.number)

    app.dispatch_many(Task(n) for n in range(30))
    with caplog.at_level("INFO", "postbus"):
        stopped = app.worker("tasks", concurrency=concurrency, limits=Limits(messages=30, time=PATIENCE)).run()
    assert [TransportPaused, TransportProbed, TransportResumed] == [type(event) for event in events]
    assert (30 - stopped.failed, stopped.failed) == (len(handled), 30 - stopped.handled)
    assert "Pausing 'tasks' for 0.2 s, because 4 of the last 4 messages failed; then one is tried." in caplog.messages
    assert "Trying one message of 'tasks'." in caplog.messages
    assert "Consuming 'tasks' as before, because the message that was tried has been handled." in caplog.messages


def test_one_message_is_tried_at_a_time(concurrency: int) -> None:
    """As long as they fail, each pause is twice as long as the one before, up to a ceiling."""
    app = make_app(pause=0.05, max_pause=0.15)
    events = watch(app, TransportPaused, TransportProbed, MessageReceived)

    @app.handler
    def fail(task: Task) -> None:
        raise ValueError("The database is away.")

    app.dispatch_many(Task(n) for n in range(50))
    worker = app.worker("tasks", concurrency=concurrency, limits=Limits(time=PATIENCE))
    pauses: list[float] = []

    @app.observe
    def stop(event: Event) -> None:
        if isinstance(event, TransportPaused):
            pauses.append(event.seconds)
            if len(pauses) == 5:
                worker.stop()

    worker.run()
    assert [0.05, 0.1, 0.15, 0.15, 0.15] == pauses
    after = events[next(at for at, event in enumerate(events) if isinstance(event, TransportProbed)) :]
    assert [TransportProbed, MessageReceived, TransportPaused] * 4 == [type(event) for event in after]
    assert "the message that was tried failed" == after[-1].reason


def test_other_transports_go_on() -> None:
    """The others of the same worker are consumed meanwhile, although the paused one comes first."""
    app = make_app()
    handled: list[int] = []

    @app.handler
    def fail(task: Task) -> None:
        raise ValueError("The database is away.")

    @app.handler
    def handle(other: Other) -> None:
        handled.append(other.number)

    app.dispatch_many(Task(n) for n in range(20))
    when(app, TransportPaused, lambda: app.dispatch_many(Other(n) for n in range(100)))
    worker = app.worker("tasks", "others", limits=Limits(time=PATIENCE))

    @app.observe
    def stop(event: Event) -> None:
        if len(handled) == 100:
            worker.stop()

    assert 100 == worker.run().handled


def test_what_ends_late_says_nothing(concurrency: int) -> None:
    """A message that had begun before the pause neither ends it nor makes it longer."""
    app = make_app(pause=0.1)
    events = watch(app, TransportPaused, TransportProbed, TransportResumed)
    slow_may_end = threading.Event()
    when(app, TransportPaused, slow_may_end.set)

    @app.handler
    def work(task: Task) -> None:
        if concurrency > 1 and task.number == 0:
            slow_may_end.wait(PATIENCE)
        elif len(events) < 3:
            raise ValueError("The database is away.")

    app.dispatch_many(Task(n) for n in range(10))
    worker = app.worker("tasks", concurrency=concurrency, fetch_size=10, limits=Limits(time=PATIENCE))
    when(app, TransportResumed, worker.stop)
    when(app, TransportPaused, lambda: worker.stop() if len(events) > 6 else None)
    worker.run()
    assert [TransportPaused, TransportProbed] == [type(event) for event in events[:2]]
    assert TransportPaused is type(events[2])
    assert [0.1, 0.2] == [event.seconds for event in events if isinstance(event, TransportPaused)][:2]


def test_what_is_wrong_with_one_message_does_not_count(concurrency: int) -> None:
    """Messages that cannot be decoded, or are no use to try again, are no sign that others will fail."""
    app = make_app()
    events = watch(app, TransportPaused)

    @app.handler
    def refuse(task: Task) -> None:
        raise Unrecoverable("The card is declined.")

    app.dispatch_many(Task(n) for n in range(10))
    transport(app).connection.publish([Outgoing(b"no JSON", {"type": "shop.Unknown"})] * 10)
    stopped = app.worker("tasks", concurrency=concurrency, limits=Limits(messages=20, time=PATIENCE)).run()
    assert (20, []) == (stopped.failed, events)


def test_few_failures_among_many_do_no_harm(concurrency: int) -> None:
    """Below the rate, nothing is paused."""
    app = make_app(failure_rate=0.5, min_messages=4)
    events = watch(app, TransportPaused)

    @app.handler
    def work(task: Task) -> None:
        if task.number % 4 == 3:
            raise ValueError("It is unlucky.")

    app.dispatch_many(Task(n) for n in range(40))
    stopped = app.worker("tasks", concurrency=concurrency, limits=Limits(messages=40, time=PATIENCE)).run()
    assert (30, 10, []) == (stopped.handled, stopped.failed, events)


def test_a_paused_worker_stops_at_once_and_is_well(concurrency: int, tmp_path: Path) -> None:
    """It is not deaf: its health says that it turns, and which transport is paused; and it hears a signal."""
    app = make_app()
    file = tmp_path / "health"
    seen: list[Any] = []

    @app.handler
    def fail(task: Task) -> None:
        raise ValueError("The database is away.")

    def look() -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and not (seen and seen[-1]["paused"]):
            threading.Event().wait(0.02)
            if file.exists():
                seen.append(json.loads(file.read_text()))
        seen.append(ailment(file, 5.0))
        os.kill(os.getpid(), signal.SIGTERM)

    when(app, TransportPaused, threading.Thread(target=look).start)
    app.dispatch_many(Task(n) for n in range(10))
    worker = app.worker("tasks", concurrency=concurrency, health_file=file, limits=Limits(time=2 * PATIENCE))
    assert "it got SIGTERM" == worker.run().reason
    *_, report, problem = seen
    assert None is problem
    assert ["tasks"] == list(report["paused"])
    assert time.time() < report["paused"]["tasks"] <= time.time() + FOR_EVER


def test_a_pause_is_no_outage(concurrency: int) -> None:
    """While nobody looks for a broker that was away, how long it is away is not known, and ends no worker."""
    app = make_app(min_messages=1, pause=0.5)
    events = watch(app, TransportPaused, TransportResumed)

    @app.handler
    def work(task: Task) -> None:
        if task.number == 0:
            raise ValueError("The database is away, and the broker is that database.")

    when(app, TransportPaused, lambda: app.dispatch(Task(1)))
    when(app, TransportPaused, lambda: setattr(transport(app), "lost_since", time.monotonic() - FOR_EVER))
    app.dispatch(Task(0))
    stopped = app.worker(
        "tasks", concurrency=concurrency, limits=Limits(messages=2, time=PATIENCE), max_outage=60
    ).run()
    assert (1, 1) == (stopped.handled, stopped.failed)
    assert [TransportPaused, TransportResumed] == [type(event) for event in events]


def test_a_window_forgets() -> None:
    """What happened before it counts no more."""
    recent = Recent(0.05)
    recent.add(failed=True)
    recent.add(failed=False)
    assert (1, 1) == (recent.handled, recent.failed)
    threading.Event().wait(0.06)
    recent.add(failed=True)
    assert (0, 1) == (recent.handled, recent.failed)


# configuring


def configured(value: object) -> Any:
    app = Postbus(transports={"tasks": {"dsn": "in-memory://", "kill_switch": value}})
    return getattr(app.config.transports["tasks"], "kill_switch", None)


def test_it_is_off_unless_wanted() -> None:
    """True takes the defaults; a table, or an object, says how."""
    assert None is configured(None)
    assert None is configured(False)
    assert KillSwitch() == configured(True)
    assert KillSwitch(failure_rate=0.2, min_messages=5) == configured({"failure_rate": 0.2, "min_messages": 5})
    assert KillSwitch(pause=1) == configured(KillSwitch(pause=1))


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ("yes", "transports.tasks.kill_switch must be true, false or a table, got 'yes'."),
        ({"rate": 1}, "transports.tasks.kill_switch.rate is no key of the configuration. "),
        ({"pause": "1m"}, "transports.tasks.kill_switch.pause must be a number, got '1m'."),
        ({"min_messages": 0.5}, "transports.tasks.kill_switch.min_messages must be a number, got 0.5."),
        (
            {"failure_rate": 50},
            "transports.tasks.kill_switch: Kill switch option 'failure_rate' must be more than 0 and at most 1, "
            "got 50.",
        ),
        (
            {"pause": 60, "max_pause": 5},
            "transports.tasks.kill_switch: Kill switch option 'max_pause' must be at least as long as 'pause' (60), "
            "got 5.",
        ),
    ],
)
def test_a_mistake_is_named(wrong: object, text: str) -> None:
    """With the key, and what is wanted there."""
    with pytest.raises(ConfigurationError) as caught:
        configured(wrong)
    assert text in str(caught.value)
