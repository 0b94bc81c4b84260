"""A cluster of three brokers, of which one goes away under load."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from postbus.errors import ConnectionLost
from postbus.transport import Delivery, Outgoing
from postbus_kafka.connection import KafkaConnection
from tests.brokers.kafka import KafkaCluster

pytestmark = [pytest.mark.slow, pytest.mark.once]

PATIENCE = 60.0


def test_one_of_three_is_killed_under_load(
    kafka_cluster: KafkaCluster,
    connect_to: Callable[..., KafkaConnection],
    in_background: Callable[[Callable[[], Any]], Future[Any]],
) -> None:
    """Nothing that was stored is lost, delayed or not; what was in doubt comes at most once more."""
    consumer, sender = (connect_to(kafka_cluster.dsn, partitions=3, delays=["0.5"]) for _ in range(2))
    consumer.setup()
    number = 600
    sent: list[bytes] = []
    doubtful: set[bytes] = set()

    def publish() -> None:
        nonlocal sender
        for start in range(0, number, 50):
            bodies = [b"%d" % n for n in range(start, start + 50)]
            delay = 0.7 if start % 100 else 0.0
            while True:
                try:
                    sender.publish([Outgoing(body, {}, delay) for body in bodies])
                except ConnectionLost:
                    doubtful.update(bodies)
                    sender.close()
                    sender = connect_to(kafka_cluster.dsn, partitions=3, delays=["0.5"])
                else:
                    break
            sent.extend(bodies)
            if start == 200:
                kafka_cluster.servers[0].kill()

    published = in_background(publish)
    end = time.monotonic() + PATIENCE
    found: list[Delivery] = []
    while time.monotonic() < end and (not published.done() or not {d.body for d in found}.issuperset(sent)):
        try:
            fetched = consumer.fetch(100, 1)
        except ConnectionLost:
            consumer.close()
            consumer = connect_to(kafka_cluster.dsn, partitions=3, delays=["0.5"])
            continue
        consumer.ack([delivery.tag for delivery in fetched])
        found += fetched
    published.result(PATIENCE)
    consumer.close()
    bodies = [delivery.body for delivery in found]
    assert number == len(sent)
    assert set(sent) == set(bodies)
    twice = {body for body in set(bodies) if bodies.count(body) > 1}
    print(f"{len(twice)} came twice, {len(doubtful)} were in doubt")
