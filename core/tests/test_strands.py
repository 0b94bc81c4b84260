"""Messages that need no thread: what runs on the event loop, what does not, and that all is as it is in threads."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from postbus import Envelope, Limits, Postbus, StopWorker, TransportError, never_blocks, stamps
from postbus.bus import Next
from postbus.errors import HandlerFailed
from postbus.event_loop import loop
from postbus.events import Event, EventLoopBlocked, MessageHandled, WorkerStopped
from postbus.tracing import Trace
from postbus.validation import Validate

PATIENCE = 30.0
"""Seconds after which something that must happen counts as never happening."""


@dataclass(frozen=True)
class Task:
    number: int


@dataclass(frozen=True)
class Plain:
    """One that a ``def`` handler takes."""

    number: int


@dataclass(frozen=True)
class Step:
    """One that is handled where it is dispatched."""

    left: int


class Client:
    """What a handler needs."""


needs_strands = pytest.mark.skipif(loop.strands is None, reason="needs greenlet")


@pytest.fixture(params=[pytest.param("strands", marks=needs_strands), "threads"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return in which of its ways the worker does it; in threads where there is no greenlet."""
    if request.param == "threads":
        monkeypatch.setattr(loop, "strands", None)
    return str(request.param)


def make_app(**options: Any) -> Postbus:
    return Postbus(
        transports={"tasks": "in-memory://", "failed": "in-memory://"},
        routing={Task: "tasks", Plain: "tasks"},
        failure_transport="failed",
        retry={"max_retries": 0},
        **options,
    )


@pytest.fixture
def app() -> Postbus:
    return make_app()


def run(app: Postbus, messages: int, **options: Any) -> WorkerStopped:
    return app.worker("tasks", limits=Limits(messages=messages), **{"concurrency": 4, **options}).run()


def waiting(app: Postbus, name: str) -> int:
    transport: Any = app.transport(name)
    counts = transport.connection.count()
    assert not counts.in_flight
    return int(counts.waiting)


def is_on_loop() -> bool:
    return threading.current_thread().name == "postbus-async"


def slot_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("postbus-slot")]


def until(condition: Callable[[], object]) -> None:
    """Return when a condition holds that nobody tells us of."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


# what costs no thread


@needs_strands
def test_a_thousand_that_wait_need_no_thread(app: Postbus) -> None:
    """All are under way at the same time, and none has a thread."""
    all_here = asyncio.Event()
    arrived: list[int] = []
    seen: list[str] = []

    @app.handler
    async def meet(task: Task) -> None:
        arrived.append(task.number)
        if len(arrived) == 1000:
            seen.extend(slot_threads())
            all_here.set()
        await asyncio.wait_for(all_here.wait(), PATIENCE)

    app.dispatch_many(Task(n) for n in range(1000))
    assert 1000 == run(app, 1000, concurrency=1000).handled
    assert [] == seen


@needs_strands
def test_nested_dispatches_need_no_thread() -> None:
    """A thousand requests that wait for dispatches three deep, all at once, have one thread together: the loop's."""
    app = Postbus(config={})
    before = {*threading.enumerate()}
    added: set[str] = set()
    all_here = asyncio.Event()
    arrived: list[int] = []

    @app.handler
    async def step(step: Step) -> None:
        if step.left:
            await app.dispatch_async(Step(step.left - 1))
            return
        arrived.append(1)
        if len(arrived) == 1000:
            added.update(thread.name for thread in {*threading.enumerate()} - before)
            all_here.set()
        await asyncio.wait_for(all_here.wait(), PATIENCE)

    async def main() -> list[Envelope]:
        return await asyncio.gather(*(app.dispatch_async(Step(2)) for _ in range(1000)))

    assert 1000 == len(asyncio.run(main()))
    assert added <= {"postbus-async"}


# what may block


def note_thread(seen: list[bool]) -> Callable[[Envelope, Next], Envelope]:
    def note(envelope: Envelope, call_next: Next) -> Envelope:
        if envelope.has(stamps.Received):
            seen.append(is_on_loop())
        return call_next(envelope)

    return note


