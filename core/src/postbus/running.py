"""How handlers are run that need more than a call: coroutines, on one event loop, and those with a time limit."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextvars import copy_context
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from postbus.errors import Interrupted, PostbusError, TimeLimitExceeded

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger("postbus")

T = TypeVar("T")


MERCY = 5.0
"""Seconds for which a handler may clear up that was interrupted because its time is over."""


class TimedRun:
    """One run of a handler that has a time limit, and the thread that waits for its end.

    What has come of it is said by whoever claims it first: the handler by ending, or the worker by giving it up.
    """

    def __init__(self, handler: str, limit: float, message: Any, succeeded: Sequence[str]) -> None:
        """``succeeded`` are the message's other handlers that have."""
        self.handler = handler
        self.message = message
        self.succeeded = succeeded
        self.thread = threading.get_ident()
        self.outer = _runs.get(self.thread)
        """The run in whose handler the message was dispatched that this one handles."""
        self.coroutine: Coroutine[Any, Any, Any] | None = None
        """What the thread waits for, if it is one, which is cancelled without anybody's help."""
        self.is_interrupted = False
        self.is_reported = False
        self._limit = limit
        self._begun_at = time.monotonic()
        self.deadline = self._begun_at + limit
        self._claims = [None]

    def work(self, call: Callable[[], T]) -> T:
        """Return what a call returns, or raise what it raises: `TimeLimitExceeded`, if it was interrupted for that."""
        error: BaseException | None = None
        result: Any = None
        try:
            try:
                _runs[self.thread] = self
                result = call()
            finally:
                self._end()
        except BaseException as problem:  # A border: after an interruption, a handler may raise anything.
            error = problem
        try:
            self._end()  # Again, for an interruption that came right at its end; there is only one.
            if not self.claim():
                raise Interrupted
            if self.is_interrupted and not isinstance(error, KeyboardInterrupt | SystemExit):
                end = "was cancelled" if self.coroutine is not None else "was interrupted"
                raise self.error(end).with_traceback(error.__traceback__ if error is not None else None)
            if error is not None:
                raise error
            return cast(T, result)
        finally:
            del error

    @property
    def left(self) -> float:
        """The seconds until its time is over."""
        return min(max(0.0, self.deadline - time.monotonic()), threading.TIMEOUT_MAX)

    @property
    def seconds(self) -> float:
        """For how long it has been going on."""
        return time.monotonic() - self._begun_at

    def claim(self) -> bool:
        """Say, once, that what has come of it is for who asks."""
        try:
            self._claims.pop()
        except IndexError:
            return False
        return True

    def error(self, end: str) -> TimeLimitExceeded:
        """Return the failure that it comes to, with an end to its sentence."""
        return TimeLimitExceeded(
            f"Handler {self.handler!r} took longer than its time limit of {self._limit:g} s and {end}."
        )

    def where(self) -> str:
        """Return where the handler is, as the lines of a traceback."""
        frames = [*self._frames()]
        return "".join(traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames).format()).rstrip()

    def _frames(self) -> Iterator[FrameType]:
        inner: Any = self.coroutine
        if inner is None:
            frame = sys._current_frames().get(self.thread)  # pyright: ignore[reportPrivateUsage]  It is documented.
            stack = [one for one, _ in traceback.walk_stack(frame)] if frame is not None else []
            codes = [one.f_code for one in stack]
            if TimedRun.work.__code__ in codes:
                # Without the one between, which is not the user's either.
                yield from reversed(stack[: codes.index(TimedRun.work.__code__) - 1])
        while inner is not None and (frame := getattr(inner, "cr_frame", None)) is not None:
            yield frame
            inner = inner.cr_await

    def _end(self) -> None:
        if self.outer is not None:
            _runs[self.thread] = self.outer
        else:
            _runs.pop(self.thread, None)


_runs: dict[int, TimedRun] = {}
"""The innermost run of each thread in which there is one."""
os.register_at_fork(after_in_child=_runs.clear)


def is_any_timed() -> bool:
    """Say whether a handler runs that has a time limit."""
    return bool(_runs)


def expire() -> bool:
    """Say, once, whether this thread is to be interrupted because a handler's time is over."""
    run = _late(threading.get_ident(), time.monotonic())
    if run is None or run.coroutine is not None or run.is_interrupted:
        return False
    run.is_interrupted = True
    return True


def stuck(thread: int, now: float, nudge: Callable[[], bool]) -> TimedRun | None:
    """Interrupt what is late in a thread; return it if nothing can, or if it has not ended all the same.

    ``nudge`` has that thread call `expire`, if that is possible.
    """
    run = _late(thread, now)
    if run is None:
        return None
    if now >= run.deadline + MERCY:
        return run
    if run.coroutine is not None or run.is_interrupted:
        return None
    run.is_interrupted = True  # First, as that thread is quick to ask why.
    if interrupt(thread):  # It waits for the handler of a message that it has dispatched itself.
        return None
    run.is_interrupted = False
    return None if nudge() else run


def _late(thread: int, now: float) -> TimedRun | None:
    """Return the outermost run in a thread whose time is over."""
    found: TimedRun | None = None
    run = _runs.get(thread)
    while run is not None:
        if now >= run.deadline:
            found = run
        run = run.outer
    return found


