"""Middleware that makes what happens seldom happen often: failures, and messages that come twice."""

from __future__ import annotations

from random import Random, randrange

from postbus import stamps
from postbus.bus import Next
from postbus.envelope import Envelope
from postbus.errors import ConfigurationError, Recoverable


class Fault(Recoverable):
    """Raised by `FailAtRandom`; the message is tried again at once, however often it has failed."""

    delay = 0.0


class FailAtRandom:
    """Fails a share of what a worker handles: half of that before its handlers have run, half of it after.

    So handlers run once more that had succeeded, as after a crash. The same ``seed`` makes the same faults.
    """

    def __init__(self, share: float = 0.1, *, seed: int | None = None) -> None:
        if not 0 <= share < 1:
            raise ConfigurationError(f"FailAtRandom takes a share from 0 to less than 1, got {share!r}.")
        self._share = share
        self._seed = randrange(2**32) if seed is None else seed
        self._random = Random(self._seed)

    def __repr__(self) -> str:
        return f"FailAtRandom({self._share}, seed={self._seed})"

    def __call__(self, envelope: Envelope, call_next: Next) -> Envelope:
        """Go on, or fail."""
        if not envelope.has(stamps.Received):
            return call_next(envelope)
        chance = self._random.random()
        if chance < self._share / 2:
            raise Fault(f"{self!r} failed it before it was handled.")
        result = call_next(envelope)
        if chance < self._share:
            raise Fault(f"{self!r} failed it after it was handled.")
        return result


class DeliverTwice:
    """Has a worker handle each message twice, as if it had come again although it was handled."""

    def __call__(self, envelope: Envelope, call_next: Next) -> Envelope:
        """Go on twice; a failure is told at once."""
        if envelope.has(stamps.Received):
            call_next(envelope)
        return call_next(envelope)
