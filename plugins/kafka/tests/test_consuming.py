"""What a worker gets: in its order, bounded by bytes, and from where its group has left off."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import pytest
from kafka import TopicPartition

from plugins.kafka.tests.foreign import write
from plugins.kafka.tests.test_deaths import bodies, committed, done_in, publish, take
from postbus.stamps import Key
from postbus.testing.workbench import CLOCKS_DIFFER
from postbus.transport import Outgoing
from postbus_kafka.connection import KafkaConnection
from postbus_kafka.stamps import KafkaKey, KafkaRecord
from tests.brokers.kafka import Kafka, thorough
from tests.brokers.server import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.once]

Connect = Callable[..., KafkaConnection]
MIB = 1024 * 1024


def keyed(key: str, body: str) -> Outgoing:
    """Return a message that belongs to something."""
    return Outgoing(body.encode(), {}, stamps=(Key(key),))


def test_what_was_given_back_rests_and_its_group_waits(connect: Connect) -> None:
    """It comes again a little later, each time later, and nothing of its key overtakes it; others do."""
    connection = connect(partitions="1")
    connection.publish([keyed("a", "a1"), keyed("a", "a2"), keyed("b", "b1")])
    pauses: list[float] = []
    others: list[str] = []
    for _ in range(4):
        begun = time.monotonic()
        while True:
            [delivery] = take(connection, 1)
            if delivery.body == b"a1":
                break
            others.append(delivery.body.decode())
            connection.ack([delivery.tag])
        pauses.append(time.monotonic() - begun)
        connection.release([delivery.tag])

    assert ["b1"] == others
    # Never before it has rested; later, as busy as the machine is.
    assert all(pause >= 0.05 * 2**n - CLOCKS_DIFFER for n, pause in enumerate(pauses[1:]))
    assert ["a1", "a2"] == bodies(take(connection, 2))


def test_a_partition_may_be_the_order(connect: Connect) -> None:
    """With ``order=partition``, all of one has one group; a copy of it keeps the key that its record had."""
    connection = connect(partitions="1", order="partition")
    connection.publish([keyed("a", "a1"), keyed("b", "b1"), Outgoing(b"c1", {})])

    deliveries = take(connection, 3)

    assert 1 == len({delivery.group for delivery in deliveries})
    keys = [stamp.key for delivery in deliveries for stamp in delivery.stamps if isinstance(stamp, KafkaKey)]
    assert [b"a", b"b", None] == keys


def test_nothing_need_be_in_order(connect: Connect) -> None:
    """With ``order=none``, no message waits for another one; a copy keeps its key."""
    connection = connect(partitions="1", order="none")
    connection.publish([keyed("a", "a1")])

    [delivery] = take(connection, 1)

    assert delivery.group is None
    assert [b"a"] == [stamp.key for stamp in delivery.stamps if isinstance(stamp, KafkaKey)]


def test_a_message_tells_where_it_lies(connect: Connect, topic: str) -> None:
    """Its id is made of topic, partition and offset, and so is a stamp."""
    connection = connect(partitions="1")
    [id] = connection.publish([Outgoing(b"body", {})])

    [delivery] = take(connection, 1)

    assert f"{topic}/0/0" == id == delivery.id
    [record] = [stamp for stamp in delivery.stamps if isinstance(stamp, KafkaRecord)]
    assert (topic, 0, 0, None) == (record.topic, record.partition, record.offset, record.key)


def test_tombstones_may_be_skipped(kafka_plain: Kafka, topic: str, connect: Connect) -> None:
    """They count as settled without having been handled."""
    connection = connect(partitions="1", tombstones="skip")
    connection.setup()
    write(
        kafka_plain, topic, [{"key": b"k", "value": None}, {"key": b"k", "value": b"x"}, {"key": b"k", "value": None}]
    )

    connection.ack([take(connection, 1)[0].tag])

    wait_until(lambda: done_in(kafka_plain, topic) == {0, 1, 2}, "It is not committed.")


def test_large_messages_are_bounded_by_their_bytes(connect: Connect) -> None:
    """However many there are, no more of them wait in the process than there is room for, and all of them come."""
    connection = connect(partitions="2", largest_message=str(2 * MIB), prefetch_bytes=str(8 * MIB))
    connection.setup()
    body = bytes(MIB)
    for _ in range(10):
        connection.publish([Outgoing(body, {}) for _ in range(4)])
    inventory = connection._membership._inventory
    most, came, largest = 0, 0, 0
    end = time.monotonic() + 60
    while came < 40 and time.monotonic() < end:
        deliveries = connection.fetch(100, 1)
        largest = max(largest, len(deliveries))
        for _ in range(5):
            time.sleep(0.01)
            most = max(most, inventory._bytes)
        connection.ack([delivery.tag for delivery in deliveries])
        came += len(deliveries)

    assert 40 == came
    assert largest <= 4
    assert most <= 8 * MIB + 4 * MIB, "More is read ahead than one fetch beyond what there is room for."


def test_what_the_broker_has_deleted_is_told(
    kafka_plain: Kafka, topic: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages that their retention took before they were handled are an error in the log; the rest is handled."""
    caplog.set_level(logging.ERROR)
    connection = connect(partitions="1")
    publish(connection, 10)
    connection.ack([delivery.tag for delivery in take(connection, 3)])
    wait_until(lambda: done_in(kafka_plain, topic) == {0, 1, 2}, "It is not committed.")
    connection.close()
    with kafka_plain.admin() as admin:
        admin.delete_records({_partition(topic): 8})

    assert ["8", "9"] == bodies(take(connect(partitions="1"), 2))
    assert "5 messages of partition 0" in caplog.text


