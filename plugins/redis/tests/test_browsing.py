"""What can be seen and deleted without being delivered."""

from __future__ import annotations

import pytest

from postbus.transport import Outgoing
from tests.brokers.server import wait_until

DAY = 86_400.0


def pages(connection, size):
    shown = []
    while page := connection.browse(size, after=shown[-1].id if shown else None):
        shown += page
        assert len(shown) == len({each.id for each in shown}), "Something is shown twice, so that it never ends."
    return shown


def test_messages_are_shown_in_the_order_in_which_they_come(connect):
    """Those in the stream as they were published, then those that are delayed, the first to be due first."""
    connection = connect()
    connection.publish([Outgoing(b"4", {}, 2 * DAY), Outgoing(b"1", {}), Outgoing(b"3", {}, DAY), Outgoing(b"2", {})])
    connection.fetch(1, 5)

    assert [b"1", b"2", b"3", b"4"] == [shown.body for shown in pages(connection, 3)]


def test_many_messages_are_shown_once_each(client, stream, connect):
    """However many there are, and however many of them are due in the same millisecond."""
    connection = connect()
    connection.publish([Outgoing(b"entry %d" % number, {}) for number in range(700)])
    for due, number in ((10**14, 600), (10**14 + 1, 600), (10**14 + 2, 1)):
        client.zadd(f"{stream}__queue", {f'{{"body":"{due} {each}","headers":[]}}': due for each in range(number)})

    shown = pages(connection, 400)

    assert 700 + 1201 == len(shown) == len({each.id for each in shown}) == len({each.body for each in shown})
    assert [each.id for each in shown[:5]] == [each.id for each in connection.browse(5)]


def test_a_delayed_message_is_shown_and_deleted_by_the_id_that_publishing_gave(connect):
    """As long as it is delayed; then it is another entry."""
    connection = connect()
    kept, removed, due = connection.publish(
        [Outgoing(b"1", {}, DAY), Outgoing(b"2", {}, DAY), Outgoing(b"3", {}, 0.05)]
    )

    assert b"2" == connection.find(removed).body
    assert 1 == connection.remove([removed, "no-such-id"])
    assert connection.find(removed) is None
    assert b"1" == connection.find(kept).body
    [delivery] = connection.fetch(1, 5)
    assert (b"3", True) == (delivery.body, connection.find(due) is None)


def test_several_are_deleted_together_whatever_their_state(connect):
    """Those that wait, are in flight, and are delayed, also until the same moment; what is settled is none of them."""
    connection = connect()
    entries = connection.publish([Outgoing(b"%d" % number, {}) for number in range(6)])
    delayed = connection.publish([Outgoing(b"%d" % number, {}, DAY) for number in range(6, 10)])
    settled, *_ = connection.fetch(3, 5)
    connection.ack([settled.tag])

    twice = [entries[1], delayed[0]]
    assert 7 == connection.remove([*entries[:5], *delayed[:3], *twice, "no-such-id", "1.5.AAAAAAAAAAAA"])
    assert [b"5", b"9"] == [shown.body for shown in connection.browse(20)]
    counts = connection.count()
    assert (1, 1, 0) == (counts.waiting, counts.delayed, counts.in_flight)
    assert [b"5"] == [delivery.body for delivery in connection.fetch(10, 5)]


def test_a_copy_that_is_delayed_is_found_by_its_id(connect):
    """`replace` gives the same kind of id."""
    connection = connect()
    connection.publish([Outgoing(b"original", {})])
    [delivery] = connection.fetch(1, 5)

    id = connection.replace(delivery.tag, Outgoing(b"copy", {}, DAY))

    assert b"copy" == connection.find(id).body


def test_a_stream_without_a_group_is_shown_and_counted(client, stream, connect):
    """Everything in it waits."""
    connection = connect()
    assert (0, 0, 0, None) == tuple(getattr(connection.count(), name) for name in connection.count().__struct_fields__)
    assert [] == list(connection.browse(10))

    connection.publish([Outgoing(b"1", {}), Outgoing(b"2", {}, DAY)])

    counts = connection.count()
    assert (1, 1, 0) == (counts.waiting, counts.delayed, counts.in_flight)
    assert [b"1", b"2"] == [shown.body for shown in connection.browse(10)]
    assert 2 == connection.purge()


