"""What is particular to MariaDB and MySQL: locks, levels of isolation, ids, names, sizes and lost connections."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any
from uuid import uuid4

import pymysql
import pytest
from sqlalchemy import event, text

from plugins.sql.tests.place import Place
from postbus.errors import ConnectionLost, DsnError, MessageRefused, TransportError
from postbus.queue_transport import QueueTransport
from postbus.transport import Outgoing
from postbus_sql import stamps
from postbus_sql.connection import SqlConnection
from postbus_sql.dialects.mysql import MySql as Dialect
from postbus_sql.options import MYSQL_LARGEST
from postbus_sql.statements import Statements
from tests.brokers.mariadb import MariaDb

pytestmark = [pytest.mark.slow, pytest.mark.once]

Connect = Callable[..., SqlConnection]
MESSAGE = Outgoing(b"message", {"type": "x"})

SYMFONY_TABLE = """
CREATE TABLE {table} (id BIGINT AUTO_INCREMENT NOT NULL, body LONGTEXT NOT NULL, headers LONGTEXT NOT NULL,
 queue_name VARCHAR(190) NOT NULL, created_at DATETIME NOT NULL, available_at DATETIME NOT NULL,
 delivered_at DATETIME DEFAULT NULL, PRIMARY KEY(id)) DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci
