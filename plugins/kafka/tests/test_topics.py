"""The topics that a transport needs: what is said to be missing, and what setting up makes of it."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any
from uuid import uuid4

import pytest
from kafka.admin import ConfigResource

from postbus.dsn import Dsn
from postbus.errors import ConnectionLost, TransportError
from postbus.transport import Absence
from postbus_kafka.options import Settings
from postbus_kafka.topics import Topics
from tests.brokers.kafka import Kafka, KafkaSasl, KafkaTls
from tests.brokers.network import reserve_port

pytestmark = [pytest.mark.slow, pytest.mark.once]

MakeTopics = Callable[..., Topics]
SOON = 2
"""Seconds for which the client tries what will never go well: so long it takes to be told."""


@pytest.fixture
def name() -> str:
    """Give a name that nobody else has."""
    return f"test-{uuid4()}"


@pytest.fixture
def make(name: str) -> Iterator[MakeTopics]:
    """Return what makes the topics of a transport on the test's own one."""
    with ExitStack() as stack:

        def make_topics(dsn: str, **options: object) -> Topics:
            settings = Settings(Dsn.parse(f"{dsn}/{name}").with_options({"timeout": 4, **options}))
            return stack.enter_context(closing(Topics(settings, "test")))

        yield make_topics


def configs_of(broker: Kafka, topic: str) -> dict[str, Any]:
    with broker.admin() as admin:
        found = admin.describe_configs([ConfigResource("topic", topic)], config_filter="all")["topic"][topic]
    return {name: config["value"] for name, config in found.items()}


def partitions_of(broker: Kafka, topic: str) -> int:
    with broker.admin() as admin:
        return len(admin.describe_topics([topic])[0]["partitions"])


def test_setting_up_makes_all_that_is_missing(kafka_plain: Kafka, name: str, make: MakeTopics) -> None:
    """The topic, the group's retry topic and the buckets; nothing of what waits in one of those expires."""
    topics = make(kafka_plain.dsn, group="ours", partitions=3, delays=["2", "0.5"])
    expected = [name, f"{name}.ours.retry", *(f"{name}.delay.{length}s" for length in ("0", "0.5", "2"))]
    missing = topics.missing()
    assert all(isinstance(sentence, Absence) for sentence in missing)
    assert expected == [sentence.split("'")[1] for sentence in missing]
    topics.setup()
    assert [] == topics.missing()
    assert [3, 3, 1, 1, 1] == [partitions_of(kafka_plain, topic) for topic in expected]
    waiting = configs_of(kafka_plain, f"{name}.delay.2s")
    assert ("-1", "LogAppendTime") == (waiting["retention.ms"], waiting["message.timestamp.type"])


def test_setting_up_is_repeatable_and_changes_nothing(kafka_plain: Kafka, name: str, make: MakeTopics) -> None:
    """From several processes at once, too; a topic that somebody has made stays as it is."""
    kafka_plain.create_topic(name, 2, retention_ms=1234567)
    every = [make(kafka_plain.dsn, delays=["1"]) for _ in range(4)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(Topics.setup, every))
    every[0].setup()
    assert (2, "1234567") == (partitions_of(kafka_plain, name), configs_of(kafka_plain, name)["retention.ms"])


def test_a_failure_transport_is_compacted(kafka_plain: Kafka, name: str, make: MakeTopics) -> None:
    """One that the broker would delete from is told of, as nothing makes that right by itself."""
    topics = make(kafka_plain.dsn, mode="store")
    assert [f"Kafka at {kafka_plain.addresses} has no topic '{name}'. Run `postbus setup`."] == topics.missing()
    topics.setup()
    assert [] == topics.missing()
    assert "compact" == configs_of(kafka_plain, name)["cleanup.policy"]
    kafka_plain.create_topic(f"{name}-not")
    (sentence,) = make(kafka_plain.dsn, mode="store", topics=[f"{name}-not"]).missing()
    assert "cleanup.policy=delete" in sentence
    assert not isinstance(sentence, Absence)