class _Call:
    """One coroutine on the loop, and the thread that waits for it."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.coroutine = coroutine
        self.context = copy_context()
        self.running = threading.Lock()
        self.running.acquire()
        self.task: asyncio.Task[None] | None = None
        self.has_begun = False
        self.is_interrupted = False
        self.is_abandoned = False
        """Whether nobody waits for it any more."""
        self.result: Any = None
        self.error: BaseException | None = None

    async def run(self, finish: Callable[[_Call], None]) -> None:
        self.has_begun = True
        try:
            self.result = await self.coroutine
        except BaseException as error:  # A border: else SystemExit would end the loop, and whoever waits would hang.
            self.error = error
        finally:
            finish(self)


class EventLoop:
    """The one event loop of this process for ``async def`` handlers, on a thread of its own."""

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        """Forget the loop, whose thread a forked process does not have."""
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._new: deque[_Call] = deque()
        self._is_called = False
        self._waiting: dict[int, _Call] = {}
        self._finished: deque[_Call] = deque()
        self._is_waking = False

    def run(self, coroutine: Coroutine[Any, Any, T], name: str, timed: TimedRun | None = None) -> T:
        """Wait for a coroutine, which sees the context variables of the caller; raise what it raises.

        When its time is over, cancel it, and wait for what comes of that.
        """
        loop = self._loop or self._start()
        me = threading.get_ident()
        if self._thread is not None and me == self._thread.ident:
            coroutine.close()
            raise PostbusError(
                f"An async handler dispatched a message to the async handler {name}, and waits for it on the loop that "
                "both run on. Use `await app.dispatch_async(...)` there."
            )
        call = self._waiting[me] = _Call(coroutine)
        self._new.append(call)
        try:
            # Waking the loop takes longer than all the rest, so many calls that come at once do it once.
            if not self._is_called:
                self._is_called = True
                loop.call_soon_threadsafe(self._begin)
            if timed is None:
                call.running.acquire()
            else:
                self._wait_within(timed, call)
        except BaseException:  # A signal interrupted this thread, at any line.
            call.is_abandoned = True
            loop.call_soon_threadsafe(self._cancel, call)
            raise
        finally:
            self._wake_next()
            del self._waiting[me]
        if call.error is None:
            return cast(T, call.result)
        raise self._raised(call.error, call)

    def interrupt(self, thread: int) -> bool:
        """Cancel what this thread waits for; say whether there is anything."""
        call = self._waiting.get(thread)
        if call is None or self._loop is None:
            return False
        self._loop.call_soon_threadsafe(self._cancel, call)
        return True

    def _wait_within(self, timed: TimedRun, call: _Call) -> None:
        timed.coroutine = call.coroutine
        if call.running.acquire(timeout=timed.left):
            return
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._cancel, call)
        call.running.acquire()
        timed.is_interrupted = call.is_interrupted  # Or it has ended just then.

    def _start(self) -> asyncio.AbstractEventLoop:
        import asyncio  # noqa: PLC0415  It takes half as long to import as all of the core.

        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_run_forever, args=(loop,), name="postbus-async", daemon=True)
                self._thread.start()
                self._loop = loop
            return self._loop

    def _begin(self) -> None:
        """Begin what was called since the last time; on the loop."""
        assert self._loop is not None
        self._is_called = False  # First, so that no call which comes meanwhile is overlooked.
        while self._new:
            call = self._new.popleft()
            call.task = self._loop.create_task(call.run(self._finish), context=call.context)

    def _finish(self, call: _Call) -> None:
        """Let the thread go on that waits for it, unless another one is just being woken, which does so then.

        Threads that are woken together get in each other's way: only one of them can run, and each that finds
        this out has cost as much as the handler.
        """
        self._finished.append(call)
        if not self._is_waking:
            self._is_waking = True
            self._wake_next()

    def _wake_next(self) -> None:
        """Wake one of the threads whose coroutine has finished; in any thread, and in several at once."""
        while True:
            try:
                call = self._finished.popleft()
            except IndexError:
                self._is_waking = False
                if not self._finished:  # Else one came in between, and relied on this.
                    return
            else:
                if not call.is_abandoned:
                    call.running.release()
                    return

    def _cancel(self, call: _Call) -> None:
        self._begin()
        if call.error is not None or not call.running.locked():
            return
        assert call.task is not None
        if call.task.done():
            return
        call.is_interrupted = True
        call.task.cancel()
        if not call.has_begun:  # Then `run` is never entered, and does not tell who waits.
            call.coroutine.close()
            call.error = Interrupted()
            self._finish(call)

    def _raised(self, error: BaseException, call: _Call) -> BaseException:
        """Return what the caller is to see: a handler that cancelled itself has failed as by any other exception."""
        from asyncio import CancelledError  # noqa: PLC0415
        from concurrent.futures import CancelledError as Cancelled  # noqa: PLC0415

        if not isinstance(error, CancelledError):
            return error
        return Interrupted() if call.is_interrupted else Cancelled(*error.args)


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop whatever ends it, such as `SystemExit` in a task that a handler has left behind."""
    while True:
        try:
            loop.run_forever()
        except BaseException:  # A border: without this thread, every async handler would be waited for for ever.
            logger.exception("Something ended the event loop of the async handlers; it goes on.")


loop = EventLoop()
os.register_at_fork(after_in_child=loop.start_over)


def interrupt(thread: int) -> bool:
    """Cancel the ``async def`` handler that a thread waits for, where `Interrupted` is raised; say whether it does."""
    return loop.interrupt(thread)
