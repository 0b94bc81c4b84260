"""The atomic move of a message that is retried, and what becomes of a worker whose name another one takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from typing import ClassVar

import pytest

from plugins.kafka.tests.foreign import read
from plugins.kafka.tests.test_contract import OnKafka
from plugins.kafka.tests.test_deaths import bodies, take
from postbus import stamps
from postbus.dsn import Dsn
from postbus.errors import TransportError
from postbus.testing.rules.failures import Failures
from postbus.transport import Outgoing
from postbus_kafka.connection import KafkaConnection
from postbus_kafka.membership import Settlement
from postbus_kafka.options import Settings
from postbus_kafka.publishing import Publisher
from postbus_kafka.topics import Topics
from postbus_kafka.transactions import Transactions
from postbus_kafka.untyped import OffsetAndMetadata, TopicPartition
from tests.brokers.kafka import Kafka

pytestmark = [pytest.mark.slow, pytest.mark.once]

COPY = Outgoing(b"copy", {}, 0.0, (stamps.Retried(1, datetime.now(UTC)),))


class TestContract(OnKafka, Failures):
    """The rules about copies, with transactions."""

    options: ClassVar[str] = f"{OnKafka.options}&transactional=1"

    @pytest.fixture(autouse=True)
    def use(self, kafka_plain: Kafka) -> None:
        """Have a broker."""
        self.kafka = kafka_plain


@pytest.fixture
def make(kafka_plain: Kafka, topic: str) -> Iterator[Callable[..., Transactions]]:
    """Return what makes the transactions of another worker."""
    with ExitStack() as stack:

        def make_one(**options: object) -> Transactions:
            given = {"partitions": 1, "delays": ["1"], **options}
            settings = Settings(Dsn.parse(f"{kafka_plain.dsn}/{topic}").with_options(given))
            topics = stack.enter_context(closing(Topics(settings, "test")))
            topics.setup()
            publisher = stack.enter_context(closing(Publisher(settings, "test", topics)))
            return stack.enter_context(closing(Transactions(settings, "test", publisher)))

        yield make_one


def test_who_was_replaced_leaves_the_successor_alone(
    kafka_plain: Kafka, topic: str, make: Callable[..., Transactions]
) -> None:
    """The older of two workers of one name moves nothing more, and says why; the newer one goes on."""
    old, new = (make(group_instance_id="one", group="g") for _ in range(2))
    settlement = Settlement({TopicPartition(topic, 0): OffsetAndMetadata(0, "", -1)}, "g")
    assert old.replace(COPY, settlement) == f"{topic}.g.retry/0/0"
    new.replace(COPY, settlement)
    for _ in range(2):
        with pytest.raises(TransportError, match="Another worker has taken over the name"):
            old.replace(COPY, settlement)
    new.replace(COPY, settlement)
    new.replace(COPY, settlement)
    assert 4 == len(read(kafka_plain, f"{topic}.g.retry", 5, patience=2))


def test_who_begins_ends_what_was_left_undone(
    topic: str, make: Callable[..., Transactions], connect: Callable[..., KafkaConnection]
) -> None:
    """What a worker had begun when it was killed keeps nothing back from the next one of its name."""
    killed = make(group_instance_id="one", send_timeout=600)  # The broker would have patience for as long.
    killed.open()
    producer = killed._opened.client  # type: ignore[union-attr]
    producer.begin_transaction()
    producer.send(topic, b"undone").get(30)
    connection = connect(partitions="1", group_instance_id="one", transactional=True)
    connection.publish([Outgoing(b"behind", {})])

    assert ["behind"] == bodies(take(connection, 1))


def test_a_transaction_that_fails_stores_nothing(
    kafka_plain: Kafka, topic: str, make: Callable[..., Transactions]
) -> None:
    """What was written before is not seen by anybody, and the next one works."""
    kafka_plain.create_topic(f"{topic}.g.retry", max_message_bytes=2000)
    transactions = make(group="g")
    settlement = Settlement({TopicPartition(topic, 0): OffsetAndMetadata(0, "", -1)}, "g")
    large = Outgoing(b"x" * 3000, {}, 0.0, COPY.stamps)
    with pytest.raises(TransportError, match="refuses"):
        transactions.replace(large, settlement)
    transactions.replace(COPY, settlement)
    assert [b"copy"] == [record.value for record in read(kafka_plain, f"{topic}.g.retry", 1)]
