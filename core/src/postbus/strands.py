"""The greenlets of the event loop; apart from it, because ``greenlet`` is an extra."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from greenlet import getcurrent, greenlet


class Strand(greenlet):
    """Plain functions on the event loop, one of which may wait for a coroutine: then the loop goes on with others.

    It waits for more when it has done its work, because to make another takes ten times as long, mostly for its stack.
    """

    MOST_IDLE = 1000
    """How many wait for work at most; each keeps 16 KiB."""

    __slots__ = ("_idle",)

    def __init__(self, idle: list[Strand]) -> None:
        """``idle`` are those that wait for work."""
        super().__init__(self.work)
        self._idle = idle

    def work(self, work: Callable[[], object] | None) -> None:
        """Do what it is given, and what it is given next; called by `switch`."""
        while work is not None:
            work()
            work = None  # Else it would be kept until the next comes.
            if len(self._idle) < self.MOST_IDLE:
                self._idle.append(self)
                work = self.wait()

    def wait(self) -> Callable[[], object] | None:
        """Let the loop go on, until somebody calls `switch`; return what that was given."""
        assert self.parent is not None
        return cast("Callable[[], object] | None", self.parent.switch())

    @staticmethod
    def current() -> Strand | None:
        """Return the one that runs in this thread; None if it is no strand that does."""
        current = getcurrent()
        return current if isinstance(current, Strand) else None
