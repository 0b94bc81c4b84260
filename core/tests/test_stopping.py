"""How a worker stops: what finishes, what is interrupted, what is given back, and what counts as a failure."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from postbus import Limits, Postbus
from postbus.errors import Interrupted
from postbus.events import Event, MessageFailed, MessageReleased, WorkerStopped, WorkerStopping
from postbus.worker.deliveries import Deliveries

PATIENCE = 30.0
"""Seconds after which something that must happen counts as never happening."""

GRACE = 0.1


@dataclass(frozen=True)
class Task:
    number: int


@pytest.fixture
def app() -> Postbus:
    return Postbus(
        transports={"tasks": "in-memory://", "failed": "in-memory://"},
        routing={Task: "tasks"},
        failure_transport="failed",
        retry={"max_retries": 0},
    )


def transport(app: Postbus, name: str = "tasks") -> Any:
    return app.transport(name)


def until(condition: Callable[[], object]) -> bool:
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        threading.Event().wait(0.01)
    return bool(condition())


def assert_back(app: Postbus, number: int) -> None:
    """See that so many messages are with their broker, uncounted, and nothing is in flight, or buried."""
    counts = transport(app).connection.count()
    assert (number, 0) == (counts.waiting, counts.in_flight)
    assert [1] * number == [delivery.count for delivery in transport(app).connection.fetch(100, 0)]
    assert 0 == transport(app, "failed").connection.count().waiting


@pytest.fixture(params=["sleeps", "awaits"])
def endless(request: pytest.FixtureRequest, app: Postbus) -> dict[str, Any]:
    """Add a handler that never ends by itself; return what it tells of itself."""
    told: dict[str, Any] = {"begun": threading.Event(), "over": threading.Event(), "raised": None}
    if request.param == "awaits":

        @app.handler
        async def wait(task: Task) -> None:
            told["begun"].set()
            try:
                await asyncio.Event().wait()
            except BaseException as error:
                told["raised"] = type(error)
                raise
    else:

        @app.handler
        def sleep(task: Task) -> None:
            told["begun"].set()
            try:
                told["over"].wait(PATIENCE)
            except BaseException as error:
                told["raised"] = type(error)
                raise

    return told


def test_after_the_grace_a_handler_is_interrupted(app: Postbus, concurrency: int, endless: dict[str, Any]) -> None:
    """A handler that goes on for longer than the grace has not failed: its message goes back, uncounted."""
    events: list[Event] = []
    app.observe(events.append)
    app.dispatch_many(Task(n) for n in range(5))

    def stop() -> None:
        endless["begun"].wait(PATIENCE)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    stopped = app.worker("tasks", concurrency=concurrency, fetch_size=5, grace=GRACE).run()

    assert ("it got SIGTERM", 0, 0) == (stopped.reason, stopped.handled, stopped.failed)
    assert_back(app, 5)
    assert [] == [event for event in events if isinstance(event, MessageFailed)]
    assert 1 <= sum(event.begun for event in events if isinstance(event, MessageReleased))
    assert [WorkerStopped] == [type(event) for event in events[-1:]]
    endless["over"].set()


@pytest.mark.parametrize("limit", [None, GRACE], ids=["", "that has a limit"])
def test_a_busy_worker_hears_that_all_are_to_stop(
    app: Postbus,
    concurrency: int,
    limit: float | None,
    endless: dict[str, Any],
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`postbus stop-workers` leaves a running handler as much time as a signal does, and no more."""
    monkeypatch.setenv("POSTBUS_STATE_DIR", str(tmp_path))
    events: list[Event] = []
    app.observe(events.append)
    app.dispatch(Task(1))

    def stop() -> None:
        endless["begun"].wait(PATIENCE)
        if limit is not None and concurrency > 1:
            until(lambda: any(isinstance(event, WorkerStopping) for event in events))
        app.stop_signal().send()

    threading.Thread(target=stop).start()
    worker = app.worker("tasks", concurrency=concurrency, grace=GRACE, limits=Limits(time=limit))
    stopped = worker.run()
    assert (0, 0) == (stopped.handled, stopped.failed)
    assert_back(app, 1)
    endless["over"].set()


def test_an_interrupted_handler_can_clear_up(app: Postbus) -> None:
    """One at a time, a handler sees `Interrupted`, which it can let pass as it cleans up."""
    cleared: list[type] = []

    @app.handler
    def handle(task: Task) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            until(lambda: False)
        except Exception:
            cleared.append(Exception)
        finally:
            cleared.append(Interrupted)

    app.dispatch(Task(1))
    app.worker("tasks", grace=GRACE).run()
    assert [Interrupted] == cleared
    assert_back(app, 1)


