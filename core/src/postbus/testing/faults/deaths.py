"""How a worker dies: by SIGKILL from its own hand, at a named point of its work."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import StrEnum
from itertools import count

import msgspec


class Point(StrEnum):
    """Where a worker can die."""

    FETCHED = "after the fetch"
    HANDLING = "in the handler"
    RETURNING = "at the end of the handler"
    HANDLED = "after the handler, before the settle"
    SETTLING = "while settling"
    RETRYING = "while storing the retry copy"
    RETRIED = "after the retry copy, before the settle"
    BURYING = "while burying"
    BURIED = "after burying, before the settle"


class Death(msgspec.Struct, frozen=True):
    """Where a worker is to die: at a point, when it comes there for the so-manieth time.

    ``after`` is how many seconds an operation has been running when it dies "while" doing it.
    """

    point: Point
    visit: int
    after: float


class Reaper:
    """Waits at the point for its worker, writes down what that has in its hands, and kills it."""

    def __init__(self, death: Death | None, last_words: Callable[[str], None]) -> None:
        self._death = death
        self._last_words = last_words
        self._visits = count(1)

    def at(self, point: Point) -> None:
        """Come to a point; this is the end of the process if it is to die there."""
        if self._is_due(point):
            self._die(point)

    @contextmanager
    def during(self, point: Point) -> Generator[None]:
        """Die while something is being done, or at the latest when it is done."""
        if not self._is_due(point):
            yield
            return
        assert self._death is not None
        threading.Timer(self._death.after, self._die, [point]).start()
        try:
            yield
        finally:
            threading.Event().wait()

    def _is_due(self, point: Point) -> bool:
        if self._death is None or self._death.point != point:
            return False
        return next(self._visits) == self._death.visit

    def _die(self, point: Point) -> None:
        self._last_words(point)
        os.kill(os.getpid(), signal.SIGKILL)
