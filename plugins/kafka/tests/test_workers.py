"""Workers in processes of their own, under load: killed, joining, and replaced one after the other."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from plugins.kafka.tests.readers import Reading, reader_of, readings_in
from postbus.stamps import Key
from postbus.transport import Outgoing
from postbus_kafka.connection import KafkaConnection
from postbus_kafka.metadata import decode
from tests.brokers.kafka import Kafka
from tests.brokers.server import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.once]

MESSAGES = int(os.environ.get("POSTBUS_TEST_KAFKA_MESSAGES", "2000"))
"""How many go through each test; 50 000 take a minute."""

PATIENCE = 45 + MESSAGES / 200
KEYS = 40
OPTIONS = "partitions=6&session_timeout=20&heartbeat_interval=0.3&commit_interval=0.2&delays[]=1&metadata_interval=5"
# A busy machine is not to be taken for a death, but of the one that dies.
MORTAL = OPTIONS.replace("session_timeout=20", "session_timeout=2")

Connect = Callable[..., KafkaConnection]


def send(connection: KafkaConnection, first: int, number: int) -> None:
    """Send so many messages, each with its number, in so many groups."""
    for start in range(first, first + number, 500):
        batch = range(start, min(start + 500, first + number))
        connection.publish([Outgoing(b"%d" % n, {}, stamps=(Key(f"key-{n % KEYS}"),)) for n in batch])


def send_until_all_read(connection: KafkaConnection, folder: Path, readers: int) -> int:
    """Send until each of so many readers has read something, however late it joins; return how many were sent."""
    number = 0

    def all_read() -> bool:
        nonlocal number
        send(connection, number, KEYS)
        number += KEYS
        return len({reading.reader for reading in readings_in(folder)}) == readers

    wait_until(all_read, "One of them gets nothing.", PATIENCE)
    return number


def wait_for_all(folder: Path, number: int) -> None:
    """Return when so many messages have been read, however often."""
    wait_until(lambda: len({one.number for one in readings_in(folder)}) == number, "Some are lost.", PATIENCE)


def see_order(readings: Sequence[Reading]) -> None:
    """See that what was delivered once came in the order of its key."""
    times = Counter((reading.partition, reading.offset) for reading in readings)
    by_key: dict[str, list[int]] = defaultdict(list)
    for reading in readings:
        if times[reading.partition, reading.offset] == 1:
            by_key[reading.key].append(reading.number)
    assert [] == [key for key, numbers in by_key.items() if numbers != sorted(numbers)]


def done_in(kafka: Kafka, topic: str) -> set[tuple[int, int]]:
    """Return the partitions and offsets that the group has committed as done."""
    done: set[tuple[int, int]] = set()
    with kafka.admin() as admin:
        committed = admin.list_group_offsets(f"{topic}.postbus")[f"{topic}.postbus"]
    for partition, found in committed.items():
        if partition.topic != topic or found.offset < 0:
            continue
        done |= {(partition.partition, offset) for offset in range(found.offset)}
        at = found.offset
        for length, state in decode(found.metadata):
            done |= {(partition.partition, offset) for offset in range(at, at + length) if state.is_done}
            at += length
    return done


def test_one_is_killed_and_one_joins(kafka_plain: Kafka, topic: str, tmp_path: Path, connect: Connect) -> None:
    """Nothing is lost, and nothing comes twice that was committed; what came once came in order."""
    dsn = f"{kafka_plain.dsn}/{topic}?{OPTIONS}"
    sender = connect(partitions="6", delays=["1"])
    sender.setup()
    part = MESSAGES // 2
    with ExitStack() as stack:
        mortal = f"{kafka_plain.dsn}/{topic}?{MORTAL}"
        killed = stack.enter_context(reader_of(mortal, tmp_path / "killed"))
        stack.enter_context(reader_of(dsn, tmp_path / "stays"))
        first = send_until_all_read(sender, tmp_path, 2)
        send(sender, first, part)
        killed.kill()
        killed.wait()
        known = done_in(kafka_plain, topic)
        read_before = {(one.partition, one.offset) for one in readings_in(tmp_path)}
        stack.enter_context(reader_of(dsn, tmp_path / "joins"))
        send(sender, first + part, part)
        wait_for_all(tmp_path, first + 2 * part)

    readings = readings_in(tmp_path)
    times = Counter((one.partition, one.offset) for one in readings)
    twice = {place for place, number in times.items() if number > 1}
    print(f"{len(times)} messages, {len(twice)} came twice; {len(read_before - known)} were read and not committed")
    assert set() == twice & known, "What was committed came again."
    assert twice <= read_before, "What nobody had in hand when one was killed came twice."
    see_order(readings)


def test_two_of_three_are_replaced(kafka_plain: Kafka, topic: str, tmp_path: Path, connect: Connect) -> None:
    """They stop and come again, one after the other, under load: nothing is lost or comes twice, all is in order."""
    dsn = f"{kafka_plain.dsn}/{topic}?{OPTIONS}"
    sender = connect(partitions="6", delays=["1"])
    sender.setup()
    part = MESSAGES // 4
    with ExitStack() as stack:
        olds = [stack.enter_context(reader_of(dsn, tmp_path / name)) for name in ("stays", "first", "second")]
        first = send_until_all_read(sender, tmp_path, 3)
        for turn, old in enumerate(olds[1:]):
            old.terminate()
            send(sender, first + 2 * turn * part, part)
            old.wait()
            stack.enter_context(reader_of(dsn, tmp_path / f"new-{turn}"))
            send(sender, first + (2 * turn + 1) * part, part)
        wait_for_all(tmp_path, first + 4 * part)

    readings = readings_in(tmp_path)
    assert {1} == set(Counter((one.partition, one.offset) for one in readings).values())
    see_order(readings)
    if os.environ.get("POSTBUS_TEST_KAFKA_GAPS"):
        show_gaps(readings)


def show_gaps(readings: Sequence[Reading]) -> None:
    """Print for how long each partition was not read at most."""
    last: dict[int, float] = {}
    longest: dict[int, float] = defaultdict(float)
    for reading in readings:
        longest[reading.partition] = max(
            longest[reading.partition], reading.at - last.get(reading.partition, reading.at)
        )
        last[reading.partition] = reading.at
    print({partition: round(gap, 2) for partition, gap in sorted(longest.items())})
