"""Who gets what: claims, leases, and what they cost."""

import sqlite3
from collections import Counter
from contextlib import closing

import pytest

from postbus.errors import ConnectionLost
from postbus.transport import Outgoing
from postbus_sql import database
from postbus_sql.dialects import Sqlite, sqlite_engine
from postbus_sql.statements import Statements

FILL = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
    " INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at, delivered_at)"
    " SELECT '{}', '{}', 'default', ?, ?, ? FROM n"
)
LONG_AGO, FAR_AWAY = "2020-01-01 00:00:00", "9000-01-01 00:00:00"


def bodies(deliveries):
    return [delivery.body for delivery in deliveries]


@pytest.mark.parametrize("name", ["claim_waiting", "claim_expired", "next_due"])
def test_what_is_asked_for_each_fetch_is_served_by_the_index(connect, sql, file, name):
    """No table is scanned and nothing is sorted, however many messages there are."""
    connect().setup()
    statement = getattr(Statements("messenger_messages", Sqlite(sqlite_engine(str(file), "full"))), name)

    plan = [row[3] for row in sql(f"EXPLAIN QUERY PLAN {statement}", *[1] * statement.count("?"))]

    searches = [step for step in plan if "messenger_messages" in step]
    assert searches
    assert all(step.startswith("SEARCH") for step in searches), plan
    assert not [step for step in plan if "TEMP B-TREE" in step], plan
    assert all("COVERING INDEX messenger_messages_claim" in step or "PRIMARY KEY" in step for step in searches), plan


@pytest.mark.parametrize("name", ["delete_leased", "release", "extend"])
def test_a_delivery_is_settled_by_its_primary_key(connect, sql, file, name):
    """Settling looks at the rows that it settles, and at no other."""
    connect().setup()
    statement = getattr(Statements("messenger_messages", Sqlite(sqlite_engine(str(file), "full"))), name)
    statement = statement.replace("{ids}", "1, 2, 3")

    plan = [row[3] for row in sql(f"EXPLAIN QUERY PLAN {statement}", *[1] * statement.count("?"))]

    assert ["SEARCH messenger_messages USING INTEGER PRIMARY KEY (rowid=?)"] == plan


def steps_of_a_claim(sql, file):
    """Return how many instructions SQLite runs, in steps of ten, to find what is due and to claim ten messages."""
    statements = Statements("messenger_messages", Sqlite(sqlite_engine(str(file), "full")))
    steps = Counter()
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.set_progress_handler(lambda: steps.update(["ten"]), 10)
        connection.execute(statements.next_due, ("default", "default", "1970-01-01 00:00:00")).fetchall()
        claimed = ("2025-01-01 00:00:00", "default", LONG_AGO, 10)
        connection.execute(statements.claim_expired, claimed).fetchall()
        claimed = ("2025-01-01 00:00:00", "default", "2025-01-01 00:00:00", 10)
        assert 10 == len(connection.execute(statements.claim_waiting, claimed).fetchall())
    return steps["ten"]


def test_the_cost_of_a_claim_does_not_grow_with_depth(connect, sql, file):
    """Claiming ten is as much work among 20 as among 60 000, whether these wait, are delayed or in flight."""
    connect().setup()
    sql(FILL, 20, LONG_AGO, LONG_AGO, None)
    shallow = steps_of_a_claim(sql, file)

    sql(FILL, 20_000, LONG_AGO, LONG_AGO, LONG_AGO)  # in flight, and older than all that wait
    sql(FILL, 20_000, LONG_AGO, FAR_AWAY, None)
    sql(FILL, 20_000, LONG_AGO, LONG_AGO, None)
    deep = steps_of_a_claim(sql, file)

    assert deep <= 1.2 * shallow


@pytest.mark.slow
def test_several_processes_share_a_queue(connect, start):
    """Of 500 messages, each is delivered to one of three processes that claim at once, and to no other."""
    connect().publish([Outgoing(b"%d" % number, {}) for number in range(500)])
    children = [start("drain") for _ in range(3)]

    for child in children:
        child.begin()

    seen = Counter(body for child in children for body in child.result())
    assert Counter(str(number) for number in range(500)) == seen


@pytest.mark.slow
def test_what_a_killed_process_had_comes_back_once_and_is_counted(connect, start):
    """After ``redeliver_timeout`` it is delivered again, for the second time, and then not a third time."""
    connection = connect(redeliver_timeout=1)
    connection.publish([Outgoing(b"%d" % number, {"type": "x"}) for number in range(5)])
    child = start("hold", "redeliver_timeout=1")
    child.begin()
    assert 5 == len(child.result())
    child.process.kill()

    again = connection.fetch(10, 30)

    assert [b"0", b"1", b"2", b"3", b"4"] == bodies(again)
    assert [2] * 5 == [delivery.count for delivery in again]
    assert all({"type": "x"} == delivery.headers for delivery in again)
    connection.keepalive([delivery.tag for delivery in again])
    assert [] == connection.fetch(10, 0)


