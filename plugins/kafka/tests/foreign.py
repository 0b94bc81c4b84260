"""What other programs do on the broker, with kafka-python as it is: they write records, and read them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from tests.brokers.kafka import Kafka

PATIENCE = 60.0


def read(broker: Kafka, topic: str, number: int, patience: float = PATIENCE, **options: Any) -> list[Any]:
    """Return the records of a topic, as soon as there are so many, in the order of partitions and offsets.

    After ``patience`` it waits for no more of them, but reads all that there were.
    """
    records: list[Any] = []
    options = {"auto_offset_reset": "earliest", **options}
    with closing(KafkaConsumer(bootstrap_servers=broker.addresses.split(","), **options)) as consumer:
        partitions = [TopicPartition(topic, partition) for partition in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(partitions)
        begun = time.monotonic()
        ends: dict[Any, int] | None = None
        while len(records) < number and time.monotonic() < begun + max(patience, PATIENCE):
            for found in consumer.poll(200).values():
                records += found
            if time.monotonic() > begun + patience:
                ends = ends or consumer.end_offsets(partitions)
                if all(consumer.position(partition) >= end for partition, end in ends.items()):
                    break
    return sorted(records, key=lambda record: (record.partition, record.offset))


def write(broker: Kafka, topic: str, records: Sequence[dict[str, Any]], **options: Any) -> None:
    """Write records, each told as the arguments of `KafkaProducer.send`."""
    producer = KafkaProducer(bootstrap_servers=broker.addresses.split(","), **options)
    try:
        for future in [producer.send(topic, **record) for record in records]:
            future.get(PATIENCE)
    finally:
        producer.close(PATIENCE)