def test_a_failure_that_comes_of_an_interruption_is_none(app: Postbus) -> None:
    """A handler, or what it uses, that turns the interruption into an error of its own has not failed."""

    @app.handler
    def handle(task: Task) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            until(lambda: False)
        except BaseException:
            raise ValueError("The connection is in an unknown state.")  # noqa: B904

    app.dispatch(Task(1))
    stopped = app.worker("tasks", grace=GRACE).run()
    assert 0 == stopped.failed
    assert_back(app, 1)


@pytest.mark.parametrize("wrap", [False, True], ids=["an error", "a group"])
def test_a_failure_that_comes_of_a_cancellation_is_none(app: Postbus, concurrency: int, wrap: bool) -> None:
    """An async handler that fails as it clears up after its cancellation has not failed either."""

    @app.handler
    async def handle(task: Task) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        finally:
            error = ValueError("The connection is in an unknown state.")
            raise ExceptionGroup("clearing up", [error]) if wrap else error

    app.dispatch(Task(1))
    stopped = app.worker("tasks", concurrency=concurrency, grace=GRACE).run()
    assert 0 == stopped.failed
    assert_back(app, 1)


def test_an_interruption_in_a_group_is_one(app: Postbus) -> None:
    """Libraries that run several things at once raise groups, also of an interruption, and of what came of it."""

    @app.handler
    def handle(task: Task) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            until(lambda: False)
        except BaseException as error:
            raise BaseExceptionGroup("several", [error, ValueError("one")]) from None

    app.dispatch(Task(1))
    assert "it got SIGTERM" == app.worker("tasks", grace=GRACE).run().reason
    assert_back(app, 1)


def test_an_async_handler_clears_up_before_its_message_goes_back(app: Postbus, concurrency: int) -> None:
    """A cancelled handler is waited for while it clears up, so that nobody else begins its message meanwhile."""
    cleared: list[int] = []

    @app.handler
    async def handle(task: Task) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(5):
                await asyncio.sleep(0.01)
            cleared.append(transport(app).connection.count().waiting)

    app.dispatch(Task(1))
    app.worker("tasks", concurrency=concurrency, grace=GRACE).run()
    assert [0] == cleared
    assert_back(app, 1)


@pytest.mark.slow
def test_an_interruption_that_is_swallowed_keeps_no_message(app: Postbus) -> None:
    """A handler that goes on as if nothing had been has time to clear up; then its message is for others."""
    interruptions: list[int] = []
    seen: list[bool] = []

    @app.handler
    def handle(task: Task) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        while not seen:
            try:
                seen.append(until(lambda: transport(app).connection.count().waiting))
            except Interrupted:
                interruptions.append(transport(app).connection.count().waiting)

    app.dispatch(Task(1))
    stopped = app.worker("tasks", grace=GRACE).run()
    assert [True] == seen
    assert 0 == interruptions[0]
    assert 0 == stopped.failed
    assert [] == transport(app).acknowledged
    assert_back(app, 1)


@pytest.mark.slow
def test_a_worker_in_another_thread_gives_back_what_it_cannot_interrupt(app: Postbus) -> None:
    """Where no signal can interrupt it, a handler goes on, but its message is for others: nothing comes of it here."""
    begun, over = threading.Event(), threading.Event()

    @app.handler
    def handle(task: Task) -> None:
        begun.set()
        over.wait(PATIENCE)
        raise ValueError("too late to fail")

    app.dispatch(Task(1))
    worker = app.worker("tasks", grace=GRACE)
    running = threading.Thread(target=worker.run)
    running.start()
    assert begun.wait(PATIENCE)
    worker.stop()
    assert until(lambda: transport(app).connection.count().waiting)
    over.set()
    running.join(PATIENCE)
    assert not running.is_alive()
    assert_back(app, 1)


def test_without_grace_a_handler_is_waited_for(app: Postbus, concurrency: int) -> None:
    """``grace=None`` lets a handler finish, however long it takes; a limit does so in any case."""
    begun: list[int] = []
    finished: list[int] = []

    @app.handler
    def handle(task: Task) -> None:
        begun.append(task.number)
        if task.number == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(3 * GRACE)
        finished.append(task.number)

    app.dispatch(Task(0))
    app.worker("tasks", concurrency=concurrency, grace=None).run()
    app.dispatch(Task(1))
    while transport(app).connection.count().waiting:  # The time may be over before it has begun.
        app.worker("tasks", concurrency=concurrency, grace=GRACE / 10, limits=Limits(time=GRACE)).run()
    assert [0, 1] == begun
    assert [0, 1] == finished
    assert 2 == len(transport(app).acknowledged)


