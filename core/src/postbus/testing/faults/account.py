"""The account: what became of each message, by the ledger."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from postbus.testing.faults.ledger import (
    AtRisk,
    Buried,
    Dispatched,
    Doubted,
    Entombed,
    Entry,
    Handled,
    Intended,
    Postponed,
    Unanswered,
)


class Account:
    """Keeps count of messages while entries come in.

    A message may end more than once only as often as it was at risk: each time that a worker died, lost its
    connection or outlived its lease with the message in its hands, and each time that a publish was not
    answered. That is the bound, for every single message. On a broker that does not answer a settle,
    what was settled since the broker was broken is at risk too, and ``unanswered`` seconds before; and where
    workers themselves move on what is delayed, so is what was due ``moving`` seconds before, or since then.
    """

    def __init__(self, unanswered: float = 0.0, moving: float = 0.0) -> None:
        self._unanswered = unanswered
        self._moving = moving
        self._postponed: list[tuple[str, float]] = []
        self.broken_at = math.inf
        """Since when the broker, or the way to it, has been broken."""
        self.intended: set[str] = set()
        self.dispatched: set[str] = set()
        self.doubted: set[str] = set()
        self.handled: Counter[str] = Counter()
        self.entombed: set[str] = set()
        self.buried: Counter[str] = Counter()
        self.risks: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.at_work: set[str] = set()
        """The workers that have handled a message which was dispatched after `ask_who_works`."""
        self._new: set[str] = set()

    def ask_who_works(self) -> None:
        """Begin anew to note who works. What a worker had in its hands before proves nothing."""
        self.at_work.clear()
        self._new.clear()

    def take(self, entries: Iterable[Entry]) -> None:
        """Count these in."""
        for entry in entries:
            match entry:
                case Intended(ids):
                    self.intended.update(ids)
                    self._new.update(ids)
                case Dispatched(ids):
                    self.dispatched.update(ids)
                case Doubted(ids):
                    self.doubted.update(ids)
                case Unanswered(ids):
                    self.risks.update(ids)
                case Postponed(ids, due):
                    self._postponed += zip(ids, due, strict=True)
                case Handled(id, worker):
                    self.handled[id] += 1
                    if id in self._new:
                        self.at_work.add(worker)
                case Entombed(ids):
                    self.entombed.update(ids)
                case Buried(ids):
                    self.buried.update(ids)
                case AtRisk(why, _, at, held, settled):
                    self.reasons[why] += 1
                    self.risks.update(held)
                    if self._unanswered:
                        since = min(at, self.broken_at) - self._unanswered
                        self.risks.update(id for id, settled_at in settled if settled_at >= since)
                    if self._moving:
                        since = min(at, self.broken_at) - self._moving
                        self.risks.update(id for id, due in self._postponed if since <= due <= at)
                case _:
                    raise AssertionError(entry)

    @property
    def progress(self) -> tuple[int, int, int]:
        """What changes as long as anything goes on."""
        return len(self.dispatched), self.handled.total(), len(self.entombed)

    @property
    def ended(self) -> int:
        """How many messages have come to an end, as far as is known."""
        return len(self.handled.keys() | self.entombed)

    @property
    def open(self) -> set[str]:
        """What was dispatched and has come to no end yet, as far as is known."""
        return self.dispatched - self.handled.keys() - self.entombed

    @property
    def lost(self) -> set[str]:
        """What was dispatched and is neither handled nor in the failure transport."""
        return self.dispatched - self.handled.keys() - self.buried.keys()

    @property
    def phantoms(self) -> set[str]:
        """What came and nobody has sent."""
        return (self.handled.keys() | self.buried.keys()) - self.intended

    @property
    def duplicates(self) -> Counter[str]:
        """How often each message came to an end after it had done so."""
        ends = self.handled + self.buried
        return Counter({id: number - 1 for id, number in ends.items() if number > 1})

    @property
    def unexplained(self) -> dict[str, tuple[int, int]]:
        """The duplicates that exceed the bound: how many, and how many there may be."""
        return {id: (number, self.risks[id]) for id, number in self.duplicates.items() if number > self.risks[id]}

    @property
    def figures(self) -> dict[str, int]:
        """The numbers that matter. ``in doubt`` were dispatched anew, because a dispatch of them had raised."""
        return {
            "messages": len(self.dispatched),
            "handled": len(self.handled),
            "buried": len(self.buried),
            "lost": len(self.lost),
            "duplicates": self.duplicates.total(),
            "at risk": self.risks.total(),
            "in doubt": len(self.doubted),
        }

    def check(self) -> None:
        """See that nothing is lost, and that nothing came more often than it was at risk."""
        assert not self.lost, f"{len(self.lost)} messages are lost: {sorted(self.lost)[:20]}"
        assert not self.phantoms, f"{len(self.phantoms)} messages came from nowhere: {sorted(self.phantoms)[:20]}"
        assert not self.unexplained, f"More duplicates than at risk (id: seen, bound): {self.unexplained}"
