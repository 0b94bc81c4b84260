"""What is written to a topic, what is refused, and what is left when it cannot be written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from plugins.kafka.tests.foreign import read
from postbus import stamps
from postbus.dsn import Dsn
from postbus.errors import ConnectionLost, MessageRefused, TransportError
from postbus.stamps import Key
from postbus.transport import Outgoing
from postbus_kafka.options import Settings
from postbus_kafka.publishing import Publisher
from postbus_kafka.topics import Topics
from tests.brokers.kafka import Kafka, OwnKafka, thorough

pytestmark = [pytest.mark.slow, pytest.mark.once]

MakePublisher = Callable[..., Publisher]


def outgoing(body: bytes, *more: stamps.Stamp, delay: float = 0.0, **headers: str) -> Outgoing:
    return Outgoing(body, headers, delay, more)


@pytest.fixture
def name() -> str:
    """Give a name that nobody else has."""
    return f"test-{uuid4()}"


@pytest.fixture
def make(name: str) -> Iterator[MakePublisher]:
    """Return what makes a publisher to the test's own topic."""
    with ExitStack() as stack:

        def make_publisher(dsn: str, **options: object) -> Publisher:
            settings = Settings(Dsn.parse(f"{dsn}/{name}").with_options({"partitions": 2, **options}))
            topics = stack.enter_context(closing(Topics(settings, "test")))
            return stack.enter_context(closing(Publisher(settings, "test", topics)))

        yield make_publisher


def test_a_record_has_body_headers_and_key(kafka_plain: Kafka, name: str, make: MakePublisher) -> None:
    """The body is the value, a header is a header in UTF-8, the key is the stamp's; the id says where it lies."""
    publisher = make(kafka_plain.dsn)
    ids = publisher.publish([outgoing(b"\x00body", Key("käse"), type="a", ünï="cödé"), outgoing(b"")])
    keyed, plain = sorted(read(kafka_plain, name, 2), key=lambda record: record.value, reverse=True)
    assert (b"\x00body", "käse".encode()) == (keyed.value, keyed.key)
    assert [("type", b"a"), ("ünï", "cödé".encode())] == list(keyed.headers)
    assert (b"", None, []) == (plain.value, plain.key, list(plain.headers))
    assert [f"{name}/{record.partition}/{record.offset}" for record in (keyed, plain)] == ids


def test_a_batch_keeps_the_order_of_a_key(kafka_plain: Kafka, name: str, make: MakePublisher) -> None:
    """Two thousand messages of one key lie on one partition, in their order."""
    bodies = [str(number).encode() for number in range(2000)]
    make(kafka_plain.dsn).publish([outgoing(body, Key("one")) for body in bodies])
    records = read(kafka_plain, name, 2000)
    assert bodies == [record.value for record in records]
    assert 1 == len({record.partition for record in records})


def test_what_is_too_large_is_refused_alone(kafka_plain: Kafka, name: str, make: MakePublisher) -> None:
    """The refusal tells the position and the option; all others are stored, and so is what comes next."""
    publisher = make(kafka_plain.dsn, largest_message=2000)
    with pytest.raises(MessageRefused, match="largest_message") as caught:
        publisher.publish([outgoing(b"a"), outgoing(b"x" * 3000), outgoing(b"b")])
    assert {1} == caught.value.refused.keys()
    assert {0, 2} == caught.value.stored.keys()
    publisher.publish([outgoing(b"c")])
    assert [b"a", b"b", b"c"] == sorted(record.value for record in read(kafka_plain, name, 3))


def test_what_the_broker_refuses_is_refused_alone(kafka_plain: Kafka, name: str, make: MakePublisher) -> None:
    """A topic that takes less than the option says refuses a record, which ends a producer and no neighbour."""
    kafka_plain.create_topic(name, max_message_bytes=2000)
    publisher = make(kafka_plain.dsn)
    with pytest.raises(MessageRefused, match="refuses") as caught:
        publisher.publish([outgoing(b"a"), outgoing(b"x" * 3000), outgoing(b"b"), outgoing(b"y" * 3000)])
    assert {1, 3} == caught.value.refused.keys()
    assert {0, 2} == caught.value.stored.keys()
    publisher.publish([outgoing(b"c")])
    assert {b"a", b"b", b"c"} == {record.value for record in read(kafka_plain, name, 3)}


