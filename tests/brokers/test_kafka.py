"""Every variant of Kafka answers at its DSN, and can be broken as its class says."""

from __future__ import annotations

import ssl
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from tests.brokers.kafka import Kafka, KafkaCluster, KafkaSasl, KafkaTls, OwnKafka, admin_of, thorough

pytestmark = [pytest.mark.slow, pytest.mark.once]


def addresses_of(dsn: str) -> list[str]:
    return dsn.partition("://")[2].rpartition("@")[2].split(",")


@contextmanager
def producer_to(dsn: str, **options: Any) -> Generator[KafkaProducer]:
    options = {"acks": "all", "bootstrap_timeout_ms": 30_000} | options
    producer = KafkaProducer(bootstrap_servers=addresses_of(dsn), **options)
    try:
        yield producer
    finally:
        producer.close(timeout=0)


def read(dsn: str, topic: str, number: int) -> list[bytes]:
    """Return what is in the only partition of a topic, as soon as there is so much."""
    consumer = KafkaConsumer(bootstrap_servers=addresses_of(dsn), auto_offset_reset="earliest")
    values: list[bytes] = []
    try:
        consumer.assign([TopicPartition(topic, 0)])
        deadline = time.monotonic() + 30
        while len(values) < number and time.monotonic() < deadline:
            for records in consumer.poll(500).values():
                values += [record.value for record in records]
    finally:
        consumer.close()
    return values


def test_plain(kafka_plain: Kafka) -> None:
    """A topic can be created, written, read and deleted."""
    kafka_plain.create_topic("plain", cleanup_policy="compact")
    with producer_to(kafka_plain.dsn) as producer:
        producer.send("plain", b"here", key=b"key").get(30)
    assert [b"here"] == read(kafka_plain.dsn, "plain", 1)
    kafka_plain.delete_topic("plain")
    with kafka_plain.admin() as admin:
        assert "plain" not in admin.list_topics()


def test_tls(kafka_tls: KafkaTls) -> None:
    """The broker shows a certificate of our authority; a client may show one too."""
    files = kafka_tls.certificates
    context = ssl.create_default_context(cafile=files.ca_file)
    for _ in range(2):
        with admin_of(*addresses_of(kafka_tls.dsn), security_protocol="SSL", ssl_context=context) as admin:
            assert 1 == len(admin.describe_cluster()["brokers"])
        context.load_cert_chain(files.certificate, files.key)


@pytest.mark.parametrize("mechanism", KafkaSasl.mechanisms)
@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_sasl(kafka_sasl: KafkaSasl, protocol: str, mechanism: str) -> None:
    """The user comes in with the password, with any mechanism, and nobody without."""
    dsn = kafka_sasl.dsn if protocol == "SASL_PLAINTEXT" else kafka_sasl.tls_dsn
    address = urlsplit(dsn)
    options = {
        "security_protocol": protocol,
        "sasl_mechanism": mechanism,
        "sasl_plain_username": address.username,
        "sasl_plain_password": unquote(address.password or ""),
        "ssl_cafile": str(kafka_sasl.brokers.certificates.ca_file),
    }
    with admin_of(*addresses_of(dsn), **options) as admin:
        assert 1 == len(admin.describe_cluster()["brokers"])
    options |= {"sasl_plain_password": "wrong", "bootstrap_timeout_ms": 1000}
    with pytest.raises(KafkaError), admin_of(*addresses_of(dsn), **options):
        pass


class TestBreaking:
    """All of them break the same broker."""

    def test_a_network_in_front(self, own_kafka: OwnKafka) -> None:
        """A client that came through the network is sent through it from then on, so it can be cut off."""
        own_kafka.create_topic("network")
        with own_kafka.partition() as network, producer_to(network.dsn) as producer:
            producer.send("network", b"first").get(30)
            assert network.connections
            network.cut()
            waiting = producer.send("network", b"second")
            with pytest.raises(KafkaError):
                waiting.get(1)
            network.heal()
            waiting.get(30)
        assert [b"first", b"second"] == read(own_kafka.dsn, "network", 2)

    @thorough  # The contract's rules do the same.
    @pytest.mark.parametrize("how", ["stop", "kill"])
    def test_data_outlives_the_broker(self, own_kafka: OwnKafka, how: str) -> None:
        """Stopped or killed, and started again on the same port, it has what it confirmed."""
        topic = f"kept-{how}"
        own_kafka.create_topic(topic)
        with producer_to(own_kafka.dsn) as producer:
            producer.send(topic, b"before").get(30)
            getattr(own_kafka, how)()
            own_kafka.start()
            producer.send(topic, b"after").get(30)
        assert [b"before", b"after"] == read(own_kafka.dsn, topic, 2)

    def test_a_paused_broker_goes_on(self, own_kafka: OwnKafka) -> None:
        """A paused broker answers nothing, and everything when it is resumed."""
        own_kafka.create_topic("paused")
        with producer_to(own_kafka.dsn) as producer:
            producer.send("paused", b"before").get(30)
            own_kafka.pause()
            waiting = producer.send("paused", b"meanwhile")
            with pytest.raises(KafkaError):
                waiting.get(1)
            own_kafka.resume()
            waiting.get(30)
        assert [b"before", b"meanwhile"] == read(own_kafka.dsn, "paused", 2)


@thorough  # The plugin's tests do the same.
def test_a_cluster_does_without_one(kafka_cluster: KafkaCluster) -> None:
    """With one of three brokers away the others take and give records; mended, it has all three."""
    kafka_cluster.create_topic("cluster")
    with producer_to(kafka_cluster.dsn) as producer:
        kafka_cluster.servers[0].kill()
        producer.send("cluster", b"by two").get(30)
        kafka_cluster.mend()
        producer.send("cluster", b"by three").get(30)
    assert [b"by two", b"by three"] == read(kafka_cluster.dsn, "cluster", 2)
    assert all({1, 2, 3} == server.known() for server in kafka_cluster.servers)
