"""The time at the service, as far as it tells."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any


class Clock:
    """Never ahead of that of the service, which dates its answers in whole seconds."""

    def __init__(self) -> None:
        self._behind: float | None = None
        """How far the monotonic clock is ahead of that of the service, at the most."""

    def note(self, answer: Mapping[str, Any]) -> None:
        """Take note of the date of an answer."""
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        try:
            told = parsedate_to_datetime(date).timestamp()
        except (TypeError, ValueError):
            return
        behind = time.monotonic() - told
        self._behind = behind if self._behind is None else min(self._behind, behind)

    def now(self) -> float:
        """Return the time in seconds since 1970; by our own clock if the service has not told."""
        return time.time() if self._behind is None else time.monotonic() - self._behind
