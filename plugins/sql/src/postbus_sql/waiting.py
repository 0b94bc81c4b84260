"""How a thread that waits in `fetch` is woken."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import NamedTuple, Protocol, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.engine.interfaces import DBAPICursor

from postbus.errors import TransportError

T = TypeVar("T")

POLL = 0.04
"""Seconds between two looks at whether another process has changed the database."""


class Source(Protocol):
    """A database, as far as dialects and those who wait ask it something by themselves."""

    engine: Engine
    name: str

    def read(self, work: Callable[[DBAPICursor], T]) -> T:
        """Do work that changes nothing, and return its result."""
        ...

    def as_error(self, error: Exception) -> TransportError:
        """Return an error of the driver's, or of SQLAlchemy's, as what it means."""
        ...


class Watch(Protocol):
    """Tells who waits when a message may have come. One thread waits at a time."""

    def mark(self) -> object:
        """Return what to give to `wait`; to be asked for before looking into the queue."""
        ...

    def wait(self, mark: object, timeout: float) -> bool:
        """Return when anything has changed since the mark, or after so many seconds; say whether it has, if known."""
        ...

    def ring(self) -> None:
        """Wake who waits in this process: something was stored, or given back, or the connection is closed."""
        ...

    def tell(self) -> None:
        """Wake who waits in other processes, if storing a message does not: it is committed by now."""
        ...

    def tell_later(self, ids: list[int], connection: Connection) -> None:
        """Do so once the caller's transaction is committed, in which these were stored."""
        ...

    def relax(self) -> None:
        """Take note that there was a message, so that nobody need be woken for a while."""
        ...

    def close(self) -> None:
        """Let go of what the waiting takes."""
        ...


class Bell:
    """Counts its rings, so that none goes unheard that comes between looking and waiting."""

    def __init__(self) -> None:
        self._rung = threading.Condition()
        self.rings = 0

    def ring(self) -> None:
        """Wake who waits."""
        with self._rung:
            self.rings += 1
            self._rung.notify_all()

    def wait(self, rings: int, timeout: float) -> bool:
        """Wait for a ring later than so many; say whether there was one in time."""
        with self._rung:
            return self.rings > rings or self._rung.wait(timeout)


class _Mark(NamedTuple):
    rings: int
    change: Hashable


class MarkWatch:
    """Looks again and again at something that is another one after each change, and costs little to look at.

    Where there is no such thing, ``change_mark`` returns None, and everybody looks into the queue each time.
    """

    def __init__(self, change_mark: Callable[[], Hashable], interval: float = POLL) -> None:
        self._change_mark = change_mark
        self._interval = interval
        self._bell = Bell()

    def mark(self) -> _Mark:
        return _Mark(self._bell.rings, self._change_mark())

    def wait(self, mark: object, timeout: float) -> bool:
        assert isinstance(mark, _Mark)
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            if self._bell.wait(mark.rings, min(self._interval, left)):
                return True
            if mark.change is None or self._change_mark() != mark.change:
                return mark.change is not None
        return False

    def ring(self) -> None:
        self._bell.ring()

    def tell(self) -> None:
        """Do nothing: whoever waits looks by himself."""

    def tell_later(self, ids: list[int], connection: Connection) -> None:
        """Do nothing, as in `tell`."""

    def relax(self) -> None:
        """Do nothing: waiting costs nobody else anything."""

    def close(self) -> None:
        self._bell.ring()
