"""An app on Kafka: what its workers make of keys when many handlers run at once, and some of them fail."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass

import pytest

from postbus import Backoff, Envelope, Postbus, stamps
from tests.brokers.kafka import Kafka
from tests.brokers.server import wait_until

pytestmark = pytest.mark.slow  # And not once: it says of the newest Python what all others would.

NUMBER = 300


@dataclass(frozen=True, slots=True)
class OrderChanged:
    """Something about an order."""

    order_id: int
    change: int


def test_each_key_keeps_its_order_whatever_fails(kafka_plain: Kafka, topic: str) -> None:
    """Of eight handlers at a time no two have the same key; what fails comes again, and the rest is in its order."""
    chance = random.Random(1)
    at_work: set[int] = set()
    came: dict[int, list[int]] = defaultdict(list)
    handled: list[int] = []
    overlaps: list[OrderChanged] = []
    lock = threading.Lock()
    together = 0
    app = Postbus(
        transports={"orders": f"{kafka_plain.dsn}/{topic}?partitions=3&delays[]=1"},
        retry=Backoff(max_retries=20, delay=0.1, factor=1),
    )
    app.message("order.changed", transport="orders", key="order_id")(OrderChanged)

    @app.handler
    def handle(order: OrderChanged, envelope: Envelope) -> None:
        nonlocal together
        with lock:
            if order.order_id in at_work:
                overlaps.append(order)
            at_work.add(order.order_id)
            together = max(together, len(at_work))
            if envelope.last(stamps.Retried) is None:
                came[order.order_id].append(order.change)
            fails = chance.random() < 0.2
        time.sleep(0.002)
        with lock:
            at_work.discard(order.order_id)
            if fails:
                raise ValueError("This time not.")
            handled.append(order.change)

    with closing(app):
        app.dispatch_many(OrderChanged(change % 12, change) for change in range(NUMBER))
        worker = app.worker("orders", concurrency=8)
        running = threading.Thread(target=worker.run)
        running.start()
        try:
            wait_until(lambda: len(handled) >= NUMBER, "Not all of them are handled.", 60)
        finally:
            worker.stop()
            running.join(60)

    assert not running.is_alive()
    assert [] == overlaps, "Two of one key were handled at once."
    assert [*range(NUMBER)] == sorted(handled)
    assert {key: [*range(key, NUMBER, 12)] for key in range(12)} == came
    assert together > 1
