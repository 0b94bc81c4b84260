"""The worker with several messages at once, and with several transports."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from postbus import Envelope, Limits, Postbus, StopWorker, TransportError, stamps
from postbus.errors import ConfigurationError
from postbus.events import MessageHandled, MessageReceived, MessageReleased, WorkerStopped, WorkerStopping
from postbus.worker.controller import Controller
from postbus.worker.dispatching import Dispatcher

PATIENCE = 30.0
"""Seconds after which something that must happen counts as never happening."""


@dataclass(frozen=True)
class Task:
    number: int


@dataclass(frozen=True)
class Other:
    number: int


def make_app(**transports: str) -> Postbus:
    return Postbus(
        transports={"tasks": "in-memory://", "others": "in-memory://", "failed": "in-memory://", **transports},
        routing={Task: "tasks", Other: "others"},
        failure_transport="failed",
        retry={"max_retries": 0},
    )


@pytest.fixture
def app() -> Postbus:
    return make_app()


def transport(app: Postbus, name: str) -> Any:
    return app.transport(name)


def in_background(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def join(thread: threading.Thread) -> None:
    thread.join(PATIENCE)
    assert not thread.is_alive()


def run(app: Postbus, messages: int, *names: str, **options: Any) -> WorkerStopped:
    return app.worker(*(names or ("tasks",)), limits=Limits(messages=messages), **options).run()


# at once


def test_handlers_run_at_once(app: Postbus) -> None:
    """With a concurrency of 4, four handlers that wait for each other all get there, and no fifth runs beside them."""
    barrier = threading.Barrier(4)
    running: list[int] = []
    most: list[int] = []

    @app.handler
    def meet(task: Task) -> None:
        running.append(task.number)
        most.append(len(running))
        barrier.wait(PATIENCE)
        running.remove(task.number)

    app.dispatch_many(Task(n) for n in range(40))
    stopped = run(app, 40, concurrency=4)

    assert (40, 0) == (stopped.handled, stopped.failed)
    assert max(most) <= 4
    assert set(range(40)) == {envelope.message.number for envelope in transport(app, "tasks").acknowledged}


def test_async_handlers_run_at_once(app: Postbus) -> None:
    """Five hundred async handlers are on the event loop at the same time, in one process."""
    loops: set[asyncio.AbstractEventLoop] = set()
    arrived: list[int] = []
    all_here = asyncio.Event()

    @app.handler
    async def meet(task: Task) -> None:
        loops.add(asyncio.get_running_loop())
        arrived.append(task.number)
        if len(arrived) == 500:
            all_here.set()
        await asyncio.wait_for(all_here.wait(), PATIENCE)

    app.dispatch_many(Task(n) for n in range(500))
    stopped = run(app, 500, concurrency=500)

    assert (500, 0) == (stopped.handled, stopped.failed)
    assert 1 == len(loops)


def test_async_handlers_at_a_concurrency_of_one_are_on_the_same_loop(app: Postbus) -> None:
    """However many are handled at once, there is one event loop, so that what belongs to it can be shared."""
    loops: set[asyncio.AbstractEventLoop] = set()

    @app.handler
    async def note(task: Task) -> None:
        loops.add(asyncio.get_running_loop())

    app.dispatch_many([Task(1), Task(2)])
    run(app, 1)
    run(app, 1, concurrency=8)
    assert 1 == len(loops)


@pytest.mark.parametrize("kind", ["a task exits", "it is stopped"])
def test_what_a_handler_does_to_the_event_loop_hurts_no_other(app: Postbus, kind: str) -> None:
    """What ends an event loop, such as SystemExit in a task that was left behind, does not end that of the worker."""
    left: list[asyncio.Task[None]] = []

    async def leave() -> None:
        raise SystemExit(3)

    @app.handler
    async def handle(task: Task) -> None:
        if kind == "it is stopped":
            asyncio.get_running_loop().stop()
        else:
            left.append(asyncio.create_task(leave()))
        await asyncio.sleep(0.001)

    app.dispatch_many(Task(n) for n in range(10))
    worker = app.worker("tasks", concurrency=2, limits=Limits(messages=10))
    join(in_background(worker.run))
    assert 10 == len(transport(app, "tasks").acknowledged)


def test_nothing_is_handled_twice_or_left_out(app: Postbus) -> None:
    """Of thousands of messages, some of which fail, each is handled once, and either settled or buried."""
    handled: Counter[int] = Counter()

    @app.handler
    def handle(task: Task) -> None:
        handled[task.number] += 1
        if task.number % 10 == 0:
            raise ValueError("unlucky")

    app.dispatch_many(Task(n) for n in range(3000))
    stopped = run(app, 3000, concurrency=16)

    assert Counter(range(3000)) == handled
    assert (2700, 300) == (stopped.handled, stopped.failed)
    assert 0 == len(transport(app, "tasks").connection.browse(1))
    assert 300 == transport(app, "failed").connection.count().waiting


def test_context_variables_are_those_of_the_worker_and_changes_stay_with_a_message(app: Postbus) -> None:
    """A handler sees what was set where the worker was started, in every slot; what it sets nobody else sees."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")
    seen: list[str] = []

    @app.handler
    def change(task: Task) -> None:
        seen.append(variable.get())
        variable.set(f"task {task.number}")

    @app.handler(priority=-1)
    async def look(task: Task) -> None:
        seen.append(variable.get())

    app.dispatch_many(Task(n) for n in range(20))
    variable.set("of the worker")
    run(app, 20, concurrency=2)

    assert Counter({"of the worker": 20, **{f"task {n}": 1 for n in range(20)}}) == Counter(seen)


