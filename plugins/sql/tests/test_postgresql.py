"""What is particular to PostgreSQL: claims, plans, notifications, and what its commits keep silent about."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from sqlalchemy import text

from plugins.sql.tests.place import Place
from postbus.errors import ConnectionLost, DsnError, MessageRefused, TransportError
from postbus.queue_transport import QueueTransport
from postbus.transport import Outgoing
from postbus_sql import notifications, stamps
from postbus_sql.connection import SqlConnection
from postbus_sql.dialects.postgresql import PostgreSql as Dialect
from postbus_sql.statements import Statements
from tests.brokers.postgresql import PostgreSql

pytestmark = [pytest.mark.slow, pytest.mark.once]

Connect = Callable[..., SqlConnection]
MESSAGE = Outgoing(b"message", {"type": "x"})

SYMFONY_TABLE = """
CREATE TABLE {table} (id BIGSERIAL NOT NULL, body TEXT NOT NULL, headers TEXT NOT NULL,
 queue_name VARCHAR(190) NOT NULL, created_at TIMESTAMP(0) WITHOUT TIME ZONE NOT NULL,
 available_at TIMESTAMP(0) WITHOUT TIME ZONE NOT NULL,
 delivered_at TIMESTAMP(0) WITHOUT TIME ZONE DEFAULT NULL, PRIMARY KEY(id))
