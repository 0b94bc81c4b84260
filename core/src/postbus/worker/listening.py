"""How a worker hears what all workers are told from afar: that a transport is paused, or that they are to stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

from postbus.control import Control, Told
from postbus.errors import ConnectionLost, TransportError, describe
from postbus.worker.deliveries import Deliveries

logger = logging.getLogger("postbus")


class Listener:
    """A thread that looks at the notes in one place every few seconds, and heeds them.

    What cannot be looked at stays as it was known last: the worker goes on. But nothing is fetched before the first
    look, as the transport may be paused; nor as long as its own broker, which keeps the note, cannot be reached.
    """

    INTERVAL = 5.0
    """Seconds between two looks, and so after which a worker has heard what it is told."""
    FIRST_INTERVAL = 0.2
    """The same while it has not been possible to look at all; doubled each time."""

    def __init__(
        self, control: Control, place: str, all_deliveries: Sequence[Deliveries], stop: Callable[[str], None]
    ) -> None:
        self._control = control
        self._place = place
        self._all_deliveries = all_deliveries
        self._stop = stop
        self._over = threading.Event()
        self._has_looked = False
        self._stop_before: str | None = None
        """By what workers were told to stop last, before this one began."""
        self._problem: str | None = None
        for deliveries in all_deliveries:
            deliveries.may_fetch.clear()
        name = f"postbus-listener-{place}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def end(self) -> None:
        """Look no more, and heed nothing; waits for nobody."""
        self._over.set()

    def _run(self) -> None:
        interval = self.FIRST_INTERVAL
        names = [deliveries.name for deliveries in self._all_deliveries]
        while True:
            try:
                told = self._control.look(self._place, names, tells=True)
            except Exception as error:  # A border: whatever is wrong with the place, the worker goes on.
                if self._over.is_set():
                    return
                self._go_on_without(error)
            else:
                if self._over.is_set():
                    return
                self._heed(told)
            interval = self.INTERVAL if self._has_looked else min(2 * interval, self.INTERVAL)
            if self._over.wait(interval):
                return

    def _heed(self, told: Told) -> None:
        if self._problem is not None:
            logger.warning("What workers are told at %r can be looked at again.", self._place)
            self._problem = None
        for deliveries in self._all_deliveries:
            deliveries.hold(told.paused.get(deliveries.name))
        if self._has_looked and told.stop not in (None, self._stop_before):
            self._stop("all workers were told to")
        self._has_looked = True
        self._stop_before = told.stop or self._stop_before

    def _go_on_without(self, error: Exception) -> None:
        is_lost = isinstance(error, ConnectionLost)  # Which the transport has said.
        problem = str(error) if isinstance(error, TransportError) else describe(error)
        if not is_lost and self._problem is None:
            logger.warning(
                "Cannot look at what workers are told at %r, so going on as before, and looking again: %s",
                self._place,
                problem,
            )
            self._problem = problem
        for deliveries in self._all_deliveries:
            if not (is_lost and deliveries.name == self._place) and not deliveries.held:
                deliveries.may_fetch.set()


class Listeners:
    """One listener for each place that tells a worker something; a context in which they look."""

    def __init__(
        self, control: Control | None, all_deliveries: Sequence[Deliveries], stop: Callable[[str], None]
    ) -> None:
        self._all: list[Listener] = []
        if control is None:
            return
        places: dict[str, list[Deliveries]] = {}
        for deliveries in all_deliveries:
            if (place := control.place_for(deliveries.name)) is not None:
                places.setdefault(place, []).append(deliveries)
        self._all = [Listener(control, place, those, stop) for place, those in places.items()]

    def __enter__(self) -> Listeners:
        for listener in self._all:
            listener.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for listener in self._all:
            listener.end()
