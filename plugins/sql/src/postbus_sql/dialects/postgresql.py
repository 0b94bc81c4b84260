"""PostgreSQL, with psycopg."""

# ruff: noqa: S608  (The name of the table is quoted, and all else in these statements is our own.)

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from typing import TYPE_CHECKING, Any, cast

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import PoolProxiedConnection

from postbus_sql.dialects.dialect import (
    Claimed,
    Identity,
    Row,
    Trouble,
    Values,
    chunks_of,
    in_microseconds,
    slow_without,
)
from postbus_sql.notifications import NotificationWatch
from postbus_sql.options import POSTGRESQL_LARGEST
from postbus_sql.statements import Statement, Statements
from postbus_sql.watchdog import READ_TIMEOUT, Watchdog

if TYPE_CHECKING:
    from postbus_sql.options import SqlOptions
    from postbus_sql.waiting import Source, Watch

# The whole transaction is to be begun anew: it met another one.
_BUSY = frozenset({"40001", "40P01", "55P03"})
# A connection, or a server, with which nothing more is to be done. 25006 says a server that has become a standby.
_LOST = frozenset({"25006", "25P03", "57P01", "57P02", "57P03", "57P05"})
_LOST_CLASSES = ("08", "53", "58")
_UNFIT_CLASSES = ("22", "54")

NOW = "(statement_timestamp() AT TIME ZONE 'UTC')"
"""The time as each statement begins, also in a transaction that has been open for long."""

_BATCH = 16_000_000
"""Bytes that one statement stores at most, unless a single message has more."""


