"""The table is Symfony's, in both directions."""

import math
import re
import sqlite3
import time
from datetime import UTC, datetime

import pytest
from sqlalchemy import create_engine, event

from postbus.errors import MessageRefused
from postbus.transport import Outgoing
from postbus_sql import GUARANTEES

JSON_ROW = (
    '{"text":"H\\u00e9\\/x","n":7}',
    '{"type":"App\\\\Message\\\\Hello","Content-Type":"application\\/json"}',
)
PHP_ROW = (
    'O:36:\\"Symfony\\\\Component\\\\Messenger\\\\Envelope\\":2:{s:7:\\"message\\";s:5:\\"Hé/x\\";}',
    "[]",
)
INSERT = (
    "INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at)"
    " VALUES (?, ?, 'default', '2024-10-23 10:00:00', '2024-10-23 10:00:00')"
)
SYMFONY_FINDS = (
    "SELECT m.id FROM messenger_messages m WHERE m.queue_name = 'default'"
    " AND (m.delivered_at IS NULL OR m.delivered_at < ?) AND m.available_at <= ? ORDER BY available_at LIMIT 1"
)


def timestamp(seconds: float) -> str:
    """Return a time as PHP writes it: gmdate('Y-m-d H:i:s')."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%d %H:%M:%S")


def test_a_row_of_symfonys_json_serializer_is_delivered_as_it_is(symfony_table, connect, sql):
    """Body and headers that a Symfony application stored arrive byte by byte."""
    sql(INSERT, *JSON_ROW)

    [delivery] = connect().fetch(10, 0)

    assert JSON_ROW[0].encode() == delivery.body
    assert {"type": "App\\Message\\Hello", "Content-Type": "application/json"} == delivery.headers
    assert ("1", 1) == (delivery.id, delivery.count)


def test_an_empty_map_that_php_wrote_as_a_list_is_no_headers(symfony_table, connect, sql):
    """A row of PHP's own serializer has no headers, which PHP writes as ``[]``."""
    sql(INSERT, *PHP_ROW)

    [delivery] = connect().fetch(10, 0)

    assert (PHP_ROW[0].encode(), {}) == (delivery.body, delivery.headers)


def test_a_text_body_is_stored_verbatim(connect, sql):
    """Symfony finds the body that was sent, as text, and the headers as a JSON object."""
    connect().publish([Outgoing(JSON_ROW[0].encode(), {"type": "App\\Message\\Hello"})])

    assert [("text", JSON_ROW[0], "default")] == sql("SELECT typeof(body), body, queue_name FROM messenger_messages")
    assert [("App\\Message\\Hello",)] == sql("SELECT json_extract(headers, '$.type') FROM messenger_messages")


def test_symfony_finds_what_was_sent_at_once(connect, sql):
    """A message without a delay is there for Symfony's own query in the same second."""
    connect().publish([Outgoing(b"{}", {})])

    now = time.time()
    assert [(1,)] == sql(SYMFONY_FINDS, timestamp(now - 3600), timestamp(now))


def test_timestamps_are_whole_seconds_in_utc(connect, sql):
    """DBAL reads ``Y-m-d H:i:s`` and nothing else; the clock is UTC, whatever the time zone here."""
    before = time.time()
    connection = connect()
    connection.publish([Outgoing(b"{}", {}), Outgoing(b"{}", {}, 0.25)])
    connection.fetch(1, 0)
    after = time.time()

    for row in sql("SELECT created_at, available_at, coalesce(delivered_at, created_at) FROM messenger_messages"):
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", value) for value in row)
        assert timestamp(before) <= row[0] <= timestamp(after)


@pytest.mark.parametrize("delay", [0.001, 0.5, 1.0, 1.5, 3600.0])
def test_a_delay_is_rounded_up(connect, sql, delay):
    """A message becomes available at the first whole second after its delay, never before."""
    before = time.time()
    connect().publish([Outgoing(b"{}", {}, delay)])

    [(available_at,)] = sql("SELECT available_at FROM messenger_messages")
    seconds = datetime.fromisoformat(available_at).replace(tzinfo=UTC).timestamp()
    assert before + delay <= seconds < time.time() + delay + 1


def test_the_longest_delay_fits_into_the_columns(connect, sql):
    """A thousand years, which is what the guarantees say."""
    connect().publish([Outgoing(b"{}", {}, GUARANTEES.longest_delay)])

    [(available_at,)] = sql("SELECT available_at FROM messenger_messages")
    assert re.fullmatch(r"3\d{3}-\d\d-\d\d \d\d:\d\d:\d\d", available_at)


