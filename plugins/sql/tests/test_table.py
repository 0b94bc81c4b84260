"""The table is Symfony's, in both directions."""

import re
import time
from datetime import UTC, datetime

import pytest

from postbus.transport import Outgoing

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


def test_a_delay_beyond_all_calendars_is_kept(connect, sql):
    """A message that is to wait for longer than a timestamp can say waits until the last second that it can."""
    connect().publish([Outgoing(b"{}", {}, 1e12)])

    assert [("9999-12-31 23:59:59",)] == sql("SELECT available_at FROM messenger_messages")


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
    insert = INSERT.replace("?, ?, 'default'", "CAST(x'FF00' AS TEXT), 'no JSON', 'default'")
    sql(insert)
    sql(INSERT, "2", '{"type": "x", "attempt": 3}')
    sql(INSERT, b"\xff", b"\xff")
    sql(INSERT.replace("'2024-10-23 10:00:00')", "17)"), "3", "[1]")
    sql(INSERT.replace("'2024-10-23 10:00:00')", "'soon')"), "never", "{}")
    sql(INSERT, "4", '{"X-Postbus-Body-Encoding": "base64", "X-Postbus-Delivery-Count": "many"}')

    found = {delivery.body: delivery.headers for delivery in connect().fetch(10, 0)}

    assert {b"\xff\0", b"2", b"\xff", b"3", b"4"} == set(found)
    assert {"type": "x", "attempt": "3"} == found[b"2"]
    assert {"X-Postbus-Unreadable-Headers": "no JSON"} == found[b"\xff\0"]


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
