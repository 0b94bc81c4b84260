"""When a message that workers may have died of has the worker to itself, where none is started for it."""

from __future__ import annotations

import math
import time
from collections.abc import Collection

from postbus.envelope import Envelope
from postbus.worker.fetching import Fetcher


class Quarantine:
    """Whether a message that has its last chance may begin, and until when nothing else may.

    So, should the worker die once more, it was this message. Neither wait is for ever.
    """

    ALONE = 10.0
    """Seconds for which the message has the worker to itself, at most."""
    QUIET_AFTER = 1.0
    """Seconds that it waits for others to finish, at most."""

    def __init__(self) -> None:
        self._quiet_at = math.inf
        self._message: Envelope | None = None
        self._until = 0.0

    @property
    def is_awaited(self) -> bool:
        """Whether a message waits for all others to finish, so that none is to be fetched."""
        now = time.monotonic()
        if now > self._quiet_at + self.QUIET_AFTER:  # What it was kept quiet for was given back.
            self._quiet_at = math.inf
        return now < self._quiet_at < math.inf

    @property
    def is_taken(self) -> bool:
        """Whether a message has the worker to itself at present."""
        return self._message is not None and time.monotonic() < self._until

    def may_begin(self, fetchers: Collection[Fetcher], *, is_busy: bool) -> bool:
        """Say whether a message may take it: nothing else runs, or is about to arrive. Both are seen to."""
        now = time.monotonic()
        self._quiet_at = min(self._quiet_at, now + self.QUIET_AFTER)
        asked = [fetcher for fetcher in fetchers if fetcher.is_asked]
        for fetcher in asked:
            fetcher.recall()
        if (is_busy or asked) and now < self._quiet_at:
            return False
        self._quiet_at = math.inf
        for fetcher in fetchers:
            fetcher.deliveries.settle()
        return True

    def begin(self, envelope: Envelope) -> None:
        """Give the worker to this message."""
        self._message, self._until = envelope, time.monotonic() + self.ALONE

    def end(self, envelope: Envelope) -> None:
        """Take note that a message is finished, whichever it is."""
        if envelope is self._message:
            self._message = None