@needs_strands
@pytest.mark.parametrize("says_so", [True, False])
def test_a_middleware_runs_on_the_loop_if_it_says_that_it_never_blocks(says_so: bool) -> None:
    """One that says nothing has a thread, and may do there what it likes."""
    seen: list[bool] = []
    middleware = note_thread(seen)
    app = make_app(buses={"default": {"middleware": [never_blocks(middleware) if says_so else middleware]}})

    @app.handler
    async def handle(task: Task) -> None: ...

    app.dispatch(Task(1))
    assert 1 == run(app, 1).handled
    assert [says_so] == seen


class Marked:
    """A middleware that is an object."""

    @never_blocks
    def __call__(self, envelope: Envelope, call_next: Next) -> Envelope:
        return call_next(envelope)

    @never_blocks
    def method(self, envelope: Envelope, call_next: Next) -> Envelope:
        return call_next(envelope)


@never_blocks
class MarkedAsAWhole:
    def __call__(self, envelope: Envelope, call_next: Next) -> Envelope:
        return call_next(envelope)


@pytest.mark.parametrize("middleware", [Marked(), Marked().method, MarkedAsAWhole()])
def test_whatever_can_be_a_middleware_can_be_marked(middleware: Any) -> None:
    """A function, an object, a method of one, or the class of one."""
    app = Postbus(config={}, buses={"default": {"middleware": [middleware]}})
    assert app.bus().never_blocks


@needs_strands
@pytest.mark.parametrize("says_so", [True, False])
def test_one_of_postbus_is_marked_by_who_knows_its_parts(says_so: bool) -> None:
    """Whether a check or an exporter blocks is known to whoever has written or chosen it, who marks that very one."""
    seen: list[bool] = []

    def check(task: Task) -> None:
        seen.append(is_on_loop())

    steps = [Validate(check), Trace()]
    app = make_app(buses={"default": {"middleware": [never_blocks(step) if says_so else step for step in steps]}})
    assert not Postbus(config={}, buses={"default": {"middleware": [Validate(check), Trace()]}}).bus().never_blocks

    @app.handler
    async def handle(task: Task) -> None: ...

    app.dispatch(Task(1))
    seen.clear()
    assert 1 == run(app, 1).handled
    assert [says_so] == seen


@needs_strands
@pytest.mark.parametrize("says_so", [True, False])
def test_an_observer_is_told_on_the_loop_if_it_says_that_it_never_blocks(app: Postbus, says_so: bool) -> None:
    """As a middleware."""
    seen: list[bool] = []

    def note(event: Event) -> None:
        if isinstance(event, MessageHandled):
            seen.append(is_on_loop())

    app.observe(never_blocks(note) if says_so else note)

    @app.handler
    async def handle(task: Task) -> None: ...

    app.dispatch(Task(1))
    run(app, 1)
    assert [says_so] == seen


@dataclass
class Slow:
    """A failure transport that takes nothing before something else has happened."""

    other: threading.Event
    seen: list[bool] = field(default_factory=list[bool])
    name: str = "failed"

    def send(self, envelopes: Sequence[Envelope]) -> Sequence[Envelope]:
        self.seen.append(is_on_loop())
        if not self.other.wait(PATIENCE):
            raise TransportError("The loop was held up.")
        return envelopes

    def close(self) -> None: ...


def test_while_a_failure_is_stored_others_go_on(way: str) -> None:
    """A broker that is slow to take a copy of what has failed holds up nobody else."""
    slow = Slow(threading.Event())
    app = Postbus(
        transports={"tasks": "in-memory://", "failed": slow},  # type: ignore[dict-item]
        routing={Task: "tasks"},
        failure_transport="failed",
        retry={"max_retries": 0},
    )

    @app.handler
    async def handle(task: Task) -> None:
        if task.number == 0:
            raise ValueError("never")
        while not slow.seen:
            await asyncio.sleep(0.001)
        slow.other.set()

    app.dispatch_many([Task(0), Task(1)])
    stopped = run(app, 2)
    assert (1, 1) == (stopped.handled, stopped.failed)
    assert [False] == slow.seen


