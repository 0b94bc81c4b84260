"""Looking after a queue: count, browse, find, remove, purge."""

import pytest

from postbus.transport import Outgoing
from postbus_sql import connection as module

ONE, TWO, THREE = (Outgoing(body, {}) for body in (b"1", b"2", b"3"))


def test_each_message_is_counted_once(connect, sql):
    """What was never delivered or whose lease is over waits; the rest is delayed or in flight."""
    connection = connect(redeliver_timeout=100)
    connection.publish([Outgoing(b"in flight", {}), Outgoing(b"expired", {})])
    connection.fetch(2, 0)
    sql("UPDATE messenger_messages SET delivered_at = '2025-01-01 00:00:00' WHERE body = 'expired'")
    connection.publish([ONE, TWO, THREE, Outgoing(b"later", {}, 3600)])
    connect(queue_name="other").publish([ONE])

    counts = connection.count()

    assert (4, 1, 1) == (counts.waiting, counts.delayed, counts.in_flight)


def test_the_age_is_that_of_the_oldest_that_waits(connect, sql):
    """What is delayed or in flight has no say, and of an empty queue there is no age."""
    connection = connect()
    connection.publish([Outgoing(b"later", {}, 3600)])
    assert connection.count().oldest_age is None
    connection.publish([ONE, TWO])
    sql("UPDATE messenger_messages SET available_at = datetime('now', '-60 seconds') WHERE body = '1'")

    age = connection.count().oldest_age

    assert age is not None
    assert 60 <= age < 90


def test_pages_follow_the_ids_of_one_queue(connect):
    """Each message of the queue is on one page, in the order of the ids, whatever its state; none of another queue."""
    connection, other = connect(), connect(queue_name="other")
    for number in range(10):
        connection.publish([Outgoing(b"%d" % number, {}, 3600 if number % 3 else 0)])
        other.publish([ONE])
    connection.fetch(1, 0)

    pages = [connection.browse(4)]
    while pages[-1]:
        pages.append(connection.browse(4, after=pages[-1][-1].id))

    assert [4, 4, 2, 0] == [len(page) for page in pages]
    assert [b"%d" % number for number in range(10)] == [shown.body for page in pages for shown in page]


def test_another_queue_is_out_of_reach(connect):
    """An id of another queue is neither found nor removed."""
    connection, other = connect(), connect(queue_name="other")
    [id] = other.publish([ONE])
    connection.setup()

    assert connection.find(id) is None
    assert 0 == connection.remove([id])
    assert other.find(id) is not None


@pytest.mark.parametrize("id", ["", "x", "-1", "1.0", "9" * 30, "²"])
def test_what_is_no_id_is_not_found(connect, id):
    """Whatever is asked for, the answer is that it is not there."""
    connection = connect()
    connection.publish([ONE])

    assert connection.find(id) is None
    assert 0 == connection.remove([id])


def test_many_are_removed_at_once(connect):
    """More ids than one statement has room for are removed and counted."""
    connection = connect()
    ids = connection.publish([ONE] * 2500)

    assert 2400 == connection.remove(ids[:2400])

    assert ids[2400:] == [shown.id for shown in connection.browse(1000)]


def test_a_purge_leaves_what_comes_meanwhile_and_other_queues(connect, monkeypatch):
    """It deletes batch by batch, so that others get their turn, and counts them all."""
    monkeypatch.setattr(module, "PURGE_BATCH", 2)
    connection, other = connect(), connect(queue_name="other")
    connection.publish([ONE, TWO, THREE])
    other.publish([ONE])

    assert 3 == connection.purge()

    assert 0 == connection.count().waiting
    assert 1 == other.count().waiting


def test_a_copy_takes_the_place_of_its_original(connect):
    """Both happen or neither; the copy waits for its delay."""
    connection = connect()
    connection.publish([ONE])
    [delivery] = connection.fetch(1, 0)

    id = connection.replace(delivery.tag, Outgoing(b"again", {}, 3600))

    assert [(id, b"again")] == [(shown.id, shown.body) for shown in connection.browse(10)]
    assert 1 == connection.count().delayed
