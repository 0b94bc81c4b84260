"""The contract, on each way to reach Kafka, and on one that is stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar
from uuid import uuid4

import pytest
from kafka import KafkaProducer
from msgspec.structs import replace

from plugins.kafka.tests.faults import OPTIONS
from postbus.dsn import Dsn
from postbus.testing import TransportContract, TransportFaults, TransportHistories
from postbus.testing.rules.restarts import Restarts
from postbus.testing.workbench import Broker as Breakable
from postbus.testing.workbench import Workbench
from postbus.transport import Outgoing
from postbus_kafka import GUARANTEES
from tests.brokers.kafka import Kafka, OwnKafka
from tests.faults.subjects import certified

pytestmark = pytest.mark.slow

QUICK = "partitions=2&session_timeout=3&heartbeat_interval=0.1&metadata_interval=2&delays[]=0.5&delays[]=5"


class OnKafka(Workbench):
    """Each test has a topic of its own."""

    plugin = "postbus_kafka"
    guarantees = GUARANTEES
    patience = 30.0
    """Seconds that a busy machine may take to divide partitions anew, which any fetch by another client begins with."""
    load = 1000
    refused = Outgoing(b"refused", {}, delay=float("inf"))

    kafka: Kafka
    options = f"{QUICK}&timeout=20"

    def dsn(self) -> str:
        return f"{self.kafka.dsn}/{uuid4()}?{self.options}"

    def put_foreign(self, body: bytes, headers: Mapping[str, object] | None) -> bool:
        given = [(name, _as_bytes(value)) for name, value in (headers or {}).items()]
        topic = Dsn.parse(self.queue).segments[0]
        producer = KafkaProducer(bootstrap_servers=self.kafka.addresses.split(","))
        try:
            producer.send(topic, body, headers=given).get(self.patience)
        finally:
            producer.close()
        return True


@pytest.mark.once
class TestPlain(OnKafka, TransportContract):
    @pytest.fixture(autouse=True)
    def _use(self, kafka_plain: Kafka) -> None:
        self.kafka = kafka_plain


@pytest.mark.once
class TestBreakable(OnKafka, Restarts):
    broker_options: ClassVar = "&timeout=3&lost_after=1"
    quiet = 2.0  # Longer than it takes to hear of a loss: a fetch that ends before simply has nothing.

    @pytest.fixture(autouse=True)
    def _use(self, own_kafka: OwnKafka) -> None:
        self.kafka = own_kafka
        self.options = QUICK + self.broker_options

    def broker(self) -> Breakable:
        return self.kafka  # type: ignore[return-value]


@pytest.mark.once
class TestHistories(OnKafka, TransportHistories):
    # What a client had that left in order counts for nothing, and the model would have it counted.
    guarantees = replace(GUARANTEES, delivery_count=False)
    clients = 1
    histories = 2
    steps = 15
    rounding = 1.5
    short_delay = 0.6

    @pytest.fixture(autouse=True)
    def _use(self, kafka_plain: Kafka) -> None:
        self.kafka = kafka_plain
        self.options = self.options.replace("partitions=2", "partitions=1")


def _as_bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@certified
@pytest.mark.once
@pytest.mark.timeout(0)
class TestFaults(OnKafka, TransportFaults):
    options = OPTIONS
    unanswered = 3.0
    moving = 5.0

    @pytest.fixture(autouse=True)
    def _use(self, kafka_plain: Kafka) -> None:
        self.kafka = kafka_plain

    def failed_dsn(self) -> str:
        return f"{self.dsn()}&mode=store"
