"""Messages that wait: in buckets, each for its own time, until the forwarder of some process moves them on."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from plugins.kafka.tests.foreign import read, write
from plugins.kafka.tests.forwarders import move_and_die
from plugins.kafka.tests.test_deaths import bodies, take
from postbus import stamps
from postbus.dsn import Dsn
from postbus.stamps import Key
from postbus.transport import Counts, Outgoing
from postbus_kafka.connection import KafkaConnection
from postbus_kafka.forwarding import Forwarder
from postbus_kafka.options import Settings
from postbus_kafka.publishing import Publisher
from postbus_kafka.topics import Topics
from tests.brokers.kafka import Kafka, OwnKafka
from tests.brokers.server import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.once]

DELAYS = ["0.5", "1", "2"]


class Delays:
    """A publisher to one topic, and forwarders of what waits for it."""

    def __init__(self, broker: Kafka, name: str, stack: ExitStack, **options: object) -> None:
        self.broker = broker
        self.name = name
        self.stack = stack
        given = {"delays": DELAYS, "partitions": 1, "session_timeout": 10, **options}
        dsn = Dsn.parse(f"{broker.dsn}/{name}").with_options(given)
        self.dsn = str(dsn)
        self.settings = Settings(dsn)
        topics = stack.enter_context(closing(Topics(self.settings, "test")))
        topics.setup()
        self.publisher = stack.enter_context(closing(Publisher(self.settings, "test", topics)))

    def forward(self) -> Forwarder:
        """Start a forwarder."""
        forwarder = self.stack.enter_context(closing(Forwarder(self.settings, "test")))
        forwarder.start()
        return forwarder

    def send(self, *delays: float) -> None:
        """Publish messages that each say when they were sent, and for how long they are to wait."""
        self.publisher.publish([Outgoing(f"{time.time()} {delay}".encode(), {"a": "b"}, delay) for delay in delays])

    def lateness(self, number: int) -> list[float]:
        """Return by how much messages came too late; the broker tells when it got them."""
        found = []
        for record in read(self.broker, self.name, number):
            sent, delay = map(float, record.value.split())
            found.append(record.timestamp / 1000 - sent - delay)
            assert [("a", b"b")] == record.headers
        assert number <= len(found)
        return found


@pytest.fixture
def name() -> str:
    """Give a name that nobody else has."""
    return f"test-{uuid4()}"


@pytest.fixture
def make(name: str) -> Iterator[Callable[..., Delays]]:
    """Return what makes the delays of a topic of the test's own."""
    with ExitStack() as stack:
        yield lambda broker, **options: Delays(broker, name, stack, **options)


@pytest.mark.parametrize("transactional", [False, True], ids=["singly", "transactional"])
def test_never_early_and_all_of_them(kafka_plain: Kafka, make: Callable[..., Delays], transactional: bool) -> None:
    """Long and short waits in any order, through several buckets; a long one holds up no short one."""
    delays = make(kafka_plain, transactional=transactional)
    delays.forward()
    delays.send(4.2, 0.1, 1.7, 0.5, 3, 0.9, 2.2, 0.05)
    lateness = delays.lateness(8)
    assert all(late >= 0 for late in lateness), lateness


def test_what_waits_keeps_its_key_and_comes_in_order(kafka_plain: Kafka, make: Callable[..., Delays]) -> None:
    """What waits for equally long comes in the order in which it was sent."""
    delays = make(kafka_plain)
    delays.forward()
    bodies = [str(number).encode() for number in range(500)]
    delays.publisher.publish([Outgoing(body, {}, 1.2, (Key("k"),)) for body in bodies])
    records = read(kafka_plain, delays.name, 500)
    assert bodies == [record.value for record in records]
    assert {b"k"} == {record.key for record in records}


def test_what_is_retried_waits_for_its_group(kafka_plain: Kafka, make: Callable[..., Delays]) -> None:
    """It goes to the retry topic of the group that failed, whoever moves it; nobody else sees it."""
    delays = make(kafka_plain, group="ours")
    delays.publisher.publish([Outgoing(b"again", {}, 0.6, (stamps.Retried(1, datetime.now(UTC)),))])
    make(kafka_plain, group="theirs").forward()
    assert [b"again"] == [record.value for record in read(kafka_plain, f"{delays.name}.ours.retry", 1)]


def test_more_than_is_read_ahead(kafka_plain: Kafka, make: Callable[..., Delays]) -> None:
    """Of a bucket with much in it no more is read than fits; the rest comes in its turn."""
    delays = make(kafka_plain)
    delays.publisher.publish([Outgoing(f"{n}".encode().ljust(500), {}, 2.5) for n in range(5000)])
    delays.forward()
    found = read(kafka_plain, delays.name, 5000, patience=60)
    assert [str(n).encode() for n in range(5000)] == [record.value.strip() for record in found]


def test_another_goes_on_where_one_has_stopped(kafka_plain: Kafka, make: Callable[..., Delays]) -> None:
    """Each message is moved once, by whoever has the bucket; what was moved is not moved again."""
    delays = make(kafka_plain)
    first = delays.forward()
    delays.send(0.1, 0.6)
    delays.lateness(2)
    delays.send(1.5)
    first.close()
    delays.forward()
    delays.lateness(3)
    assert 3 == len(read(kafka_plain, delays.name, 4, patience=1))


