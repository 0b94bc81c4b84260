"""confluent-kafka in a plain loop: what a program does that needs no library between itself and Kafka."""

from __future__ import annotations

import json

from confluent_kafka import Consumer, Producer

from benchmarks.peers import CUSTOMER, QUEUE, Tally
from benchmarks.raw.kafka import Topic

NAME = f"{QUEUE}-confluent"
RECORDS = 500
"""How many messages are consumed, and then committed, at once."""


class Peer:
    """One consumer, which commits what it has handled; a producer that is as durable as ours."""

    def __init__(self, url: str) -> None:
        servers = url.removeprefix("kafka://")
        self._tally = Tally()
        self._topic = Topic(servers, NAME)
        self._servers = {"bootstrap.servers": servers}
        self._producer = Producer(self._servers | {"enable.idempotence": True, "linger.ms": 5})

    def purge(self) -> None:
        self._topic.delete()
        self._topic.setup()

    def enqueue(self, numbers: range) -> None:
        for number in numbers:
            self._produce(number)
            self._producer.flush()

    def enqueue_many(self, numbers: range) -> None:
        for number in numbers:
            self._produce(number)
        self._producer.flush()

    def work(self, count: int) -> float:
        done: list[None] = []
        self._tally.expect(count, lambda: done.append(None))
        consumer = Consumer(
            self._servers | {"group.id": NAME, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
        )
        consumer.subscribe([NAME])
        while not done:
            records = consumer.consume(RECORDS, 0.1)
            for record in records:
                self._tally(json.loads(record.value() or b"")["number"])
            if records:
                consumer.commit(asynchronous=True)
        consumer.close()
        return self._tally.seconds

    def _produce(self, number: int) -> None:
        body = json.dumps({"number": number, "customer": CUSTOMER}).encode()
        while True:
            try:
                self._producer.produce(NAME, body)
            except BufferError:
                self._producer.poll(0.1)
            else:
                return


make = Peer
