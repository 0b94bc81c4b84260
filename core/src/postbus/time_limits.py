"""Handlers that may take only so long: cancelled or interrupted when their time is over, or else found stuck."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from types import FrameType
from typing import Any, TypeVar, cast

from postbus.errors import Interrupted, TimeLimitExceeded
from postbus.event_loop import Claimable, Waiting, interrupt, loop
from postbus.stacks import as_text, stack_within
from postbus.threads import at_work_for

T = TypeVar("T")


MERCY = 5.0
"""Seconds for which a handler may clear up that was interrupted because its time is over."""


class TimedRun(Claimable):
    """One run of a handler that has a time limit, and the thread or strand that waits for its end.

    What has come of it is said by whoever claims it first: the handler by ending, or the worker by giving it up.
    """

    def __init__(self, handler: str, limit: float, message: Any, succeeded: Sequence[str]) -> None:
        """``succeeded`` are the message's other handlers that have."""
        super().__init__()
        self.handler = handler
        self.message = message
        self.succeeded = succeeded
        self.thread = loop.here()
        self.outer = _runs.get(self.thread)
        """The run in whose handler the message was dispatched that this one handles."""
        self.coroutine: Coroutine[Any, Any, Any] | None = None
        """What the thread waits for, if it is one, which is cancelled without anybody's help."""
        self.is_interrupted = False
        self.is_reported = False
        self._limit = limit
        self._begun_at = time.monotonic()
        self.deadline = self._begun_at + limit

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

    def wait_for(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Return what a coroutine returns, which the event loop cancels when its time is over."""
        self.coroutine = coroutine
        return loop.run(coroutine, self.handler, self.left, self._note_interrupted)

    @property
    def left(self) -> float:
        """The seconds until its time is over."""
        return min(max(0.0, self.deadline - time.monotonic()), threading.TIMEOUT_MAX)

    @property
    def seconds(self) -> float:
        """For how long it has been going on."""
        return time.monotonic() - self._begun_at

    def error(self, end: str) -> TimeLimitExceeded:
        """Return the failure that it comes to, with an end to its sentence."""
        return TimeLimitExceeded(
            f"Handler {self.handler!r} took longer than its time limit of {self._limit:g} s and {end}."
        )

    def where(self) -> str:
        """Return where the handler is, as the lines of a traceback."""
        return as_text(self._frames())

    def _frames(self) -> Sequence[FrameType]:
        if self.coroutine is None and isinstance(self.thread, int):
            return stack_within(TimedRun.work.__code__, self.thread)[1:]  # The first is not the user's either.
        frames: list[FrameType] = []
        inner: Any = self.coroutine
        while inner is not None and (frame := getattr(inner, "cr_frame", None)) is not None:
            frames.append(frame)
            inner = inner.cr_await
        return frames

    def _note_interrupted(self) -> None:
        self.is_interrupted = True

    def _end(self) -> None:
        if self.outer is not None:
            _runs[self.thread] = self.outer
        else:
            _runs.pop(self.thread, None)


_runs: dict[Waiting, TimedRun] = {}
"""The innermost run of each thread or strand in which there is one."""
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


def enforce(thread: Waiting, now: float, nudge: Callable[[], bool]) -> TimedRun | None:
    """Interrupt what is late in a thread or strand; return it if nothing can, or if it has not ended all the same.

    ``nudge`` has that thread call `expire`, if that is possible.
    """
    thread = at_work_for(thread)
    run = _late(thread, now)
    if run is None:
        return None
    if now >= run.deadline + MERCY:
        return run
    if run.coroutine is not None or run.is_interrupted:
        return None
    run.is_interrupted = True  # First, as that thread is quick to ask why.
    if interrupt(thread, surely=True):  # It waits for the handler of a message that it has dispatched itself.
        return None
    run.is_interrupted = False
    return None if nudge() else run


def _late(thread: Waiting, now: float) -> TimedRun | None:
    """Return the outermost run in a thread or strand whose time is over."""
    found: TimedRun | None = None
    run = _runs.get(thread)
    while run is not None:
        if now >= run.deadline:
            found = run
        run = run.outer
    return found
