"""The lag of the group: how much of the topics it has not handled."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from postbus.errors import ConnectionLost
from postbus.transport import Counts
from postbus_kafka.clients import Opened
from postbus_kafka.metadata import decode
from postbus_kafka.options import Settings
from postbus_kafka.untyped import KafkaAdminClient, OffsetSpec, TopicPartition, errors

PAUSE = 0.1
"""Seconds between two questions."""

Offsets = tuple[Mapping[Any, int], Mapping[Any, int], Mapping[Any, Any]]
"""For each partition, where it begins, where it ends, and what is committed."""


class Lag:
    """Asks the brokers for offsets, through an admin client that is opened at the first use."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._lock = threading.Lock()
        self._opened: Opened | None = None
        self._is_closed = False

    def count(self, ours: Mapping[Any, tuple[int, int, int]], moved: Mapping[Any, tuple[int, int]]) -> Counts:
        """Return how much waits; what this process knows better is in `Inventory.counts` and `Forwarder.moved`.

        What other workers have in hand counts as waiting, because nobody tells Kafka of that.
        """
        begins, ends, committed = self._asked()
        waiting = delayed = 0
        buckets = set(self._settings.bucket_topics.values())
        for partition, end in ends.items():
            if partition in ours:
                position, unsettled, _ = ours[partition]
                waiting += max(end - position, 0) + unsettled
                continue
            if partition in moved:
                base, behind = moved[partition]
                delayed += max(end - max(base, begins[partition]) - behind, 0)
                continue
            found = committed.get(partition)
            left = end - begins[partition]
            if found is not None and begins[partition] <= found.offset <= end:
                done = sum(run.length for run in decode(found.metadata) if run.state.is_done)
                left = max(end - found.offset - done, 0)
            if partition.topic in buckets:
                delayed += left
            else:
                waiting += left
        return Counts(waiting, delayed)

    def close(self) -> None:
        """Let go of the admin client, for good. Twice is fine."""
        with self._lock:
            self._is_closed = True
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.client.close()

    def _asked(self) -> Offsets:
        """Ask; and again for a while, if the brokers are not ready: they make their own topic when it is asked for."""
        end = time.monotonic() + self._settings.options.timeout
        with self._lock:
            if self._is_closed:
                raise ConnectionLost("The connection is closed")
            if self._opened is None:
                self._opened = Opened(KafkaAdminClient, self._settings, self._name, "lag")
            while True:
                try:
                    return self._ask(self._opened.client)
                except Exception as error:
                    if isinstance(error, errors.CoordinatorNotAvailableError) and time.monotonic() < end:
                        time.sleep(PAUSE)
                        continue
                    translated = self._opened.translate(error)
                    opened, self._opened = self._opened, None
                    opened.client.close()
                    raise translated from error

    def _ask(self, admin: Any) -> Offsets:
        """Return the first and the last offsets, and what is committed."""
        settings = self._settings
        described = admin.describe_topics([*settings.read_topics, *settings.bucket_topics.values()])
        partitions = [
            TopicPartition(topic["name"], partition["partition_index"])
            for topic in described
            for partition in topic["partitions"]
        ]
        if not partitions:
            return {}, {}, {}
        begins = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.EARLIEST))
        ends = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
        buckets = dict.fromkeys(settings.bucket_topics.values(), settings.forwarding_group)
        asked: dict[str, list[Any]] = {}
        for partition in partitions:
            asked.setdefault(buckets.get(partition.topic, settings.group), []).append(partition)
        committed: dict[Any, Any] = {}
        for found in admin.list_group_offsets(asked).values():
            committed |= found
        return (
            {partition: found.offset for partition, found in begins.items()},
            {partition: found.offset for partition, found in ends.items()},
            committed,
        )
