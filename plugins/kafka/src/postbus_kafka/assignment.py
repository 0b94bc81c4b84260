"""One partition while it is ours: every record of it that is not settled, and what has been committed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from postbus_kafka.metadata import DONE, UNTOUCHED, Run, State, after_a_death, encode

LEAST_AHEAD, MOST_AHEAD = 100, 10_000
"""How many offsets beyond what was read are declared to be in hand, so that not each delivery waits for a commit."""

WAITING, IN_HAND, SETTLED = 0, 1, 2


class Entry:
    """One record, or a stretch of settled ones, in one assignment of its partition; a delivery's tag."""

    __slots__ = (
        "assignment",
        "deaths",
        "end",
        "group",
        "is_declared",
        "is_wanted",
        "offset",
        "record",
        "releases",
        "size",
        "state",
    )

    def __init__(self, assignment: Assignment, record: Any, group: str | None, size: int, deaths: int) -> None:
        self.assignment = assignment
        self.record: Any = record
        self.offset: int = record.offset
        self.end: int = record.offset + 1
        self.group = group
        self.size = size
        self.deaths = deaths
        self.state = WAITING
        self.releases = 0
        self.is_wanted = self.is_declared = False
        """Whether it is to be handed out, and whether a commit says so; for what a worker may have died of."""

    def settle(self) -> None:
        """Have done with it, and with what it holds."""
        self.state, self.record, self.size = SETTLED, None, 0