def test_what_was_moved_behind_something_that_waits(kafka_plain: Kafka, make: Callable[..., Delays]) -> None:
    """One that waits for long is before others in its bucket: whoever takes over moves it, and none of those again."""
    delays = make(kafka_plain, delays=["60"])
    first = delays.forward()
    delays.send(8, 0.1, 0.2, 0.1)
    delays.lateness(3)
    first.close()
    second = delays.forward()
    delays.send(0.1, 0.3, 0.2)
    delays.lateness(6)
    second.close()
    delays.forward()
    delays.lateness(7)
    assert 7 == len(read(kafka_plain, delays.name, 8, patience=1))


def test_forwarders_that_come_and_go(kafka_plain: Kafka, make: Callable[..., Delays]) -> None:
    """Whoever leaves while the others divide the buckets anew leaves nothing behind that is moved twice."""
    delays = make(kafka_plain, delays=["0.2", "60"])
    old = delays.forward()
    for _ in range(4):
        new = delays.forward()
        for _ in range(20):
            delays.send(*[0.1, 0.5, 0.1, 0.3, 0.2] * 5)
        old.close()
        old = new
    delays.lateness(2000)
    assert 2000 == len(read(kafka_plain, delays.name, 2001, patience=1.5))


def test_a_forwarder_that_is_killed_before_it_commits(kafka_plain: Kafka, make: Callable[..., Delays]) -> None:
    """What it had stored, and not committed, another one stores again; nothing is lost, nothing else comes twice."""
    delays = make(kafka_plain, delays=["0.5"])
    delays.send(0.1, 0.6, 2)
    killed = make(kafka_plain, delays=["0.5"], session_timeout=1.5, heartbeat_interval=0.2)
    moved = move_and_die(killed.dsn)
    delays.forward()
    read(kafka_plain, delays.name, 3 + len(moved))
    came = [record.value for record in read(kafka_plain, delays.name, 4 + len(moved), patience=1)]
    assert moved
    assert 3 == len(set(came))
    assert Counter([*set(came), *moved]) == Counter(came)


@pytest.mark.parametrize("commits", [(), ("commits",)], ids=["before", "after"])
def test_a_forwarder_that_is_killed_beside_a_commit(
    kafka_plain: Kafka, make: Callable[..., Delays], commits: Sequence[str]
) -> None:
    """With transactions everything comes once, whether it is killed before the last step of one or after it."""
    named = {"delays": ["0.5"], "transactional": True, "group_instance_id": "one"}
    delays = make(kafka_plain, **named)
    delays.send(0.1, 0.6, 2)
    killed = make(kafka_plain, **named, session_timeout=1.5, heartbeat_interval=0.2)
    assert move_and_die(killed.dsn, *commits)
    delays.forward()
    read(kafka_plain, delays.name, 3, isolation_level="read_committed")
    came = read(kafka_plain, delays.name, 4, patience=1, isolation_level="read_committed")
    assert [1, 1, 1] == [*Counter(record.value for record in came).values()]


def test_what_is_delayed_comes_once_to_each_group(
    kafka_plain: Kafka, connect_to: Callable[..., KafkaConnection]
) -> None:
    """Whichever group's worker moves it, that happens once, and each group that reads the topic gets it once."""
    groups = [connect_to(kafka_plain.dsn, partitions="1", group=group) for group in ("ours", "theirs")]
    for connection in groups:
        connection.fetch(1, 0.5)
    groups[0].publish([Outgoing(b"later", {}, 0.6), Outgoing(b"much later", {}, 1.7)])
    for connection in groups:
        taken = take(connection, 2)
        assert ["later", "much later"] == bodies(taken)
        connection.ack([delivery.tag for delivery in taken])
    for connection in groups:
        assert [] == connection.fetch(1, 0.5)
        wait_until(lambda one=connection: one.count() == Counts(0, 0), "Something is said to wait.")


@pytest.mark.parametrize("transactional", [False, True], ids=["singly", "transactional"])
def test_a_target_that_refuses_holds_up_nobody(
    kafka_plain: Kafka,
    name: str,
    make: Callable[..., Delays],
    caplog: pytest.LogCaptureFixture,
    transactional: bool,
) -> None:
    """What its topic does not take is kept and tried again, and the others are moved."""
    kafka_plain.create_topic(name, max_message_bytes=2000)
    delays = make(kafka_plain, transactional=transactional)
    delays.publisher.publish([Outgoing(b"x" * 3000, {}, 0.1)])
    delays.send(0.2, 0.6)
    with caplog.at_level(logging.ERROR, "postbus"):
        delays.forward()
        delays.lateness(2)
        expected = f"A delayed message for topic '{delays.name}' could not be moved there"
        wait_until(lambda: expected in caplog.text, "Nobody is told of it.")


def test_what_somebody_else_puts_there_goes_to_the_topic(kafka_plain: Kafka, make: Callable[..., Delays]) -> None:
    """A record that says nothing of how long it waits is handled like any other."""
    delays = make(kafka_plain)
    write(kafka_plain, f"{delays.name}.delay.0.5s", [{"value": b"stray"}])
    delays.forward()
    assert [b"stray"] == [record.value for record in read(kafka_plain, delays.name, 1)]


def test_a_broker_that_restarts(own_kafka: OwnKafka, make: Callable[..., Delays]) -> None:
    """The forwarder goes on by itself; nothing is early, and nothing lost."""
    delays = make(own_kafka, timeout=2)
    delays.forward()
    delays.send(0.1, 2, 4)
    delays.lateness(1)
    own_kafka.kill()
    own_kafka.start()
    delays.send(0.3)
    assert all(late >= 0 for late in delays.lateness(4))