def test_events_are_told_in_the_order_of_each_message(app: Postbus) -> None:
    """Observers hear of every message, first that it was received, then that it was handled."""
    told: dict[int, list[str]] = {n: [] for n in range(50)}

    @app.observe
    def note(event: Any) -> None:
        if isinstance(event, MessageReceived | MessageHandled):
            told[event.envelope.message.number].append(type(event).__name__)

    app.handler(handles=Task)(lambda task: None)
    app.dispatch_many(Task(n) for n in range(50))
    run(app, 50, concurrency=5)
    assert [["MessageReceived", "MessageHandled"]] * 50 == list(told.values())


def test_limits_hold_with_many_at_once(app: Postbus) -> None:
    """No more messages are begun than the limit says; what was fetched ahead is given back, uncounted."""
    handled: list[int] = []
    app.handler(handles=Task)(lambda task: handled.append(task.number))
    app.dispatch_many(Task(n) for n in range(100))

    assert "it has handled 30 messages" == run(app, 30, concurrency=8, fetch_size=20).reason
    assert 30 == len(handled)
    counts = transport(app, "tasks").connection.count()
    assert (70, 0) == (counts.waiting, counts.in_flight)
    assert {1} == {delivery.count for delivery in transport(app, "tasks").connection.fetch(100, 0)}


def test_stop_worker_lets_the_others_finish(app: Postbus) -> None:
    """A handler that stops the worker stops it after those that are running."""
    others = threading.Barrier(3)
    finished: list[int] = []

    @app.handler
    def handle(task: Task) -> None:
        others.wait(PATIENCE)
        if task.number == 0:
            raise StopWorker("enough")
        finished.append(task.number)

    app.dispatch_many(Task(n) for n in range(3))
    stopped = app.worker("tasks", concurrency=3).run()

    assert ("a handler asked for it: enough", 2, 1) == (stopped.reason, stopped.handled, stopped.failed)
    assert {1, 2} == set(finished)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_handler_may_end_its_worker_but_not_every_worker(app: Postbus, concurrency: int) -> None:
    """SystemExit comes out of the worker, with nothing in hand; its message has failed, so it ends not one more."""
    together = threading.Barrier(concurrency)

    @app.handler
    def leave(task: Task) -> None:
        together.wait(PATIENCE)
        raise SystemExit(3)

    app.dispatch_many(Task(n) for n in range(10))
    with pytest.raises(SystemExit, match="3"):
        app.worker("tasks", concurrency=concurrency, fetch_size=10).run()
    counts = transport(app, "tasks").connection.count()
    assert (10 - concurrency, 0) == (counts.waiting, counts.in_flight)
    assert concurrency == transport(app, "failed").connection.count().waiting


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("kind", [asyncio.CancelledError, GeneratorExit])
def test_what_is_no_exception_is_a_failure(app: Postbus, concurrency: int, kind: type[BaseException]) -> None:
    """A handler may raise anything without ending its worker, such as what an event loop of its own raises."""

    @app.handler
    def handle(task: Task) -> None:
        if task.number == 0:
            raise kind("enough")

    app.dispatch_many([Task(0), Task(1)])
    stopped = run(app, 2, concurrency=concurrency)
    assert (1, 1) == (stopped.handled, stopped.failed)
    (buried,) = transport(app, "failed").receive(10, 0)
    assert [f"What a handler raised is no Exception: {kind.__name__}: enough"] == [
        details.message for details in buried.all(stamps.ErrorDetails)
    ]


