"""All that is here of a topic: what waits, what is in hand, and what is to be committed. No client in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from postbus_kafka.assignment import IN_HAND, Assignment, Commit, Entry
from postbus_kafka.backlog import Backlog
from postbus_kafka.metadata import Run
from postbus_kafka.options import Settings
from postbus_kafka.records import group_of

UNTOLD = 2.0
"""Seconds to wait until the broker knows that something is in nobody's hands."""

OVERHEAD = 200
"""Bytes that a record takes in memory beside its key, value and headers."""


class Inventory:
    """What a member of the group has, guarded by one lock; threads that wait for a record wait on `news`."""

    def __init__(self, settings: Settings) -> None:
        self.news = threading.Condition()
        self._order = settings.options.order
        self._most, self._most_bytes = settings.options.prefetch, settings.options.prefetch_bytes
        self._skips_tombstones = settings.options.tombstones == "skip"
        self._assignments: dict[Any, Assignment] = {}
        self._backlog = Backlog()
        self._bytes = 0
        """Of what waits and what is in hand."""
        self._bytes_in_hand = 0
        self._number_in_hand = 0
        self._lost: list[Entry] = []
        self._is_doubtful = False
        """Whether this process stood still for so long that it may be out of the group."""

    # what others ask for; `take` and `next_at` with the lock in their hands

    def take(self, limit: int, now: float) -> list[Entry]:
        """Hand out up to so many records, and no more bytes at a time than fit."""
        if self._is_doubtful:
            return []
        room = self._most_bytes // 2 - self._bytes_in_hand
        if room <= 0 and self._number_in_hand:
            return []
        taken = self._backlog.take(limit, room, now)
        for entry in taken:
            self._bytes_in_hand += entry.size
        self._number_in_hand += len(taken)
        return taken

    def next_at(self) -> float | None:
        """Return when something has rested for long enough that was given back."""
        return self._backlog.next_at()

    @property
    def is_blocked(self) -> bool:
        """Whether something can be handed out only after a commit."""
        return self._backlog.is_blocked

    def settle(self, entries: Iterable[Entry]) -> list[Entry]:
        """Have done with deliveries; return those that were not in hand here."""
        with self.news:
            return [entry for entry in entries if not self._settle(entry)]

    def release(self, entries: Iterable[Entry]) -> list[Entry]:
        """Take deliveries back, which rest for a while; return those that were not in hand here."""
        with self.news:
            lost: list[Entry] = []
            back: list[Entry] = []
            for entry in entries:
                if not self._is_in_hand(entry):
                    lost.append(entry)
                    continue
                self._let_go(entry)
                entry.assignment.take_back(entry)
                back.append(entry)
            self._backlog.give_back(back, time.monotonic())
            self.news.notify_all()
            # What workers died of is in nobody's hands only once that is committed: the next one may die at once.
            changed = {entry.assignment: entry.assignment.changes for entry in back if entry.deaths}
            self.news.wait_for(
                lambda: not any(one.is_ours and one.told < changes for one, changes in changed.items()), UNTOLD
            )
            return lost

    def is_in_hand(self, entry: Entry) -> bool:
        """Say whether a delivery is ours, and not settled."""
        with self.news:
            return self._is_in_hand(entry)

    def take_lost(self) -> list[Entry]:
        """Return what was in hand and went to another member since this was asked last."""
        if not self._lost:
            return []
        with self.news:
            lost, self._lost = self._lost, []
            return lost

    def counts(self) -> dict[Any, tuple[int, int, int]]:
        """Return for each partition the offset up to which it is read, and how much of that waits, and is in hand."""
        with self.news:
            counts: dict[Any, tuple[int, int, int]] = {}
            for partition, assignment in self._assignments.items():
                if assignment.position is not None:
                    unsettled = sum(1 for _ in assignment.unsettled())
                    counts[partition] = (assignment.position, unsettled - assignment.in_hand, assignment.in_hand)
            return counts

    # what the pump does

    @property
    def is_full(self) -> bool:
        """Whether nothing more is to be read."""
        return len(self._backlog) >= self._most or self._bytes >= self._most_bytes

    @property
    def room(self) -> int:
        """How many records more may wait."""
        return self._most - len(self._backlog)

    @property
    def is_half_empty(self) -> bool:
        """Whether reading may go on."""
        return len(self._backlog) <= self._most // 2 and self._bytes <= self._most_bytes // 2

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in hand."""
        return not self._number_in_hand

    def partitions(self) -> list[Any]:
        """Return what is assigned to us."""
        return list(self._assignments)

    def gain(self, partitions: Iterable[Any]) -> None:
        """Take note of partitions that came to us."""
        with self.news:
            for partition in partitions:
                self._assignments.setdefault(partition, Assignment(partition))

    def unknown(self) -> list[Any]:
        """Return those of which it is not known what was committed."""
        return [partition for partition, one in list(self._assignments.items()) if not one.is_known]

    def restore(self, partition: Any, offset: int | None, runs: Sequence[Run], end: int) -> None:
        """Begin with a partition where the group has left off."""
        with self.news:
            if (assignment := self._assignments.get(partition)) is not None:
                assignment.restore(offset, runs, end)

    def add(self, records: Mapping[Any, Sequence[Any]]) -> None:
        """Take in what was read."""
        with self.news:
            for partition, some in records.items():
                assignment = self._assignments.get(partition)
                if assignment is not None:
                    self._backlog.add(self._enter(assignment, some))
            self.news.notify_all()

    def skip(self, partition: Any, position: int) -> None:
        """Take note that a partition is read up to this offset."""
        with self.news:
            if (assignment := self._assignments.get(partition)) is not None:
                assignment.skip(position)

    def drained(self) -> list[Any]:
        """Return the partitions of which everything that was read is settled."""
        with self.news:
            return [one.partition for one in self._assignments.values() if one.is_known and one.is_drained]

    def begin_to_leave(self, partitions: Iterable[Any]) -> None:
        """Hand out nothing more of these."""
        with self.news:
            for partition in partitions:
                if (assignment := self._assignments.get(partition)) is not None:
                    assignment.is_leaving = True
            self._drop()

    def number_in_hand(self, partitions: Iterable[Any]) -> int:
        """Return how many deliveries of these are in hand."""
        return sum(one.in_hand for partition in partitions if (one := self._assignments.get(partition)) is not None)

    def lose(self, partitions: Iterable[Any]) -> None:
        """Take note that these are another's from now on, and what was in hand of them too."""
        with self.news:
            for partition in partitions:
                assignment = self._assignments.pop(partition, None)
                if assignment is None:
                    continue
                for entry in assignment.unsettled():
                    self._bytes -= entry.size
                    if entry.state == IN_HAND:
                        self._bytes_in_hand -= entry.size
                        self._number_in_hand -= 1
                        self._lost.append(entry)
                assignment.is_ours = False
            self._is_doubtful = self._is_doubtful and bool(self._assignments)
            self._drop()
            self.news.notify_all()

    # committing

    def must_commit(self) -> bool:
        """Say whether something waits for a commit."""
        with self.news:
            return any(assignment.must_declare for assignment in self._assignments.values())

    def to_commit(
        self, partitions: Iterable[Any] | None = None, *, is_last: bool = False, settled: Entry | None = None
    ) -> list[Commit]:
        """Return what is to be committed of these partitions, of all that need it if none are given."""
        with self.news:
            chosen = self._assignments.values() if partitions is None else self._those(partitions)
            return [
                commit
                for one in chosen
                if is_last or settled is not None or one.needs_commit or one.must_declare
                if (commit := one.to_commit(is_last=is_last, settled=settled)) is not None
            ]

    def confirm(self, commits: Iterable[Commit], *, ends_doubt: bool = True) -> None:
        """Take note that the broker has these; ``ends_doubt`` unless they were sent before there was any."""
        with self.news:
            for commit in commits:
                commit.assignment.confirm(commit)
            self._is_doubtful = self._is_doubtful and not ends_doubt
            self._backlog.unblock()
            self.news.notify_all()

    def fail(self, commits: Iterable[Commit]) -> None:
        """Take note that these came to nothing."""
        with self.news:
            for commit in commits:
                commit.assignment.renew()

    def doubt(self) -> None:
        """Hand out nothing before the broker has taken a commit of ours: it may have given everything to others."""
        with self.news:
            self._is_doubtful = bool(self._assignments)
            for assignment in self._assignments.values():
                assignment.renew()

    def wake(self, change: Callable[[], object] | None = None) -> None:
        """Let everybody who waits look again, after a change if one is given."""
        with self.news:
            if change is not None:
                change()
            self.news.notify_all()

    # details

    def _those(self, partitions: Iterable[Any]) -> list[Assignment]:
        return [one for partition in partitions if (one := self._assignments.get(partition)) is not None]

    def _enter(self, assignment: Assignment, records: Sequence[Any]) -> list[Entry]:
        entered: list[Entry] = []
        for record in records:
            state = assignment.state_of(record.offset)
            entry = Entry(assignment, record, self._group_of(record), _size_of(record), state.deaths)
            assignment.add(entry)
            if state.is_done or (record.value is None and self._skips_tombstones):
                entry.settle()
                continue
            self._bytes += entry.size
            entered.append(entry)
        return entered

    def _group_of(self, record: Any) -> str | None:
        if self._order == "partition":
            return f"{record.topic}/{record.partition}"
        if self._order == "none" or record.key is None:
            return None
        return group_of(record.key)

    def _settle(self, entry: Entry) -> bool:
        if not self._is_in_hand(entry):
            return False
        self._let_go(entry)
        self._bytes -= entry.size
        entry.assignment.settle(entry)
        return True

    def _let_go(self, entry: Entry) -> None:
        self._number_in_hand -= 1
        self._bytes_in_hand -= entry.size

    def _is_in_hand(self, entry: Entry) -> bool:
        return entry.state == IN_HAND and self._assignments.get(entry.assignment.partition) is entry.assignment

    def _drop(self) -> None:
        self._backlog.drop()


def _size_of(record: Any) -> int:
    size: int = OVERHEAD + (len(record.key) if record.key else 0) + (len(record.value) if record.value else 0)
    size += max(record.serialized_header_size, 0)
    return size
