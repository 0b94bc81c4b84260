"""`dispatch_async`: dispatches that wait for each other, are cancelled, fail, or outlive their loop or process."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

import postbus.threads
from postbus import HandlerFailed, Limits, Postbus
from postbus.threads import Threads, in_thread

PATIENCE = 60.0
"""Seconds after which something that must happen counts as never happening."""

MANY = 50
"""More than any pool of threads has for each processor."""


@dataclass(frozen=True)
class Step:
    left: int


@dataclass(frozen=True)
class PlainStep:
    left: int


class Meeting:
    """Where so many must come before one of them goes on."""

    def __init__(self, everybody: int) -> None:
        self._everybody = everybody
        self._arrived = 0
        self._all_here = asyncio.Event()

    async def join(self) -> None:
        self._arrived += 1
        if self._arrived == self._everybody:
            self._all_here.set()
        await self._all_here.wait()


def nesting(app: Postbus) -> list[int]:
    """Add handlers that dispatch the next step and wait for it, an async and a plain one by turns."""
    done: list[int] = []

    @app.handler
    async def step(message: Step) -> None:
        if message.left:
            await app.dispatch_async(PlainStep(message.left - 1))
        done.append(message.left)

    @app.handler
    def plain_step(message: PlainStep) -> None:
        if message.left:
            app.dispatch(Step(message.left - 1))
        done.append(message.left)

    return done


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_worker_nests_dispatches_as_deep_as_you_like(concurrency: int) -> None:
    """Each waits for the next, and none keeps the thread from another that it needs."""
    app = Postbus(transports={"steps": "in-memory://"}, routing={Step: "steps"})
    done: list[int] = []

    @app.handler
    async def step(message: Step) -> None:
        await app.dispatch_async(PlainStep(MANY))

    @app.handler
    async def plain_step(message: PlainStep) -> None:
        if message.left:
            await app.dispatch_async(PlainStep(message.left - 1))
        done.append(message.left)

    app.dispatch_many([Step(0)] * 3)
    app.worker("steps", limits=Limits(messages=3), concurrency=concurrency).run()
    assert sorted([*range(MANY + 1)] * 3) == sorted(done)


def test_async_and_plain_handlers_nest() -> None:
    """A plain handler that dispatches to an async one does so from whichever loop it was dispatched on."""
    app = Postbus(transports={})
    done = nesting(app)

    async def main() -> None:
        await app.dispatch_async(Step(2 * MANY))
        app.dispatch(Step(2 * MANY))  # It keeps this loop waiting, and none of the handlers.

    asyncio.run(main())
    assert [*range(2 * MANY + 1)] * 2 == done


def test_parallel_requests_may_wait_for_each_other() -> None:
    """Many dispatches on one loop are all under way at once, so those that need each other come to an end."""
    app = Postbus(transports={})
    meeting, inner = Meeting(MANY), Meeting(MANY)

    @app.handler
    async def step(message: Step) -> int:
        await meeting.join()
        await app.dispatch_async(PlainStep(message.left))
        return message.left

    @app.handler
    async def plain_step(message: PlainStep) -> None:
        await inner.join()

    async def main() -> list[int]:
        envelopes = await asyncio.gather(*(app.dispatch_async(Step(number)) for number in range(MANY)))
        return [envelope.message.left for envelope in envelopes]

    assert [*range(MANY)] == asyncio.run(main())


@pytest.fixture
def own_threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    """Threads of which no other test has left any."""
    own = Threads()
    monkeypatch.setattr(postbus.threads, "threads", own)
    return own


def until(condition: Callable[[], object]) -> None:
    """Return when a condition holds that nobody tells us of."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_threads_are_used_again(own_threads: Threads) -> None:
    """One dispatch after the other needs one thread, not one for each."""
    seen: set[int] = set()

    async def main() -> None:
        for _ in range(20):
            await in_thread(lambda: seen.add(threading.get_ident()))
            until(lambda: own_threads.idle)  # A thread is free a moment after it has said so.

    asyncio.run(main())
    assert 1 == len(seen)


