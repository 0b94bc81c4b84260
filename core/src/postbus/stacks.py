"""Where threads are, for who writes that down."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Iterable, Mapping
from types import CodeType, FrameType


def current_frames() -> Mapping[int, FrameType]:
    """Return the innermost frame of every thread, by the thread's identity.

    Python 3.11 makes the frames while it has a lock that each thread takes when it ends. Were garbage collected
    meanwhile, what is thrown away might wait for that lock, and all of the process with it (CPython's issue 106883).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames()  # pyright: ignore[reportPrivateUsage]  It is documented.
    finally:
        if was_enabled:
            gc.enable()


def stack_within(code: CodeType, thread: int) -> list[FrameType]:
    """Return what a thread is in since it is in this function, innermost last; nothing if it is not in it."""
    frame = current_frames().get(thread)
    stack = [one for one, _ in traceback.walk_stack(frame)] if frame is not None else []
    codes = [one.f_code for one in stack]
    return stack[: codes.index(code)][::-1] if code in codes else []


def as_text(frames: Iterable[FrameType]) -> str:
    """Return where these are, as the lines of a traceback."""
    return "".join(traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames).format()).rstrip()