@pytest.mark.parametrize(
    "refused",
    [
        Outgoing(b"late", {}, delay=1e12),
        Outgoing(b"never", {}, delay=math.inf),
        Outgoing(b"half a character", {"type": "\ud800"}),
        Outgoing(b"no text", {"type": object()}),  # type: ignore[dict-item]
        Outgoing(b"large" * 20_000, {}),
        Outgoing("größer".encode() * 13_000, {}),
        Outgoing(b"\xff" * 80_000, {}),
        Outgoing(b"in a header", {"size": "x" * 100_000}),
    ],
    ids=lambda message: message.body[:10].decode(errors="replace"),
)
def test_what_is_refused_is_so_alone(file, connect, sql, refused):
    """All others of the batch are stored and told so; and a refused copy leaves its original in flight."""
    engine = create_engine(f"sqlite:///{file}")

    @event.listens_for(engine, "connect")
    def limit(connection, record):
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)

    connection = connect("doctrine://mine", engine=engine)
    with pytest.raises(MessageRefused) as caught:
        connection.publish([Outgoing(b"0", {}), refused, Outgoing(b"2" * 98_000, {})])
    [first, third] = connection.fetch(10, 0)
    with pytest.raises(MessageRefused):
        connection.replace(first.tag, refused)

    assert ([1], {0: first.id, 2: third.id}) == (list(caught.value.refused), caught.value.stored)
    assert [] == connection.ack([first.tag, third.tag])
    assert [] == sql("SELECT * FROM messenger_messages")
    engine.dispose()


@pytest.mark.parametrize("body", [b"\xff\xfe", b"a\0b", bytes(range(256))])
def test_a_binary_body_is_stored_as_text(connect, sql, body):
    """What is no text, or has a NUL, is stored in base64, which any database can hold, and arrives unmarked."""
    connection = connect()
    connection.publish([Outgoing(body, {"type": "x"})])

    [(kind, stored)] = sql("SELECT typeof(body), body FROM messenger_messages")
    [delivery] = connection.fetch(1, 0)
    assert "text" == kind
    assert stored.isascii()
    assert (body, {"type": "x"}) == (delivery.body, delivery.headers)


def test_a_row_that_symfony_has_in_flight_is_left_alone(symfony_table, connect, sql):
    """A claim of a Symfony worker counts as one of ours, until it is too old."""
    sql(INSERT, *JSON_ROW)
    sql("UPDATE messenger_messages SET delivered_at = ?", timestamp(time.time()))
    connection = connect(redeliver_timeout=100)
    assert [] == connection.fetch(10, 0)

    sql("UPDATE messenger_messages SET delivered_at = ?", timestamp(time.time() - 102))

    assert 1 == len(connection.fetch(10, 0))


def test_symfony_leaves_alone_what_is_in_flight_here(connect, sql):
    """What a Postbus worker has claimed is not found by Symfony's query."""
    connection = connect()
    connection.publish([Outgoing(b"{}", {})])
    connection.fetch(1, 0)

    now = time.time()
    assert [] == sql(SYMFONY_FINDS, timestamp(now - 3600), timestamp(now))


def test_a_row_that_nobody_can_read_hurts_no_other(symfony_table, connect, sql):
    """Whatever lies in the columns, it is delivered as it is, and so is what lies behind it."""
    at = "'2024-10-23 10:00:00')"
    insert = INSERT.replace("?, ?, 'default'", "CAST(x'FF00' AS TEXT), 'no JSON', 'default'")
    sql(insert)
    sql(INSERT, "2", '{"type": "x", "attempt": 3}')
    sql(INSERT, b"\xff", b"\xff")
    sql(INSERT.replace("'2024-10-23 10:00:00')", "17)"), "3", "[1]")
    sql(INSERT.replace("'2024-10-23 10:00:00')", "'soon')"), "never", "{}")
    sql(INSERT, "4", '{"X-Postbus-Body-Encoding": "base64", "X-Postbus-Delivery-Count": "many"}')

    sql(INSERT.replace(at, "CAST(x'31FF' AS TEXT))"), "5", '{"type": "\xff"}')
    sql(INSERT, "6", '{"type": "x", "deep": ' + "[" * 2000 + "]" * 2000 + "}")
    sql(INSERT.replace("?, ?", "?, CAST(? AS TEXT)"), "7", b'{"type": "\xff"}')
    sql(INSERT, "8", '{"type": "x", "big": 1e999}')

    connection = connect()
    deliveries = connection.fetch(20, 0)
    found = {delivery.body: delivery.headers for delivery in deliveries}

    assert {b"\xff\0", b"2", b"\xff", b"3", b"4", b"5", b"6", b"7", b"8"} == set(found)
    assert {"type": "x", "attempt": "3"} == found[b"2"]
    assert {"X-Postbus-Unreadable-Headers": "no JSON"} == found[b"\xff\0"]
    assert {"type": "x", "big": "1e999"} == found[b"8"]
    unreadable = {delivery.body for delivery in deliveries if delivery.problem == "its headers are no JSON object"}
    assert {b"\xff\0", b"\xff", b"3", b"7"} == unreadable - {b"6"}  # Some Pythons read JSON that deep.
    shown = {(each.id, each.body, each.problem) for each in connection.browse(20) if each.body != b"never"}
    assert {(each.id, each.body, each.problem) for each in deliveries} == shown
    assert 9 == connection.count().in_flight


