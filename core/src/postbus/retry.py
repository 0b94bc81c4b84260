"""Whether a message that failed is tried again, and when."""

from __future__ import annotations

import random
from typing import Protocol

from msgspec import Struct

from postbus import stamps
from postbus.envelope import Envelope
from postbus.errors import ConfigurationError

LONGEST = 100 * 365 * 86400.0
"""Seconds; what "no ceiling" comes to, because brokers count time with finite numbers."""


class RetryPolicy(Protocol):
    """Decides about retries; any object with this method is one."""

    def next_delay(self, envelope: Envelope, error: Exception) -> float | None:
        """Return the seconds to wait before the message is tried again, or None to give up."""
        ...


class Backoff(Struct, frozen=True, kw_only=True):
    """A `RetryPolicy` whose waits grow by a factor: ``delay``, ``delay * factor``, …, with some jitter."""

    max_retries: int = 3
    delay: float = 1.0
    """Seconds before the first retry."""
    factor: float = 2.0
    jitter: float = 0.1
    """By how much a wait may be longer or shorter, as a share of it."""
    max_delay: float | None = None
    """No wait is longer, jitter included; None for no ceiling."""

    def __post_init__(self) -> None:
        limits = {
            "max_retries": (self.max_retries >= 0, "must be at least 0"),
            "delay": (self.delay >= 0, "must be at least 0"),
            "factor": (self.factor >= 1, "must be at least 1"),
            "jitter": (0 <= self.jitter <= 1, "must be between 0 and 1"),
            "max_delay": (self.max_delay is None or self.max_delay > 0, "must be more than 0"),
        }
        problems = [
            f"Retry option {name!r} {wanted}, got {getattr(self, name)!r}."
            for name, (holds, wanted) in limits.items()
            if not holds
        ]
        if problems:
            raise ConfigurationError(*problems)

    def next_delay(self, envelope: Envelope, error: Exception) -> float | None:
        """Return the wait before the next attempt; None once there have been ``max_retries``."""
        count = retries_of(envelope)
        if count >= self.max_retries:
            return None
        if not self.delay:
            return 0.0
        ceiling = self.max_delay if self.max_delay is not None else LONGEST
        try:
            wait = self.delay * float(self.factor) ** count
        except OverflowError:
            wait = ceiling
        return min(wait * random.uniform(1 - self.jitter, 1 + self.jitter), ceiling)


def retries_of(envelope: Envelope) -> int:
    """Return how often a message has been retried."""
    retried = envelope.last(stamps.Retried)
    return retried.count if retried else 0