class Assignment:
    """A partition in the time between its coming and its going; a later time is another assignment.

    Guarded by the lock of its membership, which every caller holds.
    """

    def __init__(self, partition: Any) -> None:
        self.partition = partition
        self.is_ours = True
        self.is_leaving = False
        """Whether it is about to go to another member, so nothing more of it is handed out."""
        self.is_known = False
        """Whether what was committed has been read."""
        self.position: int | None = None
        """The offset behind the last record that was read; None until there is one, or a commit."""
        self.in_hand = 0
        self._entries: deque[Entry] = deque()
        self._restored: deque[tuple[int, int, State]] = deque()
        """What the commit said of records that are not read yet: from where, to where, and what."""
        self._ahead = LEAST_AHEAD
        self._number_read = 0
        """How many records were read since the last commit."""
        self._limit = 0
        """Up to this offset everything is declared to be in hand, as the broker has confirmed."""
        self._is_changed = False
        self.is_urgent = False
        """Whether somebody waits for the next commit."""
        self.changes = self.told = 0
        """How often something was given back that workers may have died of, and how much of that is committed."""

    # reading

    def restore(self, offset: int | None, runs: Sequence[Run], end: int) -> None:
        """Begin where the group has left off; the partition ends at ``end``, so nobody has had anything behind that."""
        self.is_known, self.position = True, offset
        if offset is None:
            return
        start = offset
        for length, state in after_a_death(runs):
            stop = min(start + length, end)
            if start >= stop:
                break
            self._restored.append((start, stop, state))
            start = stop
        self._is_changed = bool(self._restored)

    def state_of(self, offset: int) -> State:
        """Return what was committed about a record; to be asked in the order of offsets."""
        while self._restored and self._restored[0][1] <= offset:
            self._restored.popleft()
        if self._restored and self._restored[0][0] <= offset:
            return self._restored[0][2]
        return UNTOUCHED

    def add(self, entry: Entry) -> None:
        """Take in a record that was read."""
        self._entries.append(entry)
        self.position = entry.end
        self._number_read += 1

    def skip(self, offset: int) -> None:
        """Take note that everything before this offset is read: behind the last record may be a marker."""
        if self.position is None or offset > self.position:
            self.position = offset
            self._is_changed = True

    # handing out

    def may_hand_out(self, entry: Entry) -> bool:
        """Say whether the broker knows that it will be in hand, so that a death of ours is found out."""
        if not entry.deaths:
            return entry.offset < self._limit
        if not entry.is_wanted:
            entry.is_wanted = self._is_changed = self.is_urgent = True
        return entry.is_declared

    def hand_out(self, entry: Entry) -> None:
        """Take note that somebody has it."""
        entry.state = IN_HAND
        self.in_hand += 1

    def settle(self, entry: Entry) -> None:
        """Take note that it is done."""
        self.in_hand -= 1
        entry.settle()
        self._is_changed = True

    def take_back(self, entry: Entry) -> None:
        """Take note that it was given back."""
        self.in_hand -= 1
        entry.state, entry.is_wanted, entry.is_declared = WAITING, False, False
        entry.releases += 1
        if entry.deaths:
            self._is_changed = self.is_urgent = True
            self.changes += 1

    # committing

    @property
    def needs_commit(self) -> bool:
        """Whether something has changed that the broker is to know."""
        return self._is_changed

    @property
    def must_declare(self) -> bool:
        """Whether something cannot be handed out before the next commit."""
        if not self.is_known or self.position is None or self.is_leaving:
            return False
        return self.is_urgent or self._limit - self.position < self._ahead // 2

    def to_commit(self, *, is_last: bool = False, settled: Entry | None = None) -> Commit | None:
        """Return what is to be committed now; None while nothing is known.

        The last commit of an assignment leaves nothing in hand, so that nobody takes it for a death. ``settled`` is
        counted as done, although it is not.
        """
        if self.position is None:
            return None
        self._compress()
        base = self._base(settled)
        self._ahead = min(max(2 * self._number_read, LEAST_AHEAD), MOST_AHEAD)
        limit = 0 if is_last else self.position + self._ahead
        declared = [] if is_last else [one for one in self._entries if one.is_wanted and not one.is_declared]
        text = encode(self._runs(base, limit, frozenset(declared), settled, is_last=is_last))
        self._is_changed, self.is_urgent, self._number_read = False, False, 0
        return Commit(self, base, text, limit, declared)

    def confirm(self, commit: Commit) -> None:
        """Take note that the broker has it."""
        self._limit = max(self._limit, commit.limit)
        self.told = commit.changes
        for entry in commit.declared:
            entry.is_declared = True

    def renew(self) -> None:
        """Let it be committed again, because the last time came to nothing or may have."""
        self._is_changed = self.is_urgent = True

    @property
    def is_drained(self) -> bool:
        """Whether everything that was read is settled."""
        self._compress()
        return not self._entries

    def unsettled(self) -> Iterator[Entry]:
        """Return everything that is not settled, in its order."""
        return (entry for entry in self._entries if entry.state != SETTLED)

    def _base(self, settled: Entry | None) -> int:
        assert self.position is not None
        for entry in self._entries:
            if entry.state != SETTLED and entry is not settled:
                return entry.offset
        return self.position

    def _runs(
        self, base: int, limit: int, declared: frozenset[Entry], settled: Entry | None, *, is_last: bool
    ) -> Iterable[Run]:
        assert self.position is not None
        at, of_most = base, State(is_in_hand=not is_last)
        for entry in self._entries:
            if entry.end <= base:
                continue
            if entry.offset > at:  # What is not there, such as a marker, or what compaction has taken away.
                yield Run(entry.offset - at, DONE)
            state = of_most
            if entry.state == SETTLED or entry is settled:
                state = DONE
            elif entry.deaths:
                state = State(False, not is_last and (entry.is_declared or entry in declared), entry.deaths)
            yield Run(entry.end - entry.offset, state)
            at = entry.end
        for start, end, state in self._restored:
            start = max(start, self.position)
            if start < end:
                if start > at:
                    yield Run(start - at, of_most)
                yield Run(end - start, state if state.is_done or state.deaths or is_last else State(is_in_hand=True))
                at = end
        if limit > at:
            yield Run(limit - at, State(is_in_hand=True))

    def _compress(self) -> None:
        """Forget what is settled at the beginning, and make one of what is settled in a row."""
        entries = self._entries
        while entries and entries[0].state == SETTLED:
            entries.popleft()
        if not any(entry.state == SETTLED for entry in entries):
            return
        kept: deque[Entry] = deque()
        for entry in entries:
            if kept and entry.state == SETTLED and kept[-1].state == SETTLED:
                kept[-1].end = entry.end
            else:
                kept.append(entry)
        self._entries = kept


class Commit:
    """What is committed for one partition."""

    __slots__ = ("assignment", "changes", "declared", "limit", "offset", "text")

    def __init__(self, assignment: Assignment, offset: int, text: str, limit: int, declared: Sequence[Entry]) -> None:
        self.assignment = assignment
        self.changes = assignment.changes
        self.offset = offset
        self.text = text
        self.limit = limit
        self.declared = declared