def test_what_is_deferred_is_sent_from_a_thread(way: str) -> None:
    """`stamps.AfterCurrent` sends after the handler has succeeded, with the right cause, and not on the loop."""
    slow = Slow(threading.Event())
    slow.other.set()
    app = Postbus(
        transports={"tasks": "in-memory://", "slow": slow},  # type: ignore[dict-item]
        routing={Task: "tasks", Plain: "slow"},
    )
    caused: list[Envelope] = []

    @app.handler
    async def handle(task: Task) -> None:
        caused.append(await app.dispatch_async(Plain(1), stamps.AfterCurrent()))
        assert not slow.seen

    sent = app.dispatch(Task(1))
    assert 1 == run(app, 1).handled
    assert [False] == slow.seen
    causation, message_id = caused[0].last(stamps.Causation), sent.last(stamps.MessageId)
    assert causation is not None
    assert message_id is not None
    assert message_id.id == causation.id


def test_what_a_class_says_is_sent_is_sent_from_a_thread(way: str) -> None:
    """Default stamps may name a transport, although no route does."""
    slow = Slow(threading.Event())
    slow.other.set()
    app = Postbus(transports={"slow": slow})  # type: ignore[dict-item]

    app.message(stamps=[stamps.TransportNames(("slow",))])(Task)

    @app.handler
    async def handle(task: Task) -> None:
        raise AssertionError("It is sent.")

    asyncio.run(app.dispatch_async(Task(1)))
    assert [False] == slow.seen


def test_what_a_handler_needs_is_not_made_on_the_loop(way: str) -> None:
    """A factory is a plain function, and may connect to something."""
    made: list[bool] = []

    def make() -> Client:
        made.append(is_on_loop())
        return Client()

    app = Postbus(config={})
    app.provide(Client, make)

    @app.handler
    async def step(step: Step, client: Client) -> None: ...

    async def main() -> None:
        await asyncio.gather(*(app.dispatch_async(Step(0)) for _ in range(10)))

    asyncio.run(main())
    assert [False] == made


# one worker


@pytest.mark.parametrize("concurrency", [2, 4, 40])
def test_both_kinds_share_one_limit(app: Postbus, way: str, concurrency: int) -> None:
    """Of messages with def handlers and with async ones in one queue, no more than the limit are handled at once."""
    running, most, handled = [0], [0], Counter[str]()
    lock = threading.Lock()

    def begin() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])

    def end(kind: str) -> None:
        with lock:
            running[0] -= 1
            handled[kind] += 1

    @app.handler
    async def handle(task: Task) -> None:
        begin()
        await asyncio.sleep(0.0005 * (task.number % 3))
        end("async")

    @app.handler
    def handle_plain(plain: Plain) -> None:
        begin()
        time.sleep(0.0005 * (plain.number % 3))
        end("def")

    app.dispatch_many(Task(n) if n % 7 < 4 or n < 100 else Plain(n) for n in range(800))
    stopped = run(app, 800, concurrency=concurrency)
    assert (800, 0) == (stopped.handled, stopped.failed)
    assert handled == {
        "async": 100 + sum(n % 7 < 4 for n in range(100, 800)),
        "def": stopped.handled - handled["async"],
    }
    assert most[0] <= concurrency
    assert 0 == waiting(app, "tasks")


def test_a_message_with_both_kinds_of_handlers_has_a_thread(app: Postbus, way: str) -> None:
    """Its def handler must not hold up the loop; the async one runs there as always."""
    seen: dict[str, bool] = {}

    @app.handler
    def note(task: Task) -> None:
        seen["def"] = is_on_loop()

    @app.handler(priority=-1)
    async def note_too(task: Task) -> None:
        seen["async"] = is_on_loop()

    app.dispatch(Task(1))
    assert 1 == run(app, 1).handled
    assert {"def": False, "async": True} == seen


