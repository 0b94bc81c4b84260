"""How many workers there are to be, by what waits for them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import cast

from postbus.cli.invocation import connection_of
from postbus.errors import ConfigurationError, TransportError
from postbus.queue_transport import QueueTransport
from postbus.transport import SupportsCount, Transport, supports

logger = logging.getLogger("postbus")

INTERVAL = 5.0
"""Seconds between two looks."""


class Scaling:
    """Between a least and a most, twice as many whenever work is left lying, and one fewer after a calm while.

    It grows fast, because messages wait, and shrinks slowly, because the next ones may come any moment.
    """

    PATIENCE = 5.0
    """Seconds that a message may wait before more workers are started."""
    CALM = 6
    """Looks in a row that find nothing waiting, before a worker is stopped; half as many until the next."""

    def __init__(self, least: int, most: int) -> None:
        self._least = least
        self._most = most
        self._calm = 0
        self._left_lying = False
        self.number = least

    def look(self, waiting: int, oldest_age: float | None) -> int:
        """Return how many there are to be, seeing that so much waits, the oldest for so long if that is known."""
        # Where no age is known, what waits must do so at two looks.
        is_late = self._left_lying if oldest_age is None else oldest_age > self.PATIENCE
        self._left_lying = waiting > self.number
        if waiting > self.number and is_late:
            self.number = min(self.number * 2, self._most)
        self._calm = 0 if waiting else self._calm + 1
        if self._calm >= self.CALM:
            self.number = max(self.number - 1, self._least)
            self._calm -= self.CALM // 2
        return self.number


class Backlog:
    """A thread that looks at transports from time to time, so that one which does not answer hinders nobody."""

    def __init__(
        self,
        transports: Mapping[str, Transport],
        scaling: Scaling,
        is_paused: Callable[[str], bool] = lambda name: False,
    ) -> None:
        """Look at these; at none that ``is_paused`` for all workers, as it calls for none of them."""
        for name, transport in transports.items():
            if not supports(connection_of(transport), SupportsCount):
                raise ConfigurationError(
                    f"Transport {name!r} cannot count what waits, so the number of processes must be fixed."
                )
        self._transports = transports
        self._scaling = scaling
        self._is_paused = is_paused
        self._paused: set[str] = set()
        self._is_over = threading.Event()

    def watch(self, tell: Callable[[int], None]) -> None:
        """Begin; ``tell`` is told each time, in that thread, how many workers there are to be."""

        def run() -> None:
            while not self._is_over.wait(INTERVAL):
                try:
                    tell(self._scaling.look(*self._count()))
                except TransportError as error:
                    logger.debug("Cannot count what waits: %s", error)
                except Exception:  # A border: without this thread, the number would stay as it is for ever.
                    logger.exception("Counting what waits failed; trying again.")

        threading.Thread(target=run, name="postbus-scaling", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._is_over.set()

    def _count(self) -> tuple[int, float | None]:
        waiting, ages = 0, list[float | None]()
        for name, transport in self._transports.items():
            self._look_for_pause(name)
            if name in self._paused:
                continue
            # Through the transport, which opens a new connection when this one turns out to be lost.
            counts = (
                transport.call(lambda connection: cast(SupportsCount, connection).count())
                if isinstance(transport, QueueTransport)
                else cast(SupportsCount, transport).count()
            )
            waiting += counts.waiting
            if counts.waiting:
                ages.append(counts.oldest_age)
        known = [age for age in ages if age is not None]
        return waiting, max(known) if known and len(known) == len(ages) else None

    def _look_for_pause(self, name: str) -> None:
        try:
            is_paused = self._is_paused(name)
        except TransportError as error:  # It stays as it was known last.
            logger.debug("Cannot look whether %r is paused: %s", name, error)
            return
        if is_paused:
            self._paused.add(name)
        else:
            self._paused.discard(name)
