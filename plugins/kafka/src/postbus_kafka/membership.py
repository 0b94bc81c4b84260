"""The membership in a consumer group: what outlives a connection that was lost."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from msgspec import Struct

from postbus.errors import ConnectionLost, TransportError
from postbus.transport import Delivery
from postbus_kafka.assignment import Entry
from postbus_kafka.inventory import Inventory
from postbus_kafka.options import Settings
from postbus_kafka.pump import Pump, as_offsets
from postbus_kafka.records import headers_of, id_of, stamps_of

logger = logging.getLogger("postbus")

Tag = Entry
"""What a delivery is settled by: one record in one assignment of its partition."""

GLANCE = 0.5
"""Seconds to wait at most before looking again at whether all is well."""

ENDING = 12.0
"""Seconds to wait for the thread to end."""


class Settlement(Struct, frozen=True):
    """What a transaction is to commit so that a delivery is settled."""

    offsets: dict[Any, Any]
    """``{TopicPartition: OffsetAndMetadata}``, as `KafkaProducer.send_offsets_to_transaction` takes it."""
    group: Any
    """What `KafkaConsumer.group_metadata` says."""


class Membership:
    """One member of the group, with its consumer, its thread and what waits there.

    Opened by the first fetch. A connection that lost the broker leaves it behind, and the next one goes on with it:
    else the group would wait until it has heard nothing of the former for long enough.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._inherited: list[object] = []
        self._inventory = Inventory(settings)
        self._pump: Pump | None = None
        self._attached_at = 0.0

    def attach(self) -> None:
        """Take note of a new connection, which gives the brokers time to come back."""
        if self._pid != os.getpid():
            # The parent still talks through it: see `QueueTransport`.
            self._inherited += [self._pump, self._inventory]
            self._lock = threading.Lock()
            self._inventory, self._pump, self._pid = Inventory(self._settings), None, os.getpid()
        self._attached_at = time.monotonic()

    def open(self, prepare: Callable[[], object]) -> None:
        """Join the group, unless that is done; who has left it because nobody wanted anything does so again.

        ``prepare`` is called before, by the thread that joins.
        """
        with self._lock:
            if self._pump is not None and self._pump.is_over and self._pump.error is None:
                self._pump.join(ENDING)
                self._pump = None
            if self._pump is not None:
                self._pump.fetched_at = time.monotonic()
            else:
                self._pump = Pump(self._settings, self._name, self._inventory, prepare)

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        """As `Connection.fetch`, once it is open."""
        pump = self._pump
        if pump is None:  # It was closed meanwhile.
            return []
        inventory = self._inventory
        now = time.monotonic()
        deadline = now + wait
        with inventory.news:
            while pump.has_stood_still or not (taken := inventory.take(limit, now)):
                if pump.error is not None:
                    raise self._failure(pump)
                if pump.is_over:
                    return []
                until = min(self._lost_at(pump, deadline), inventory.next_at() or deadline)
                if now >= until and until != inventory.next_at():
                    if pump.away_since is not None:
                        raise ConnectionLost(f"{self._settings} cannot be reached")
                    return []
                inventory.news.wait(min(max(until - now, 0.001), GLANCE))
                now = pump.fetched_at = time.monotonic()
        return [_as_delivery(entry) for entry in taken]

    def settle(self, tags: Sequence[Tag]) -> Sequence[Tag]:
        """As `Connection.ack`; it is committed within `commit_interval`."""
        return self._inventory.settle(tags)

    def release(self, tags: Sequence[Tag]) -> Sequence[Tag]:
        """As `Connection.release`: the same consumer gets them again, a little later."""
        return self._inventory.release(tags)

    @contextmanager
    def settling(self, tag: Tag) -> Generator[Settlement]:
        """Settle a delivery by a transaction: nothing else is committed meanwhile; raising leaves it in flight.

        Raises `TransportError` if the delivery is not ours any more.
        """
        pump = self._pump
        if pump is None or not pump.commits.acquire(timeout=self._settings.options.timeout):
            raise TransportError(f"The offsets of {self._name!r} could not be committed.")
        try:
            if not self._inventory.is_in_hand(tag):
                raise TransportError("The message is another worker's by now, or settled; its copy was not stored.")
            commits = self._inventory.to_commit([tag.assignment.partition], settled=tag)
            try:
                yield Settlement(as_offsets(commits), pump.member)
            except BaseException:
                self._inventory.fail(commits)
                raise
            self._inventory.confirm(commits)
            self._inventory.settle([tag])
        finally:
            pump.commits.release()

    def revoked(self) -> Sequence[Tag]:
        """Return the tags that went to another member since this was asked last."""
        return self._inventory.take_lost()

    def counts(self) -> dict[Any, tuple[int, int, int]]:
        """As `Inventory.counts`."""
        return self._inventory.counts()

    def close(self, *, leaves: bool) -> None:
        """Let go; ``leaves`` says whether to leave the group, or to be there for the next connection."""
        if self._pid != os.getpid():
            return
        with self._lock:
            pump = self._pump
            if pump is None or not leaves:
                return
            self._pump = None
        pump.end()
        self._inventory.wake()
        pump.join(ENDING)

    def _failure(self, pump: Pump) -> TransportError:
        """Return why the thread has ended, and forget it: the next fetch begins anew."""
        error = pump.error
        assert error is not None
        if self._pump is pump:
            self._pump = None
        again = type(error)(str(error))
        again.__cause__ = error.__cause__
        return again

    def _lost_at(self, pump: Pump, deadline: float) -> float:
        """Return until when to wait: longer while no broker can be reached, but not for ever."""
        if pump.away_since is None:
            return deadline
        options = self._settings.options
        lost_at = pump.away_since + options.lost_after
        # Who begins anew may take as long as connecting may.
        return max(lost_at, self._attached_at + max(options.lost_after, options.timeout))


def _as_delivery(entry: Entry) -> Delivery:
    record: Any = entry.record
    headers, problem = headers_of(record.headers)
    if record.value is None:
        problem = problem or "it has no value: it says that something of its key is deleted"
    return Delivery(
        record.value or b"",
        headers,
        entry,
        id_of(record.topic, record.partition, record.offset),
        entry.deaths + 1,
        stamps_of(record, entry.group, headers),
        None,
        entry.group,
        problem,
    )
