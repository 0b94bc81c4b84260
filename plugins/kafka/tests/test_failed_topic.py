"""The failure transport on a compacted topic: what is kept can be listed, shown, removed, and fetched by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from uuid import uuid4

import pytest

from plugins.kafka.tests.foreign import read, write
from plugins.kafka.tests.test_contract import OnKafka
from postbus.dsn import Dsn
from postbus.errors import ConnectionLost, MessageRefused
from postbus.testing import TransportContract
from postbus.testing.rules.browsing import Browsing
from postbus.testing.rules.counting import Counting
from postbus.testing.rules.crashes import Crashes
from postbus.testing.rules.failures import Failures
from postbus.testing.rules.restarts import Restarts
from postbus.testing.workbench import Broker as Breakable
from postbus.transport import Delivery, Outgoing
from postbus_kafka import KEPT
from postbus_kafka.failed_topic import FailedConnection
from postbus_kafka.options import Settings
from tests.brokers.kafka import Kafka, OwnKafka, thorough

pytestmark = [pytest.mark.slow, pytest.mark.once]

PATIENCE = 60.0
Connect = Callable[..., FailedConnection]


class OnStore(OnKafka):
    """Each test has a compacted topic of its own."""

    guarantees = KEPT
    options = "mode=store&session_timeout=3&heartbeat_interval=0.1"

    def put_foreign(self, body: bytes, headers: Mapping[str, object] | None) -> bool:
        # What has no key cannot lie on a compacted topic.
        given = [
            (name, value if isinstance(value, bytes) else str(value).encode())
            for name, value in (headers or {}).items()
        ]
        record = {"value": body, "key": str(uuid4()).encode(), "headers": given}
        write(self.kafka, Dsn.parse(self.queue).segments[0], [record])
        return True


class OnPlainStore(OnStore):
    """On a broker that stays."""

    @pytest.fixture(autouse=True)
    def use(self, kafka_plain: Kafka) -> None:
        """Have a broker."""
        self.kafka = kafka_plain


class TestKeeping(OnPlainStore, Browsing, Counting, Crashes, Failures):
    """What is done with messages that have failed; they lie there as they do on any topic."""


@thorough
class TestContract(OnPlainStore, TransportContract):
    """All that every transport promises."""


@thorough
class TestBreakable(OnStore, Restarts):
    """What is promised of a broker that goes away; in short, below."""

    options = f"{OnStore.options}&timeout=3&lost_after=1"

    @pytest.fixture(autouse=True)
    def use(self, own_kafka: OwnKafka) -> None:
        """Have a broker to break."""
        self.kafka = own_kafka

    def broker(self) -> Breakable:
        return self.kafka  # type: ignore[return-value]


@pytest.fixture
def name() -> str:
    """Give a name that nobody else has."""
    return f"failed-{uuid4()}"


@pytest.fixture
def connect(name: str) -> Iterator[Connect]:
    """Return what makes a connection to the test's own topic."""
    with ExitStack() as stack:

        def make(broker: Kafka, **options: object) -> FailedConnection:
            given = {"mode": "store", "session_timeout": 10, **options}
            settings = Settings(Dsn.parse(f"{broker.dsn}/{name}").with_options(given))
            return stack.enter_context(closing(FailedConnection(settings, "failed")))

        yield make


def bodies(deliveries: object) -> list[bytes]:
    assert isinstance(deliveries, list)
    return [delivery.body for delivery in deliveries]


def take(connection: FailedConnection, number: int) -> list[Delivery]:
    end = time.monotonic() + PATIENCE
    found: list[Delivery] = []
    while len(found) < number and time.monotonic() < end:
        found += connection.fetch(number - len(found), 1)
    return found


def test_listing_goes_on_behind_any_id(kafka_plain: Kafka, connect: Connect) -> None:
    """In pages, also behind one that was removed in between; a second process sees the same."""
    ours, theirs = connect(kafka_plain), connect(kafka_plain)
    ids = [str(id) for id in ours.publish([Outgoing(b"%d" % number, {"a": "b"}) for number in range(500)])]
    page = ours.browse(20)
    assert [b"%d" % number for number in range(20)] == bodies(page)
    assert ids[:20] == [delivery.id for delivery in page]
    assert 1 == theirs.remove([ids[19]])
    assert [b"20", b"21"] == bodies(ours.browse(2, ids[19]))
    assert 499 == ours.count().waiting
    assert theirs.find(ids[19]) is None
    shown = theirs.find(ids[300])
    assert shown is not None
    assert (b"300", {"a": "b"}) == (shown.body, dict(shown.headers))


