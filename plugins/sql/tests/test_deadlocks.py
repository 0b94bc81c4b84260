"""MariaDB's errors that undo a transaction: 1213, 1205 and 1020, each made by two real connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from typing import Any

import pymysql
import pytest
from sqlalchemy import Connection, Engine, event, text

from plugins.sql.tests.place import Place
from postbus.errors import ConnectionLost, TransportError
from postbus.transport import Outgoing
from postbus_sql import stamps
from postbus_sql.connection import SqlConnection
from postbus_sql.dialects.mysql import MySql
from tests.brokers.mariadb import MariaDb
from tests.brokers.server import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.once]

InBackground = Callable[[Callable[[], Any]], Future[Any]]
FIRST, SECOND = Outgoing(b"first", {}), Outgoing(b"second", {})


@pytest.fixture
def place(mariadb: MariaDb, connect: Callable[..., SqlConnection]) -> Place:
    """Give a table on MariaDB."""
    place = Place(mariadb, connect)
    place.connect().setup()
    return place


@pytest.fixture
def codes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the codes of all errors that the plugin is told of."""
    seen: list[int] = []
    diagnose = MySql.diagnose

    def note(self: MySql, error: BaseException | None) -> Any:
        if isinstance(error, pymysql.Error):
            seen.append(error.args[0])
        return diagnose(self, error)

    monkeypatch.setattr(MySql, "diagnose", note)
    return seen


@contextmanager
def heavier(place: Place) -> Iterator[Any]:
    """Give a cursor in a transaction that has written so much that, in a deadlock, the server undoes the other one."""
    place.sql(f"CREATE TABLE {place.table}_work (what integer)")
    with closing(place.server.connect()) as other, other.cursor() as cursor:
        cursor.execute("START TRANSACTION")
        cursor.execute(f"INSERT INTO {place.table}_work SELECT seq FROM seq_1_to_1000")
        yield cursor
        other.rollback()


def wait_until_locked(place: Place, id: str) -> None:
    """Return when somebody has locked a row."""
    look = "SELECT id FROM {table} WHERE id = %s FOR UPDATE SKIP LOCKED"
    wait_until(lambda: place.sql(look, id) == [], "Nobody locks the row.")


@pytest.mark.parametrize("settle", ["ack", "release", "keepalive"])
def test_who_is_undone_in_a_deadlock_begins_anew(
    place: Place, in_background: InBackground, codes: list[int], settle: str
) -> None:
    """Two rows are locked in either order; what the server has undone of ours is done again, as a whole."""
    connection = place.connect()
    first, second = connection.publish([FIRST, SECOND])
    tags = [delivery.tag for delivery in connection.fetch(2, 0)]
    with heavier(place) as other:
        other.execute(f"SELECT id FROM {place.table} WHERE id = %s FOR UPDATE", [second])
        settling = in_background(lambda: getattr(connection, settle)(tags))
        wait_until_locked(place, str(first))

        other.execute(f"SELECT id FROM {place.table} WHERE id = %s FOR UPDATE", [first])

        wait_until(lambda: codes != [], "There is no deadlock.")
    assert [] == settling.result(30)
    assert {1213} == set(codes)
    counts = connection.count()
    left = {"ack": (0, 0), "release": (2, 0), "keepalive": (0, 2)}[settle]
    assert left == (counts.waiting, counts.in_flight)


def test_a_deadlock_in_the_callers_transaction_is_the_callers_error(
    place: Place, in_background: InBackground, codes: list[int]
) -> None:
    """The server has undone all that the caller wrote; so the message is not stored without it, by a second attempt."""
    connection = place.connect()
    [first] = connection.publish([FIRST])
    engine = place.engine()
    with engine.connect() as own, heavier(place) as other:
        own.execute(text(f"SELECT id FROM {place.table} WHERE id = {first} FOR UPDATE"))
        other.execute(f"SELECT id FROM {place.table} WHERE id > %s FOR UPDATE", [first])  # And the gap behind it.
        sending = in_background(lambda: connection.publish([Outgoing(b"", {}, 0, (stamps.Transaction(own),))]))
        with pytest.raises(TimeoutError):
            sending.result(0.5)

        other.execute(f"SELECT id FROM {place.table} WHERE id = %s FOR UPDATE", [first])

        with pytest.raises(TransportError, match="Deadlock found") as caught:
            sending.result(30)
        own.rollback()
    engine.dispose()
    assert not isinstance(caught.value, ConnectionLost)
    assert [1213] == codes
    assert [first] == [shown.id for shown in connection.browse(10)]


def snapshots(engine: Engine) -> None:
    """Have the server compare what is locked with what the transaction has read, as 11.8 does by itself."""

    @event.listens_for(engine, "connect")
    def ask(driver: Any, record: object) -> None:
        try:
            with driver.cursor() as cursor:
                cursor.execute("SET SESSION innodb_snapshot_isolation = ON")
        except pymysql.err.OperationalError as error:
            driver.close()
            pytest.skip(f"This server does not do that: {error}.")


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
def test_a_lease_that_was_extended_since_a_handler_read(place: Place, codes: list[int], level: str) -> None:
    """In READ COMMITTED it is acknowledged; elsewhere this server undoes the handlers' work, and the message stays."""
    engine = place.engine(isolation_level=level)
    snapshots(engine)
    connection = place.connect()
    connection.publish([FIRST])
    [delivery] = connection.fetch(1, 0)

    def acknowledge(own: Connection) -> None:
        own.execute(text(f"SELECT COUNT(*) FROM {place.table}"))
        connection.keepalive([delivery.tag])
        with connection.acknowledging(delivery.tag, own):
            own.commit()

    with engine.connect() as own:
        if level == "READ COMMITTED":
            acknowledge(own)
        else:
            with pytest.raises(TransportError, match="Record has changed since last read"):
                acknowledge(own)
    engine.dispose()

    assert ([] if level == "READ COMMITTED" else [1020]) == codes
    assert (0 if level == "READ COMMITTED" else 1) == connection.count().in_flight
    assert [] == connection.ack([delivery.tag])
    assert [] == connection.browse(1)


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE", "AUTOCOMMIT"])
def test_our_own_transactions_are_in_read_committed(place: Place, level: str) -> None:
    """Whatever the level of an engine of the app's: elsewhere, a claim on an empty queue locks where others insert."""
    engine = place.engine(isolation_level=level)
    claiming = place.connect_by(engine)
    database = claiming._database

    def insert_meanwhile(cursor: Any) -> list[str]:
        cursor.execute(f"SELECT id FROM {place.table} WHERE queue_name = 'default' FOR UPDATE SKIP LOCKED")
        return [str(id) for id in place.connect("&read_timeout=2").publish([FIRST])]

    assert 1 == len(database.write(insert_meanwhile))
    claiming.close()
    engine.dispose()