@pytest.mark.slow
def test_an_expired_lease_is_never_mistaken_for_the_next_one(connect, sql):
    """Who claims what another lost writes a later second, so the tag of the first can touch nothing any more."""
    first, second = connect(redeliver_timeout=1), connect(redeliver_timeout=1)
    first.publish([Outgoing(b"{}", {})])
    [lost] = first.fetch(1, 0)
    [(then,)] = sql("SELECT delivered_at FROM messenger_messages")

    [held] = second.fetch(1, 30)

    [(now,)] = sql("SELECT delivered_at FROM messenger_messages")
    assert then < now
    first.ack([lost.tag])
    first.release([lost.tag])
    assert [lost.tag] == first.keepalive([lost.tag])
    assert [(now,)] == sql("SELECT delivered_at FROM messenger_messages")
    assert [] == second.keepalive([held.tag])


def test_a_released_tag_does_not_settle_the_claim_of_the_same_second(connect):
    """A tag is used up by releasing, although the next claim may carry the same timestamp."""
    first, second = connect(), connect()
    first.publish([Outgoing(b"{}", {})])
    [delivery] = first.fetch(1, 0)
    first.release([delivery.tag])
    [held] = second.fetch(1, 0)

    first.ack([delivery.tag])

    assert 1 == second.count().in_flight
    assert [] == second.keepalive([held.tag])


def test_keepalive_tells_two_deliveries_of_one_message_apart(connect, sql):
    """Who lost a message, and got it again, keeps the second delivery, and hears that the first one is lost."""
    connection = connect()
    connection.publish([Outgoing(b"{}", {})])
    [first] = connection.fetch(1, 0)
    sql("UPDATE messenger_messages SET delivered_at = ?", LONG_AGO)
    first.tag.since = LONG_AGO
    [second] = connection.fetch(1, 0)

    assert [first.tag] == connection.keepalive([first.tag, second.tag])
    connection.ack([first.tag])
    assert 1 == connection.count().in_flight


def test_a_release_is_not_counted(connect):
    """What was given back unhandled is delivered for the first time again."""
    connection = connect()
    connection.publish([Outgoing(b"{}", {})])
    connection.release([delivery.tag for delivery in connection.fetch(1, 0)])

    [again] = connection.fetch(1, 0)

    assert 1 == again.count


def test_nobody_says_of_a_message_how_often_it_was_delivered(connect):
    """A header like that of the count, which a message brings along from elsewhere, buries nothing."""
    connection = connect()
    connection.publish([Outgoing(b"{}", {"X-Postbus-Delivery-Count": "99", "a": "b"})])

    [delivery] = connection.fetch(1, 0)

    assert (1, {"a": "b"}) == (delivery.count, delivery.headers)


def test_a_tag_follows_its_lease(connect, sql):
    """After `keepalive` has moved the timestamp in the row, the same tag still settles it."""
    connection = connect()
    connection.publish([Outgoing(b"{}", {})])
    [delivery] = connection.fetch(1, 0)
    earlier = "2020-01-01 00:00:00"
    sql("UPDATE messenger_messages SET delivered_at = ?", earlier)
    delivery.tag.since = earlier

    assert [] == connection.keepalive([delivery.tag])

    assert [] == sql("SELECT 1 FROM messenger_messages WHERE delivered_at = ?", earlier)
    connection.ack([delivery.tag])
    assert [] == sql("SELECT 1 FROM messenger_messages")


def test_many_tags_are_settled_at_once(connect):
    """More deliveries than one statement has room for are settled all the same."""
    connection = connect()
    messages = [Outgoing(b"%d" % number, {}) for number in range(2500)]
    connection.publish(messages)
    deliveries = connection.fetch(2500, 0)

    connection.ack([delivery.tag for delivery in deliveries[:2400]])
    connection.release([delivery.tag for delivery in deliveries[2400:]])

    assert [message.body for message in messages[2400:]] == bodies(connection.fetch(2500, 0))


def test_a_writer_waits_for_another_one(connect, sql, in_background):
    """While another program writes, nothing fails; what was to be stored is stored afterwards."""
    connection = connect()
    connection.setup()
    sql("BEGIN IMMEDIATE")
    publishing = in_background(lambda: connection.publish([Outgoing(b"{}", {})]))
    with pytest.raises(TimeoutError):
        publishing.result(0.5)

    sql("COMMIT")

    assert ["1"] == publishing.result(30)


def test_looking_at_an_empty_queue_locks_nothing(connect, sql):
    """An idle worker does not have to wait for those who write, nor they for it."""
    connection = connect()
    connection.setup()
    sql("BEGIN IMMEDIATE")

    assert [] == connection.fetch(10, 0)


def test_a_lock_that_is_kept_for_good_is_reported(connect, sql, monkeypatch):
    """The wait is bounded, and its end says what to look for; a worker then tries again."""
    monkeypatch.setattr(database, "PATIENCE", 0.2)
    connection = connect()
    connection.setup()
    sql("BEGIN IMMEDIATE")

    with pytest.raises(ConnectionLost, match="was locked for .* Look for a program that keeps a transaction open"):
        connection.publish([Outgoing(b"{}", {})])