def test_removing_is_a_tombstone_and_happens_once(kafka_plain: Kafka, connect: Connect, name: str) -> None:
    """What was removed is not there for anybody, and removing it again removes nothing."""
    ours, theirs = connect(kafka_plain), connect(kafka_plain)
    (id,) = ours.publish([Outgoing(b"a", {})])
    assert 1 == len(theirs.browse(9))
    assert 1 == ours.remove([str(id), str(id), "unknown"])
    assert 0 == ours.remove([str(id)])
    assert [] == theirs.browse(9)
    assert [b"a", None] == [record.value for record in read(kafka_plain, name, 2)]


def test_compaction_loses_nothing(kafka_plain: Kafka, connect: Connect, name: str) -> None:
    """What the broker has compacted is still all there, and nothing that was removed."""
    kafka_plain.create_topic(
        name, cleanup_policy="compact", segment_ms=100, min_cleanable_dirty_ratio=0.01, delete_retention_ms=0
    )
    connection = connect(kafka_plain)
    ids = [str(id) for id in connection.publish([Outgoing(b"%d" % n, {}) for n in range(100)])]
    connection.remove(ids[::2])
    end = time.monotonic() + PATIENCE
    while len(read(kafka_plain, name, 150, patience=0.5)) >= 150 and time.monotonic() < end:
        time.sleep(0.2)
        connection.remove([str(id) for id in connection.publish([Outgoing(b"", {})])])  # A new segment.
    expected = [b"%d" % n for n in range(1, 100, 2)]
    assert expected == bodies(connection.browse(1000))
    assert expected == bodies(connect(kafka_plain).browse(1000))


def test_of_two_who_fetch_one_gets_all(kafka_plain: Kafka, connect: Connect) -> None:
    """Each message is handled by one; when that one leaves, the other goes on with what was not settled."""
    first, second = connect(kafka_plain), connect(kafka_plain)
    first.publish([Outgoing(b"%d" % number, {}) for number in range(3)])
    taken = take(first, 2)
    assert [b"0", b"1"] == bodies(taken)
    assert [] == second.fetch(9, 1)
    first.ack([taken[0].tag])
    first.close()
    assert [b"1", b"2"] == bodies(take(second, 2))


def test_who_begins_gets_nothing_that_was_settled(kafka_plain: Kafka, connect: Connect) -> None:
    """However far behind a message it is said that it was, and before the broker has compacted anything."""
    before = connect(kafka_plain)
    ids = [str(id) for id in before.publish([Outgoing(b"%d" % number, {}) for number in range(1000)])]
    before.remove(ids[:-1])

    assert [b"999"] == bodies(take(connect(kafka_plain), 1))


def test_what_is_delayed_is_refused_alone(kafka_plain: Kafka, connect: Connect) -> None:
    """A topic that keeps things delays nothing."""
    connection = connect(kafka_plain)
    with pytest.raises(MessageRefused) as caught:
        connection.publish([Outgoing(b"a", {}), Outgoing(b"b", {}, 1.0)])
    assert ({1}, {0}) == (caught.value.refused.keys(), caught.value.stored.keys())


def test_records_of_others(kafka_plain: Kafka, connect: Connect, name: str) -> None:
    """A record that somebody else has put there under a key of theirs is shown under that."""
    connection = connect(kafka_plain)
    connection.setup()
    write(kafka_plain, name, [{"value": b"theirs", "key": b"k\xff"}, {"value": b"again", "key": b"k\xff"}])
    (shown,) = connection.browse(9)
    assert (b"again", "k\\xff") == (shown.body, shown.id)


def test_a_broker_that_restarts(own_kafka: OwnKafka, connect: Connect) -> None:
    """While it is away nothing can be said; what was kept is there when it is back."""
    connect(own_kafka).publish([Outgoing(b"kept", {})])
    connection = connect(own_kafka, timeout=2, lost_after=1, send_timeout=2)
    connection.browse(9)
    own_kafka.kill()
    with pytest.raises(ConnectionLost):
        connection.browse(9)
    connection.close()
    own_kafka.start()
    assert [b"kept"] == bodies(connect(own_kafka).browse(9))