def test_a_handler_for_one_transport_does_not_take_the_others_to_the_loop(way: str) -> None:
    """Which handlers a message has depends on where it came from."""
    app = make_app()
    seen: list[bool] = []
    app.handler(handles=Task, from_transport="tasks", name="plain")(lambda task: seen.append(is_on_loop()))

    @app.handler(from_transport="failed")
    async def never(task: Task) -> None: ...

    app.dispatch(Task(1))
    assert 1 == run(app, 1).handled
    assert [False] == seen


@pytest.mark.parametrize("fast", [True, False])
def test_nothing_is_handled_twice_or_left_out(app: Postbus, way: str, fast: bool) -> None:
    """Of thousands of messages, some of which fail, each is handled once, and either settled or buried."""
    handled: Counter[int] = Counter()

    @app.handler
    async def handle(task: Task) -> None:
        handled[task.number] += 1
        if not fast:
            await asyncio.sleep(0)
        if task.number % 10 == 0:
            raise ValueError("unlucky")

    app.dispatch_many(Task(n) for n in range(2000))
    stopped = run(app, 2000, concurrency=16)
    assert Counter(range(2000)) == handled
    assert (1800, 200) == (stopped.handled, stopped.failed)
    assert (0, 200) == (waiting(app, "tasks"), waiting(app, "failed"))


def test_no_more_is_begun_than_the_limit_says(app: Postbus, way: str) -> None:
    """What was fetched ahead is given back, uncounted."""
    handled: list[int] = []

    @app.handler
    async def handle(task: Task) -> None:
        handled.append(task.number)

    app.dispatch_many(Task(n) for n in range(100))
    assert "it has handled 30 messages" == run(app, 30, concurrency=8, fetch_size=20).reason
    assert (30, 70) == (len(handled), waiting(app, "tasks"))


def test_one_that_asks_for_it_stops_both_kinds(app: Postbus, way: str) -> None:
    """After a failure that stops the worker nothing more is begun, in threads or on the loop."""
    begun: list[int] = []

    @app.handler
    async def stop(task: Task) -> None:
        raise StopWorker("enough")

    app.handler(handles=Plain, name="plain")(lambda plain: begun.append(plain.number))
    app.dispatch_many([Task(0), *(Plain(n) for n in range(500))])
    stopped = run(app, 10_000, concurrency=2)
    assert "a handler asked for it: enough" == stopped.reason
    assert 500 == len(begun) + waiting(app, "tasks")
    assert 1 == stopped.failed


def test_a_message_for_an_unknown_bus_fails_by_itself(app: Postbus, way: str) -> None:
    """Whatever a message says of itself, the controller does not stumble over it."""

    @app.handler
    async def handle(task: Task) -> None: ...

    transport: Any = app.transport("tasks")
    transport.send([Envelope(Task(1), (stamps.BusName("elsewhere"),))])
    app.dispatch(Task(2))
    stopped = run(app, 2)
    assert (1, 1) == (stopped.handled, stopped.failed)
    assert 1 == waiting(app, "failed")


def test_a_paused_transport_is_left_alone(way: str) -> None:
    """A kill switch holds for what waits on the loop, too: at once, and what is not begun goes back."""
    app = Postbus(
        transports={
            "tasks": {
                "dsn": "in-memory://",
                "kill_switch": {"failure_rate": 0.5, "min_messages": 4, "pause": 600.0},
            },
            "failed": "in-memory://",
        },
        routing={Task: "tasks"},
        failure_transport="failed",
        retry={"max_retries": 0},
    )
    begun: list[int] = []

    @app.handler
    async def fail(task: Task) -> None:
        begun.append(task.number)
        if len(begun) == 4:
            threading.Timer(0.2, worker.stop).start()
        raise ValueError("The database is away.")

    app.dispatch_many(Task(n) for n in range(20))
    worker = app.worker("tasks", concurrency=3, fetch_size=20, limits=Limits(time=PATIENCE))
    stopped = worker.run()
    assert 4 <= len(begun) == stopped.failed <= 4 + 3
    assert (20 - len(begun), len(begun)) == (waiting(app, "tasks"), waiting(app, "failed"))


