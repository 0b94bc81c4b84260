"""When a worker pauses a transport, because too many of its messages fail, and how it finds out that they do no more.

This is the kill switch, or circuit breaker, of other systems: closed while messages are fetched, open during a
pause, half-open while one message at a time is tried.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from postbus.errors import ConfigurationError
from postbus.events import Event, Observers, TransportPaused, TransportProbed, TransportResumed

logger = logging.getLogger("postbus")


class KillSwitch(Struct, frozen=True, kw_only=True):
    """How many of a transport's messages may fail before a worker pauses it, and for how long it does."""

    failure_rate: float = 0.5
    """The share of messages that fail at which it is paused."""
    min_messages: int = 10
    """How many messages it takes at least to know that share."""
    window: float = 60.0
    """Seconds that are looked back."""
    pause: float = 30.0
    """Seconds until one message is tried; doubled each time that it fails."""
    max_pause: float = 600.0
    """Seconds that no pause is longer than."""

    def __post_init__(self) -> None:
        limits = {
            "failure_rate": (0 < self.failure_rate <= 1, "must be more than 0 and at most 1"),
            "min_messages": (self.min_messages >= 1, "must be at least 1"),
            "window": (self.window > 0, "must be more than 0"),
            "pause": (self.pause > 0, "must be more than 0"),
            "max_pause": (self.max_pause >= self.pause, f"must be at least as long as 'pause' ({self.pause:g})"),
        }
        problems = [
            f"Kill switch option {name!r} {wanted}, got {getattr(self, name)!r}."
            for name, (holds, wanted) in limits.items()
            if not holds
        ]
        if problems:
            raise ConfigurationError(*problems)


class Recent:
    """How many messages were handled, and how many failed, in the last so many seconds; to a tenth of these."""

    def __init__(self, window: float) -> None:
        self._window = window
        self._parts: deque[list[float]] = deque()
        self.handled = 0
        self.failed = 0

    def add(self, *, failed: bool) -> None:
        """Count one more."""
        now = time.monotonic()
        while self._parts and self._parts[0][0] <= now - self._window:
            _, handled, failures = self._parts.popleft()
            self.handled -= int(handled)
            self.failed -= int(failures)
        if not self._parts or now - self._parts[-1][0] >= self._window / 10:
            self._parts.append([now, 0, 0])
        self._parts[-1][2 if failed else 1] += 1
        self.handled += not failed
        self.failed += failed


class Switch:
    """The kill switch of one transport in one worker, and what it has seen.

    What has come of messages is told to it in their threads; another one asks how many may be fetched.
    """

    LATER = 0.1
    """Seconds after which it is asked again, while the message is handled that is tried."""

    def __init__(self, transport: str, options: KillSwitch, in_hand: Callable[[], int], observers: Observers) -> None:
        """``in_hand`` tells how many messages of the transport the worker holds."""
        self._transport = transport
        self._options = options
        self._in_hand = in_hand
        self._observers = observers
        self._lock = threading.Lock()
        self._state: Literal["closed", "open", "half-open"] = "closed"
        self._recent = Recent(options.window)
        self._pause = options.pause
        self.paused_until = 0.0
        """When the last pause was over, or will be, by the monotonic clock."""

    @property
    def is_open(self) -> bool:
        """Whether nothing is to be fetched, or begun."""
        return self._state == "open"

    # what has come of messages

    def note_handled(self) -> None:
        """Take note that a message was handled."""
        with self._lock:
            if self._state == "open":  # It had begun before, and says nothing about now.
                return
            is_tried, self._state = self._state == "half-open", "closed"
            if is_tried:
                self._recent, self._pause = Recent(self._options.window), self._options.pause
            self._recent.add(failed=False)
        if is_tried:
            logger.info("Consuming %r as before, because the message that was tried has been handled.", self._transport)
            self._observers.notify(TransportResumed(self._transport))

    def note_failed(self) -> None:
        """Take note that a message failed for a reason that may hold for others too."""
        with self._lock:
            if self._state == "open":
                return
            self._recent.add(failed=True)
            failed, number = self._recent.failed, self._recent.failed + self._recent.handled
            is_tried = self._state == "half-open"
            if not is_tried and (number < self._options.min_messages or failed < self._options.failure_rate * number):
                return
            pause, self._state = self._pause, "open"
            self.paused_until = time.monotonic() + pause
            self._pause = min(pause * 2, self._options.max_pause)
        reason = "the message that was tried failed" if is_tried else f"{failed} of the last {number} messages failed"
        logger.warning("Pausing %r for %g s, because %s; then one is tried.", self._transport, pause, reason)
        self._observers.notify(TransportPaused(self._transport, pause, reason))

    # how many may be fetched

    def allowed(self) -> int:
        """Return how many more may be fetched now; one, after a pause, once no other is in hand."""
        if self._state == "closed":
            return sys.maxsize
        event: Event | None = None
        with self._lock:
            if time.monotonic() < self.paused_until or self._in_hand():
                return 0
            if self._state == "open":
                self._state, event = "half-open", TransportProbed(self._transport)
        if event is not None:
            logger.info("Trying one message of %r.", self._transport)
            self._observers.notify(event)
        return 1

    def wait(self) -> float:
        """Return in how many seconds there may be one, if there may be none now."""
        return max(self.LATER, self.paused_until - time.monotonic())

    def take(self, number: int) -> int:
        """Return how many of those that were fetched may be kept: none, if the pause began meanwhile."""
        return 0 if self._state == "open" else number