def test_what_was_fetched_ahead_is_back_while_the_last_handler_runs(
    app: Postbus, concurrency: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is told to stop, a worker gives back at once what it has not begun, not only if that waits for long."""
    monkeypatch.setattr(Deliveries, "TOO_LONG", 3600.0)
    seen: list[bool] = []
    begun = threading.Barrier(concurrency)

    @app.handler
    def handle(task: Task) -> None:
        begun.wait(PATIENCE)
        if task.number == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        seen.append(until(lambda: 10 - concurrency == transport(app).connection.count().waiting))

    app.dispatch_many(Task(n) for n in range(10))
    app.worker("tasks", concurrency=concurrency, fetch_size=10, grace=None).run()
    assert [True] * concurrency == seen
    assert {1} == {delivery.count for delivery in transport(app).connection.fetch(10, 0)}


def test_what_finishes_within_the_grace_is_settled(app: Postbus, concurrency: int) -> None:
    """A handler that ends in time has handled its message, or failed, as ever."""

    @app.handler
    def handle(task: Task) -> None:
        os.kill(os.getpid(), signal.SIGTERM) if task.number == 0 else None
        if task.number == 1:
            raise ValueError("one")

    app.dispatch_many([Task(1), Task(0)])
    stopped = app.worker("tasks", concurrency=concurrency, fetch_size=2).run()
    assert (1, 1) == (stopped.handled, stopped.failed)
    assert 0 == len(transport(app).connection.browse(10))
    assert 1 == transport(app, "failed").connection.count().waiting


def test_a_second_signal_ends_it_at_once(app: Postbus, concurrency: int, endless: dict[str, Any]) -> None:
    """A second signal waits for no handler; nothing is settled that was not handled, and all is back at once."""
    app.dispatch_many(Task(n) for n in range(5))

    def stop() -> None:
        endless["begun"].wait(PATIENCE)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop).start()
    with pytest.raises(KeyboardInterrupt):
        app.worker("tasks", concurrency=concurrency, fetch_size=5).run()
    assert_back(app, 5)
    endless["over"].set()


@pytest.mark.parametrize("how", ["signal", "stop", "stop-workers"])
def test_an_idle_worker_stops(app: Postbus, concurrency: int, how: str, tmp_path: Any, monkeypatch: Any) -> None:
    """A worker that waits for messages stops when it is told to, however it is told."""
    monkeypatch.setenv("POSTBUS_STATE_DIR", str(tmp_path))
    worker = app.worker("tasks", concurrency=concurrency)
    receive, waits = transport(app).receive, threading.Event()

    def note(limit: int, wait: float, queues: Any = ()) -> Any:
        if wait:
            waits.set()
        return receive(limit, wait, queues)

    transport(app).receive = note

    def stop() -> None:
        waits.wait(PATIENCE)
        if how == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        elif how == "stop":
            worker.stop("enough")
        else:
            app.stop_signal().send()

    threading.Thread(target=stop).start()
    reasons = {"signal": "it got SIGTERM", "stop": "enough", "stop-workers": "all workers were told to"}
    assert WorkerStopped(reasons[how], 0, 0) == worker.run()


def test_a_process_that_a_handler_forks_has_signals_of_its_own(app: Postbus, concurrency: int) -> None:
    """A signal to a process that a handler has forked ends that process, and stops no worker."""
    ends: list[int] = []

    @app.handler
    def fork(task: Task) -> None:
        child = os.fork()
        if child == 0:
            try:
                threading.Event().wait(PATIENCE)
            finally:
                os._exit(0)
        os.kill(child, signal.SIGTERM)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    app.dispatch_many([Task(1), Task(2)])
    stopped = app.worker("tasks", concurrency=concurrency, limits=Limits(messages=2)).run()
    assert [-signal.SIGTERM] * 2 == ends
    assert ("it has handled 2 messages", 2) == (stopped.reason, stopped.handled)


@pytest.mark.parametrize("when", ["while it runs", "afterwards"])
def test_an_event_loop_of_a_handlers_own_takes_no_signal_away(app: Postbus, when: str) -> None:
    """One that handles signals has them written to itself, and to nobody when it is closed; the worker stops yet."""

    async def listen() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, int)
        if when == "while it runs":
            os.kill(os.getpid(), signal.SIGTERM)

    @app.handler
    def handle(task: Task) -> None:
        asyncio.run(listen())
        if when == "afterwards":
            os.kill(os.getpid(), signal.SIGTERM)

    app.dispatch_many(Task(n) for n in range(5))
    stopped = app.worker("tasks", limits=Limits(messages=5)).run()
    assert ("it got SIGTERM", 1) == (stopped.reason, stopped.handled)


@pytest.mark.parametrize("how", ["leaves", "fails", "returns"])
def test_a_process_that_a_handler_forks_is_no_worker(app: Postbus, concurrency: int, how: str) -> None:
    """It ends when it comes out of the handler, and settles nothing, as all that is in hand is its parent's."""
    parent = os.getpid()
    ends: list[int] = []

    @app.handler
    def fork(task: Task) -> None:
        child = os.fork()
        if child == 0:
            if how == "leaves":
                sys.exit(3)
            if how == "fails":
                raise ValueError("one")
            return
        if not until(lambda: os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)):
            os.kill(child, signal.SIGKILL)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    app.dispatch_many([Task(1), Task(2)])
    try:
        stopped = app.worker("tasks", concurrency=concurrency, fetch_size=2, limits=Limits(messages=1)).run()
    finally:
        if os.getpid() != parent:  # Else these tests would go on twice.
            os._exit(99)
    assert 1 == stopped.handled
    assert {"leaves": 3, "fails": 1, "returns": 0}[how] == ends[0]


