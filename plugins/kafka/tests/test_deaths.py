"""What becomes of messages whose worker dies, is stopped, or loses its place: nothing is lost, little comes twice."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from plugins.kafka.tests.members import PATIENCE, member_of
from postbus.queue_transport import QueueTransport
from postbus.transport import Delivery, Outgoing
from postbus_kafka.connection import KafkaConnection
from postbus_kafka.metadata import decode
from tests.brokers.kafka import Kafka, OwnKafka
from tests.brokers.server import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.once]

Connect = Callable[..., KafkaConnection]
SHORT = {"session_timeout": "1.5", "heartbeat_interval": "0.2", "partitions": "1"}
"""Options of whoever dies here, or is not heard of for too long."""


def dsn_of(kafka: Kafka, topic: str, **options: str) -> str:
    """Return the DSN of a topic with one partition."""
    given = {**SHORT, "commit_interval": "0.05", **options}
    return f"{kafka.dsn}/{topic}?delays[]=0.5&delays[]=5&" + "&".join(
        f"{name}={value}" for name, value in given.items()
    )


def numbers(*parts: range | int) -> list[str]:
    """Return bodies."""
    return [str(n) for part in parts for n in (part if isinstance(part, range) else [part])]


def publish(connection: KafkaConnection, number: int) -> None:
    """Publish so many messages, each with its number."""
    connection.publish([Outgoing(b"%d" % n, {}) for n in range(number)])


def take(connection: KafkaConnection, number: int, patience: float = PATIENCE) -> list[Delivery]:
    """Fetch so many."""
    end = time.monotonic() + patience
    taken: list[Delivery] = []
    while len(taken) < number and (left := end - time.monotonic()) > 0:
        taken += connection.fetch(number - len(taken), left)
    assert number == len(taken), f"{len(taken)} of {number} came."
    return taken


def bodies(deliveries: Sequence[Delivery]) -> list[str]:
    """Return what came."""
    return [delivery.body.decode() for delivery in deliveries]


def committed(kafka: Kafka, topic: str) -> Any:
    """Return what the group has committed of the first partition."""
    with kafka.admin() as admin:
        found = admin.list_group_offsets(f"{topic}.postbus")[f"{topic}.postbus"]
    return next((one for partition, one in found.items() if partition.topic == topic), None)


def done_in(kafka: Kafka, topic: str) -> set[int]:
    """Return the offsets that count as done, of the first hundred."""
    found = committed(kafka, topic)
    if found is None:
        return set()
    done, at = set(range(found.offset)), found.offset
    for length, state in decode(found.metadata):
        done |= set(range(at, at + length)) if state.is_done else set()
        at += length
    return {offset for offset in done if offset < 100}


def test_what_was_settled_in_any_order_stays_settled(kafka_plain: Kafka, topic: str, connect: Connect) -> None:
    """A worker that is killed leaves to the next one exactly what it had not acknowledged, gaps and all."""
    connection = connect(partitions="1")
    publish(connection, 20)
    with member_of(dsn_of(kafka_plain, topic)) as member:
        member.fetch(20)
        member.ack(*numbers(7, range(9, 16)))
        member.ack(*numbers(range(5)))
        expected = {*range(5), 7, *range(9, 16)}
        wait_until(lambda: done_in(kafka_plain, topic) == expected, "It is not committed.")
        member.kill()

    assert numbers(5, 6, 8, range(16, 20)) == bodies(take(connection, 7))
    assert [] == connection.fetch(10, 0.5)


def test_what_was_handled_and_not_committed_comes_again(kafka_plain: Kafka, topic: str, connect: Connect) -> None:
    """All of it, in its order, and nothing is lost."""
    connection = connect(partitions="1")
    publish(connection, 50)
    with member_of(dsn_of(kafka_plain, topic, commit_interval="600")) as member:
        member.fetch(50)
        assert [] == member.ack(*numbers(range(50)))
        member.kill()

    assert numbers(range(50)) == bodies(take(connection, 50))


def test_a_message_that_workers_die_of_is_counted_apart(kafka_plain: Kafka, topic: str, connect: Connect) -> None:
    """Each death counts for what was in hand then; those beside it are suspected once, and never again."""
    publish(connect(partitions="1"), 5)

    deliveries = []
    for _ in range(3):
        with member_of(dsn_of(kafka_plain, topic)) as member:
            deliveries += member.fetch(1)
            member.kill()
    connection = connect(partitions="1")
    [first] = take(connection, 1)
    connection.ack([first.tag])
    others = take(connection, 4)

    assert [("0", 1), ("0", 2), ("0", 3)] == deliveries
    assert ("0", 4) == (first.body.decode(), first.count)
    assert {2} == {delivery.count for delivery in others}


def test_a_worker_that_leaves_in_order_counts_for_nothing(connect: Connect) -> None:
    """What it had in hand and gave back, or simply left, comes to the next one as for the first time."""
    connection = connect(partitions="1")
    publish(connection, 5)
    for _ in range(3):
        take(connection, 5)
        connection.close()
        connection = connect(partitions="1")

    assert {1} == {delivery.count for delivery in take(connection, 5)}


def test_who_stood_still_for_too_long_settles_nothing_that_is_anothers(
    kafka_plain: Kafka, topic: str, connect: Connect
) -> None:
    """A process that was stopped learns that its messages went to another; what it held back it does not hand out."""
    connection = connect(partitions="1")
    publish(connection, 10)
    with member_of(dsn_of(kafka_plain, topic)) as member:
        member.fetch(3)
        member.signal(signal.SIGSTOP)
        try:
            taken = take(connection, 10)
            assert [] == connection.ack([delivery.tag for delivery in taken])
            wait_until(lambda: done_in(kafka_plain, topic) >= set(range(10)), "It is not committed.")
        finally:
            member.signal(signal.SIGCONT)

        assert [] == member.fetch(1, 3.0)
        assert numbers(range(3)) == member.ack(*numbers(range(3)))
        assert done_in(kafka_plain, topic) == set(range(10))


@pytest.mark.parametrize("how", ["cut", "black_hole"])
def test_who_was_cut_off_for_too_long_hands_out_nothing(
    own_kafka: OwnKafka, topic: str, make_transport: Callable[..., QueueTransport], how: str
) -> None:
    """What waits in its process went to another, so it comes from there alone, also once the network is back."""
    with own_kafka.partition() as network:
        transport = make_transport(network.dsn, timeout=2, lost_after=1, **SHORT)
        transport.connection.publish([Outgoing(b"%d" % n, {}) for n in range(10)])
        [held] = transport.connection.fetch(1, PATIENCE)
        getattr(network, how)()
        other = make_transport(own_kafka.dsn, partitions=1).connection
        taken: list[Delivery] = []
        wait_until(lambda: len(taken) >= 10 or bool(taken.extend(other.fetch(10, 1.0))), "Nobody else gets them.", 60)

        assert [] == transport.receive(10, 3.0)
        assert [] == other.ack([delivery.tag for delivery in taken])
        network.heal()
        wait_until(lambda: done_in(own_kafka, topic) >= set(range(10)), "It is not committed.")

        assert numbers(range(10)) == bodies(taken)
        assert [] == transport.receive(10, 3.0)
        assert [held.tag] == transport.connection.ack([held.tag])
