"""Who moves on what is delayed: a thread in every process that fetches, one member of a group of its own."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Collection
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

from postbus.errors import ConnectionLost, MessageRefused, TransportError
from postbus_kafka.buckets import Bucket, Held, Progress
from postbus_kafka.clients import Opened
from postbus_kafka.errors import translate
from postbus_kafka.options import Settings
from postbus_kafka.publishing import Publisher
from postbus_kafka.records import Record
from postbus_kafka.seat import TURN, Quiet, Seat
from postbus_kafka.topics import Topics
from postbus_kafka.transactions import Transactions
from postbus_kafka.untyped import KafkaAdminClient

logger = logging.getLogger("postbus")

PATIENCE = 0.2
"""Seconds to wait at most for something to read."""

BETWEEN = 0.005
"""The same while the group is being joined, in which one turn is to follow the other at once."""

SKIPPING = 0.5
"""Seconds between two looks at whether nothing but markers is left."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds to wait after a failure, each time twice as long."""

POSTPONED = 60.0
"""Seconds until what could not be moved is tried again."""

CLEANING = 60.0
"""Seconds between two deletions of what was moved."""

ENDING = 10.0
"""Seconds to wait for the thread to end, which it does much sooner unless its group is being divided anew."""


class Forwarder:
    """The thread; opened by the first fetch, it goes on through every loss until it is closed."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._course: _Course | None = None

    def start(self) -> None:
        """Begin, if it has not begun. Called by every fetch, so it costs nothing."""
        if self._course is not None and self._pid == os.getpid():
            return
        if self._pid != os.getpid():  # What the parent had is left to it.
            self._lock, self._pid, self._course = threading.Lock(), os.getpid(), None
        with self._lock:
            if self._course is None:
                self._course = _Course(self._settings, self._name)
                self._course.start()

    def moved(self) -> dict[Any, tuple[int, int]]:
        """Return for each partition of a bucket that is ours what is moved: all before an offset, so many behind."""
        course = self._course
        return {} if course is None or course.mover is None else course.mover.moved()

    def close(self) -> None:
        """End the thread; what is not moved yet stays where it is. Twice is fine, and so is a start afterwards."""
        if self._pid != os.getpid():
            return
        with self._lock:
            course, self._course = self._course, None
        if course is not None:
            course.ended.set()
            course.join(ENDING)


class _Course(threading.Thread):
    """What goes on between a start and a close."""

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(name=f"postbus {name} (kafka delays)", daemon=True)
        self.ended = threading.Event()
        self.mover: _Mover | None = None
        self._settings = settings
        self._transport = name

    def run(self) -> None:
        """Try again and again, until the end."""
        settings, name = self._settings, f"{self._transport}-delays"
        with ExitStack() as stack:
            topics = stack.enter_context(closing(Topics(settings, self._transport)))
            publisher = stack.enter_context(closing(Publisher(settings, name, topics)))
            transactions = None
            if settings.options.transactional:
                transactions = Transactions(settings, name, publisher, purpose="delays")
                stack.enter_context(closing(transactions))
            pause = FIRST_PAUSE
            while not self.ended.is_set():
                begun = time.monotonic()
                try:
                    self._attempt(publisher, transactions)
                except Exception as error:  # A border: whatever goes wrong in here, what waits is moved one day.
                    topics.forget()
                    if time.monotonic() - begun > LONGEST_PAUSE:
                        pause = FIRST_PAUSE
                    if not self.ended.is_set():
                        self._report(error, pause)
                    self.ended.wait(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)

    def _attempt(self, publisher: Publisher, transactions: Transactions | None) -> None:
        publisher.topics.ensure(*self._settings.bucket_topics.values())
        if transactions is not None:  # Before it is asked what was moved.
            transactions.open()
        with closing(_Mover(self._settings, self._transport, publisher, transactions, self.ended)) as self.mover:
            try:
                self.mover.run()
            finally:
                self.mover = None

    def _report(self, error: Exception, pause: float) -> None:
        level = logging.DEBUG if isinstance(translate(error, self._settings), ConnectionLost) else logging.ERROR
        text = "Moving on the delayed messages of %r failed, and is tried again in %.1f s: %s"
        logger.log(level, text, self._transport, pause, error)


class _Undecided(TransportError):
    """What a transaction was to move is moved, or is not; only the group knows."""


class _Due(NamedTuple):
    """What is to be moved now: from where, and the record that it becomes."""

    bucket: Bucket
    held: Held
    record: Record

    def settle(self) -> None:
        """Take note that it is moved."""
        self.bucket.settle(self.held)


class _Mover:
    """One attempt: what it holds is its own, so the next one begins at what the group has committed.

    It reads no more of a bucket than fits, and leaves out those that are full: kafka-python may never read from a
    partition again that was paused by itself.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        publisher: Publisher,
        transactions: Transactions | None,
        ended: threading.Event,
    ) -> None:
        self._settings = settings
        self._name = name
        self._publisher = publisher
        self._transactions = transactions
        self._ended = ended
        self._lengths = {topic: length for length, topic in settings.bucket_topics.items()}
        self._buckets: dict[Any, Bucket] = {}
        self._reading: tuple[Any, ...] = ()
        self._clean_at = self._skip_at = 0.0
        self._is_forbidden_to_clean = False
        with ExitStack() as stack:
            self._seat = stack.enter_context(
                closing(Seat(settings, name, settings.forwarding_group, self._lengths, self._leave))
            )
            self._reader = stack.enter_context(
                closing(Quiet(settings, name, "delays", isolation_level="read_committed"))
            )
            self._stack = stack.pop_all()

    def run(self) -> None:
        """Move what is due until the end, or until something fails."""
        while not self._ended.is_set():
            self._turn()

    def close(self) -> None:
        """Commit what was moved, and leave the rest to others."""
        self._stack.close()

    def moved(self) -> dict[Any, tuple[int, int]]:
        """As `Forwarder.moved`; from any thread."""
        return {partition: (bucket.base, bucket.number_moved) for partition, bucket in list(self._buckets.items())}

    def _leave(self, partitions: Collection[Any]) -> dict[Any, Progress]:
        """Forget buckets that others get; return what was moved of them, which a transaction has said already."""
        gone = {partition: self._buckets.pop(partition) for partition in partitions if partition in self._buckets}
        return {} if self._transactions else {partition: bucket.progress for partition, bucket in gone.items()}

    # in the thread

    def _turn(self) -> None:
        now = time.time()
        if not (self._transactions and self._seat.is_committing):  # A transaction is not to be overtaken by that.
            due = [_Due(bucket, *one) for bucket in self._buckets.values() for one in bucket.take_due(now)]
            if due:
                self._move(due)
        for partition, progress in self._seat.commit(self._changed()).items():
            if partition in self._buckets:
                self._buckets[partition].committed = progress
        next_at = min((at for bucket in self._buckets.values() if (at := bucket.next_at()) is not None), default=None)
        patience = PATIENCE if next_at is None else min(max(next_at - time.time(), 0), PATIENCE)
        if self._must_take_turn(patience):
            self._take_turn()
            if self._seat.is_joining:
                patience = min(patience, BETWEEN)
        elif patience == PATIENCE:
            self._clean()
        self._read(patience)

    def _must_take_turn(self, patience: float) -> bool:
        seat = self._seat
        return seat.is_joining or seat.lateness > 2 * PATIENCE or (seat.lateness > 0 and patience > TURN)

    def _take_turn(self) -> None:
        """Take part in the group, and begin with what came from others."""
        gained = self._seat.take_turn() - self._buckets.keys()
        if not gained:
            return
        for partition, progress in self._seat.committed(gained, self._settings.options.timeout).items():
            length = self._lengths[partition.topic]
            topics = self._settings.bucket_topics
            self._buckets[partition] = Bucket(partition, length, progress, topics, self._settings.topic)
        self._reading = ()  # So that the reader begins there, whatever it has read before.

    def _read(self, patience: float) -> None:
        wanted = tuple(sorted(partition for partition, bucket in self._buckets.items() if not bucket.is_full))
        client = self._reader.client
        if wanted != self._reading:
            client.assign(list(wanted))
            for partition in wanted:
                client.seek(partition, self._buckets[partition].position)
            self._reading = wanted
        if not wanted:
            self._ended.wait(min(patience, TURN))
            return
        for partition, records in client.poll(int(patience * 1000)).items():
            self._buckets[partition].add(records)
        if time.monotonic() >= self._skip_at:
            self._skip_markers()

    def _skip_markers(self) -> None:
        """Take note of offsets that no record has, such as the end of a transaction: else they count as waiting."""
        self._skip_at = time.monotonic() + SKIPPING
        for partition in self._reading:
            if self._buckets[partition].next_at() is not None:
                continue
            position = self._reader.client.position(partition, timeout_ms=int(TURN * 1000))
            if position is not None:
                self._buckets[partition].skip(position)

    def _move(self, due: list[_Due]) -> None:
        """Write the records; what cannot be written waits longer, and holds up nobody."""
        try:
            self._store(due)
        except (ConnectionLost, _Undecided):
            raise
        except MessageRefused as error:
            for position in error.refused:
                self._postpone(due[position], error)
        except TransportError as error:
            if len(due) == 1:
                self._postpone(due[0], error)
                return
            for one in due:  # Such as a topic that is not there any more.
                if not one.held.is_moved:
                    self._move([one])

    def _store(self, due: list[_Due]) -> None:
        """Write the records, and take note of what is moved; raises as `Connection.publish`."""
        if self._transactions is not None:
            self._store_atomically(self._transactions, due)
            return
        try:
            self._publisher.write([one.record for one in due])
        except TransportError as error:
            for position in error.stored:
                due[position].settle()
            raise
        for one in due:
            one.settle()

    def _store_atomically(self, transactions: Transactions, due: list[_Due]) -> None:
        """Write all of the records and commit that they are moved, or neither."""
        self._publisher.topics.ensure(*{one.record.topic for one in due})
        moving = {one.held for one in due}
        buckets = {one.bucket.partition: one.bucket for one in due}
        progress = {partition: bucket.progress_after(moving) for partition, bucket in buckets.items()}
        try:
            transactions.move([one.record for one in due], self._seat.settlement_of(progress))
        except MessageRefused as error:
            if len(due) > 1:  # It is not known which.
                raise TransportError("The broker refuses one of several records.") from error
            raise
        except ConnectionLost:
            raise
        except TransportError as error:
            raise _Undecided(str(error)) from error
        for one in due:
            one.settle()
        for partition, bucket in buckets.items():
            bucket.committed = progress[partition]

    def _postpone(self, one: _Due, error: TransportError) -> None:
        now = time.time()
        until = now + POSTPONED
        try:
            self._store([one._replace(record=one.bucket.moved_on(one.held, now, until))])
        except MessageRefused:
            one.bucket.put_back(one.held, until)
        logger.error(
            "A delayed message for topic %r could not be moved there, and is tried again in %d s: %s",
            one.held.waiting.target,
            POSTPONED,
            error,
        )

    def _changed(self) -> dict[Any, Progress]:
        """Return what is to be committed."""
        return {p: bucket.progress for p, bucket in self._buckets.items() if bucket.progress != bucket.committed}

    def _clean(self) -> None:
        """Delete what was moved, now and then: it is kept for as long as nobody does."""
        now = time.monotonic()
        if now < self._clean_at or self._is_forbidden_to_clean:
            return
        is_first, self._clean_at = not self._clean_at, now + CLEANING
        offsets = {
            partition: offset for partition, bucket in self._buckets.items() if (offset := bucket.committed.offset)
        }
        if is_first or not offsets:
            return
        try:
            opened = Opened(KafkaAdminClient, self._settings, self._name, "delays-cleaner")
            try:
                opened.client.delete_records(offsets, timeout_ms=int(self._settings.options.timeout * 1000))
            finally:
                opened.client.close()
        except Exception as error:  # A border: it is only about room on the broker's disk.
            self._is_forbidden_to_clean = not isinstance(error, ConnectionLost)
            text = "Deleting the delayed messages of %r that were moved on from their buckets failed: %s"
            logger.warning(text, self._name, error)
