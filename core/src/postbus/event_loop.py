"""The one event loop of this process, on which ``async def`` handlers run."""

from __future__ import annotations

import logging
import math
import os
import select
import selectors
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from postbus.errors import Interrupted, PostbusError
from postbus.stacks import as_text, current_frames, stack_within

if TYPE_CHECKING:
    import asyncio

    from postbus.strands import Strand

Waiting: TypeAlias = "int | Strand"
"""Who can wait for a coroutine: a thread, by its identity, or a strand."""

logger = logging.getLogger("postbus")

T = TypeVar("T")


class Claimable:
    """What is for whoever claims it first, in whichever thread."""

    def __init__(self) -> None:
        self._claimed = threading.Lock()

    def claim(self) -> bool:
        """Say, once, that it is for who asks."""
        return self._claimed.acquire(blocking=False)


class _Call(Claimable):
    """One coroutine on the loop, and the thread, or the strand, that waits for it.

    What that one does next is said by whoever claims it first: by going on, or by interrupting it for sure.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], strand: Strand | None) -> None:
        super().__init__()
        self.coroutine = coroutine
        self.strand = strand
        self.context = copy_context()
        self.running: threading.Lock | None = None
        """What a thread sleeps on that waits for it."""
        self.is_over = False
        """Whether who waits was told of its end."""
        self.task: asyncio.Task[None] | None = None
        self.has_begun = False
        self.is_interrupted = False
        self.is_called_off = False
        """Whether it is to be interrupted."""
        self.is_late = False
        """Whether its time was over before it was, as a strand wants to know that waits for it."""
        self.is_abandoned = False
        """Whether nobody waits for it any more."""
        self.result: Any = None
        self.error: BaseException | None = None

    async def run(self, loop: EventLoop) -> None:
        self.has_begun = True
        try:
            self.result = await self.coroutine
        except BaseException as error:  # A border: else SystemExit would end the loop, and whoever waits would hang.
            self.error = error
        finally:
            loop.finish(self)


class _Selector(selectors.DefaultSelector):
    """Waits in finer steps than Linux's own, which takes whole milliseconds: see epoll_wait(2)."""

    STEP = 0.0002
    """Seconds; what is due within the same step is done together, which costs less than to wake for each."""
    EXACT = 0.1
    """Seconds; for longer waits, a millisecond does not matter."""
    MOST_FILES = 1024
    """What select(2) can wait for is numbered below this."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and 0 < timeout < self.EXACT and self.fileno() < self.MOST_FILES:
            select.select([self], (), (), math.ceil(timeout / self.STEP) * self.STEP)
            timeout = 0
        return super().select(timeout)


class EventLoop:
    """The one event loop of this process for ``async def`` handlers, on a thread of its own.

    Who waits for a coroutine is a thread, which it costs; or, in a strand, only the plain functions that called
    `run`, as the loop goes on with others meanwhile. Either way it is the same to them.
    """

    BLOCKED = 1.0
    """Seconds after which a loop that does not go on is reported."""

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        """Forget the loop, whose thread a forked process does not have."""
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._new: deque[Callable[[], object]] = deque()
        self._is_called = False
        # What waits in the parent is kept, because a strand that is thrown away goes on, to its end.
        self._inherited = self.__dict__.copy()
        self._waiting: dict[Waiting, _Call] = {}
        self._idle: list[Strand] = []
        self._finished: deque[_Call] = deque()
        self._is_waking = False
        self._looked_at = self._asked_at = -math.inf
        self._has_answered = True
        self._is_reported = False

    def run(
        self,
        coroutine: Coroutine[Any, Any, T],
        name: str,
        seconds: float | None = None,
        note_interrupted: Callable[[], None] | None = None,
    ) -> T:
        """Wait for a handler's coroutine, which sees the context variables of the caller; raise what it raises.

        After so many seconds cancel it, wait for what comes of that, and say that this was done.
        """
        loop = self._loop or self._start()
        me = self.here()
        if self._thread is not None and me == self._thread.ident:
            coroutine.close()
            raise PostbusError(
                f"An async handler dispatched a message to the async handler {name}, and waits for it on the loop that "
                "both run on. Use `await app.dispatch_async(...)` there."
            )
        call = self._waiting[me] = _Call(coroutine, None if isinstance(me, int) else me)
        try:
            if isinstance(me, int):
                is_in_time = self._wait_in_thread(call, loop, seconds)
            else:
                is_in_time = self._wait_in_strand(call, me, loop, seconds)
            if not is_in_time and call.is_interrupted and note_interrupted is not None:
                note_interrupted()  # Else it has ended just then.
        except BaseException:  # A signal interrupted this thread, at any line.
            call.is_abandoned = True
            loop.call_soon_threadsafe(self._cancel, call)
            raise
        finally:
            self._waiting.pop(me, None)  # It is not there in a process that was forked meanwhile.
        if not call.claim():
            raise Interrupted
        if call.error is None:
            return cast(T, call.result)
        raise self._raised(call.error, call)

    def _wait_in_thread(self, call: _Call, loop: asyncio.AbstractEventLoop, seconds: float | None) -> bool:
        """Wait for the end of a call; say whether it came within its time, after which it is cancelled."""
        call.running = running = threading.Lock()
        running.acquire()
        try:
            self.call(partial(self._create, call))
            if running.acquire(timeout=-1 if seconds is None else seconds):
                return True
            loop.call_soon_threadsafe(self._cancel, call)
            running.acquire()
            return False
        finally:
            self._wake_next()

    def _wait_in_strand(
        self, call: _Call, strand: Strand, loop: asyncio.AbstractEventLoop, seconds: float | None
    ) -> bool:
        """Do as `_wait_in_thread`, in a strand."""
        self._create(call)
        timer = loop.call_later(seconds, self._cancel_late, call) if seconds is not None else None
        strand.wait()
        if timer is not None:
            timer.cancel()
        return not call.is_late

    @cached_property
    def strands(self) -> type[Strand] | None:
        """What strands are; None where there are none, as without ``greenlet``."""
        try:
            from postbus.strands import Strand  # noqa: PLC0415  It is an extra, and who only dispatches needs it not.
        except ImportError:
            return None
        # Threads of gevent are greenlets already, which take turns in their own way.
        return Strand if threading.get_ident() in current_frames() else None

    def here(self) -> Waiting:
        """Return what runs this: a strand, or else a thread, by its identity."""
        me = threading.get_ident()
        if self._thread is None or me != self._thread.ident or self.strands is None:
            return me
        return self.strands.current() or me

    def call(self, work: Callable[[], object]) -> None:
        """Have this called on the loop, soon; from any thread."""
        loop = self._loop or self._start()
        self._new.append(work)
        # Waking the loop takes longer than all the rest, so many calls that come at once do it once.
        if not self._is_called:
            self._is_called = True
            loop.call_soon_threadsafe(self._begin)

    def enter(self, work: Callable[[], object]) -> None:
        """Do this in a strand, which may `run` coroutines; on the loop, and only if there are strands."""
        assert self.strands is not None
        strand = self._idle.pop() if self._idle else self.strands(self._idle)
        strand.switch(work)

    def interrupt(self, thread: Waiting, *, surely: bool = False) -> bool:
        """Cancel what this thread or strand waits for; say whether there is anything.

        If that has ended just now, nothing comes of it; unless ``surely``, for then the thread is interrupted in any
        case. That can be had once, as long as it waits for the same thing.
        """
        call = self._waiting.get(thread)
        if call is None or self._loop is None or (surely and not call.claim()):
            return False
        call.is_called_off = True
        self._loop.call_soon_threadsafe(self._cancel, call)
        return True

    def is_called_off(self, thread: Waiting) -> bool:
        """Say whether a thread or strand waits for the end of what was cancelled by `interrupt`."""
        call = self._waiting.get(thread)
        return call is not None and call.is_called_off

    def blocked(self, now: float) -> str | None:
        """Return where it is, once, if a handler keeps it from going on; to be asked every now and then."""
        if self._loop is None or self._thread is None or not self._waiting:
            return None
        # Who was not asked for long may have been stopped with all of its process.
        was_away, self._looked_at = now - self._looked_at > self.BLOCKED / 2, now
        if self._has_answered or was_away:
            self._has_answered, self._is_reported, self._asked_at = False, False, now
            self._loop.call_soon_threadsafe(self._answer)
        if self._is_reported or now - self._asked_at < self.BLOCKED:
            return None
        self._is_reported = True
        thread = self._thread.ident or 0
        functions = [_Call.run, _run_forever, *([self.strands.work] if self.strands is not None else ())]
        return as_text(next(filter(None, (stack_within(one.__code__, thread) for one in functions)), ()))

    def _answer(self) -> None:
        self._has_answered = True

    def _start(self) -> asyncio.AbstractEventLoop:
        import asyncio  # noqa: PLC0415  It takes half as long to import as all of the core.

        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                # Else it is a choice of the user's, or its selector is no file, as that of gevent.
                if type(loop) is asyncio.SelectorEventLoop and hasattr(selectors.DefaultSelector, "fileno"):
                    loop.close()
                    loop = asyncio.SelectorEventLoop(_Selector())
                self._thread = threading.Thread(target=_run_forever, args=(loop,), name="postbus-async", daemon=True)
                self._thread.start()
                self._loop = loop
            return self._loop

    def _begin(self) -> None:
        """Begin what was called since the last time; on the loop."""
        self._is_called = False  # First, so that no call which comes meanwhile is overlooked.
        for _ in range(len(self._new)):  # What these call comes after whatever else is due.
            self._new.popleft()()

    def _create(self, call: _Call) -> None:
        assert self._loop is not None
        call.task = self._loop.create_task(call.run(self), context=call.context)

    def finish(self, call: _Call) -> None:
        """Let go on what waits for it; a thread, unless another one is just being woken, which does so then.

        Threads that are woken together get in each other's way: only one of them can run, and each that finds
        this out has cost as much as the handler.
        """
        if call.strand is not None:
            assert call.task is not None
            call.is_over = True
            call.task.get_loop().call_soon(call.strand.switch, context=call.context)  # Else it is copied.
            return
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
                    assert call.running is not None
                    call.is_over = True
                    call.running.release()
                    return

    def _cancel_late(self, call: _Call) -> None:
        call.is_late = True
        self._cancel(call)

    def _cancel(self, call: _Call) -> None:
        self._begin()
        if call.error is not None or call.is_over:
            return
        if call.task is None:  # A signal came before it could be begun.
            call.coroutine.close()
            return
        if call.task.done():
            return
        call.is_interrupted = True
        call.task.cancel()
        if not call.has_begun:  # Then `run` is never entered, and does not tell who waits.
            call.coroutine.close()
            call.error = Interrupted()
            self.finish(call)

    def _raised(self, error: BaseException, call: _Call) -> BaseException:
        """Return what the caller is to see: a handler that cancelled itself has failed as by any other exception.

        One that was cancelled has not, whatever it made of that.
        """
        from asyncio import CancelledError  # noqa: PLC0415
        from concurrent.futures import CancelledError as Cancelled  # noqa: PLC0415

        if call.is_interrupted:
            return Interrupted().with_traceback(error.__traceback__)
        return Cancelled(*error.args) if isinstance(error, CancelledError) else error


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop whatever ends it, such as `SystemExit` in a task that a handler has left behind."""
    while True:
        try:
            loop.run_forever()
        except BaseException:  # A border: without this thread, every async handler would be waited for for ever.
            logger.exception("Something ended the event loop of the async handlers; it goes on.")


loop = EventLoop()
os.register_at_fork(after_in_child=loop.start_over)


def interrupt(thread: Waiting, *, surely: bool = False) -> bool:
    """Cancel the ``async def`` handler that a thread or strand waits for, and have `Interrupted` raised there; say so.

    If it has ended just now, that is not raised unless ``surely``; see `EventLoop.interrupt`.
    """
    return loop.interrupt(thread, surely=surely)


def is_called_off(thread: Waiting) -> bool:
    """Say whether a thread or strand waits for the end of an ``async def`` handler that `interrupt` has cancelled."""
    return loop.is_called_off(thread)
