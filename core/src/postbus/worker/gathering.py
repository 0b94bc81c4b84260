"""Messages that wait for others, to be handled together with them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from postbus.envelope import Envelope
from postbus.handlers import Handler


class Gathering:
    """Messages of one transport that wait to be handled together, by the same batch handlers.

    None of them has been begun, so whatever happens, they are given back, or come again.
    """

    def __init__(self, handlers: Sequence[Handler]) -> None:
        """Several handlers get as many at once as one of them wants, after the shortest wait of all."""
        self.handlers = handlers
        self.envelopes: deque[Envelope] = deque()
        self._size = max(handler.batch or 1 for handler in handlers)
        self._wait = min(handler.wait for handler in handlers)
        self._late_at = math.inf
        """When the first has waited for long enough, by the monotonic clock."""
        self._added_at = 0.0
        """When the last has come."""

    @property
    def is_full(self) -> bool:
        """Whether nothing need be waited for."""
        return len(self.envelopes) >= self._size

    @property
    def missing(self) -> int:
        """How many messages more would fill it; 0 as long as it is empty."""
        return max(0, self._size - len(self.envelopes)) if self.envelopes else 0

    @property
    def late_at(self) -> float:
        """When it is to be begun, full or not; infinite as long as it is empty."""
        return self._late_at if self.envelopes else math.inf

    def is_due(self, now: float, asked_in_vain_at: float | None) -> bool:
        """Say whether it is to be begun: it is full, or late, or its transport has nothing to wait for.

        It had nothing when it was asked after the last message had come, which is ``asked_in_vain_at``.
        """
        if not self.envelopes:
            return False
        is_idle = asked_in_vain_at is not None and asked_in_vain_at >= self._added_at
        return self.is_full or is_idle or now >= self._late_at

    def add(self, envelope: Envelope, now: float) -> None:
        """Let a message wait."""
        if not self.envelopes:
            self._late_at = min(self._late_at, now + self._wait)
        self.envelopes.append(envelope)
        self._added_at = now

    def take(self) -> list[Envelope]:
        """Take out those that are to be handled together next."""
        taken = [self.envelopes.popleft() for _ in range(min(self._size, len(self.envelopes)))]
        if not self.envelopes:
            self._late_at = math.inf
        return taken

    def take_all(self) -> list[Envelope]:
        """Take out all, as they wait in vain; the time of those that follow goes on."""
        taken = list(self.envelopes)
        self.envelopes.clear()
        return taken

    def forget(self) -> None:
        """Let the time of the next begin anew, as those before it are gone."""
        if not self.envelopes:
            self._late_at = math.inf

    def put_back(self, envelopes: Sequence[Envelope]) -> None:
        """Let messages wait again that were taken out, before all others; they have waited for long enough."""
        if envelopes:
            self.envelopes.extendleft(reversed(envelopes))
            self._late_at = 0.0