"""
FILL = (
    "INSERT INTO {table} (body, headers, queue_name, created_at, available_at, delivered_at)"
    " SELECT '{{}}', '{{}}', 'default', '2024-01-01', '2024-01-01', {delivered} FROM generate_series(1, {number})"
)


@pytest.fixture
def place(postgresql: PostgreSql, connect: Connect) -> Place:
    """Give a table on PostgreSQL."""
    return Place(postgresql, connect)


@pytest.fixture
def behind_pgbouncer(pgbouncer: PostgreSql, connect: Connect) -> Place:
    """Give a table behind PgBouncer."""
    return Place(pgbouncer, connect)


def bodies(deliveries: Any) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


# claims


@pytest.mark.parametrize("analyzed", ["never", "while empty"])
@pytest.mark.parametrize("which", ["claim_waiting", "claim_expired"])
def test_a_claim_finds_its_rows_by_an_index_of_its_own(place: Place, analyzed: str, which: str) -> None:
    """However little the planner knows, it searches, in the order of the claim, and takes no more than the limit."""
    place.connect().setup()
    if analyzed == "while empty":
        place.sql("ANALYZE {table}")
    place.sql(FILL.format(table=place.table, delivered="NULL", number=20_000))
    place.sql(FILL.format(table=place.table, delivered="'2024-01-01'", number=20_000))
    dialect = Dialect(place.engine())
    statement = getattr(Statements(place.table, dialect), which)
    values = {"queue": "default", "limit": 5, "timeout": 60}
    given = [values[name] for name in statement.names]

    plan = "\n".join(row[0] for row in place.sql(f"EXPLAIN {statement}", *given))
    rows = place.sql(statement, *given)

    index = {"claim_waiting": "waiting", "claim_expired": "in_flight"}[which]
    assert f"using {place.table}_{index}" in plan
    assert f"{place.table}_pkey" in plan
    assert "Seq Scan" not in plan
    assert 5 == len(rows)


def test_a_database_of_another_isolation_level_serves(place: Place) -> None:
    """In REPEATABLE READ a claim would fail where it meets another one, instead of passing by."""
    options = "&options=" + quote(r"-c default_transaction_isolation=repeatable\ read")
    first, second = place.connect(options), place.connect(options)
    first.publish([Outgoing(b"%d" % n, {}) for n in range(40)])

    with ThreadPoolExecutor(2) as pool:
        takes = [pool.submit(lambda c=c: [c.fetch(1, 0) for _ in range(20)]) for c in (first, second)]
        came = [delivery.body for take in takes for fetched in take.result(60) for delivery in fetched]

    assert sorted(b"%d" % n for n in range(40)) == sorted(came)


def test_no_statement_is_prepared(behind_pgbouncer: Place) -> None:
    """PgBouncer before 1.21 mixes up those of its clients; all are repeated more often than psycopg waits for."""
    one, other = behind_pgbouncer.connect(), behind_pgbouncer.connect()
    for _ in range(10):
        for connection in one, other:
            connection.publish([MESSAGE])
            connection.ack([delivery.tag for delivery in connection.fetch(1, 0)])
            connection.count()

    assert (0, 0) == (one.count().waiting, one.count().in_flight)


# times


def test_a_table_of_symfonys_has_whole_seconds(place: Place) -> None:
    """A delay ends at the first whole second after it, and a lease begins with one; both hold."""
    place.sql(SYMFONY_TABLE)
    connection = place.connect()
    before = time.time()
    connection.publish([Outgoing(b"now", {}), Outgoing(b"later", {}, 60.3)])
    [(now,), (later,)] = place.sql("SELECT extract(epoch FROM available_at) FROM {table} ORDER BY id")

    [delivery] = connection.fetch(10, 0)

    assert b"now" == delivery.body
    assert before - 1 <= now <= time.time()
    assert later >= before + 60.3 - 0.01
    assert [] == connection.keepalive([delivery.tag])
    assert [] == connection.ack([delivery.tag])


def test_the_time_of_a_message_is_not_that_of_the_callers_begin(place: Place) -> None:
    """In a transaction that has been open for a second, a delay still begins when the message is sent."""
    place.connect().setup()
    engine = place.engine()
    with engine.connect() as own:
        own.execute(text("SELECT 1"))
        threading.Event().wait(1.0)
        place.connect().publish([Outgoing(b"{}", {}, 0.5, (stamps.Transaction(own),))])
        own.commit()
    engine.dispose()

    [(left,)] = place.sql("SELECT extract(epoch FROM available_at - (now() AT TIME ZONE 'UTC')) FROM {table}")
    assert left > -0.4


def test_a_row_of_no_time_keeps_nobody_busy(place: Place) -> None:
    """Infinity is a time that others may write; what never comes is not delivered, and not waited for in vain."""
    connection = place.connect()
    connection.publish([MESSAGE])
    place.sql(FILL.format(table=place.table, delivered="NULL", number=1))
    place.sql("UPDATE {table} SET available_at = 'infinity' WHERE body = '{}'")

    assert [MESSAGE.body] == bodies(connection.fetch(10, 0))
    assert [] == connection.fetch(10, 0.2)
    assert 1 == connection.count().delayed


# notifications


@contextmanager
def listening(place: Place) -> Iterator[Callable[[], int]]:
    """Listen as another program does, and give what says how many notifications have come since."""
    with place.server.connect() as connection:
        connection.execute(f'LISTEN "{place.table}"')

        def heard() -> int:
            return sum(one.payload == "default" for one in connection.notifies(timeout=0.3))

        yield heard


@pytest.fixture
def waiting(
    place: Place, in_background: Callable[[Callable[[], Any]], Future[Any]]
) -> Callable[[SqlConnection], Future[Any]]:
    """Return what lets a connection wait, and returns once others know that it does."""

    def wait(connection: SqlConnection) -> Future[Any]:
        fetching = in_background(lambda: connection.fetch(10, 100))
        while not place.sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"):
            threading.Event().wait(0.02)
        return fetching

    return wait


def test_nobody_is_notified_while_nobody_waits(place: Place) -> None:
    """Notifications make commits of the whole server queue up; a burst costs one a second, for those unknown."""
    sender = place.connect()
    sender.setup()
    with listening(place) as heard:
        begun = time.monotonic()
        for _ in range(30):
            sender.publish([MESSAGE])

        assert heard() <= 2 + time.monotonic() - begun


@pytest.mark.parametrize("table", ["Message Queue", 'my"table', "x" * 50])
def test_who_waits_is_notified(place: Place, waiting: Callable[..., Future[Any]], table: str) -> None:
    """Whatever the table is called: the channel has its name."""
    place.table = f"{table}_{uuid4().hex[:6]}"
    worker = place.connect("&check_delayed_interval=3600000")
    worker.setup()
    fetching = waiting(worker)

    place.connect().publish([MESSAGE])

    assert [MESSAGE.body] == bodies(fetching.result(30))


def test_who_waits_is_notified_after_the_callers_commit(place: Place, waiting: Callable[..., Future[Any]]) -> None:
    """And not before: a message that is sent in a transaction of the caller's is announced when it is there."""
    worker, sender = place.connect("&check_delayed_interval=3600000"), place.connect()
    worker.setup()
    fetching = waiting(worker)
    engine = place.engine()
    with engine.connect() as own:
        sender.publish([Outgoing(b"joined", {}, 0, (stamps.Transaction(own),))])
        assert not fetching.done()
        own.commit()

        assert [b"joined"] == bodies(fetching.result(30))
    engine.dispose()