def die_with(app: Postbus, number: int) -> None:
    """Fetch so many messages and neither settle them nor give them back, as a worker does that dies."""
    transport: Any = app.transport("tasks")
    assert number == len(transport.connection.fetch(number, 0))
    transport.clock.move(2 * transport.lease)


def test_the_last_chance_is_had_alone(app: Postbus, way: str) -> None:
    """A message that two workers died with has the worker to itself; what three died with is buried, untouched."""
    running: set[int] = set()
    together: list[set[int]] = []

    @app.handler
    async def handle(task: Task) -> None:
        running.add(task.number)
        await asyncio.sleep(0.01)
        together.append({*running})
        running.remove(task.number)

    app.dispatch(Task(13))
    die_with(app, 1)
    app.dispatch(Task(0))
    for _ in range(2):
        die_with(app, 2)
    app.dispatch_many(Task(n) for n in range(1, 5))
    stopped = run(app, 6)
    assert (5, 1) == (stopped.handled, stopped.failed)
    assert {0} in together
    assert not any(0 in group for group in together if len(group) > 1)
    assert 1 == waiting(app, "failed")


# as in a thread


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")


def test_context_variables_are_those_of_the_worker_and_changes_stay_with_a_message(way: str) -> None:
    """A handler sees what the worker and middleware have set; what it sets nobody else sees, not even the next one."""

    @never_blocks
    def name_it(envelope: Envelope, call_next: Next) -> Envelope:
        variable.set(f"{variable.get()} {envelope.message.number}")
        return call_next(envelope)

    app = make_app(buses={"default": {"middleware": [name_it]}})
    seen: list[str] = []

    async def change(task: Task) -> None:
        await asyncio.sleep(0.001)
        seen.append(variable.get())
        variable.set("changed")
        await asyncio.sleep(0.001)

    app.handler(name="first")(change)
    app.handler(name="second")(change)

    def main() -> None:
        for n in range(20):
            contextvars.copy_context().run(app.dispatch, Task(n))
        variable.set("of the worker")
        run(app, 20)

    contextvars.copy_context().run(main)
    assert Counter([f"of the worker {n}" for n in range(20)] * 2) == Counter(seen)


def test_each_dispatch_sees_the_variables_of_its_caller(way: str) -> None:
    """Also through several levels, and with many at once."""
    app = Postbus(config={})
    seen: list[str] = []

    @app.handler
    async def step(step: Step) -> None:
        await asyncio.sleep(0.001)
        if step.left:
            await app.dispatch_async(Step(step.left - 1))
        seen.append(variable.get())

    async def ask(name: str) -> str:
        variable.set(name)
        await app.dispatch_async(Step(2))
        return variable.get()

    async def main() -> list[str]:
        return await asyncio.gather(*(ask(str(number)) for number in range(50)))

    names = [str(number) for number in range(50)]
    assert names == asyncio.run(main())
    assert Counter(names * 3) == Counter(seen)


def test_what_is_dispatched_has_its_cause(app: Postbus, way: str) -> None:
    """Messages that are handled at the same time do not get each other's."""
    causes: dict[int, str | None] = {}

    @app.handler
    async def handle(task: Task) -> None:
        await asyncio.sleep(0.001 * (task.number % 5))
        sent = await app.dispatch_async(Step(task.number))
        causation = sent.last(stamps.Causation)
        causes[task.number] = causation.id if causation is not None else None

    @app.handler
    async def step(step: Step) -> None:
        await asyncio.sleep(0.001)

    sent = app.dispatch_many(Task(n) for n in range(40))
    run(app, 40, concurrency=40)
    ids = [envelope.last(stamps.MessageId) for envelope in sent]
    assert causes == {n: one.id for n, one in enumerate(ids) if one is not None}


