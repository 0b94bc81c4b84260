"""Calls that an event loop waits for: in a thread each, or, if they never block, on the loop of the handlers."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from postbus.event_loop import Waiting, interrupt, loop

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


async def in_thread(call: Callable[[], T]) -> T:
    """Return what a call returns, which sees the context variables of the caller; raise what it raises.

    It has a thread to itself, for which nothing else waits: so calls may wait for each other, however many. Who is
    cancelled waits no longer; then the call goes on by itself, and an ``async def`` handler in it is cancelled too.
    """
    return await _wait_for(call, threads.begin)


async def on_loop(call: Callable[[], T]) -> T:
    """Do the same without a thread, on the event loop of the handlers: for calls that block nowhere else than there."""
    return await _wait_for(call, threads.begin_on_loop)


def aside(call: Callable[[], T], name: str) -> T:
    """Return what a call returns that may block: in a strand, from a thread, so that the event loop goes on."""
    here = loop.here()
    if isinstance(here, int):
        return call()
    return loop.run(_to_its_end(call, here), name)


def at_work_for(where: Waiting) -> Waiting:
    """Return the thread that does something `aside` for a strand; what is given, for a thread and any other strand."""
    run = _asides.get(where)
    return where if run is None or run.where is None else run.where


async def _wait_for(call: Callable[[], T], begin: Callable[[_Run[T]], None]) -> T:
    import asyncio  # noqa: PLC0415  Who awaits this has imported it; who does not need not wait for it.

    run = _Run(call, asyncio.get_running_loop())
    begin(run)
    try:
        await run.over
    except asyncio.CancelledError:
        run.cancel()
        raise
    return run.outcome()


async def _to_its_end(call: Callable[[], T], strand: Waiting) -> T:
    """Wait for a call in a thread also after being cancelled, as a thread of its own would that made it itself."""
    import asyncio  # noqa: PLC0415  As above.

    run = _Run(call, asyncio.get_running_loop())
    _asides[strand] = run
    threads.begin(run)
    while not run.over.done():
        try:
            await asyncio.wait([run.over])
        except asyncio.CancelledError:
            run.cancel()
    del _asides[strand]
    return run.outcome()


def runs_on_a_loop() -> bool:
    """Say whether an event loop of asyncio waits for this very thread."""
    asyncio = sys.modules.get("asyncio")  # Without it, there is none.
    return asyncio is not None and asyncio._get_running_loop() is not None  # Raises nothing, so it takes no time.


class _Run(Generic[T]):
    """One call, and the event loop that waits for it."""

    def __init__(self, call: Callable[[], T], loop: asyncio.AbstractEventLoop) -> None:
        self.over = loop.create_future()
        self.result: T | None = None
        self.error: BaseException | None = None
        self._call = call
        self._context = copy_context()
        self._loop = loop
        self._lock = threading.Lock()
        self.where: Waiting | None = None
        """The thread or strand in which it runs, as long as it does."""

    def work(self) -> None:
        """Run, in this thread or strand."""
        self.where = loop.here()
        try:
            self.result = self._context.run(self._call)
        except BaseException as error:  # A border: it is raised where this is waited for.
            self.error = error
        with self._lock:
            self.where = None
        with suppress(RuntimeError):  # Raised if that loop is closed; then nobody waits any more.
            self._loop.call_soon_threadsafe(self._end)

    def cancel(self) -> None:
        """Cancel the ``async def`` handler that it waits for, if it does; nothing else can be."""
        with self._lock:  # As long as this is held, the thread does not go on to another run.
            if self.where is not None:
                interrupt(self.where)

    def outcome(self) -> T:
        """Return what it returned; raise what it raised. Once, when it is over."""
        error, self.error = self.error, None
        if error is None:
            return cast(T, self.result)
        try:
            raise error
        finally:
            del error  # Else it holds this frame, which holds it.

    def _end(self) -> None:
        if not self.over.done():
            self.over.set_result(None)


# No ThreadPoolExecutor, however large: when a call comes just as a thread becomes free, it may count one idle thread
# too many (CPython 3.14.8), and later let a call wait for one that waits for it.
class Threads:
    """As many threads as there are calls at once; one that is free takes the next, or ends after a while."""

    LINGER = 10.0
    """Seconds."""

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        """Forget the threads, which a forked process does not have."""
        self._all: set[threading.Thread] = set()
        self.idle: list[SimpleQueue[_Run[Any] | None]] = []
        """What each of those is given its next call by that has none."""
        self._on_loop: set[_Run[Any]] = set()
        self._is_ending = False
        self._is_loop_empty = threading.Event()

    def begin(self, run: _Run[Any]) -> None:
        """Run a call at once."""
        try:
            inbox = self.idle.pop()
        except IndexError:
            inbox = self._start()
        inbox.put(run)

    def begin_on_loop(self, run: _Run[Any]) -> None:
        """Run a call that never blocks without a thread."""
        self._on_loop.add(run)
        loop.call(partial(loop.enter, partial(self._work_on_loop, run)))

    def end(self) -> None:
        """Let all calls come to their end, as the interpreter does with threads that are no daemons."""
        self._is_ending = True
        while self.idle:
            self.idle.pop().put(None)
        for thread in self._all.copy():
            thread.join()
        if self._on_loop:
            self._is_loop_empty.wait()

    def _start(self) -> SimpleQueue[_Run[Any] | None]:
        inbox: SimpleQueue[_Run[Any] | None] = SimpleQueue()
        # A daemon, because for all others Python waits at exit, also if they are idle.
        thread = threading.Thread(target=self._work, args=(inbox,), name="postbus-dispatch", daemon=True)
        thread.start()
        self._all.add(thread)
        return inbox

    def _work(self, inbox: SimpleQueue[_Run[Any] | None]) -> None:
        while (run := self._next(inbox)) is not None:
            run.work()
            del run
            self.idle.append(inbox)
            if self._is_ending:
                break
        self._all.discard(threading.current_thread())

    def _work_on_loop(self, run: _Run[Any]) -> None:
        run.work()
        self._on_loop.discard(run)
        if self._is_ending and not self._on_loop:
            self._is_loop_empty.set()

    def _next(self, inbox: SimpleQueue[_Run[Any] | None]) -> _Run[Any] | None:
        try:
            return inbox.get(timeout=self.LINGER)
        except Empty:
            pass
        try:
            self.idle.remove(inbox)
        except ValueError:  # It was taken just then, by somebody who is about to put a call into it.
            return inbox.get()
        return None


threads = Threads()
_asides: dict[Waiting, _Run[Any]] = {}
"""What is done aside, by the strand that waits for it."""
os.register_at_fork(after_in_child=threads.start_over)
atexit.register(threads.end)
