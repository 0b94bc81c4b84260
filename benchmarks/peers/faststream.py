"""FastStream."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Any

import redis
import redis.asyncio
import uvloop
from fast_depends.msgspec import MsgSpecSerializer
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue
from faststream.redis import RedisBroker, StreamSub

from benchmarks.peers import CUSTOMER, QUEUE, Tally
from benchmarks.raw.kafka import Topic

NAME = f"{QUEUE}-faststream"
GROUP = "workers"
RECORDS = 500
PREFETCH = 1000
BATCH = 500
"""How many messages are published at once."""


class Peer:
    """One event loop for all that is done with the broker, as in the command line's own."""

    def __init__(self, url: str) -> None:
        self._tally = Tally()
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._broker = self.make_broker(url)
        self._runner.run(self._broker.connect())

    @abstractmethod
    def make_broker(self, url: str) -> Any: ...

    @abstractmethod
    def publish(self, number: int) -> Any: ...

    @abstractmethod
    async def publish_batch(self, numbers: range) -> None: ...

    def enqueue(self, numbers: range) -> None:
        async def publish_all() -> None:
            for number in numbers:
                await self.publish(number)

        self._runner.run(publish_all())

    def enqueue_many(self, numbers: range) -> None:
        async def publish_all() -> None:
            for start in range(0, len(numbers), BATCH):
                await self.publish_batch(numbers[start : start + BATCH])

        self._runner.run(publish_all())

    def work(self, count: int) -> float:
        async def consume() -> None:
            done = asyncio.Event()
            self._tally.expect(count, done.set)
            await self._broker.start()
            await done.wait()
            await self._broker.stop()

        self._runner.run(consume())
        return self._tally.seconds


class OnRedis(Peer):
    """A stream with a consumer group, so that messages are acknowledged after they were handled."""

    def make_broker(self, url: str) -> Any:
        broker = RedisBroker(url, logger=None, serializer=MsgSpecSerializer())
        tally = self._tally
        self._client = redis.Redis.from_url(url)
        self._pipelines = redis.asyncio.Redis.from_url(url)

        @broker.subscriber(stream=StreamSub(NAME, group=GROUP, consumer="worker", max_records=RECORDS))
        async def do_nothing(number: int, customer: str) -> None:
            tally(number)

        return broker

    def publish(self, number: int, **options: Any) -> Any:
        return self._broker.publish({"number": number, "customer": CUSTOMER}, stream=NAME, **options)

    async def publish_batch(self, numbers: range) -> None:
        async with self._pipelines.pipeline(transaction=False) as pipeline:
            for number in numbers:
                await self.publish(number, pipeline=pipeline)
            await pipeline.execute()

    def purge(self) -> None:
        self._client.delete(NAME)
        self._client.xgroup_create(NAME, GROUP, id="0", mkstream=True)


class OnRabbitMQ(Peer):
    """A durable queue and persistent messages; confirms are the default."""

    def make_broker(self, url: str) -> Any:
        broker = RabbitBroker(
            url, logger=None, serializer=MsgSpecSerializer(), default_channel=Channel(prefetch_count=PREFETCH)
        )
        tally = self._tally
        self._queue = RabbitQueue(NAME, durable=True)

        @broker.subscriber(self._queue)
        async def do_nothing(number: int, customer: str) -> None:
            tally(number)

        return broker

    def publish(self, number: int) -> Any:
        return self._broker.publish({"number": number, "customer": CUSTOMER}, self._queue, persist=True)

    async def publish_batch(self, numbers: range) -> None:
        await asyncio.gather(*map(self.publish, numbers))

    def purge(self) -> None:
        async def declare_and_purge() -> None:
            queue = await self._broker.declare_queue(self._queue)
            await queue.purge()

        self._runner.run(declare_and_purge())


class OnKafka(Peer):
    """A topic and a consumer group; what was handled is committed, as it is nowhere by default."""

    def make_broker(self, url: str) -> Any:
        servers = url.removeprefix("kafka://")
        broker = KafkaBroker(servers, logger=None, serializer=MsgSpecSerializer(), acks="all", enable_idempotence=True)
        tally = self._tally
        self._topic = Topic(servers, NAME)

        @broker.subscriber(NAME, group_id=GROUP, auto_offset_reset="earliest", ack_policy=AckPolicy.ACK)
        async def do_nothing(number: int, customer: str) -> None:
            tally(number)

        return broker

    def publish(self, number: int) -> Any:
        return self._broker.publish({"number": number, "customer": CUSTOMER}, NAME)

    async def publish_batch(self, numbers: range) -> None:
        await asyncio.gather(*map(self.publish, numbers))

    def purge(self) -> None:
        self._topic.delete()
        self._topic.setup()


def make(url: str) -> Peer:
    """Return what uses the broker of this URL."""
    kinds = {"redis": OnRedis, "amqp": OnRabbitMQ, "kafka": OnKafka}
    return kinds[url.partition("://")[0]](url)
