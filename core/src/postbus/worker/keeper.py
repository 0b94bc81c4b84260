"""The thread that looks after what a worker holds, while the worker's own thread is busy handling."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import TracebackType

from postbus.envelope import Envelope
from postbus.worker.holdings import Holding

logger = logging.getLogger("postbus")


class Keeper:
    """Settles, extends and gives back what waits for a message that takes long.

    It sleeps while there is nothing in hand. Otherwise it looks from time to time, and sees a slow handler
    by the same message being begun as before: so the thread that handles need not tell it anything.
    """

    LOOK = 0.04
    """Seconds between two looks; a message that is met twice has taken that long."""
    PATIENCE = 1.0
    """Seconds to wait, at the end, for a look that is under way; a broker may keep it."""

    def __init__(self, holding: Holding, look: Callable[[float], None]) -> None:
        """Keep a holding; ``look`` is what else is to be done at each look, and is given the time."""
        self._holding = holding
        self._look_too = look
        self._calls: SimpleQueue[bool] = SimpleQueue()
        self._is_asleep = False
        self._thread = threading.Thread(target=self._run, name=f"postbus-keeper-{holding.name}", daemon=True)

    def __enter__(self) -> Keeper:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._calls.put(False)
        self._thread.join(self.PATIENCE)

    def wake(self) -> None:
        """Say that there is something in hand now."""
        if self._is_asleep:
            self._calls.put(True)

    def _run(self) -> None:
        while self._sleep():
            last: Envelope | None = None
            while self._holding.is_busy:
                if not self._pause():
                    return
                begun = self._holding.begun.get(0)
                try:
                    self._look(time.monotonic(), is_slow=begun is not None and begun is last)
                except BaseException:  # A border: without this thread, leases would run out from now on.
                    logger.exception("Keeping what is in hand failed; trying again.")
                last = begun

    def _look(self, now: float, *, is_slow: bool) -> None:
        self._holding.note_revoked()
        if is_slow:
            self._holding.settle()
        self._holding.extend_leases(now)
        if is_slow:
            self._holding.release_overdue(now)
        self._look_too(now)

    def _sleep(self) -> bool:
        """Wait until there is something in hand; say whether to go on."""
        self._is_asleep = True
        # Who begins between the line above and this one has seen it, and calls.
        is_needed = self._holding.is_busy or self._calls.get()
        self._is_asleep = False
        return is_needed

    def _pause(self) -> bool:
        """Wait for the next look; say whether there is one."""
        end = time.monotonic() + self.LOOK
        while (left := end - time.monotonic()) > 0:
            try:
                if not self._calls.get(timeout=left):
                    return False
            except Empty:
                break
        return True