def test_a_transport_that_fails_for_good_ends_the_worker(app: Postbus) -> None:
    """What a new connection cannot mend comes out of `run`, also from the thread of a receiver."""
    with pytest.raises(TransportError, match="Leave out --queues"):
        app.worker("tasks", concurrency=2, queues=["high"]).run()


@pytest.mark.parametrize("concurrency", [1, 2])
def test_while_a_copy_cannot_be_stored_others_are_handled(concurrency: int) -> None:
    """With the failure transport down, what fails stays with its broker, to come again later, and nobody waits."""
    handled: set[int] = set()

    class Full:
        name = "failed"

        def send(self, envelopes: list[Envelope]) -> list[Envelope]:
            raise TransportError("The store is full.")

        def close(self) -> None: ...

    app = make_app(failed=Full())  # type: ignore[arg-type]

    @app.handler
    def handle(task: Task) -> None:
        if task.number % 10 == 0:
            raise ValueError("never")
        handled.add(task.number)

    app.dispatch_many(Task(n) for n in range(50))
    run(app, 50, "tasks", concurrency=concurrency)
    assert {n for n in range(50) if n % 10} == handled
    counts = transport(app, "tasks").connection.count()
    assert (5, 0) == (counts.waiting + counts.delayed, counts.in_flight)  # Some may be due by now.


# several transports


def test_an_idle_worker_hears_every_transport(app: Postbus) -> None:
    """A worker that waits on two transports handles what arrives on either, in any order, without a tick between."""
    heard = [threading.Event() for _ in range(20)]
    app.handler(handles=(Task, Other))(lambda message: heard[message.number].set())
    worker = app.worker("tasks", "others")
    running = in_background(worker.run)
    for number, event in enumerate(heard):
        app.dispatch(Task(number) if number % 3 else Other(number))
        assert event.wait(PATIENCE)
    worker.stop()
    join(running)


def test_an_idle_transport_holds_nothing_back(app: Postbus) -> None:
    """A receiver that waits has asked for one message: others get the rest of what arrives, while a slot is busy."""
    begun, over = threading.Event(), threading.Event()

    @app.handler
    def block(task: Task) -> None:
        begun.set()
        over.wait(PATIENCE)

    worker = app.worker("tasks", "others")
    running = in_background(worker.run)
    app.dispatch(Task(0))
    assert begun.wait(PATIENCE)
    app.dispatch_many(Other(n) for n in range(10))
    connection = transport(app, "others").connection
    assert 9 <= len(connection.fetch(10, 0))
    over.set()
    worker.stop()
    join(running)


def test_what_a_lower_transport_brought_does_not_wait_for_ever(app: Postbus) -> None:
    """A message that came while the slot was taken goes back to its broker, for other workers."""
    begun = threading.Event()
    elsewhere: list[Any] = []

    @app.handler
    def block(task: Task) -> None:
        begun.set()
        app.dispatch(Other(1))
        # Another worker, which is given nothing as long as the first one has it.
        other = transport(app, "others").connection
        while not elsewhere:
            elsewhere.extend(other.fetch(1, PATIENCE))

    app.dispatch(Task(0))
    run(app, 1, "tasks", "others")
    assert [1] == [delivery.count for delivery in elsewhere]