def test_messages_that_were_removed_are_not_counted(connect):
    """Also where Redis itself has lost count."""
    connection = connect()
    connection.setup()
    ids = connection.publish([Outgoing(b"%d" % number, {}) for number in range(5)])
    connection.fetch(1, 5)

    assert 2 == connection.remove(ids[2:4])

    counts = connection.count()
    assert (2, 1) == (counts.waiting, counts.in_flight)


def test_what_is_due_and_what_was_released_waits(client, stream, connect):
    """Both could be delivered now."""
    connection = connect()
    connection.publish([Outgoing(b"released", {}), Outgoing(b"held", {})])
    released, _ = connection.fetch(2, 5)
    connection.release([released.tag])
    client.zadd(f"{stream}__queue", {'{"body":"due","headers":[]}': 1})

    counts = connection.count()

    assert (2, 0, 1) == (counts.waiting, counts.delayed, counts.in_flight)
    assert counts.oldest_age is not None
    assert counts.oldest_age > DAY


def test_a_foreign_entry_is_shown_as_it_is(client, stream, connect):
    """Nothing in a stream can keep the rest of it from being seen."""
    client.xadd(stream, {"user": "13"})
    client.xadd(stream, {"message": "no JSON"})
    client.zadd(f"{stream}__queue", {"no JSON either": 10**14})

    shown = connect().browse(10)

    assert [b'{"user":"13"}', b"no JSON", b"no JSON either"] == [each.body for each in shown]


def test_a_foreign_entry_is_delivered_as_it_is(client, stream, connect):
    """It is neither skipped nor fatal, and those behind it come too."""
    connection = connect()
    client.xadd(stream, {"user": "13"})
    client.xadd(stream, {"message": "no JSON"})
    connection.publish([Outgoing(b"message", {"type": "note"})])

    found = connection.fetch(10, 5)

    assert [b'{"user":"13"}', b"no JSON", b"message"] == [each.body for each in found]
    connection.ack([each.tag for each in found])
    assert 0 == client.xlen(stream)


@pytest.mark.slow
def test_purging_under_a_waiting_worker_disturbs_nobody(connect, in_background):
    """It goes on waiting, and gets what comes next."""
    worker, other = connect(), connect()
    waiting = in_background(lambda: worker.fetch(1, 30))
    wait_until(lambda: other.missing() == [], "It does not wait.")
    other.publish([Outgoing(b"tomorrow", {}, DAY)])

    assert 1 == other.purge()
    other.publish([Outgoing(b"next", {})])

    assert [b"next"] == [delivery.body for delivery in waiting.result(10)]


@pytest.mark.parametrize("due", ["+inf", "1e300", "-inf", "-5", "0.5", "1e-7", "12345678901234567890123"])
def test_what_others_made_due_at_any_number_is_shown_once(client, stream, connect, due):
    """It is found and deleted by the id that it is shown with, and what is counted counts it."""
    connection = connect()
    connection.setup()
    client.zadd(f"{stream}__queue", {"theirs": due, "others": due})

    shown = pages(connection, 1)
    counts = connection.count()

    assert [b"others", b"theirs"] == sorted(each.body for each in shown)
    assert 2 == counts.waiting + counts.delayed
    assert shown[0].body == connection.find(shown[0].id).body
    assert 1 == connection.remove([shown[0].id])
    assert [shown[1].body] == [each.body for each in pages(connection, 1)]


def test_an_entry_may_have_the_last_id_of_all(client, stream, connect):
    """Others may have added it so; an id beyond is that of nothing."""
    last = f"{2**64 - 1}-{2**64 - 1}"
    connection = connect()
    client.xadd(stream, {"message": "theirs"}, id=last)

    assert [b"theirs"] == [each.body for each in pages(connection, 1)]
    assert b"theirs" == connection.find(last).body
    assert connection.find(f"{2**64}-0") is None
    assert 0 == connection.remove([f"{2**64}-0", f"0-{2**64}"])
    assert 1 == connection.remove([last])


def test_what_cannot_be_read_is_shown_as_it_came(client, stream, connect):
    """With its problem, be it an entry or delayed; and so is what is behind it."""
    connection = connect()
    unreadable = '{"body": "x", "headers": ["type"]}'
    client.xadd(stream, {"message": unreadable})
    client.zadd(f"{stream}__queue", {unreadable: 10**14})
    connection.publish([Outgoing(b"ours", {})])

    shown = pages(connection, 1)

    assert [unreadable.encode(), b"ours", unreadable.encode()] == [each.body for each in shown]
    assert [True, False, True] == [each.problem is not None for each in shown]
    assert all(each.problem == connection.find(each.id).problem for each in shown)
