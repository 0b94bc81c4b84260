"""Topics that are shared with other programs: what they write is handled or buried as it came, and they read ours."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from plugins.kafka.tests.foreign import read, write
from postbus.transport import Delivery, Outgoing
from postbus_kafka.connection import KafkaConnection
from postbus_kafka.stamps import KafkaKey, KafkaRecord
from tests.brokers.kafka import Kafka, KafkaSasl, KafkaTls

pytestmark = [pytest.mark.slow, pytest.mark.once]

PATIENCE = 60.0
CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"
PRODUCER = "org.apache.kafka.tools.ConsoleProducer"
CODECS = ("gzip", "snappy", "lz4", "zstd")

Connect = Callable[..., KafkaConnection]


def take(connection: KafkaConnection, number: int) -> list[Delivery]:
    """Fetch and ack so many messages."""
    end = time.monotonic() + PATIENCE
    found: list[Delivery] = []
    while len(found) < number and time.monotonic() < end:
        fetched = connection.fetch(number - len(found), 1)
        connection.ack([delivery.tag for delivery in fetched])
        found += fetched
    assert number <= len(found)
    return found


def test_records_without_anything_of_ours(kafka_plain: Kafka, connect: Connect, topic: str) -> None:
    """No headers, any bytes, a text key, no key, a header without a value, one that is no text: all are delivered."""
    records: list[dict[str, Any]] = [
        {"value": b"plain"},
        {"value": b"\xff\x00", "key": b"text"},
        {"value": b"", "key": b"\xff"},
        {"value": b"odd", "headers": [("a", b""), ("b", b"\xff")]},
    ]
    kafka_plain.create_topic(topic)
    write(kafka_plain, topic, records)
    plain, keyed, empty, odd = take(connect(), 4)
    assert (b"plain", {}, None) == (plain.body, dict(plain.headers), plain.problem)
    assert (b"\xff\x00", "text", b"text") == (keyed.body, keyed.group, stamp_of(keyed).key)
    assert (b"", b"\xff", None) == (empty.body, stamp_of(empty).key, empty.problem)
    assert b"odd" == odd.body
    assert odd.problem is not None


def stamp_of(delivery: Delivery) -> KafkaRecord:
    return next(stamp for stamp in delivery.stamps if isinstance(stamp, KafkaRecord))


def test_a_tombstone_is_buried(kafka_plain: Kafka, connect: Connect, topic: str) -> None:
    """A record without a value is no message, and its neighbours are delivered."""
    kafka_plain.create_topic(topic)
    write(kafka_plain, topic, [{"value": b"a", "key": b"k"}, {"value": None, "key": b"k"}, {"value": b"b"}])
    before, tombstone, after = take(connect(), 3)
    assert (b"a", b"b") == (before.body, after.body)
    assert "no value" in str(tombstone.problem)
    assert b"k" == stamp_of(tombstone).key


@pytest.mark.parametrize("codec", CODECS)
def test_compressed_records_of_others(kafka_plain: Kafka, connect: Connect, topic: str, codec: str) -> None:
    """Whatever they are compressed with."""
    kafka_plain.create_topic(topic)
    bodies = [f"{number} ".encode() * 500 for number in range(50)]
    write(kafka_plain, topic, [{"value": body} for body in bodies], compression_type=codec, linger_ms=50)
    assert bodies == [delivery.body for delivery in take(connect(), 50)]


@pytest.mark.parametrize("codec", CODECS)
def test_our_records_compressed(kafka_plain: Kafka, connect: Connect, topic: str, codec: str) -> None:
    """Others read what we have compressed."""
    kafka_plain.create_topic(topic)
    body = b"compress me " * 1000
    connect(compression=codec).publish([Outgoing(body, {})])
    (record,) = read(kafka_plain, topic, 1)
    assert body == record.value


def test_the_console_consumer_reads_ours(kafka_plain: Kafka, connect: Connect, topic: str) -> None:
    """Body, key and headers are what Kafka's own program calls that."""
    connect().publish([Outgoing(b'{"order_id": 13}', {"type": "order"}, stamps=(KafkaKey(b"13"),))])
    printed = kafka_plain.run_tool(
        CONSUMER,
        *("--bootstrap-server", kafka_plain.addresses, "--topic", topic, "--from-beginning"),
        *("--max-messages", "1", "--timeout-ms", "50000"),
        *("--property", "print.key=true", "--property", "print.headers=true"),
    )
    assert 'type:order\t13\t{"order_id": 13}' == printed.strip().splitlines()[-1]


def test_the_console_producer_writes_to_us(kafka_plain: Kafka, connect: Connect, topic: str) -> None:
    """A line that somebody types is a message."""
    kafka_plain.create_topic(topic)
    kafka_plain.run_tool(
        PRODUCER, "--bootstrap-server", kafka_plain.addresses, "--topic", topic, text='{"order_id": 14}\n'
    )
    (delivery,) = take(connect(), 1)
    assert b'{"order_id": 14}' == delivery.body


def test_through_a_password_and_tls(
    kafka_sasl: KafkaSasl, kafka_tls: KafkaTls, connect_to: Callable[..., KafkaConnection]
) -> None:
    """A message goes there and back by each of the ways in."""
    ca = str(kafka_tls.certificates.ca_file)
    for dsn, options in (
        (kafka_tls.dsn, {"ssl_ca": ca}),
        (kafka_sasl.dsn, {"sasl_mechanism": "SCRAM-SHA-256"}),
        (kafka_sasl.tls_dsn, {"sasl_mechanism": "SCRAM-SHA-512", "ssl_ca": ca}),
    ):
        connection = connect_to(dsn, **options)
        connection.publish([Outgoing(b"there", {})])
        assert [b"there"] == [delivery.body for delivery in take(connection, 1)]
        connection.close()


def test_more_partitions_under_load(
    kafka_plain: Kafka, connect: Connect, topic: str, in_background: Callable[[Callable[[], Any]], Future[Any]]
) -> None:
    """What lands in a partition that was added while messages came is delivered too, once."""
    number = 3000
    connection = connect(partitions=1)
    connection.setup()

    def publish() -> None:
        sender = connect(partitions=1)
        for start in range(0, number, 100):
            sender.publish([Outgoing(b"%d" % n, {}, stamps=(KafkaKey(b"%d" % n),)) for n in range(start, start + 100)])
            if start == 1000:
                with kafka_plain.admin() as admin:
                    admin.create_partitions({topic: 4})
            time.sleep(0.1)

    published = in_background(publish)
    found = take(connection, number)
    published.result(PATIENCE)
    assert {b"%d" % n for n in range(number)} == {delivery.body for delivery in found}
    assert number == len(found)
    assert 1 < len({stamp_of(delivery).partition for delivery in found})