def test_a_lower_transport_has_its_turn_while_a_higher_one_does_not_answer(app: Postbus) -> None:
    """A broker that hangs keeps no message of another one waiting."""
    over = threading.Event()

    class Hanging:
        name = "tasks"

        def receive(self, limit: int, wait: float, queues: Any = ()) -> list[Envelope]:
            over.wait(PATIENCE)
            return []

        def send(self, envelopes: list[Envelope]) -> list[Envelope]:
            return envelopes

        def ack(self, envelopes: list[Envelope]) -> None: ...
        def reject(self, envelopes: list[Envelope]) -> None: ...
        def release(self, envelopes: list[Envelope]) -> None: ...
        def close(self) -> None: ...

    app = make_app(tasks=Hanging())  # type: ignore[arg-type]
    handled = threading.Event()
    app.handler(handles=Other)(lambda other: handled.set())
    app.dispatch(Other(1))
    worker = app.worker("tasks", "others")
    running = in_background(worker.run)
    assert handled.wait(PATIENCE)
    over.set()
    worker.stop()
    join(running)


@pytest.mark.slow
def test_what_a_broker_brings_that_hung_goes_back(app: Postbus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that stops does not wait for a broker that hangs; what that brings later is not kept from others."""
    tasks = transport(app, "tasks")
    receive, hangs, over = tasks.receive, threading.Event(), threading.Event()

    def hang(limit: int, wait: float, queues: Any = ()) -> Any:
        hangs.set()
        over.wait(PATIENCE)
        return receive(limit, wait, queues)

    monkeypatch.setattr(tasks, "receive", hang)
    released = threading.Event()
    app.observe(lambda event: released.set() if isinstance(event, MessageReleased) else None)
    app.dispatch(Task(1))
    worker = app.worker("tasks", concurrency=2)
    running = in_background(worker.run)
    assert hangs.wait(PATIENCE)
    worker.stop()
    join(running)
    over.set()
    assert released.wait(PATIENCE)
    counts = tasks.connection.count()
    assert (1, 0) == (counts.waiting, counts.in_flight)


def test_where_threads_are_short_fewer_are_handled_at_once(
    app: Postbus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that may start only so many threads works on with those, and says so once."""
    start = threading.Thread.start

    def start_some(thread: threading.Thread) -> None:
        if thread.name.startswith("postbus-slot-") and int(thread.name.rpartition("-")[2]) > 3:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)
    app.handler(handles=Task)(lambda task: None)
    app.dispatch_many(Task(n) for n in range(200))
    assert 200 == run(app, 200, concurrency=10).handled
    assert 1 == caplog.text.count("Handling no more than 3 messages at once from now on: can't start new thread.")


@pytest.mark.parametrize(
    ("options", "weights"),
    [({"strategy": "round-robin"}, (1, 1)), ({"strategy": "weighted", "weights": {"tasks": 4}}, (4, 1))],
)
@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_flooded_transport_does_not_starve_another(
    app: Postbus, options: dict[str, Any], weights: tuple[int, int], concurrency: int
) -> None:
    """As long as both have messages, each gets its share of the turns, to within a few."""
    begun: list[str] = []

    @app.observe
    def note(event: Any) -> None:
        if isinstance(event, MessageReceived):
            begun.append(event.transport)

    app.handler(handles=(Task, Other))(lambda message: None)
    app.dispatch_many(Task(n) for n in range(2000))
    app.dispatch_many(Other(n) for n in range(100))
    run(app, 150, "tasks", "others", concurrency=concurrency, **options)

    share = 150 * weights[1] / sum(weights)
    assert abs(begun.count("others") - share) <= 2 * concurrency + 3


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"concurrency": 0}, "The concurrency must be 1 or more, got 0."),
        ({"strategy": "fair"}, "There is no strategy 'fair'. Strategies: strict, weighted, round-robin."),
        ({"weights": {"tasks": 2}}, "Weights go together with the strategy 'weighted', not with 'strict'."),
        ({"strategy": "weighted", "weights": {"tasks": 0}}, "The weight of 'tasks' must be 1 or more, got 0."),
        (
            {"strategy": "weighted", "weights": {"mails": 2}},
            "A weight is given for 'mails', which is not consumed. Consumed: tasks, others.",
        ),
    ],
)
def test_mistakes_are_found_at_once(app: Postbus, options: dict[str, Any], problem: str) -> None:
    """A worker that cannot work as it is asked to is not made."""
    with pytest.raises(ConfigurationError) as caught:
        app.worker("tasks", "others", **options)
    assert problem == str(caught.value)


