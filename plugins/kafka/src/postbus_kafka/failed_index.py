"""What lies on a compacted topic at the moment: the newest record of each key, without those that were removed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Place(NamedTuple):
    """Where a record lies; in the order of these it is listed."""

    partition: int
    offset: int


class Index:
    """The places of all that is there, by their keys; what they hold stays on the topic."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        self._ages: dict[str, float] = {}
        self._removed: dict[str, Place] = {}
        """Where removed ones were, so that a listing can go on behind them."""
        self._ordered: list[str] | None = None

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def add(self, records: Iterable[Any]) -> None:
        """Take in records, in the order of their offsets; one without a value says that its key is removed."""
        for record in records:
            if record.key is None:
                continue
            key = record.key.decode(errors="backslashreplace")
            self.remove(key)
            if record.value is not None:
                self._places[key] = Place(record.partition, record.offset)
                self._ages[key] = record.timestamp / 1000
                self._ordered = None

    def remove(self, key: str) -> None:
        """Forget what is not there any more."""
        place = self._places.pop(key, None)
        if place is not None:
            self._removed[key] = place
            del self._ages[key]
            self._ordered = None

    def place_of(self, key: str) -> Place | None:
        """Return where something lies, or None."""
        return self._places.get(key)

    def listed(self, after: str | None = None) -> Sequence[str]:
        """Return all keys in their order, or those behind one, which may have been removed."""
        if self._ordered is None:
            self._ordered = sorted(self._places, key=self._places.__getitem__)
        if after is None:
            return self._ordered
        place = self._places.get(after) or self._removed.get(after)
        if place is None:
            return self._ordered
        return [key for key in self._ordered if self._places[key] > place]

    def oldest(self, without: Iterable[str] = ()) -> float | None:
        """Return when the oldest was written, by the clock, leaving some out; None if there is nothing."""
        left = self._ages.keys() - set(without)
        return min((self._ages[key] for key in left), default=None)