def test_a_time_limit_cancels(app: Postbus, way: str) -> None:
    """One that takes too long has failed, and its neighbours have not."""
    cancelled: list[int] = []

    @app.handler(time_limit=0.1)
    async def handle(task: Task) -> None:
        if task.number:
            return
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(task.number)
            raise

    app.dispatch_many(Task(n) for n in range(10))
    stopped = run(app, 10)
    assert (9, 1) == (stopped.handled, stopped.failed)
    assert [0] == cancelled
    transport: Any = app.transport("failed")
    [buried] = transport.receive(10, 0)
    assert "took longer than its time limit of 0.1 s and was cancelled" in buried.last(stamps.ErrorDetails).message


def test_a_time_limit_holds_for_what_is_deferred(app: Postbus, way: str) -> None:
    """Also for a def handler, which nothing can interrupt in a thread: its worker is to be replaced."""
    over = threading.Event()

    @app.handler
    async def handle(task: Task) -> None:
        await app.dispatch_async(Plain(task.number), stamps.HERE, stamps.AfterCurrent())

    @app.handler(time_limit=0.1)
    def hang(plain: Plain) -> None:
        over.wait(PATIENCE)

    app.dispatch(Task(1))
    stopped = run(app, 1)
    over.set()
    assert (True, 0, 1) == (stopped.stuck, stopped.handled, stopped.failed)


def test_a_stop_gives_back_what_is_interrupted(app: Postbus, way: str) -> None:
    """After the grace each handler is cancelled, may clear up, and its message goes back uncounted."""
    begun, cleared = [0], [0]

    @app.handler
    async def handle(task: Task) -> None:
        begun[0] += 1
        if begun[0] == 8:
            worker.stop()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            cleared[0] += 1

    app.dispatch_many(Task(n) for n in range(20))
    worker = app.worker("tasks", concurrency=8, grace=0.05)
    stopped = worker.run()
    assert (8, 8) == (begun[0], cleared[0])
    assert (0, 0) == (stopped.handled, stopped.failed)
    assert 20 == waiting(app, "tasks")


@pytest.mark.parametrize("who", ["handler", "middleware"])
@needs_strands
def test_who_blocks_the_loop_is_told(who: str, caplog: pytest.LogCaptureFixture) -> None:
    """Be it a handler, or a middleware that says that it never blocks and does: with the line in which it does."""
    told = threading.Event()

    @never_blocks
    def note(event: Event) -> None:
        if isinstance(event, EventLoopBlocked):
            told.set()

    @never_blocks
    def block(envelope: Envelope, call_next: Next) -> Envelope:
        if envelope.message == Task(1) and envelope.has(stamps.Received) and who == "middleware":
            told.wait(PATIENCE)  # Here.
        return call_next(envelope)

    app = make_app(buses={"default": {"middleware": [block]}})
    app.observe(note)

    @app.handler
    async def handle(task: Task) -> None:
        if task.number == 0:
            while not told.is_set():
                await asyncio.sleep(0.001)
        elif who == "handler":
            told.wait(PATIENCE)  # Here.

    app.dispatch_many([Task(0), Task(1)])
    assert 2 == run(app, 2).handled
    [line] = [record.getMessage() for record in caplog.records if "has not gone on" in record.getMessage()]
    assert "told.wait(PATIENCE)  # Here." in line


