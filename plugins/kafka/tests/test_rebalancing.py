"""Partitions come and go: nothing is lost, and what can be settled before it goes does not come twice."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from plugins.kafka.tests.members import member_of
from plugins.kafka.tests.test_deaths import bodies, done_in, dsn_of, publish, take
from postbus.errors import TransportError
from postbus.stamps import Key
from postbus.transport import Outgoing
from postbus_kafka.connection import KafkaConnection
from tests.brokers.kafka import Kafka
from tests.brokers.server import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.once]

Connect = Callable[..., KafkaConnection]
InBackground = Callable[[Callable[[], Any]], Future[Any]]
PATIENCE = 60.0


def spread(connection: KafkaConnection, number: int) -> None:
    """Publish so many messages, each with its number, to all partitions."""
    connection.publish([Outgoing(b"%d" % n, {}, stamps=(Key(str(n)),)) for n in range(number)])


class Consumer:
    """A worker that handles what it gets until it is told to leave."""

    def __init__(self, connection: KafkaConnection, in_background: InBackground, seen: list[bytes]) -> None:
        self._connection = connection
        self._seen = seen
        self._is_over = threading.Event()
        self.number = 0
        self._work = in_background(self._run)

    def leave(self) -> None:
        """Stop, and leave the group in order."""
        self._is_over.set()
        self._work.result(PATIENCE)
        self._connection.close()

    def _run(self) -> None:
        while not self._is_over.is_set():
            deliveries = self._connection.fetch(20, 0.2)
            assert [] == list(self._connection.ack([delivery.tag for delivery in deliveries]))
            self._seen.extend(delivery.body for delivery in deliveries)
            self.number += len(deliveries)


def test_who_joins_and_leaves_costs_nothing(connect: Connect, in_background: InBackground) -> None:
    """Of six partitions, read by one, by two and by one again, each message comes exactly once."""
    seen: list[bytes] = []
    sender = connect(partitions="6")
    first = Consumer(connect(partitions="6"), in_background, seen)
    second = None
    for part in range(3):
        sender.publish([Outgoing(b"%d" % n, {}) for n in range(500 * part, 500 * part + 500)])
        if part == 1:
            second = Consumer(connect(partitions="6"), in_background, seen)
    wait_until(lambda: len(seen) >= 1500, "Not all of them come.")
    assert second is not None
    second.leave()
    sender.publish([Outgoing(b"%d" % n, {}) for n in range(1500, 2000)])
    wait_until(lambda: len(seen) >= 2000, "Not all of them come.")
    first.leave()

    assert Counter(b"%d" % n for n in range(2000)) == Counter(seen)


def test_what_is_settled_in_time_does_not_come_again(connect: Connect, in_background: InBackground) -> None:
    """A partition goes to another member only when what was in hand is settled; that waits for a while."""
    first, second = connect(partitions="4", revoke_wait="10"), connect(partitions="4")
    spread(first, 20)
    held = take(first, 20)
    joining = in_background(lambda: second.fetch(20, 2.5))
    assert [] == list(joining.result(PATIENCE))

    assert [] == list(first.ack([delivery.tag for delivery in held]))

    spread(first, 20)
    wait_until(lambda: bool(second.fetch(1, 0.5)), "Nothing goes to the other one.")
    assert [] == list(first.revoked())


def test_what_is_not_settled_in_time_is_anothers(connect: Connect, in_background: InBackground) -> None:
    """It comes again there; here it is told at once, and settles nothing."""
    first, second = connect(partitions="4", revoke_wait="0.2"), connect(partitions="4")
    spread(first, 20)
    held = {delivery.body: delivery for delivery in take(first, 20)}

    theirs = []
    wait_until(lambda: bool(theirs) or bool(theirs.extend(second.fetch(20, 0.5))), "Nothing goes to the other one.")

    lost = list(first.revoked())
    moved = [held[delivery.body].tag for delivery in theirs]
    assert set(moved) <= set(lost)
    assert lost == list(first.ack(lost))
    kept = [delivery.tag for delivery in held.values() if delivery.tag not in lost]
    assert [] == list(first.ack(kept))
    assert 0 < len(kept) < 20


def test_a_partition_that_stays_goes_on(connect: Connect) -> None:
    """What a member keeps it does not have to read again, when others join."""
    first, second = connect(partitions="4", revoke_wait="0.2"), connect(partitions="4")
    spread(first, 20)
    held = take(first, 20)
    wait_until(lambda: bool(second.fetch(20, 0.5)), "Nothing goes to the other one.")

    assert [] == first.fetch(20, 1.0)
    assert first.ack([delivery.tag for delivery in held]) != [delivery.tag for delivery in held]


def test_who_has_enough_reads_no_more_of_what_comes_to_it(connect: Connect) -> None:
    """What another worker has left waits on the broker, too, until there is room in the process."""
    first, second = (connect(partitions="4", prefetch="50") for _ in range(2))
    inventories = [one._membership._inventory for one in (first, second)]
    inventory = inventories[0]
    for one in first, second:
        one.fetch(1, 0)
    wait_until(lambda: all(len(one.partitions()) == 4 for one in inventories), "They do not share.")
    spread(connect(partitions="4"), 1000)
    wait_until(lambda: all(len(one._backlog) == 50 for one in inventories), "They do not read.")

    second.close()
    wait_until(lambda: len(inventory.partitions()) == 8, "What the other one had does not come.")
    most = 0
    for _ in range(50):
        time.sleep(0.02)
        most = max(most, len(inventory._backlog))

    assert 50 == most
    assert Counter(str(n) for n in range(1000)) == Counter(bodies(take(first, 1000)))


def test_long_work_costs_no_membership(kafka_plain: Kafka, topic: str, connect: Connect) -> None:
    """Whatever handlers do, the group hears of the worker, and its messages stay its own."""
    connection = connect(session_timeout="2", heartbeat_interval="0.2", partitions="1")
    publish(connection, 3)
    held = take(connection, 3)

    threading.Event().wait(3.0)

    assert [] == list(connection.revoked())
    assert [] == list(connection.ack([delivery.tag for delivery in held]))
    wait_until(lambda: done_in(kafka_plain, topic) == {0, 1, 2}, "It is not committed.")


def test_another_worker_takes_over_from_one_that_was_killed(kafka_plain: Kafka, topic: str, connect: Connect) -> None:
    """Within its session, and what comes twice is what was in hand or not committed."""
    connection = connect(partitions="2", commit_interval="0.05")
    with member_of(dsn_of(kafka_plain, topic, partitions="2")) as member:
        publish(connection, 100)
        member.fetch(40)
        taken = take(connection, 1) if member.ack(*map(str, [])) else []
        member.kill()

    came = bodies([*taken, *take(connection, 100)])

    assert {str(n) for n in range(100)} == set(came)


def test_partitions_that_are_added_are_read(kafka_plain: Kafka, topic: str, connect: Connect) -> None:
    """While it works, a worker notices them, and what was written to them before it did is not skipped."""
    connection = connect(partitions="1", metadata_interval="1")
    publish(connection, 3)
    connection.ack([delivery.tag for delivery in take(connection, 3)])

    with kafka_plain.admin() as admin:
        admin.create_partitions({topic: 4})
    connection.publish([Outgoing(b"%d" % n, {}, stamps=(Key(str(n)),)) for n in range(40)])
    sender = connect(partitions="1", metadata_interval="1")
    wait_until(lambda: _spreads(sender), "The new partitions are not written to.")

    came = {delivery.body for delivery in take(connection, 40)}
    assert {b"%d" % n for n in range(40)} <= came | {b"x"}


def _spreads(sender: KafkaConnection) -> bool:
    ids = sender.publish([Outgoing(b"x", {}, stamps=(Key(str(n)),)) for n in range(20)])
    return len({str(id).split("/")[1] for id in ids}) > 1


def test_a_topic_that_is_made_anew_is_read(kafka_plain: Kafka, topic: str, connect: Connect) -> None:
    """Deleted under a worker and made again, it is read from its beginning."""
    connection = connect(partitions="1", metadata_interval="1")
    publish(connection, 3)
    connection.ack([delivery.tag for delivery in take(connection, 3)])
    wait_until(lambda: done_in(kafka_plain, topic) == {0, 1, 2}, "It is not committed.")

    kafka_plain.delete_topic(topic)
    kafka_plain.create_topic(topic)
    connect(partitions="1").publish([Outgoing(b"anew", {})])

    seen: list[bytes] = []
    wait_until(lambda: b"anew" in seen or bool(seen.extend(_fetched(connection))), "It is not read.")


def _fetched(connection: KafkaConnection) -> list[bytes]:
    return [delivery.body for delivery in connection.fetch(10, 0.5)]


def test_two_workers_of_one_name_end_the_older(connect: Connect) -> None:
    """The one whose ``group_instance_id`` another has taken raises an error, instead of handling everything twice."""
    first = connect(partitions="1", group_instance_id="me")
    publish(first, 5)
    take(first, 1)
    second = connect(partitions="1", group_instance_id="me")
    second.fetch(1, 5.0)

    with pytest.raises(TransportError, match="group_instance_id"):
        _go_on(first)


def _go_on(connection: KafkaConnection) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        connection.ack([delivery.tag for delivery in connection.fetch(1, 0.5)])