class PostgreSql:
    """PostgreSQL 12 or newer. Its clock is the one that counts."""

    error: type[Exception] = psycopg.Error
    is_private = False
    takes_turns = False
    looks_first = False
    claims_at_once = True
    creates_in_transactions = False  # It could; but others would have to wait for the caller's end.
    hint = "Look whether the server runs, and whether the DSN is right."
    purging = "WHERE id IN (SELECT id FROM {table} WHERE queue_name = :queue AND id <= :last ORDER BY id LIMIT :limit)"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._digits = 6
        # Asked anew where it differs, because a server that was restarted is another one by this.
        self._identity = Identity("SELECT pg_postmaster_start_time()::text, current_database()::text", _execute)
        self._is_committed_read: bool | None = None
        ours = engine.get_execution_options().get("postbus", {})
        self.watchdog = Watchdog(ours.get("read_timeout", READ_TIMEOUT))

    # the language

    @property
    def rounding(self) -> float:
        return 0.0 if self._digits else 1.0

    @property
    def _now(self) -> str:
        return NOW if self._digits else f"date_trunc('second', {NOW})"

    @property
    def pieces(self) -> Mapping[str, str]:
        now = self._now
        return {
            "{now}": now,
            "{edge}": f"{now} - :timeout * interval '1 second'",
            "{moment}": f"{now}::text",
            "{renewed}": now,
            "{moved}": now,
            "{since}": ":since::timestamp",
            "{held}": "delivered_at IS NOT NULL",
            "{returning}": " RETURNING id, NULL",
            "{extended}": " RETURNING id, delivered_at::text",
            "{alive}": "",
            "{there}": "",
        }

    def statement(self, text: str, table: str) -> Statement:
        return Statement(text.replace("IN ({ids})", "= ANY(:ids)"), "%s", table.replace("%", "%%"))

    def execute(self, cursor: DBAPICursor, statement: Statement, values: Values, ids: Sequence[int] = ()) -> None:
        given = {**values, "ids": list(ids)} if ids else values
        _execute(cursor, statement, [given[name] for name in statement.names])

    def times(self, now: float, timeout: float) -> Values:
        return {"timeout": timeout}

    def as_bytes(self, column: str) -> str:
        return column

    def until(self, time: str) -> str:
        # Not the difference of the two, which is an error where somebody has stored infinity.
        return f"(EXTRACT(EPOCH FROM {time}) - EXTRACT(EPOCH FROM {NOW}))::float8"

    def seconds_until(self, value: Any, now: float) -> float:
        return float(value)

    def adapt(self, cursor: DBAPICursor, table: str) -> None:
        """Find out whether the table is one of Symfony's, which has whole seconds."""
        _execute(
            cursor,
            "SELECT min(CASE atttypmod WHEN -1 THEN 6 ELSE atttypmod END) FROM pg_attribute"
            " WHERE attrelid = %s::regclass AND attname IN ('created_at', 'available_at', 'delivered_at')",
            [table],
        )
        [digits] = cursor.fetchone() or [None]
        self._digits = 6 if digits is None or digits == 6 else 0

    def largest_message(self, cursor: DBAPICursor) -> int:
        return POSTGRESQL_LARGEST

    # what is done to rows

    def claiming(self, chosen: str) -> str:
        # Without MATERIALIZED, or with a join of the two, the planner may choose more rows than it is allowed to.
        return (
            f"WITH chosen AS MATERIALIZED ({chosen} FOR UPDATE SKIP LOCKED),"
            " claimed AS (UPDATE {table} SET delivered_at = {now} WHERE id = ANY(ARRAY(SELECT id FROM chosen))"
            " RETURNING id, body, headers, delivered_at, available_at)"
            " SELECT id, body, headers, delivered_at::text FROM claimed ORDER BY available_at, id"
        )

    def insert(self, cursor: DBAPICursor, table: str, queue: str, rows: Sequence[Row], now: float) -> list[int]:
        at_once, later = self._now, f"{NOW} + delay * interval '1 microsecond'"
        if not self._digits:
            # Rounded up: a delay never ends early.
            later = f"date_trunc('second', {later} + interval '999999 microseconds')"
        statement = (
            f"INSERT INTO {table.replace('%', '%%')} (body, headers, queue_name, created_at, available_at)"
            f" SELECT body, headers, %s, {at_once}, CASE WHEN delay > 0 THEN {later} ELSE {at_once} END"
            " FROM unnest(%b::text[], %b::text[], %b::int8[]) WITH ORDINALITY AS row (body, headers, delay, place)"
            " ORDER BY place RETURNING id"
        )
        ids: list[int] = []
        for chunk in chunks_of(rows, _BATCH):
            bodies, headers = [row.body for row in chunk], [row.headers for row in chunk]
            _execute(cursor, statement, [queue, bodies, headers, [in_microseconds(row.delay) for row in chunk]])
            # A sequence counts in the order of the rows; RETURNING need not.
            ids += sorted(id for (id,) in cursor.fetchall())
        return ids

    def is_single(self, rows: Sequence[Row]) -> bool:
        return sum(len(row.body) + len(row.headers) for row in rows) <= _BATCH

    def claim(self, cursor: DBAPICursor, sql: Statements, which: Statement, values: Values) -> Claimed:
        self.execute(cursor, which, values)
        rows = cursor.fetchall()
        return Claimed([row[:3] for row in rows], rows[0][3] if rows else "")

    def change(
        self, cursor: DBAPICursor, sql: Statements, how: Statement, values: Values, ids: Sequence[int]
    ) -> list[tuple[int, str | None]]:
        self.execute(cursor, how, values, ids)
        return [(id, since) for id, since in cursor.fetchall()]

    # transactions

    @contextmanager
    def reading(self, connection: PoolProxiedConnection) -> Generator[DBAPICursor]:
        with _by_itself(connection), closing(connection.cursor()) as cursor:
            yield cursor

    @contextmanager
    def transaction(self, connection: PoolProxiedConnection, *, durable: bool, single: bool) -> Generator[DBAPICursor]:
        with _by_itself(connection), closing(connection.cursor()) as cursor:
            if single and self._reads_what_is_committed(cursor):
                yield cursor
                return
            _execute(cursor, "BEGIN ISOLATION LEVEL READ COMMITTED")
            try:
                yield cursor
            except BaseException:
                if _driver(connection).info.transaction_status != TransactionStatus.UNKNOWN:
                    _execute(cursor, "ROLLBACK")
                raise
            _execute(cursor, "COMMIT")
            if cast(Any, cursor).statusmessage != "COMMIT":  # Nobody else says that a failed one was rolled back.
                raise psycopg.errors.InFailedSqlTransaction("the transaction was rolled back")

    def _reads_what_is_committed(self, cursor: DBAPICursor) -> bool:
        """Say whether that is what a single statement does here; in other levels it would fail instead of skipping."""
        if self._is_committed_read is None:
            _execute(cursor, "SHOW default_transaction_isolation")
            self._is_committed_read = cursor.fetchall() == [("read committed",)]
        return self._is_committed_read

    def patience(self, connection: PoolProxiedConnection, longer: float) -> AbstractContextManager[None]:
        return self.watchdog.over(_driver(connection), longer)

    # waiting

    def watch(self, database: Source, table: str, options: SqlOptions) -> Watch:
        return NotificationWatch(database, table, options, self.watchdog)

    def is_replaced(self, connection: PoolProxiedConnection) -> bool:
        return False

    def forks_safely(self) -> bool:
        """Say yes: the child forgets its parent's connections, and libpq closes none of them there."""
        return True

    # setup

    def obstacle(self) -> str | None:
        return None

    def lacks(self, cursor: DBAPICursor, table: str, indexes: Sequence[str]) -> list[str]:
        _execute(
            cursor,
            "SELECT privilege FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege"
            " WHERE NOT has_table_privilege(%s::regclass, privilege)",
            [table],
        )
        refused = [privilege for (privilege,) in cursor.fetchall()]
        _execute(cursor, "SELECT current_user, pg_get_serial_sequence(%s, 'id')", [table])
        user, sequence = cursor.fetchone() or ("?", None)
        found: list[str] = []
        if refused:
            found.append(
                f"User {user} lacks {', '.join(refused)} on table {table}. GRANT {', '.join(refused)} ON {table}."
            )
        if sequence is not None and "INSERT" not in refused:
            _execute(cursor, "SELECT has_sequence_privilege(%s, 'USAGE')", [sequence])
            if cursor.fetchall() == [(False,)]:
                found.append(f"User {user} lacks USAGE on sequence {sequence}. GRANT USAGE ON SEQUENCE {sequence}.")
        _execute(
            cursor,
            "SELECT relname FROM pg_index JOIN pg_class ON oid = indexrelid WHERE indrelid = %s::regclass"
            " AND indisvalid",
            [table],
        )
        there = {name for (name,) in cursor.fetchall()}
        return found + [slow_without(table, index) for index in indexes if index not in there]

    def prepare(self, connection: PoolProxiedConnection) -> None:
        """Do nothing: a database of PostgreSQL is somebody else's."""

    def create(self, cursor: DBAPICursor, statements: Sequence[tuple[str, str]], table: str) -> None:
        # Two that create one table at a time get in each other's way, IF NOT EXISTS or not.
        _execute(cursor, "SELECT pg_advisory_xact_lock(hashtext('postbus setup'))")
        for _, statement in statements:
            cursor.execute(statement)

    # a transaction of the user's

    def is_same_database(self, database: Source, connection: Connection) -> bool:
        return self._identity.is_shared(database, connection)

    def commits_by_itself(self, connection: Connection) -> bool:
        driver = _driver(connection.connection)
        return bool(driver.autocommit) and driver.info.transaction_status == TransactionStatus.IDLE

    def has_failed(self, connection: Connection) -> bool:
        return bool(_driver(connection.connection).info.transaction_status == TransactionStatus.INERROR)

    @contextmanager
    def joining(self, cursor: DBAPICursor) -> Generator[None]:
        """Set a savepoint: an error would else make the whole transaction fail, and its commit store nothing."""
        _execute(cursor, "SAVEPOINT postbus")
        try:
            yield
        except BaseException as error:
            if self.diagnose(error) != "lost":
                _execute(cursor, "ROLLBACK TO SAVEPOINT postbus")
            raise
        _execute(cursor, "RELEASE SAVEPOINT postbus")

    # errors

    def describe(self, error: BaseException | None) -> str:
        message = error.diag.message_primary if isinstance(error, psycopg.Error) else None
        return " ".join((message or str(error)).split()).rstrip(".")

    def diagnose(self, error: BaseException | None) -> Trouble:
        if isinstance(error, PoolTimeout):
            return "lost"
        if not isinstance(error, psycopg.Error):
            return "other"
        state = error.sqlstate
        if state is None:
            return "lost" if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) else "other"
        if state in _BUSY:
            return "busy"
        if state in _LOST or state.startswith(_LOST_CLASSES):
            return "lost"
        if state == "42P01":
            return "missing"
        return "unfit" if state.startswith(_UNFIT_CLASSES) else "other"


def _execute(cursor: Any, statement: str, values: Sequence[object] = ()) -> None:
    # Never prepared: a plan that was made while the table was empty would be kept, and PgBouncer before 1.21 mixes up
    # the statements of its clients.
    cursor.execute(statement, values, prepare=False)


def _driver(connection: PoolProxiedConnection) -> Any:
    return connection.driver_connection


@contextmanager
def _by_itself(connection: PoolProxiedConnection) -> Generator[None]:
    """Let each statement be a transaction, whatever the engine is set to."""
    driver = _driver(connection)
    if driver.autocommit:
        yield
        return
    driver.autocommit = True
    try:
        yield
    finally:
        if driver.info.transaction_status == TransactionStatus.IDLE:
            driver.autocommit = False