# as simple as it was


def test_the_way_to_a_handler_is_short(app: Postbus) -> None:
    """With one transport and a concurrency of 1, the handler is called in the worker's own thread, from few frames."""
    stacks: list[list[str]] = []
    threads: list[threading.Thread] = []

    @app.handler
    def look(task: Task) -> None:
        stacks.append([frame.name for frame in traceback.extract_stack()])
        threads.append(threading.current_thread())

    app.dispatch(Task(1))
    run(app, 1)
    [stack] = stacks
    assert [threading.main_thread()] == threads
    own = stack[stack.index("test_the_way_to_a_handler_is_short") + 2 :]
    assert ["run", "work", "work", "handle", "handle", "dispatch"] == own[:6]


def test_order_is_kept(app: Postbus) -> None:
    """One at a time, messages are handled in the order in which they came."""
    handled: list[int] = []
    app.handler(handles=Task)(lambda task: handled.append(task.number))
    app.dispatch_many(Task(n) for n in range(2000))
    run(app, 2000)
    assert list(range(2000)) == handled


def test_a_signal_lets_all_that_run_finish(app: Postbus) -> None:
    """With several at once, a signal lets each running handler finish; what was fetched ahead is given back."""
    both, heard = threading.Barrier(2), threading.Event()
    handled: list[int] = []
    app.observe(lambda event: heard.set() if isinstance(event, WorkerStopping) else None)

    @app.handler
    def handle(task: Task) -> None:
        both.wait(PATIENCE)
        if task.number == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            heard.wait(PATIENCE)  # On a busy machine, all others could be handled until the main thread gets its turn.
        both.wait(PATIENCE)
        handled.append(task.number)

    app.dispatch_many(Task(n) for n in range(10))
    stopped = app.worker("tasks", concurrency=2, fetch_size=10).run()

    assert "it got SIGTERM" == stopped.reason
    assert len(handled) == stopped.handled
    counts = transport(app, "tasks").connection.count()
    assert (10 - len(handled), 0) == (counts.waiting, counts.in_flight)
    assert {1} == {delivery.count for delivery in transport(app, "tasks").connection.fetch(10, 0)}


def test_a_failed_message_keeps_its_ids(app: Postbus) -> None:
    """What is buried from a slot is what was dispatched."""

    @app.handler
    def fail(task: Task) -> None:
        raise ValueError("never")

    sent = app.dispatch(Task(1))
    run(app, 1, concurrency=3)
    [buried] = transport(app, "failed").receive(1, 0)
    assert sent.last(stamps.MessageId) == buried.last(stamps.MessageId)


@pytest.mark.parametrize("where", ["controller", "slot"])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_thread_that_dies_ends_the_worker(
    app: Postbus, concurrency: int, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever thread of the worker's fails, `run` raises that, and what it had in hand is back with its broker."""
    begun: list[int] = []

    def break_down(*_: Any) -> Any:
        raise MemoryError("no more")

    @app.handler
    def handle(task: Task) -> None:
        begun.append(task.number)

    def break_down_later(controller: Controller, *_: Any) -> None:
        if begun:
            raise MemoryError("no more")

    if where == "slot":
        monkeypatch.setattr(Dispatcher, "handle", break_down)
    else:
        monkeypatch.setattr(Controller, "_take_in_done", break_down_later)
    app.dispatch_many(Task(n) for n in range(10))
    with pytest.raises(MemoryError, match="no more"):
        app.worker("tasks", concurrency=concurrency, fetch_size=10, grace=0.1).run()
    counts = transport(app, "tasks").connection.count()
    assert (10, 0) == (counts.waiting, counts.in_flight)