def test_an_idle_thread_ends(own_threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a moment of many needed is not kept for ever."""
    monkeypatch.setattr(Threads, "LINGER", 0.01)
    seen: list[threading.Thread] = []

    async def main() -> None:
        await asyncio.gather(*(in_thread(lambda: seen.append(threading.current_thread())) for _ in range(10)))

    asyncio.run(main())
    until(lambda: not any(thread.is_alive() for thread in seen))
    assert [] == own_threads.idle


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")


def test_each_sees_the_variables_of_its_caller_and_keeps_its_own() -> None:
    """Also in a thread that somebody else had before."""

    def look() -> str:
        found = variable.get()
        variable.set("changed")
        return found

    async def ask(name: str) -> tuple[str, str]:
        variable.set(name)
        return await in_thread(look), variable.get()

    async def main() -> list[tuple[str, str]]:
        return await asyncio.gather(*(ask(str(number)) for number in range(MANY)))

    expected = [(str(number), str(number)) for number in range(MANY)]
    assert expected == asyncio.run(main())
    assert expected == asyncio.run(main())


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt(), StopAsyncIteration()])
def test_the_very_error_comes_out(error: BaseException) -> None:
    """Whatever it is, and nothing keeps it, or what it refers to, alive."""

    class Big:
        pass

    references: list[weakref.ref[Big]] = []

    def fail() -> None:
        big = Big()
        references.append(weakref.ref(big))
        raise error

    async def main() -> BaseException:
        try:
            await in_thread(fail)
        except BaseException as caught:
            return caught
        raise AssertionError("It did not raise.")

    gc.disable()
    try:
        assert error is asyncio.run(main())
        error.__traceback__ = None
        assert references[0]() is None
    finally:
        gc.enable()


def test_an_error_that_no_coroutine_can_raise_hangs_nobody() -> None:
    """StopIteration out of a middleware comes out as the RuntimeError that Python makes of it."""

    def stop() -> None:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(asyncio.wait_for(in_thread(stop), PATIENCE))


def test_what_a_handler_raises_is_raised_where_it_is_awaited() -> None:
    """As `dispatch` does, through several levels."""
    app = Postbus(transports={})

    @app.handler
    async def step(message: Step) -> None:
        if not message.left:
            raise ValueError("no")
        await app.dispatch_async(Step(message.left - 1))

    with pytest.raises(HandlerFailed, match="ValueError: no"):
        asyncio.run(app.dispatch_async(Step(3)))


def test_who_is_cancelled_waits_no_longer() -> None:
    """What cannot be interrupted goes on by itself, and comes to its end."""
    begun, may_end, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait(PATIENCE)
        done.set()

    async def main() -> None:
        task = asyncio.create_task(in_thread(work))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not done.is_set()
        may_end.set()

    asyncio.run(main())
    assert done.wait(PATIENCE)


def test_an_async_handler_is_cancelled_with_who_waits_for_it() -> None:
    """However deep: a dispatch that has timed out leaves no handler behind that runs for ever."""
    app = Postbus(transports={})
    begun = threading.Event()
    cancelled: list[int] = []
    all_cancelled = threading.Event()

    @app.handler
    async def step(message: Step) -> None:
        try:
            if message.left:
                await app.dispatch_async(Step(message.left - 1))
            else:
                begun.set()
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(message.left)
            if message.left == 0:
                all_cancelled.set()
            raise

    async def main() -> None:
        task = asyncio.create_task(app.dispatch_async(Step(5)))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert all_cancelled.wait(PATIENCE)
    assert [5, 4, 3, 2, 1, 0] == cancelled


def test_several_loops_may_dispatch_at_once() -> None:
    """Each is told of its own, from the threads that they share."""

    def main(number: int) -> list[int]:
        async def gather() -> list[int]:
            return await asyncio.gather(*(in_thread(lambda n=n: number * 100 + n) for n in range(20)))

        return asyncio.run(gather())

    with ThreadPoolExecutor(5) as pool:
        assert [[n * 100 + m for m in range(20)] for n in range(5)] == list(pool.map(main, range(5)))


def run_program(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    (folder / "shop.py").write_text(textwrap.dedent(source))
    return subprocess.run(
        [sys.executable, "shop.py"], cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE
    )


@pytest.mark.slow
def test_a_process_ends_with_its_dispatches(tmp_path: Path) -> None:
    """One that nobody waits for any more comes to its end before the process does; idle threads delay nothing."""
    finished = run_program(
        tmp_path,
        """
        import asyncio, threading
        from postbus.threads import in_thread

        begun, may_end = threading.Event(), threading.Event()

        def work():
            begun.set()
            may_end.wait(60)
            print("done", flush=True)

        async def main():
            await asyncio.gather(*(in_thread(int) for _ in range(5)))
            task = asyncio.create_task(in_thread(work))
            while not begun.is_set():
                await asyncio.sleep(0.001)

        asyncio.run(main())
        print("over", flush=True)
        threading.Timer(0.1, may_end.set).start()
        """,
    )
    assert ("over\ndone\n", "", 0) == (finished.stdout, finished.stderr, finished.returncode)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_has_threads_of_its_own() -> None:
    """Those of its parent, idle ones among them, are not there."""

    async def ask(number: int) -> int:
        return await in_thread(lambda: number)

    assert 1 == asyncio.run(ask(1))
    until(lambda: postbus.threads.threads.idle)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, str(asyncio.run(asyncio.wait_for(ask(2), PATIENCE))).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    assert "2" == said
    assert 3 == asyncio.run(ask(3))
