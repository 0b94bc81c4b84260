"""What has been read and waits to be fetched, in its order."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from itertools import count
from typing import Any

from postbus_kafka.assignment import WAITING, Entry

FIRST_REST, LONGEST_REST = 0.05, 5.0
"""Seconds for which a record rests that was given back; each time twice as long, as nobody else gets it."""


class Backlog:
    """Records that wait, those that were given back among them; guarded by the lock of its membership."""

    def __init__(self) -> None:
        self._ready: deque[Entry] = deque()
        self._resting: list[tuple[float, int, Entry]] = []
        self._numbers = count()
        self._held: dict[str, int] = {}
        """Groups of which something rests, so that nothing of them may overtake it; how many of each."""
        self._behind: list[Entry] = []
        """What waits for these."""
        self._blocked: list[Entry] = []
        """What waits until a commit says that it is in hand."""

    def __len__(self) -> int:
        return len(self._ready) + len(self._resting) + len(self._behind) + len(self._blocked)

    @property
    def is_blocked(self) -> bool:
        """Whether something waits for a commit."""
        return bool(self._blocked)

    def add(self, entries: Iterable[Entry]) -> None:
        """Add what was read, in its order."""
        self._ready.extend(entries)

    def take(self, limit: int, size: int, now: float) -> list[Entry]:
        """Take up to so many records, of up to so many bytes, but one at least."""
        self._wake(now)
        taken: list[Entry] = []
        ready, held = self._ready, self._held
        # What waits for a commit was asked for already.
        while ready and len(taken) + len(self._blocked) < limit:
            entry = ready[0]
            if entry.state != WAITING or not entry.assignment.is_ours or entry.assignment.is_leaving:
                ready.popleft()
                continue
            if held and entry.group in held:
                self._behind.append(ready.popleft())
                continue
            if not entry.assignment.may_hand_out(entry):
                self._blocked.append(ready.popleft())
                if entry.group is not None:
                    self._hold(entry.group)
                continue
            if taken and entry.size > size:
                break
            size -= entry.size
            ready.popleft()
            entry.assignment.hand_out(entry)
            taken.append(entry)
        return taken

    def give_back(self, entries: Iterable[Entry], now: float) -> None:
        """Take back what was given back; it rests for a while."""
        for entry in entries:
            rest = min(FIRST_REST * 2 ** min(entry.releases - 1, 10), LONGEST_REST)
            heapq.heappush(self._resting, (now + rest, next(self._numbers), entry))
            if entry.group is not None:
                self._hold(entry.group)

    def unblock(self) -> None:
        """Look again at what waited for a commit."""
        if self._blocked:
            blocked, self._blocked = self._blocked, []
            self._return(blocked)

    def drop(self) -> None:
        """Forget everything whose partition is not ours any more, or about to go."""
        front = sorted([*self._behind, *self._blocked, *(entry for _, _, entry in self._resting)], key=_place_of)
        kept = deque(entry for entry in (*front, *self._ready) if _is_ours(entry))
        self._ready, self._resting, self._behind, self._blocked, self._held = kept, [], [], [], {}

    def next_at(self) -> float | None:
        """Return when the next one has rested for long enough, if one rests."""
        return self._resting[0][0] if self._resting else None

    def _wake(self, now: float) -> None:
        rested: list[Entry] = []
        while self._resting and self._resting[0][0] <= now:
            rested.append(heapq.heappop(self._resting)[2])
        if rested:
            self._return(rested)

    def _return(self, entries: Iterable[Entry]) -> None:
        """Put these to the front, and behind them what had to wait for them."""
        returned = [entry for entry in entries if _is_ours(entry)]
        for entry in entries:
            if entry.group is not None:
                self._let_go(entry.group)
        behind = [entry for entry in self._behind if entry.group not in self._held]
        if behind:
            self._behind = [entry for entry in self._behind if entry.group in self._held]
        self._ready.extendleft(sorted([*returned, *behind], key=_place_of, reverse=True))

    def _hold(self, group: str) -> None:
        self._held[group] = self._held.get(group, 0) + 1

    def _let_go(self, group: str) -> None:
        left = self._held.get(group, 0) - 1
        if left > 0:
            self._held[group] = left
        else:
            self._held.pop(group, None)


def _is_ours(entry: Entry) -> bool:
    return entry.state == WAITING and entry.assignment.is_ours and not entry.assignment.is_leaving


def _place_of(entry: Entry) -> tuple[Any, int]:
    return entry.assignment.partition, entry.offset