def test_a_row_without_a_body_is_delivered_with_that_problem(connect, sql):
    """A table that others made may let it be NULL; also when it comes again, after its lease was lost."""
    sql(
        "CREATE TABLE messenger_messages (id INTEGER PRIMARY KEY, body, headers, queue_name, created_at,"
        " available_at, delivered_at)"
    )
    sql(INSERT, None, "{}")
    sql(INSERT, "2", None)
    sql(INSERT, None, None)
    sql(INSERT.replace("created_at, available_at", "available_at, delivered_at"), "4", "{}")
    sql(INSERT.replace("created_at, available_at", "created_at, delivered_at"), None, "no JSON")
    connection = connect()

    deliveries = connection.fetch(10, 0)

    problems = {delivery.id: delivery.problem for delivery in deliveries}
    body, headers = "its body is NULL", "its headers are NULL"
    assert {"1": body, "2": headers, "3": body, "4": None, "5": body} == problems
    assert problems == {each.id: each.problem for each in connection.browse(10)}
    assert body == connection.find("3").problem
    assert [] == connection.ack([delivery.tag for delivery in deliveries])


@pytest.mark.slow
@pytest.mark.parametrize("never", ["soon", b"soon"], ids=["text", "bytes"])
def test_a_row_that_never_becomes_available_keeps_no_worker_busy(file, connect, sql, never):
    """Whoever waits beside it begins no transaction again and again, for which others would have to wait."""
    engine, statements = create_engine(f"sqlite:///{file}"), []

    @event.listens_for(engine, "connect")
    def listen(connection, record):
        connection.set_trace_callback(statements.append)

    connection = connect("doctrine://mine", engine=engine)
    connection.setup()
    sql(INSERT.replace("'2024-10-23 10:00:00')", "?)"), "1", "{}", never)
    statements.clear()

    assert [] == connection.fetch(1, 0.3)

    assert statements
    assert [] == [statement for statement in statements if statement.startswith("BEGIN")]
    engine.dispose()


def test_our_table_has_symfonys_columns(connect, sql, tmp_path, request):
    """Names, types and nullability are the same, so that Symfony has nothing to alter."""
    connect().setup()
    ours = sql("SELECT name, type, \"notnull\", pk FROM pragma_table_info('messenger_messages')")

    sql("DROP TABLE messenger_messages")
    request.getfixturevalue("symfony_table")

    assert ours == sql("SELECT name, type, \"notnull\", pk FROM pragma_table_info('messenger_messages')")


def test_an_id_is_never_used_again(connect):
    """The id of a message that is gone does not come back, so an old tag cannot mean a new message."""
    connection = connect()
    first = connection.publish([Outgoing(b"{}", {})])
    connection.ack([delivery.tag for delivery in connection.fetch(1, 0)])

    assert first != connection.publish([Outgoing(b"{}", {})])


def test_another_table_may_have_any_name(connect, sql):
    """The name is quoted; the queue inside is as separate as in any other table."""
    connection = connect(table_name='my "messages"', queue_name="it's")
    connection.publish([Outgoing(b"{}", {})])

    assert [("it's",)] == sql('SELECT queue_name FROM "my ""messages"""')
    assert [] == connection.missing()
    assert [] == connect(table_name='my "messages"').fetch(1, 0)
    assert 1 == len(connection.fetch(1, 0))
