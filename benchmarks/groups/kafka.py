"""Kafka, with a topic of six partitions.

The raw equivalent is kafka-python with the settings that the plugin gives it: see the README.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager
from uuid import uuid4

from benchmarks import broker, idle, machine
from benchmarks.groups import Prepared
from benchmarks.measuring import Figure, seconds_per
from benchmarks.messages import MESSAGE, TRANSPORT, OrderPlaced, make_app
from benchmarks.raw.kafka import Topic
from postbus import Limits
from postbus.queue_transport import QueueTransport

WORKED_OFF = 50_000
STORED = 10_000
STORED_SINGLY, SINGLE_ROUNDS = 250, 20
PINGS = 100
SECONDS_IDLE = 10.0


class Contenders:
    """Topics, each made for one measurement: nothing but that empties one."""

    def __init__(self, addresses: str, stack: ExitStack) -> None:
        self._addresses = addresses
        self._stack = stack
        sample = self.topic()
        with make_app(sample.dsn) as app:
            app.dispatch(MESSAGE)
        self._record = sample.pop()

    def topic(self) -> Topic:
        """Return a topic that does not exist yet."""
        topic = Topic(self._addresses, f"bench-{uuid4()}", getattr(self, "_record", None))
        self._stack.callback(topic.close)
        self._stack.callback(topic.delete)
        return topic

    def work_off(self) -> float:
        """Let a worker take what is stored; joining the group, which takes seconds for both, does not count."""
        topic = self.topic()
        times: list[float] = []

        def handle(order: OrderPlaced) -> None:
            if not times:
                times.append(time.perf_counter())

        with make_app(topic.dsn, handle) as app:
            app.dispatch(MESSAGE)  # Which makes the topic.
            topic.store(WORKED_OFF - 1)
            app.worker(TRANSPORT, limits=Limits(messages=WORKED_OFF)).run()
        # With its close, which commits the last of them and leaves the group.
        return (time.perf_counter() - times[0]) / WORKED_OFF

    def fetch(self) -> float:
        """Let a connection fetch and settle what is stored, with no worker around it."""
        topic = self.topic()
        with make_app(topic.dsn) as app:
            app.dispatch(MESSAGE)
            topic.store(WORKED_OFF - 1)
            transport = app.transport(TRANSPORT)
            assert isinstance(transport, QueueTransport)
            began, left = 0.0, WORKED_OFF
            while left > 0:
                deliveries = transport.connection.fetch(1000, 1.0)
                began = began or (time.perf_counter() if deliveries else 0.0)
                transport.connection.ack([delivery.tag for delivery in deliveries])
                left -= len(deliveries)
        return (time.perf_counter() - began) / WORKED_OFF  # With its close, as above.

    def take(self) -> float:
        """Let the client take as many."""
        topic = self.topic()
        topic.setup()
        topic.store(WORKED_OFF)
        return topic.take(WORKED_OFF) / WORKED_OFF

    def figures(self) -> Iterable[Figure]:
        """Return all figures."""
        yield Figure(
            name="worker, a handler that does nothing\nraw: poll, and one commit for each",
            ours=self.work_off,
            raw=self.take,
            target=0.4,
        )
        yield Figure(
            name="connection: fetch and ack 1 000 at a time\nraw: poll, and one commit for each",
            ours=self.fetch,
            raw=self.take,
            target=0.85,
        )
        ours, raw = self.topic(), self.topic()
        raw.setup()
        app = self._stack.enter_context(make_app(ours.dsn))
        app.dispatch(MESSAGE)
        yield Figure(
            name="dispatch_many\nraw: send in windows of 1 000, flush, look at each future",
            ours=lambda: seconds_per(STORED, lambda: app.dispatch_many([MESSAGE] * STORED)),
            raw=lambda: seconds_per(STORED, lambda: raw.store(STORED)),
            target=0.5,
        )
        yield Figure(
            name="dispatch, one by one\nraw: send and flush, one by one",
            ours=lambda: seconds_per(STORED_SINGLY, lambda: [app.dispatch(MESSAGE) for _ in range(STORED_SINGLY)]),
            raw=lambda: seconds_per(STORED_SINGLY, lambda: raw.store_singly(STORED_SINGLY)),
            target=0.8,
            rounds=SINGLE_ROUNDS,
        )
        yield from self._waiting()

    def _waiting(self) -> Iterable[Figure]:
        ours, raw = self.topic(), self.topic()
        raw.setup()
        with make_app(ours.dsn) as app:
            app.dispatch(MESSAGE)
            app.worker(TRANSPORT, limits=Limits(messages=1)).run()
        with idle.pinging(ours.dsn) as [ping], idle.listening(raw.listener, raw.ping) as [raw_ping]:
            yield Figure(
                name="idle worker: from dispatch in another process to the handler\nraw: the same two steps",
                ours=ping,
                raw=raw_ping,
                comparison="difference",
                target=3e-3,
                rounds=PINGS,
            )
        yield Figure(
            name=f"idle worker: share of a core, over {SECONDS_IDLE:.0f} s",
            ours=lambda: idle.waiting_cost(SECONDS_IDLE, ours.dsn),
            comparison="cost",
            unit="%",
            rounds=1,
            warm_up=False,
        )


@contextmanager
def figures() -> Generator[Prepared]:
    """Measure with the broker on one core and this process on another."""
    with broker.running("kafka_plain") as url, ExitStack() as stack:
        contenders = Contenders(url.removeprefix("kafka://"), stack)
        conditions = {
            "Libraries": machine.versions("postbus", "postbus-kafka", "kafka-python", "crc32c"),
            "Durability": "acks=all, idempotent, one broker; committed every 0.5 s, and raw after each poll",
            "Cores": broker.CORES,
        }
        yield conditions, contenders.figures()
