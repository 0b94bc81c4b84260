"""What waits in one bucket, as far as it is read: a bucket is a topic in which everything waits for the same time."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from itertools import count
from typing import Any, NamedTuple

from postbus_kafka.delays import DUE, TARGET, Waiting, bucket_for, read_waiting
from postbus_kafka.metadata import DONE, UNTOUCHED, Run, decode, encode
from postbus_kafka.records import Record

MOST, MOST_BYTES = 1000, 1024 * 1024
"""How much of a bucket is read ahead: records, and bytes of them."""


class Progress(NamedTuple):
    """How far a bucket is moved, as it is committed: all before an offset, and what the text says of the rest."""

    offset: int
    text: str = ""

    @property
    def number_moved(self) -> int:
        """How many records behind the offset are moved."""
        return sum(length for length, state in decode(self.text) if state.is_done)


class Held:
    """One record that waits."""

    __slots__ = ("is_moved", "key", "offset", "size", "value", "waiting")

    def __init__(self, record: Any, waiting: Waiting) -> None:
        self.offset: int = record.offset
        self.key: bytes | None = record.key
        self.value: bytes = record.value or b""
        self.waiting = waiting
        self.size = len(self.value)
        self.is_moved = False


class Bucket:
    """A partition of a bucket while it is ours.

    Its records leave it in their order, each when it has been in it for as long as the bucket says; for the rest of its
    time, which is less than the shortest bucket, it is held here.
    """

    def __init__(
        self, partition: Any, length: float, progress: Progress, topics: Mapping[float, str], target: str
    ) -> None:
        self.partition = partition
        self.position = progress.offset
        """The offset behind the last record that was read."""
        self.base = progress.offset
        """The offset before which everything is moved."""
        self.number_moved = progress.number_moved
        """How many records behind that are moved."""
        self.committed = progress
        self._progress: Progress | None = progress
        self._before = _moved_by(progress)
        """Offsets of what somebody else has moved before, from where and to where, and that is not read yet."""
        self._length = length
        self._topics = topics
        self._target = target
        self._shortest = min(topics.keys() - {0.0})
        self._entries: deque[Held] = deque()
        """All that is not moved, and what is between."""
        self._queue: deque[tuple[float, Held]] = deque()
        self._resting: list[tuple[float, int, Held]] = []
        self._numbers = count()
        self._bytes = 0
        self._is_full = False

    @property
    def progress(self) -> Progress:
        """What is to be committed: what waits for long may have much behind it that is moved."""
        if self._progress is None:
            self._progress = self.progress_after(())
        return self._progress

    def progress_after(self, moving: Collection[Held]) -> Progress:
        """Return what is to be committed together with the move of these."""
        left = (held.offset for held in self._entries if not held.is_moved and held not in moving)
        base = next(left, self.position)
        return Progress(base, encode(self._runs(base, moving)))

    @property
    def is_full(self) -> bool:
        """Whether to read no more for now: until half of what is held has gone."""
        share = 2 if self._is_full else 1
        self._is_full = len(self._entries) * share >= MOST or self._bytes * share >= MOST_BYTES
        return self._is_full

    def add(self, records: Iterable[Any]) -> None:
        """Take in what was read."""
        for record in records:
            if record.offset < self.position:
                continue
            self.position = record.offset + 1
            # What somebody else has put here goes to the topic itself, where it is handled or buried.
            waiting = read_waiting(record.headers) or Waiting(0, self._target, record.headers)
            held = Held(record, waiting)
            self._entries.append(held)
            if self._was_moved(held.offset):
                held.is_moved, held.value, held.size = True, b"", 0
                continue
            self._bytes += held.size
            # The broker's clock may be ahead of the sender's.
            self._queue.append((min(record.timestamp / 1000 + self._length, waiting.due), held))
        self._find_base()

    def next_at(self) -> float | None:
        """Return when something is to be done here, by the clock; None while nothing waits."""
        times = [self._queue[0][0]] if self._queue else []
        if self._resting:
            times.append(self._resting[0][0])
        return min(times, default=None)

    def take_due(self, now: float) -> list[tuple[Held, Record]]:
        """Return what is to be moved now, and the record that it becomes: in another bucket, or where it belongs."""
        found: list[tuple[Held, Record]] = []
        while self._queue and self._queue[0][0] <= now:
            _, held = self._queue.popleft()
            if held.waiting.due - now >= self._shortest:
                found.append((held, self.moved_on(held, now)))
            else:
                heapq.heappush(self._resting, (held.waiting.due, next(self._numbers), held))
        while self._resting and self._resting[0][0] <= now:
            _, _, held = heapq.heappop(self._resting)
            found.append((held, Record(held.waiting.target, held.value, held.key, held.waiting.headers)))
        return found

    def moved_on(self, held: Held, now: float, due: float | None = None) -> Record:
        """Return the record that lets something wait longer, until it is due or until another time."""
        waiting = held.waiting
        until = waiting.due if due is None else due
        headers = [*waiting.headers, (DUE, str(round(until * 1000)).encode()), (TARGET, waiting.target.encode())]
        return Record(bucket_for(until - now, self._topics), held.value, held.key, headers)

    def settle(self, held: Held) -> None:
        """Take note that something was moved."""
        held.is_moved = True
        self._bytes -= held.size
        held.value, held.size = b"", 0
        self.number_moved += 1
        self._progress = None
        self._find_base()

    def put_back(self, held: Held, at: float) -> None:
        """Take note that something could not be moved, and is to be tried again."""
        heapq.heappush(self._resting, (max(at, held.waiting.due), next(self._numbers), held))

    def skip(self, offset: int) -> None:
        """Take note that nothing but markers is left before this offset."""
        self.position = max(self.position, offset)
        self._find_base()

    def _find_base(self) -> None:
        before = self.base
        while self._entries and self._entries[0].is_moved:
            self._entries.popleft()
            self.number_moved -= 1
        self.base = self._entries[0].offset if self._entries else self.position
        if self.base != before:
            self._progress = None

    def _was_moved(self, offset: int) -> bool:
        """Say whether somebody else has moved a record; to be asked in the order of offsets."""
        while self._before and self._before[0][1] <= offset:
            self._before.popleft()
        return bool(self._before) and self._before[0][0] <= offset

    def _runs(self, base: int, moving: Collection[Held]) -> Iterable[Run]:
        """Say what is moved from the base on, these included; what is not there counts as moved."""
        at = base
        for held in self._entries:
            if held.offset < base:
                continue
            yield Run(held.offset - at, DONE)
            yield Run(1, DONE if held.is_moved or held in moving else UNTOUCHED)
            at = held.offset + 1
        for start, stop in self._before:
            start = max(start, self.position)
            if start < stop:
                yield Run(start - at, UNTOUCHED)
                yield Run(stop - start, DONE)
                at = stop


def _moved_by(progress: Progress) -> deque[tuple[int, int]]:
    found: deque[tuple[int, int]] = deque()
    at = progress.offset
    for length, state in decode(progress.text):
        if state.is_done:
            found.append((at, at + length))
        at += length
    return found