"""
INSERT = (
    "INSERT INTO {table} (body, headers, queue_name, created_at, available_at, delivered_at)"
    " VALUES (%s, '{}', 'default', '2024-01-01', '2024-01-01', %s)"
)


@pytest.fixture
def place(mariadb: MariaDb, connect: Connect) -> Place:
    """Give a table on MariaDB."""
    return Place(mariadb, connect)


@pytest.fixture(params=["mariadb", "mariadb_tls"])
def any_place(request: pytest.FixtureRequest, connect: Connect) -> Place:
    """Give a table on MariaDB, reached with and without TLS, where a connection ends in other errors."""
    return Place(request.getfixturevalue(request.param), connect)


def bodies(deliveries: Any) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


# locks


def test_an_idle_worker_begins_no_transactions(place: Place) -> None:
    """MariaDB wakes nobody, so it looks many times a second: with one question, until there is something to claim."""

    def begun() -> int:
        [(_, number)] = place.sql("SHOW GLOBAL STATUS LIKE 'Com_begin'")
        return int(number)

    connection = place.connect()
    connection.setup()
    connection.fetch(1, 0)
    before = begun()

    assert [] == connection.fetch(1, 1)
    assert begun() - before <= 2  # For what waits, and for what dead workers left.
    connection.publish([MESSAGE])
    assert [b"message"] == bodies(connection.fetch(1, 1))


@pytest.mark.parametrize("which", ["claim_waiting", "claim_expired"])
def test_a_claim_reads_its_rows_in_the_order_of_an_index(place: Place, which: str) -> None:
    """InnoDB locks what it reads, before it sorts: so nothing is sorted, and no more is read than is claimed."""
    place.connect().setup()
    place.sql(INSERT + ", ('x', '{}', 'default', '2024-01-01', '2024-01-01', '2024-01-01')" * 2000, "x", None)
    place.sql(INSERT + ", ('x', '{}', 'default', '2024-01-01', '2024-01-01', NULL)" * 2000, "x", None)
    statement = getattr(Statements(place.table, Dialect(place.engine())), which)
    values = {"queue": "default", "limit": 5, "timeout": 60}

    [plan] = place.sql(f"EXPLAIN {statement}", *[values[name] for name in statement.names])

    assert f"{place.table}_claim" == plan[5]
    assert "filesort" not in (plan[-1] or "")


def test_settling_reads_only_the_rows_that_it_names(place: Place) -> None:
    """In a table that looks nearly empty, too, where reading all of an index seems to be as cheap.

    All that were deleted while somebody could still see them are in there, and those that others have locked.
    """
    connection = place.connect()
    connection.publish([MESSAGE] * 10)
    place.sql("ANALYZE TABLE {table}")
    statement = Statements(place.table, Dialect(place.engine())).hold

    [plan] = place.sql(f"EXPLAIN {statement}", "2024-01-01", [int(shown.id or 0) for shown in connection.browse(8)])

    assert ("range", "PRIMARY") == (plan[3], plan[5])


def test_while_one_claims_others_claim_the_rest(place: Place) -> None:
    """A claim that is not committed yet locks the rows that it took, and none behind them."""
    connection = place.connect()
    connection.publish([Outgoing(b"%d" % number, {}) for number in range(10)])
    engine = place.engine()
    dialect = Dialect(engine)
    statement = Statements(place.table, dialect).claim_waiting
    values = {"queue": "default", "limit": 5}
    with closing(place.server.connect()) as other, other.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        cursor.execute("START TRANSACTION")
        cursor.execute(statement, [values[name] for name in statement.names])
        assert 5 == cursor.rowcount

        assert [b"5", b"6", b"7", b"8", b"9"] == bodies(connection.fetch(10, 0))
        other.rollback()
    engine.dispose()

    assert [b"0", b"1", b"2", b"3", b"4"] == bodies(connection.fetch(10, 5))


def test_a_claim_on_an_empty_queue_keeps_nobody_from_sending(place: Place) -> None:
    """In the default level, it would lock the gaps into which rows are inserted, of all queues."""
    engine = place.engine()  # An engine of the app's, in the default level.
    worker = place.connect_by(engine)
    worker.setup()
    sender = place.connect("&queue_name=other")

    def look() -> None:
        for _ in range(100):
            worker.fetch(5, 0)

    def send() -> None:
        for _ in range(100):
            sender.publish([MESSAGE])

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work) for work in (look, send, look, send)]:
            future.result(100)

    assert 200 == sender.count().waiting
    worker.close()
    engine.dispose()


def test_a_row_that_somebody_locks_is_waited_for(
    place: Place, in_background: Callable[[Callable[[], Any]], Future[Any]]
) -> None:
    """A time-out of the server's is tried again, as a whole."""
    engine = place.engine()

    @event.listens_for(engine, "connect")
    def be_impatient(connection: Any, record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION innodb_lock_wait_timeout = 1")

    connection = place.connect_by(engine)
    connection.publish([MESSAGE])
    [delivery] = connection.fetch(1, 0)
    with closing(place.server.connect()) as other, other.cursor() as cursor:
        cursor.execute("START TRANSACTION")
        cursor.execute(f"SELECT id FROM {place.table} FOR UPDATE")
        settling = in_background(lambda: connection.ack([delivery.tag]))
        with pytest.raises(TimeoutError):
            settling.result(1.5)
        other.rollback()

    assert [] == settling.result(30)
    connection.close()
    engine.dispose()


# ids, names and times


@pytest.mark.parametrize("returning", [True, False])
def test_each_message_gets_its_own_id(place: Place, monkeypatch: pytest.MonkeyPatch, returning: bool) -> None:
    """Also in a batch of large ones, and where the server has no INSERT ... RETURNING, as MySQL."""
    monkeypatch.setattr(Dialect, "_returns_ids", property(lambda self: returning))
    connection = place.connect()

    ids = connection.publish([Outgoing(b"%d" % number * 100_000, {}) for number in range(10, 40)])

    shown = {delivery.id: delivery.body[:2] for delivery in connection.browse(100)}
    assert {id: b"%d" % number for id, number in zip(ids, range(10, 40), strict=True)} == shown


def test_queues_are_told_apart_by_every_letter(place: Place) -> None:
    """For the server, two names are the same that differ in case or accents, unless it is told otherwise."""
    names = ["orders", "Orders", "ordérs", "ORDERS"]
    for name in names:
        place.connect(queue_name=name).publish([Outgoing(name.encode(), {})])

    for name in names:
        assert [name.encode()] == bodies(place.connect(queue_name=name).fetch(10, 0))


def test_a_name_with_a_space_at_its_end_is_refused(place: Place) -> None:
    """With which the server does not compare."""
    with pytest.raises(DsnError, match="must not end in a space"):
        place.connect(queue_name="orders ")


def test_times_are_in_utc_in_any_time_zone(place: Place) -> None:
    """The session's own is of no concern."""
    engine = place.engine(connect_args={"init_command": "SET time_zone = '+05:00'"})
    connection = place.connect_by(engine)
    connection.publish([MESSAGE])

    [(seconds,)] = place.sql("SELECT TIMESTAMPDIFF(SECOND, available_at, UTC_TIMESTAMP(6)) FROM {table}")

    assert 0 <= seconds < 60
    assert [MESSAGE.body] == bodies(connection.fetch(1, 0))
    connection.close()
    engine.dispose()


def test_a_table_of_symfonys_has_whole_seconds(place: Place) -> None:
    """A delay ends at the first whole second after it, and a lease begins with one; both hold."""
    place.sql(SYMFONY_TABLE)
    connection = place.connect()
    connection.publish([Outgoing("now 🙂".encode(), {}), Outgoing(b"later", {}, 60.3)])
    [(left,)] = place.sql(
        "SELECT TIMESTAMPDIFF(MICROSECOND, MIN(created_at), MAX(available_at)) FROM {table} WHERE body = 'later'"
    )

    [delivery] = connection.fetch(10, 0)

    assert "now 🙂".encode() == delivery.body
    assert 61_000_000 <= left <= 62_000_000
    assert [] == connection.keepalive([delivery.tag])
    assert [] == connection.ack([delivery.tag])


def test_what_symfony_has_acknowledged_is_gone(place: Place) -> None:
    """On this server it leaves rows behind, delivered on the last day of time, until it next looks."""
    place.sql(SYMFONY_TABLE)
    place.sql(INSERT, "acknowledged", "9999-12-31 23:59:59")
    connection = place.connect()

    counts = connection.count()

    assert (0, 0, 0) == (counts.waiting, counts.delayed, counts.in_flight)
    assert [] == connection.browse(10)
    assert connection.find("1") is None
    assert [] == connection.fetch(10, 0)


# what is refused, and what is lost


@pytest.mark.parametrize("character", [b'"', "é".encode(), "🙂".encode(), b"x"])
def test_what_is_too_large_for_the_server_is_refused_alone(place: Place, character: bytes) -> None:
    """Quotes are escaped on the way; a packet that is too large would end the connection."""
    connection = place.connect()
    size = min(place.sql("SELECT @@max_allowed_packet")[0][0], MYSQL_LARGEST)
    large = Outgoing(character * (size // len(character) - 20_000), {})
    small = Outgoing(character * (size // len(character) // 20), {})

    refused: list[int] = []
    try:
        ids = connection.publish([small, large, small])
    except MessageRefused as error:
        refused, ids = list(error.refused), [error.stored[0], error.stored[2]]

    assert refused == ([1] if character == b'"' else [])
    assert list(ids) == [shown.id for shown in connection.browse(10)]
    connection.purge()


def test_what_takes_long_gets_longer(place: Place) -> None:
    """An index of a large table, or a large message, may take longer than any other answer."""
    database = place.connect("&read_timeout=1")._database

    def sleep(cursor: Any) -> Any:
        cursor.execute("SELECT SLEEP(2)")
        return cursor.fetchone()

    assert (0,) == database.write(sleep, longer=20)
    with pytest.raises(ConnectionLost):
        database.write(sleep)


def test_a_connection_that_was_ended_is_lost(any_place: Place, make_transport: Callable[..., QueueTransport]) -> None:
    """Whatever the driver calls it; and the transport opens another one."""
    transport = make_transport(any_place.dsn())
    connection = transport.connection
    connection.setup()

    def end_all() -> None:
        for pid, *_ in any_place.sql("SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID()"):
            try:
                any_place.sql(f"KILL {pid}")
            except pymysql.Error:  # It has gone by itself.
                continue

    end_all()
    with pytest.raises(ConnectionLost):
        connection.count()
    end_all()

    assert 0 == transport.call(lambda again: again.count()).waiting


def test_a_connection_that_is_lost_in_a_transaction_is_the_callers_error(
    any_place: Place, make_transport: Callable[..., QueueTransport]
) -> None:
    """The message is not stored on another connection, where it would be there without what belongs to it."""
    transport = make_transport(any_place.dsn())
    connection = transport.connection
    connection.setup()
    engine = any_place.engine()
    own = engine.connect()
    [(pid,)] = own.execute(text("SELECT CONNECTION_ID()")).all()
    any_place.sql(f"KILL {pid}")

    with pytest.raises(TransportError) as caught:
        connection.publish([Outgoing(b"{}", {}, 0, (stamps.Transaction(own),))])

    assert not isinstance(caught.value, ConnectionLost)
    # On Python 3.13.5 the next TLS connection of the thread may seem lost, too: ssl leaves the error behind.
    assert 0 == transport.call(lambda again: again.count()).waiting
    own.invalidate()
    own.close()
    engine.dispose()


def test_creating_the_table_does_not_commit_for_the_caller(place: Place) -> None:
    """On this server every CREATE commits; so the table is made on another connection."""
    orders = f"orders_{uuid4().hex[:12]}"
    place.sql(f"CREATE TABLE {orders} (id integer)")
    engine = place.engine()
    connection = place.connect()
    with engine.connect() as own:
        own.execute(text(f"INSERT INTO {orders} VALUES (1)"))
        connection.publish([Outgoing(b"{}", {}, 0, (stamps.Transaction(own),))])
        own.rollback()
    engine.dispose()

    assert [] == place.sql(f"SELECT * FROM {orders}")
    assert 0 == connection.count().waiting
