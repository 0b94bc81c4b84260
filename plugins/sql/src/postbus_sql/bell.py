"""`Bell`, by which the threads of this process wake the one that waits in `fetch`."""

from __future__ import annotations

import threading


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
