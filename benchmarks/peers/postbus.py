"""Postbus, measured as the others are, with its default settings."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from benchmarks.peers import CUSTOMER, QUEUE, Tally
from benchmarks.raw import kafka, postgresql, rabbitmq, sqs
from benchmarks.raw.redis import Stream
from postbus import Limits, Postbus

QUEUES: dict[str, Any] = {
    "redis": Stream,
    "amqp": rabbitmq.Queue,
    "kafka": kafka.Topic,
    "sqs": sqs.Queue,
    "postgresql": postgresql.Table,
}


@dataclass(frozen=True, slots=True)
class OrderPlaced:
    number: int
    customer: str


class Peer:
    """A worker's time ends when the last message is settled."""

    def __init__(self, url: str) -> None:
        self._tally = tally = Tally()
        # Only to empty the queue: not every transport can.
        scheme, _, place = url.partition("://")
        self._queue = QUEUES[scheme](place if scheme == "kafka" else url, f"{QUEUE}-postbus")
        self._app = Postbus(transports={"async": self._queue.dsn}, routing={OrderPlaced: "async"})

        @self._app.handler
        def do_nothing(order: OrderPlaced) -> None:
            tally(order.number)

    def purge(self) -> None:
        self._app.dispatch(OrderPlaced(-1, CUSTOMER))  # Which makes the queue.
        self._queue.empty()

    def enqueue(self, numbers: range) -> None:
        for number in numbers:
            self._app.dispatch(OrderPlaced(number, CUSTOMER))

    def enqueue_many(self, numbers: range) -> None:
        self._app.dispatch_many(OrderPlaced(number, CUSTOMER) for number in numbers)

    def work(self, count: int) -> float:
        self._tally.expect(count, lambda: None)
        self._app.worker("async", limits=Limits(messages=count)).run()
        ended = time.perf_counter()
        return max(self._tally.seconds, ended - self._tally.began)


make = Peer