def test_a_busy_worker_is_not_notified(place: Place, waiting: Callable[..., Future[Any]]) -> None:
    """Once a worker has found something several times running, it says that it need not be woken."""
    worker, sender = place.connect(), place.connect()
    worker.setup()
    fetching = waiting(worker)
    sender.publish([MESSAGE] * 10)
    fetching.result(30)
    sender.publish([MESSAGE] * 10)

    for _ in range(5):
        worker.fetch(1, 0)

    assert [] == place.sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'")


def test_where_nothing_is_heard_the_queue_is_looked_into(
    behind_pgbouncer: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """PgBouncer in transaction mode swallows notifications; that is said once, and messages come all the same."""
    monkeypatch.setattr(notifications, "DEAF_AFTER", 0.3)
    worker, sender = behind_pgbouncer.connect("&check_delayed_interval=3600000"), behind_pgbouncer.connect()
    worker.setup()
    with caplog.at_level(logging.WARNING, "postbus"):
        assert [] == worker.fetch(1, 1.0)
        assert [] == worker.fetch(1, 0.3)
    sender.publish([MESSAGE])

    assert [MESSAGE.body] == bodies(worker.fetch(1, 30))
    [record] = caplog.records
    assert "perhaps because PgBouncer is in between" in record.getMessage()


def test_without_notifications_the_queue_is_looked_into(
    place: Place, in_background: Callable[[Callable[[], Any]], Future[Any]]
) -> None:
    """With ``use_notify=false`` nobody listens and nobody notifies."""
    worker, sender = place.connect("&use_notify=false"), place.connect("&use_notify=false")
    worker.setup()
    with listening(place) as heard:
        fetching = in_background(lambda: worker.fetch(1, 100))
        sender.publish([MESSAGE])

        assert [MESSAGE.body] == bodies(fetching.result(30))
        assert 0 == heard()


def test_a_listener_that_is_lost_is_reported(place: Place, waiting: Callable[..., Future[Any]]) -> None:
    """A worker that hears nothing any more does not go on waiting."""
    worker = place.connect("&application_name=" + place.table)
    worker.setup()
    fetching = waiting(worker)

    place.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", place.table)

    with pytest.raises(ConnectionLost, match="terminat"):
        fetching.result(30)


# transactions


def test_a_transaction_that_has_failed_takes_no_message(place: Place) -> None:
    """Its commit would store nothing, and raise nothing; so the message is not reported as sent."""
    connection = place.connect()
    connection.setup()
    engine = place.engine()
    with engine.connect() as own:
        with pytest.raises(Exception, match="division"):
            own.execute(text("SELECT 1 / 0"))

        with pytest.raises(TransportError, match="has failed, and can only be rolled back"):
            connection.publish([Outgoing(b"{}", {}, 0, (stamps.Transaction(own),))])
    engine.dispose()


def test_what_cannot_be_stored_leaves_the_callers_transaction_as_it_was(place: Place) -> None:
    """It can be committed all the same, with what else was sent in it."""
    connection = place.connect(auto_setup=False)
    place.connect(auto_setup=True, queue_name="other").setup()
    place.sql("ALTER TABLE {table} ADD CHECK (body <> 'never')")
    engine = place.engine()
    with engine.connect() as own:
        connection.publish([Outgoing(b"kept", {}, 0, (stamps.Transaction(own),))])
        with pytest.raises(TransportError, match="check constraint"):
            connection.publish([Outgoing(b"never", {}, 0, (stamps.Transaction(own),))])
        own.commit()
    engine.dispose()

    assert [b"kept"] == bodies(connection.fetch(10, 0))


def test_a_connection_that_is_lost_in_a_transaction_is_the_callers_error(place: Place) -> None:
    """The message is not stored on another connection, where it would be there without what belongs to it."""
    connection = place.connect()
    connection.setup()
    engine = place.engine()
    own = engine.connect()
    [(pid,)] = own.execute(text("SELECT pg_backend_pid()")).all()
    place.sql("SELECT pg_terminate_backend(%s)", pid)

    with pytest.raises(TransportError) as caught:
        connection.publish([Outgoing(b"{}", {}, 0, (stamps.Transaction(own),))])

    assert not isinstance(caught.value, ConnectionLost)
    own.invalidate()
    own.close()
    engine.dispose()
    assert 0 == connection.count().waiting


# what is refused, and what is missing


def test_a_character_that_the_database_has_not_is_refused_alone(place: Place, postgresql: PostgreSql) -> None:
    """In a database of another encoding; the others of the batch are stored."""
    connection = place.connect()
    connection.setup()
    place.sql("ALTER TABLE {table} ADD CHECK (body <> 'x')")  # Any error but those about a value is about all.
    place.sql("ALTER TABLE {table} ALTER headers TYPE varchar(40)")

    with pytest.raises(MessageRefused, match="too long") as caught:
        connection.publish([Outgoing(b"1", {}), Outgoing(b"2", {"a": "b" * 100}), Outgoing(b"3", {})])

    assert ([1], [0, 2]) == (list(caught.value.refused), sorted(caught.value.stored))
    assert [b"1", b"3"] == bodies(connection.fetch(10, 0))


def test_missing_rights_are_named(place: Place) -> None:
    """`postbus check` says who lacks what, and what to say to the database."""
    engine = place.engine()
    connection = place.connect()
    connection.setup()
    place.sql("REVOKE DELETE, UPDATE ON {table} FROM CURRENT_USER")
    engine.dispose()

    [sentence] = connection.missing()

    assert f"lacks UPDATE, DELETE on table {place.table}. GRANT UPDATE, DELETE ON {place.table}." in sentence
    place.sql("GRANT ALL ON {table} TO CURRENT_USER")


def test_an_unknown_option_is_not_taken_for_one_of_the_drivers(place: Place) -> None:
    """What libpq knows is passed on to it; all else is a mistake."""
    place.connect("&sslmode=prefer&keepalives_idle=30").setup()

    with pytest.raises(DsnError, match=r"Unknown option 'queue_nam'.*Did you mean 'queue_name'"):
        place.connect("&queue_nam=x")


def test_all_connections_may_be_lost_at_once(place: Place, make_transport: Callable[..., QueueTransport]) -> None:
    """After a restart of the server the first call goes through: not each connection of the pool costs an attempt."""
    transport = make_transport(place.dsn(f"&application_name={place.table}"))
    transport.connection.setup()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: transport.connection.count(), range(30)))
    place.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", place.table)

    assert 0 == transport.call(lambda connection: connection.count()).waiting