def test_who_is_cancelled_cancels_the_handler(way: str) -> None:
    """A request that has timed out leaves none behind, however deep."""
    app = Postbus(config={})
    begun = threading.Event()
    cancelled: list[int] = []

    @app.handler
    async def step(step: Step) -> None:
        try:
            if step.left:
                await app.dispatch_async(Step(step.left - 1))
            begun.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(step.left)
            raise

    async def main() -> None:
        task = asyncio.create_task(app.dispatch_async(Step(3)))
        await asyncio.to_thread(begun.wait, PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    until(lambda: len(cancelled) == 4)
    assert [3, 2, 1, 0] == cancelled


def test_the_error_of_a_handler_comes_out(way: str) -> None:
    """Whatever it is; also one that no coroutine can raise."""
    app = Postbus(config={})

    @app.handler
    async def step(step: Step) -> None:
        raise ValueError("no")

    with pytest.raises(HandlerFailed, match="ValueError: no"):
        asyncio.run(app.dispatch_async(Step(0)))


PROGRAM = """
import asyncio, os, sys, threading
from dataclasses import dataclass
from postbus import Limits, Postbus

@dataclass(frozen=True)
class Task:
    number: int

@dataclass(frozen=True)
class Step:
    left: int

app = Postbus(transports={"tasks": "in-memory://"}, routing={Task: "tasks"})

@app.handler
async def step(step: Step) -> None:
    if step.left:
        await app.dispatch_async(Step(step.left - 1))
"""


def run_program(folder: Path, source: str) -> tuple[str, str, int]:
    (folder / "shop.py").write_text(source)
    finished = subprocess.run(
        [sys.executable, "shop.py"], cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    return finished.stdout, finished.stderr, finished.returncode


WORK = """
done = []

@app.handler
async def handle(task: Task) -> None:
    await app.dispatch_async(Step(3))
    done.append(task.number)

print("greenlet" in sys.modules)
app.dispatch_many(Task(number) for number in range(20))
print(app.worker(concurrency=4, limits=Limits(messages=20)).run().handled, sorted(done) == [*range(20)])
"""


@pytest.mark.slow
@pytest.mark.parametrize("hides", [True, False])
def test_greenlet_need_not_be_there(tmp_path: Path, hides: bool) -> None:
    """It is an extra, which is not imported before somebody needs it: threads do the same without it."""
    hidden = 'import sys\nsys.modules["greenlet"] = None\n' if hides else ""
    assert (f"{hides}\n20 True\n", "", 0) == run_program(tmp_path, hidden + PROGRAM + WORK)


@pytest.mark.slow
def test_a_process_ends_with_its_dispatches(tmp_path: Path) -> None:
    """One that nobody waits for any more comes to its end before the process does; a worker's that hangs does not."""
    source = """
begun, may_end = threading.Event(), threading.Event()

@app.handler
async def handle(task: Task) -> None:
    try:
        await asyncio.to_thread(may_end.wait, 60)
    except asyncio.CancelledError:
        await asyncio.Event().wait()

@app.handler
async def last(text: Last) -> None:
    begun.set()
    await asyncio.to_thread(may_end.wait, 60)
    print("done", flush=True)

app.dispatch_many(Task(number) for number in range(3))
worker = app.worker(concurrency=4, grace=0.05)
threading.Timer(0.2, worker.stop).start()
print(worker.run().handled, flush=True)

async def main():
    tasks.append(asyncio.create_task(app.dispatch_async(Last())))
    await asyncio.to_thread(begun.wait, 60)

tasks = []
loop = asyncio.new_event_loop()  # It is not closed, which would cancel the dispatch.
loop.run_until_complete(main())
print("over", flush=True)
threading.Timer(0.1, may_end.set).start()
"""
    program = PROGRAM + "@dataclass(frozen=True)\nclass Last: ...\n" + source
    stdout, stderr, code = run_program(tmp_path, program)
    assert ("0\nover\ndone\n", 0) == (stdout, code)
    assert "Traceback" not in stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.slow
@needs_strands
def test_a_process_that_an_async_handler_forks_ends_with_it(tmp_path: Path) -> None:
    """It settles nothing, touches no other message that its parent has in hand, and says what came of the handler."""
    source = """
others = []

@app.handler
async def handle(task: Task) -> None:
    if task.number:
        others.append(task.number)
        try:
            await asyncio.sleep(0.3)
        finally:
            print("other", os.getpid() == parent, flush=True)
        return
    while len(others) < 3:
        await asyncio.sleep(0.001)
    child = os.fork()
    if child == 0:
        return
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)

parent = os.getpid()
app.dispatch_many(Task(number) for number in range(4))
print(app.worker(concurrency=4, limits=Limits(messages=4)).run().handled, flush=True)
"""
    stdout, stderr, code = run_program(tmp_path, PROGRAM + source)
    assert ("0\nother True\nother True\nother True\n4\n", 0) == (stdout, code)
    assert "Traceback" not in stderr  # From Python 3.12 on it warns of forking beside threads.