def test_signals_in_a_hail_do_no_harm(app: Postbus, concurrency: int) -> None:
    """Whenever a second signal comes, each message is handled, or still with its broker, and none is lost."""
    handled: list[int] = []

    @app.handler
    def handle(task: Task) -> None:
        handled.append(task.number)
        sum(range(100))

    for turn in range(30):
        transport(app).reset()
        handled.clear()
        app.dispatch_many(Task(n) for n in range(200))
        delay = turn * 0.0004

        def hail(delay: float = delay) -> None:
            until(lambda: handled)
            threading.Event().wait(delay)
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

        hailing = threading.Thread(target=hail)
        before = signal.signal(signal.SIGTERM, lambda *_: None)
        hailing.start()
        try:
            app.worker("tasks", concurrency=concurrency, fetch_size=50, limits=Limits(messages=200)).run()
        except KeyboardInterrupt:
            pass
        finally:
            hailing.join(PATIENCE)
            signal.signal(signal.SIGTERM, before)
        acknowledged = {envelope.message.number for envelope in transport(app).acknowledged}
        transport(app).clock.move(4000)
        left = {transport(app).decode(one).message.number for one in transport(app).connection.browse(1000)}
        assert set() == acknowledged & left
        # Not by `acknowledged` alone: the signal may come between the settling and its being written down there.
        assert set(range(200)) - left <= set(handled)


def raise_it(how: str) -> None:
    """Raise a `KeyboardInterrupt`, or what a library makes of one."""
    if how == "bare":
        raise KeyboardInterrupt
    if how == "group":
        raise BaseExceptionGroup("several", [KeyboardInterrupt(), ValueError("one")])
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        if how == "cause":
            raise RuntimeError("generator didn't stop after throw()") from error
        raise RuntimeError("The connection is in an unknown state.")  # noqa: B904


@pytest.mark.parametrize("kind", ["def", "async def", "in a task"])
@pytest.mark.parametrize("how", ["bare", "cause", "context", "group"])
def test_an_interruption_that_no_signal_caused_is_a_failure(
    app: Postbus, concurrency: int, how: str, kind: str
) -> None:
    """A handler that raises it by itself has failed like others, and what waits behind it is handled."""
    handled: list[int] = []

    async def raise_later() -> None:
        raise_it(how)

    def handle(task: Task) -> None:
        if task.number == 0:
            raise_it(how)
        handled.append(task.number)

    async def handle_async(task: Task) -> None:
        if task.number == 0 and kind == "in a task":
            await asyncio.create_task(raise_later())
        handle(task)

    app.handler(handle if kind == "def" else handle_async)
    app.dispatch_many(Task(n) for n in range(3))
    stopped = app.worker("tasks", concurrency=concurrency, limits=Limits(messages=3)).run()

    assert (2, 1, [1, 2]) == (stopped.handled, stopped.failed, sorted(handled))
    (buried,) = transport(app, "failed").sent
    assert Task(0) == buried.message
    assert (0, 0) == (transport(app).connection.count().waiting, transport(app).connection.count().in_flight)


@pytest.mark.parametrize("translate", [False, True], ids=["as it is", "as an error"])
def test_a_real_interruption_is_one_still(app: Postbus, translate: bool) -> None:
    """Ctrl+C twice ends the worker, also if the handler makes something else of it; its message goes back."""

    @app.handler
    def handle(task: Task) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            os.kill(os.getpid(), signal.SIGINT)
            until(lambda: False)
        except KeyboardInterrupt:
            if translate:
                raise RuntimeError("The connection is in an unknown state.")  # noqa: B904
            raise

    app.dispatch(Task(1))
    with pytest.raises(KeyboardInterrupt):
        app.worker("tasks").run()
    assert_back(app, 1)