def test_larger_messages_are_allowed_for(kafka_plain: Kafka, name: str, make: MakeTopics) -> None:
    """A topic takes what the option says, and a bucket what that becomes when it waits."""
    make(kafka_plain.dsn, largest_message=5_000_000, delays=["1"]).setup()
    sizes = [int(configs_of(kafka_plain, topic)["max.message.bytes"]) for topic in (name, f"{name}.delay.1s")]
    assert 5_000_000 < sizes[0] < sizes[1]


def test_more_copies_than_brokers(kafka_plain: Kafka, make: MakeTopics) -> None:
    """Says so, and names the option."""
    with pytest.raises(TransportError, match="too few brokers for option 'replication'"):
        make(kafka_plain.dsn, replication=5).setup()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # They may be collected at any moment: see below.
class TestReaching:
    """What is told of a broker that cannot be talked to: the client itself only says that it waited in vain."""

    @pytest.fixture(autouse=True)
    def collect(self) -> Iterator[None]:
        """Collect at once what the client has left: a socket whose handshake failed is not closed by it."""
        yield
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()

    def test_nobody_there(self, make: MakeTopics) -> None:
        """It cannot be reached, for now."""
        with pytest.raises(ConnectionLost, match="cannot be reached: .*ECONNREFUSED"):
            make(f"kafka://127.0.0.1:{reserve_port()}", timeout=SOON).missing()

    def test_one_of_several_is_enough(self, kafka_plain: Kafka, make: MakeTopics) -> None:
        """A server that is down is passed over."""
        make(f"kafka://127.0.0.1:{reserve_port()},{kafka_plain.addresses}").setup()

    @pytest.mark.parametrize("mechanism", KafkaSasl.mechanisms)
    def test_logging_in(self, kafka_sasl: KafkaSasl, make: MakeTopics, mechanism: str) -> None:
        """With the password it works; with another one the user or the password is refused, and neither is shown."""
        make(kafka_sasl.dsn, sasl_mechanism=mechanism).setup()
        ca = {"ssl_ca": str(kafka_sasl.brokers.certificates.ca_file)}
        make(kafka_sasl.tls_dsn, sasl_mechanism=mechanism, **ca).setup()
        wrong = kafka_sasl.dsn.replace("p%40ss%2Fword", "qwertz")
        with pytest.raises(TransportError, match="refuses the user or the password") as caught:
            make(wrong, sasl_mechanism=mechanism, timeout=SOON).setup()
        assert not isinstance(caught.value, ConnectionLost)
        assert "qwertz" not in str(caught.value)

    def test_tls(self, kafka_tls: KafkaTls, make: MakeTopics) -> None:
        """With the right CA it works; a client may show a certificate; or look at none."""
        files = kafka_tls.certificates
        ca = {"ssl_ca": str(files.ca_file)}
        mine = {"ssl_cert": str(files.certificate), "ssl_key": str(files.key)}
        for options in ca, ca | mine, {"ssl_verify": False}:
            make(kafka_tls.dsn, **options).setup()

    def test_a_certificate_that_nobody_vouches_for(self, kafka_tls: KafkaTls, make: MakeTopics) -> None:
        """Says so, and which option to look at."""
        with pytest.raises(TransportError, match="certificate that cannot be verified.*ssl_ca"):
            make(kafka_tls.dsn, timeout=SOON).setup()

    def test_another_name_in_the_certificate(self, kafka_tls: KafkaTls, make: MakeTopics) -> None:
        """The host name is looked at, too."""
        dsn = kafka_tls.dsn.replace("localhost", "127.1")  # Which is 127.0.0.1 by another name.
        with pytest.raises(TransportError, match="certificate that cannot be verified"):
            make(dsn, ssl_ca=str(kafka_tls.certificates.ca_file), timeout=SOON).setup()

    def test_no_tls_on_the_port(self, kafka_plain: Kafka, make: MakeTopics) -> None:
        """Says that the port may not encrypt: the broker only hangs up."""
        with pytest.raises(ConnectionLost, match="was to be encrypted"):
            make(f"kafkas://{kafka_plain.addresses}", timeout=SOON).setup()

    def test_only_tls_on_the_port(self, kafka_tls: KafkaTls, make: MakeTopics) -> None:
        """It answers nothing that could be understood, and does not hang."""
        with pytest.raises(TransportError):
            make(kafka_tls.dsn.replace("kafkas", "kafka"), timeout=SOON).setup()