def test_an_offset_that_was_forgotten_begins_anew(kafka_plain: Kafka, topic: str, connect: Connect) -> None:
    """Where the broker has forgotten what a group has handled, it gets everything again, and skips nothing."""
    connection = connect(partitions="1")
    publish(connection, 3)
    connection.ack([delivery.tag for delivery in take(connection, 3)])
    wait_until(lambda: done_in(kafka_plain, topic) == {0, 1, 2}, "It is not committed.")
    connection.close()
    with kafka_plain.admin() as admin:
        wait_until(lambda: admin.delete_groups([f"{topic}.postbus"]) == {f"{topic}.postbus": "OK"}, "It has members.")
    assert committed(kafka_plain, topic) is None

    assert ["0", "1", "2"] == bodies(take(connect(partitions="1"), 3))


def test_what_was_settled_out_of_order_counts_no_more(kafka_plain: Kafka, topic: str, connect: Connect) -> None:
    """For somebody who only looks, too: a gap is not counted as if all behind it were waiting."""
    connection = connect(partitions="1")
    publish(connection, 10)
    deliveries = take(connection, 10)
    connection.ack([delivery.tag for delivery in deliveries[5:]])
    wait_until(lambda: len(done_in(kafka_plain, topic)) == 5, "It is not committed.")

    assert 5 == connect(partitions="1").count().waiting
    assert 0 == connection.count().waiting


@thorough
def test_a_backlog_of_a_million_is_counted(kafka_plain: Kafka, topic: str, connect: Connect) -> None:
    """However much waits, all of it counts, and what was settled in between does not."""
    connection, observer = connect(partitions="3"), connect(partitions="3")
    connection.setup()
    size = ("--num-records", "1000000", "--record-size", "10", "--throughput", "-1")
    to = ("--topic", topic, "--producer-props", f"bootstrap.servers={kafka_plain.addresses}")
    kafka_plain.run_tool("org.apache.kafka.tools.ProducerPerformance", *size, *to)
    assert 1_000_000 == observer.count().waiting
    connection.ack([delivery.tag for delivery in take(connection, 1000)[500:]])
    wait_until(lambda: observer.count().waiting == 999_500, "It is not committed.")


def test_what_was_deleted_counts_no_more(kafka_plain: Kafka, topic: str, connect: Connect) -> None:
    """Neither for a group that has committed nothing yet, nor for one that had not come so far."""
    connection = connect(partitions="1")
    publish(connection, 10)
    connection.ack([delivery.tag for delivery in take(connection, 3)])
    wait_until(lambda: done_in(kafka_plain, topic) == {0, 1, 2}, "It is not committed.")
    connection.close()
    assert 7 == connect(partitions="1").count().waiting
    with kafka_plain.admin() as admin:
        admin.delete_records({_partition(topic): 8})

    assert 2 == connect(partitions="1").count().waiting
    assert 2 == connect(partitions="1", group="another").count().waiting


def test_what_nobody_fetches_is_left_to_others(connect: Connect) -> None:
    """A worker that is not asked for more, and has nothing in hand, leaves the group, and is back when it is."""
    first, second = connect(partitions="1", idle_timeout="0.5"), connect(partitions="1")
    first.fetch(1, 3.0)
    publish(second, 1)

    connection = second
    connection.ack([take(connection, 1)[0].tag])
    publish(second, 1)
    second.close()

    take(first, 1)


def _partition(topic: str) -> TopicPartition:
    return TopicPartition(topic, 0)