def test_what_is_refused_costs_other_threads_nothing(kafka_plain: Kafka, name: str, make: MakePublisher) -> None:
    """While the broker refuses what one thread publishes, another one publishes what it takes, all of it."""
    kafka_plain.create_topic(name, max_message_bytes=2000)
    publisher = make(kafka_plain.dsn)
    is_over = threading.Event()

    def refuse() -> int:
        refused = 0
        while not is_over.is_set():
            with pytest.raises(MessageRefused):
                publisher.publish([outgoing(b"x" * 3000)])
            refused += 1
        return refused

    with ThreadPoolExecutor(1) as pool:
        refusing = pool.submit(refuse)
        try:
            for number in range(25):
                publisher.publish([outgoing(b"%d" % number), outgoing(b"too")])
        finally:
            is_over.set()
        assert refusing.result() > 1
    bodies = {record.value for record in read(kafka_plain, name, 50)}
    assert {b"too", *(b"%d" % number for number in range(25))} == bodies


def test_a_compacted_topic_refuses_what_has_no_key(kafka_plain: Kafka, name: str, make: MakePublisher) -> None:
    """The message is to blame, and what comes next is taken."""
    kafka_plain.create_topic(name, cleanup_policy="compact")
    publisher = make(kafka_plain.dsn)
    with pytest.raises(MessageRefused):
        publisher.publish([outgoing(b"a")])
    assert publisher.publish([outgoing(b"b", Key("b"))]) == [f"{name}/0/0"]


def test_a_topic_is_made_only_if_it_may_be(kafka_plain: Kafka, name: str, make: MakePublisher) -> None:
    """Without auto_setup a topic that is not there is an error that names it, and stays away."""
    with pytest.raises(TransportError, match=f"no topic '{name}'. Run: postbus setup"):
        make(kafka_plain.dsn, auto_setup=False).publish([outgoing(b"a")])
    with kafka_plain.admin() as admin:
        assert name not in admin.list_topics()


def test_what_is_retried_goes_to_the_group_alone(kafka_plain: Kafka, name: str, make: MakePublisher) -> None:
    """Other groups that read the topic do not see it again."""
    publisher = make(kafka_plain.dsn, group="ours")
    ids = publisher.publish([outgoing(b"again", stamps.Retried(1, datetime.now(UTC)))])
    assert [b"again"] == [record.value for record in read(kafka_plain, f"{name}.ours.retry", 1)]
    assert str(ids[0]).startswith(f"{name}.ours.retry/")


def test_half_a_character_in_a_header_travels(kafka_plain: Kafka, name: str, make: MakePublisher) -> None:
    """A header that UTF-8 has no form for is packed, and refuses nothing."""
    make(kafka_plain.dsn).publish([outgoing(b"a", file="\udcff")])
    (record,) = read(kafka_plain, name, 1)
    assert 1 == len(record.headers)


class TestLosses:
    """A broker that goes away."""

    @thorough  # So does the contract.
    def test_a_broker_that_restarts_takes_what_comes_next(
        self, own_kafka: OwnKafka, name: str, make: MakePublisher
    ) -> None:
        """Nobody has to open anything anew."""
        publisher = make(own_kafka.dsn)
        publisher.publish([outgoing(b"before")])
        own_kafka.kill()
        own_kafka.start()
        publisher.publish([outgoing(b"after")])
        assert {b"before", b"after"} == {record.value for record in read(own_kafka, name, 2)}

    @pytest.mark.parametrize("how", ["pause", pytest.param("kill", marks=thorough)])
    def test_a_broker_that_is_away_is_lost(self, own_kafka: OwnKafka, name: str, make: MakePublisher, how: str) -> None:
        """Nothing is known of the message; the next publisher fails too, and goes on when the broker is back."""
        options = {"timeout": 1, "lost_after": 1, "send_timeout": 2}
        publisher = make(own_kafka.dsn, **options)
        publisher.publish([outgoing(b"before")])
        getattr(own_kafka, how)()
        with pytest.raises(ConnectionLost) as caught:
            publisher.publish([outgoing(b"meanwhile")])
        assert {} == caught.value.stored
        publisher.close()
        with pytest.raises(ConnectionLost, match="cannot be reached"):
            make(own_kafka.dsn, **options).publish([outgoing(b"meanwhile")])
        own_kafka.mend()
        make(own_kafka.dsn).publish([outgoing(b"after")])
        assert {b"before", b"after"} <= {record.value for record in read(own_kafka, name, 2)}

    def test_a_topic_that_is_deleted_is_made_anew(self, own_kafka: OwnKafka, name: str, make: MakePublisher) -> None:
        """The message that finds it gone may fail; the one after it is stored."""
        publisher = make(own_kafka.dsn, timeout=4, send_timeout=4)
        publisher.publish([outgoing(b"gone")])
        own_kafka.delete_topic(name)
        with pytest.raises(TransportError):
            publisher.publish([outgoing(b"late")])
        publisher.publish([outgoing(b"new")])
        assert [b"new"] == [record.value for record in read(own_kafka, name, 1)]
