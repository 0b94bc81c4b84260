"""kafka-python alone, on a topic: ``python -m benchmarks.raw.kafka ADDRESSES TOPIC`` receives pings.

Its settings are those that the plugin gives it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, errors
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import OffsetAndMetadata

PARTITIONS = 6
RECORDS = 5000
"""How many records one poll returns at most; they are committed at once."""
WINDOW = 1000
"""How many records are sent before they are waited for."""
GROUP = "raw"
PATIENCE = 60


class Topic:
    """A topic with as many partitions as the plugin makes."""

    def __init__(self, addresses: str, name: str, record: Any = None) -> None:
        self.dsn = f"kafka://{addresses}/{name}"
        self.listener: Sequence[str] = ("benchmarks.raw.kafka", addresses, name)
        self._servers = addresses.split(",")
        self._name = name
        self._record = record
        self._admin = KafkaAdminClient(bootstrap_servers=self._servers)
        self._producer = KafkaProducer(
            bootstrap_servers=self._servers, linger_ms=5, batch_size=128 * 1024, metrics_enabled=False
        )

    def setup(self) -> None:
        self._admin.create_topics({self._name: {"num_partitions": PARTITIONS}})
        self._admin.wait_for_topics([self._name])

    def pop(self) -> Any:
        consumer = self._consumer()
        consumer.subscribe([self._name])
        try:
            while not (found := consumer.poll(500)):
                pass
            [[record]] = found.values()
            return record.value, list(record.headers)
        finally:
            consumer.close()

    def store(self, count: int) -> None:
        for start in range(0, count, WINDOW):
            futures = [self._send() for _ in range(min(WINDOW, count - start))]
            self._producer.flush()
            for future in futures:
                future.get(PATIENCE)

    def store_singly(self, count: int) -> None:
        for _ in range(count):
            future = self._send()
            self._producer.flush()
            future.get(PATIENCE)

    def take(self, count: int) -> float:
        """Receive so many; return the seconds from the first poll that gave something to the last commit."""
        consumer = self._consumer()
        consumer.subscribe([self._name])
        began, pending = 0.0, None
        while count > 0:
            records = consumer.poll(100)
            if not records:
                continue
            began = began or time.perf_counter()
            count -= sum(map(len, records.values()))
            offsets = {
                partition: OffsetAndMetadata(found[-1].offset + 1, "", -1) for partition, found in records.items()
            }
            pending = consumer.commit_async(offsets)
        while pending is not None and not pending.is_done:
            consumer.poll(10)
        seconds = time.perf_counter() - began
        consumer.close()
        return seconds

    def ping(self, sent_at: float) -> None:
        self._producer.send(self._name, repr(sent_at).encode()).get(PATIENCE)

    def listen(self) -> None:
        """Tell how old each ping is."""
        consumer = self._consumer()
        consumer.subscribe([self._name])
        while not consumer.assignment():
            consumer.poll(100)
        print("ready", flush=True)
        while True:
            for records in consumer.poll(100).values():
                for record in records:
                    print(time.monotonic() - float(record.value), flush=True)
                consumer.commit_async()

    def empty(self) -> None:
        """Let both kinds of contenders begin behind what is there: nothing waits for them any more."""
        self.delete()

    def delete(self) -> None:
        topics = [name for name in self._admin.list_topics() if name == self._name or name.startswith(f"{self._name}.")]
        if topics:
            self._admin.delete_topics(topics)
        while set(topics) & set(self._admin.list_topics()):
            time.sleep(0.05)
        for group in (GROUP, f"{self._name}.postbus"):
            with suppress(errors.KafkaError):
                self._admin.delete_groups([group])

    def close(self) -> None:
        self._producer.close(1)
        self._admin.close()

    def _send(self) -> Any:
        body, headers = self._record
        return self._producer.send(self._name, body, headers=headers)

    def _consumer(self) -> KafkaConsumer:
        return KafkaConsumer(
            bootstrap_servers=self._servers,
            group_id=GROUP,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            partition_assignment_strategy=[CooperativeStickyAssignor],
            max_poll_records=RECORDS,
            fetch_max_bytes=16 * 1024 * 1024,
            heartbeat_interval_ms=500,
            metrics_enabled=False,
        )


if __name__ == "__main__":
    Topic(*sys.argv[1:]).listen()
