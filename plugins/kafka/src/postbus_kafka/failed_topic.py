"""The failure transport (``mode=store``): a compacted topic, whose key is the id of a message."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

from msgspec import Struct
from msgspec.structs import replace

from postbus.errors import ConnectionLost, MessageRefused
from postbus.transport import Counts, Delivery, Outgoing
from postbus_kafka.failed_index import Index, Place
from postbus_kafka.options import Settings
from postbus_kafka.publishing import Publisher
from postbus_kafka.records import Record, as_record, headers_of
from postbus_kafka.seat import Quiet, Seat
from postbus_kafka.topics import Topics
from postbus_kafka.untyped import TopicPartition, errors

SLICE = 0.1
"""Seconds for which one look for news takes at most, so that others can look something up meanwhile."""

REST = 0.2
"""Seconds for which something rests that was given back; nobody else gets it."""

FAR = 1000
"""Offsets; what is further ahead is sought, and not read up to."""


class Tag(Struct, frozen=True, eq=False):
    """One delivery of one message."""

    key: str


class FailedConnection:
    """Keeps messages on a compacted topic; lists, shows and removes single ones. No offsets.

    Settling is a tombstone, and what is in hand is in this process's memory. Of several processes that fetch, one gets
    all of a partition: whose seat in a group it is.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._topics = Topics(settings, name)
        self._publisher = Publisher(settings, name, self._topics)
        self._lock = threading.RLock()
        self._reader: Quiet | None = None
        self._seat: Seat | None = None
        self._index = Index()
        self._ends: dict[Any, int] = {}
        """The offsets up to which the index knows everything."""
        self._ours: set[int] = set()
        self._in_hand: dict[str, Tag] = {}
        self._resting: dict[str, float] = {}
        self._away_since: float | None = None
        """Since when no broker can be reached, by the monotonic clock."""
        self._closed = threading.Event()

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        if any(message.delay > 0 for message in messages):
            return self._publish_at_once(messages)
        return self._publisher.publish_as(messages, self._record_for, lambda _, record, __: _key_of(record))

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        deadline = time.monotonic() + wait
        while not self._closed.is_set():
            with self._lock:
                if self._closed.is_set():
                    break
                self._take_turn()
                now = time.monotonic()
                self._follow(0)
                if found := self._take(limit, now):
                    return found
                # Nothing is said before it is known whether the brokers are there: else nobody would hear of a loss.
                if not self._is_away(now) and now >= deadline:
                    break
                # While we join the group the next turn follows at once.
                patience = SLICE if self._ours and not self._is_joining else 0.0
                self._follow(min(patience, deadline - now) if now < deadline else patience)
        return []

    def ack(self, tags: Sequence[Tag]) -> Sequence[Tag]:
        return self._settle(tags)

    def reject(self, tags: Sequence[Tag]) -> Sequence[Tag]:
        return self._settle(tags)

    def release(self, tags: Sequence[Tag]) -> Sequence[Tag]:
        with self._lock:
            lost = self._not_ours(tags)
            for tag in tags:
                if tag not in lost:
                    del self._in_hand[tag.key]
                    self._resting[tag.key] = time.monotonic() + REST
            return lost

    def count(self) -> Counts:
        with self._lock:
            self._refresh()
            in_flight = len(self._in_hand)
            oldest = self._index.oldest(self._in_hand)
            age = None if oldest is None else max(time.time() - oldest, 0.0)
            return Counts(len(self._index) - in_flight, 0, in_flight, age)

    def browse(self, limit: int, after: str | None = None) -> Sequence[Delivery]:
        with self._lock:
            self._refresh()
            return self._deliveries(self._index.listed(after)[:limit])

    def find(self, id: str) -> Delivery | None:
        with self._lock:
            self._refresh()
            return next(iter(self._deliveries([id])), None) if id in self._index else None

    def remove(self, ids: Sequence[str]) -> int:
        with self._lock:
            self._refresh()
            return self._bury([id for id in dict.fromkeys(ids) if id in self._index])

    def purge(self) -> int:
        with self._lock:
            self._refresh()
            return self._bury(list(self._index.listed()))

    def setup(self) -> None:
        self._topics.setup()

    def missing(self) -> Sequence[str]:
        return self._topics.missing()

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            seat, self._seat = self._seat, None
            reader, self._reader = self._reader, None
        if seat is not None:
            seat.close()
        if reader is not None:
            reader.close()
        self._publisher.close()
        self._topics.close()

    # writing

    def _record_for(self, message: Outgoing) -> Record:
        record = as_record(message, self._settings.topic)
        return Record(record.topic, record.value, str(uuid4()).encode(), record.headers)

    def _publish_at_once(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        """Refuse what is delayed, and publish the rest."""
        at_once = {position: message for position, message in enumerate(messages) if not message.delay > 0}
        refused = {
            position: f"{self._settings} delays nothing on a topic of mode=store."
            for position in range(len(messages))
            if position not in at_once
        }
        stored: dict[int, str | None] = {}
        positions = list(at_once)
        try:
            stored = dict(zip(positions, self.publish(list(at_once.values())), strict=True))
        except MessageRefused as error:
            refused |= {positions[at]: reason for at, reason in error.refused.items()}
            stored = {positions[at]: id for at, id in error.stored.items()}
        raise MessageRefused(refused, stored=stored)

    def _bury(self, keys: Sequence[str]) -> int:
        """Write that keys are removed, and forget them; return how many there were."""
        if keys:
            self._publisher.write([Record(self._settings.topic, None, key.encode()) for key in keys])
        for key in keys:
            self._index.remove(key)
            self._in_hand.pop(key, None)
            self._resting.pop(key, None)
        return len(keys)

    # settling

    def _settle(self, tags: Sequence[Tag]) -> Sequence[Tag]:
        with self._lock:
            lost = self._not_ours(tags)
            self._bury([tag.key for tag in tags if tag not in lost])
            return lost

    def _not_ours(self, tags: Sequence[Tag]) -> list[Tag]:
        return [tag for tag in tags if self._in_hand.get(tag.key) is not tag]

    def _take(self, limit: int, now: float) -> list[Delivery]:
        """Return what is ours and not in hand, as deliveries with tags."""
        for key in [key for key, until in self._resting.items() if until <= now]:
            del self._resting[key]
        free: list[str] = []
        for key in self._index.listed():
            place = self._index.place_of(key)
            if place and place.partition in self._ours and key not in self._in_hand and key not in self._resting:
                free.append(key)
                if len(free) == limit:
                    break
        taken: list[Delivery] = []
        for delivery in self._deliveries(free):
            assert delivery.id is not None
            tag = self._in_hand[delivery.id] = Tag(delivery.id)
            taken.append(replace(delivery, tag=tag))
        return taken

    # reading

    def _take_turn(self) -> None:
        """See which partitions are ours; what is in hand of one that is not any more is lost."""
        self._open()
        if self._seat is None:
            group = f"{self._settings.topic}.store"
            self._seat = Seat(self._settings, self._name, group, [self._settings.topic], lambda _: {})
        if self._seat.lateness < 0 and not self._seat.is_joining:
            return
        ours = {partition.partition for partition in self._seat.take_turn()}
        gone = {partition.partition for partition in self._seat.lost}
        self._seat.lost.clear()
        self._ours -= gone
        if not ours <= self._ours:  # What others have settled before is not to come again.
            self._refresh()
        self._ours = ours
        for key in list(self._in_hand):
            place = self._index.place_of(key)
            if place is None or place.partition in gone:
                del self._in_hand[key]

    @property
    def _is_joining(self) -> bool:
        return self._seat is not None and self._seat.is_joining

    def _is_away(self, now: float) -> bool:
        """Say whether no broker can be reached; raises if that has been so for long enough."""
        assert self._reader is not None
        if not self._reader.is_cut_off:
            self._away_since = None
            return False
        self._away_since = self._away_since or now
        if now - self._away_since > self._settings.options.lost_after:
            raise ConnectionLost(f"{self._settings} cannot be reached")
        return True

    def _open(self) -> Quiet:
        """Return a consumer of all partitions, at the end of what is known."""
        if self._closed.is_set():
            raise ConnectionLost("The connection is closed")
        if self._reader is None:
            self._topics.ensure(self._settings.topic)
            # What is asked of a broker is answered in turn, and this looks for news, and at what lies elsewhere.
            answered = int(SLICE * 1000)
            self._reader = Quiet(
                self._settings, self._name, "store", isolation_level="read_committed", fetch_max_wait_ms=answered
            )
            topic = self._settings.topic
            partitions = self._reader.client.partitions_for_topic(topic) or ()
            self._reader.client.assign([TopicPartition(topic, partition) for partition in sorted(partitions)])
            self._seek_ends()
        return self._reader

    def _seek_ends(self) -> None:
        assert self._reader is not None
        for partition in self._reader.client.assignment():
            if partition in self._ends:
                self._reader.client.seek(partition, self._ends[partition])
            else:
                self._reader.client.seek_to_beginning(partition)

    def _follow(self, patience: float) -> None:
        """Take in what has come."""
        reader = self._open()
        try:
            found = reader.client.poll(int(patience * 1000))
        except errors.KafkaError as error:
            raise reader.translate(error) from error
        for partition, records in found.items():
            self._index.add(records)
            self._ends[partition] = records[-1].offset + 1

    def _refresh(self) -> None:
        """Take in everything that is there now."""
        reader = self._open()
        milliseconds = int(self._settings.options.timeout * 1000)
        try:
            ends = reader.client.end_offsets(list(reader.client.assignment()), timeout_ms=milliseconds)
            begins = reader.client.beginning_offsets(list(ends), timeout_ms=milliseconds)
        except errors.KafkaError as error:
            raise reader.translate(error) from error
        deadline = time.monotonic() + self._settings.options.timeout
        left = {partition for partition, end in ends.items() if end > begins[partition]}
        while left:
            before = dict(self._ends)
            self._follow(SLICE)
            for partition in list(left):
                # Behind the last record may be a marker, or what compaction has taken away.
                at = reader.client.position(partition, timeout_ms=milliseconds)
                if max(self._ends.get(partition, 0), at or 0) >= ends[partition]:
                    self._ends[partition] = max(self._ends.get(partition, 0), at or 0)
                    left.discard(partition)
            if before != self._ends:
                deadline = time.monotonic() + self._settings.options.timeout
            elif time.monotonic() > deadline:
                raise ConnectionLost(f"{self._settings} does not answer")

    def _deliveries(self, keys: Sequence[str]) -> list[Delivery]:
        """Return messages as they are shown, in this order; what is not there after all is forgotten."""
        places = {key: place for key in keys if (place := self._index.place_of(key)) is not None}
        records = self._records(places.values())
        found: list[Delivery] = []
        for key, place in places.items():
            record = records.get(place)
            if record is None:
                self._index.remove(key)
                continue
            headers, problem = headers_of(record.headers)
            found.append(Delivery(record.value, headers, None, key, problem=problem))
        return found

    def _records(self, places: Collection[Place]) -> dict[Place, Any]:
        """Read records where they lie, and go back to the end."""
        if not places:
            return {}
        client = self._open().client
        found: dict[Place, Any] = {}
        wanted: dict[int, list[int]] = {}
        for place in sorted(places):
            wanted.setdefault(place.partition, []).append(place.offset)
        everything = client.assignment()
        try:
            for partition, offsets in wanted.items():
                self._read(TopicPartition(self._settings.topic, partition), offsets, found)
        finally:
            with suppress(Exception):
                client.assign(sorted(everything))
                self._seek_ends()
        return found

    def _read(self, partition: Any, offsets: list[int], found: dict[Place, Any]) -> None:
        assert self._reader is not None
        client = self._reader.client
        client.assign([partition])
        client.seek(partition, offsets[0])
        missing = set(offsets)
        deadline = time.monotonic() + self._settings.options.timeout
        while missing and min(missing) < self._ends[partition]:
            records = client.poll(int(SLICE * 1000)).get(partition, ())
            for record in records:
                if record.offset in missing:
                    found[Place(partition.partition, record.offset)] = record
            if records:
                deadline = time.monotonic() + self._settings.options.timeout
                missing = {offset for offset in missing if offset > records[-1].offset}
                if missing and min(missing) > records[-1].offset + FAR:
                    client.seek(partition, min(missing))
            elif time.monotonic() > deadline:
                raise ConnectionLost(f"{self._settings} does not answer")
            elif missing and (client.position(partition, timeout_ms=1000) or 0) > max(missing):
                break  # What compaction has taken away.


def _key_of(record: Record) -> str | None:
    return None if record.key is None else record.key.decode()
