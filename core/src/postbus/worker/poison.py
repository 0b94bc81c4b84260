"""Which messages workers may have died of."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from postbus import stamps
from postbus.envelope import Envelope
from postbus.transport import Guarantees

NO_RECEIVED = stamps.Received("")


class Suspects:
    """What a worker knows of the messages of one transport that workers may have died of, by how often they came."""

    LAST_CHANCE = 3
    """The delivery at which a message has a worker to itself, because two may have died of it."""
    LAST_CHANCE_COUNTED = 20
    """The same where the broker counts, too, what was only given back; there it shares the worker."""
    MOST_SURVIVED = 10_000
    """How many messages are remembered that were lost without having been begun."""

    def __init__(self, guarantees: Guarantees | None, waiting: deque[Envelope]) -> None:
        """Know of none yet. Of what was not begun, ``waiting``, one that is there twice was lost, and came again."""
        counts = guarantees is not None and (guarantees.delivery_count or guarantees.lease)
        self.last_chance: float = self.LAST_CHANCE if counts else math.inf
        """The delivery from which on a message is looked at here."""
        self._counts_releases = guarantees is not None and guarantees.release == "counted"
        self._waiting = waiting
        self.are_there = False
        """Whether there may be any."""
        self.are_tried = False
        """Whether each of them is handled in a process of its own."""
        self._condemned: dict[int, Envelope] = {}
        """What a process of its own has died of; by identity."""
        self._survived: dict[str, int] = {}
        """How often each was lost without having been begun, by the broker's id: nobody died of it then."""

    def forget(self) -> None:
        """Begin anew, as there are no messages any more."""
        self._condemned.clear()
        self.are_there = False

    def has_last_chance(self, envelope: Envelope) -> bool:
        """Say whether a message is to be handled with nothing else in hand."""
        return not self._counts_releases and self._count_of(envelope) == self.LAST_CHANCE

    def is_suspect(self, envelope: Envelope) -> bool:
        """Say whether a message is to be handled in a process of its own."""
        least = self.LAST_CHANCE_COUNTED if self._counts_releases else self.LAST_CHANCE
        return self._count_of(envelope) >= least

    def deaths(self, envelope: Envelope) -> int | None:
        """Return how many workers had a message when they died, if these were too many."""
        count = self._count_of(envelope)
        if id(envelope) in self._condemned:
            return count
        # While a suspect waits for a process of its own, its worker may die of another one.
        is_uncertain = self._counts_releases or self.are_tried
        most = self.LAST_CHANCE_COUNTED if is_uncertain else self.LAST_CHANCE
        return count - 1 if count > most else None

    def condemn(self, envelope: Envelope) -> None:
        """Take note that a message was handled in a process of its own, and that this has died of it."""
        self._condemned[id(envelope)] = envelope
        self.are_there = True

    def _count_of(self, envelope: Envelope) -> int:
        """Return how often a message was delivered, but for when this very worker lost it before it was begun."""
        received = received_of(envelope)
        if received.count is None or received.count < self.LAST_CHANCE or received.id is None:
            return received.count or 0
        again = sum(1 for one in self._waiting.copy() if one is not envelope and received_of(one).id == received.id)
        return max(1, received.count - again - self._survived.get(received.id, 0))

    def note_survived(self, envelopes: Sequence[Envelope]) -> None:
        """Take note that messages were lost without having been begun."""
        for envelope in envelopes:
            id = received_of(envelope).id
            if id is not None:
                self._survived[id] = self._survived.pop(id, 0) + 1
        while len(self._survived) > self.MOST_SURVIVED:
            del self._survived[next(iter(self._survived))]


def received_of(envelope: Envelope) -> stamps.Received:
    """Return what the broker said of a delivery."""
    return envelope.last(stamps.Received) or NO_RECEIVED
