"""MariaDB and MySQL, with PyMySQL."""

# ruff: noqa: S608  (The name of the table is quoted, and all else in these statements is our own.)

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pymysql
import pymysql.converters
from pymysql.constants import SERVER_STATUS
from sqlalchemy import Connection, Engine
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import PoolProxiedConnection

from postbus.errors import TransportError
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
from postbus_sql.options import MYSQL_LARGEST
from postbus_sql.statements import Statement, Statements
from postbus_sql.waiting import MarkWatch

if TYPE_CHECKING:
    from postbus_sql.options import SqlOptions
    from postbus_sql.waiting import Source, Watch

# The whole transaction is to be begun anew: a row has changed meanwhile, a lock took too long, a deadlock, a table that
# was altered. After 1205 the server has undone the statement only; we undo the rest.
_BUSY = frozenset({1020, 1205, 1213, 1412})
# A connection with which nothing more is to be done, or a server that takes none, or no writing.
_LOST = frozenset(
    {1021, 1040, 1053, 1077, 1079, 1114, 1152, 1153, 1158, 1159, 1160, 1161, 1203, 1290, 1317, 1792, 1836, 1927}
)
_LOST_CLIENT = range(2000, 2100)
_UNFIT = frozenset({1300, 1366, 1406, 3854, 3988})

NOW = "UTC_TIMESTAMP(6)"
"""The time as each statement begins, in UTC whatever the time zone of the session."""

_TOMBSTONE = "'9999-12-31 00:00:00'"
"""Rows that Symfony has acknowledged are in flight until the last day of time, and deleted when it next looks."""

POLL = 0.12
"""Seconds between two looks into an empty queue: there is nobody to wake who waits."""

_REST_OF_STATEMENT = 10_000
"""Bytes that a statement has at most beside body and headers."""


class MySql:
    """MariaDB 10.6 or newer, MySQL 8.0 or newer. Its clock is the one that counts.

    Everything is done in READ COMMITTED: in the default level, what one has read before keeps others from writing,
    and what others have written fails the transaction.
    """

    error: type[Exception] = pymysql.Error
    is_private = False
    takes_turns = False
    looks_first = False
    claims_at_once = False
    creates_in_transactions = False
    hint = "Look whether the server runs, and whether the DSN is right."
    purging = "WHERE queue_name = :queue AND id <= :last ORDER BY id LIMIT :limit"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_ours = "postbus" in engine.get_execution_options()
        self._digits = 6
        self._packet = 0
        self._identity = Identity("SELECT @@hostname, @@port, @@datadir, DATABASE()", _execute)

    # the language

    @property
    def rounding(self) -> float:
        return 0.0 if self._digits else 1.0

    @property
    def _now(self) -> str:
        return NOW if self._digits else f"CAST(DATE_FORMAT({NOW}, '%%Y-%%m-%%d %%H:%%i:%%s') AS DATETIME)"

    @property
    def pieces(self) -> Mapping[str, str]:
        return {
            "{now}": self._now,
            "{edge}": f"{self._now} - INTERVAL :timeout SECOND",
            "{moment}": f"CAST({self._now} AS CHAR)",
            "{renewed}": ":moved",
            "{moved}": ":moved",
            "{since}": ":since",
            # Of a table that looks empty the whole index of the claim would be read, with all that is deleted in it.
            "{named}": " FORCE INDEX (PRIMARY)",
            "{held}": "delivered_at IS NOT NULL",
            "{returning}": "",
            "{extended}": "",
            "{alive}": f" AND delivered_at < {_TOMBSTONE}",
            "{there}": f" AND (delivered_at IS NULL OR delivered_at < {_TOMBSTONE})",
        }

    def statement(self, text: str, table: str) -> Statement:
        return Statement(text.replace("({ids})", ":ids"), "%s", table.replace("%", "%%"))

    def execute(self, cursor: DBAPICursor, statement: Statement, values: Values, ids: Sequence[int] = ()) -> None:
        given = {**values, "ids": list(ids)} if ids else values
        cursor.execute(statement, [given[name] for name in statement.names])

    def times(self, now: float, timeout: float) -> Values:
        return {"timeout": timeout}

    def as_bytes(self, column: str) -> str:
        return f"CAST({column} AS BINARY)"

    def until(self, time: str) -> str:
        return f"TIMESTAMPDIFF(MICROSECOND, {NOW}, {time}) / 1000000"

    def seconds_until(self, value: Any, now: float) -> float:
        return float(value)

    def adapt(self, cursor: DBAPICursor, table: str) -> None:
        """Find out whether the table is one of Symfony's, which has whole seconds."""
        driver: Any = cursor
        version, is_mariadb = (
            self._engine.dialect.server_version_info or (),
            getattr(self._engine.dialect, "is_mariadb", False),
        )
        oldest = (10, 6) if is_mariadb else (8, 0)
        if version and tuple(version)[: len(oldest)] < oldest:
            raise TransportError(
                f"The SQL transport needs MariaDB 10.6 or MySQL 8.0, or newer; the server is "
                f"{'MariaDB' if is_mariadb else 'MySQL'} {'.'.join(map(str, version))}."
            )
        driver.execute(f"SHOW COLUMNS FROM {table} WHERE Field IN ('created_at', 'available_at', 'delivered_at')")
        kinds = [str(row[1]).lower() for row in driver.fetchall()]
        self._digits = 6 if all(kind.endswith("(6)") for kind in kinds) else 0

    def largest_message(self, cursor: DBAPICursor) -> int:
        cursor.execute("SELECT @@max_allowed_packet")
        [size] = cursor.fetchone() or [0]
        self._packet = int(size)
        return min(self._packet - _REST_OF_STATEMENT, MYSQL_LARGEST)

    # what is done to rows

    def claiming(self, chosen: str) -> str:
        content = f"{self.as_bytes('body')}, {self.as_bytes('headers')}"
        return f"{chosen.replace('SELECT id', f'SELECT id, {content}, {{moment}}', 1)} FOR UPDATE SKIP LOCKED"

    def insert(self, cursor: DBAPICursor, table: str, queue: str, rows: Sequence[Row], now: float) -> list[int]:
        at_once = self._now
        later = f"{NOW} + INTERVAL %s MICROSECOND"
        if not self._digits:
            # Rounded up: a delay never ends early.
            later = f"{at_once} + INTERVAL CEIL((MICROSECOND({NOW}) + %s) / 1000000) SECOND"
        begin = f"INSERT INTO {table.replace('%', '%%')} (body, headers, queue_name, created_at, available_at) VALUES "
        ids: list[int] = []
        # Less than a packet holds, because characters take up to four bytes, or are escaped and take two.
        for chunk in chunks_of(rows, self._packet // 8):
            self._refuse_too_large(chunk)
            places, values = list[str](), list[object]()
            for row in chunk:
                values += [row.body, row.headers, queue]
                if row.delay > 0:
                    values.append(in_microseconds(row.delay))
                places.append(f"(%s, %s, %s, {at_once}, {later if row.delay > 0 else at_once})")
            statement = begin + ", ".join(places)
            if self._returns_ids:
                cursor.execute(f"{statement} RETURNING id", values)
                ids += sorted(id for (id,) in cursor.fetchall())
                continue
            cursor.execute(statement, values)
            # Those of one statement follow one another, in the steps that the server takes.
            cursor.execute("SELECT LAST_INSERT_ID(), @@auto_increment_increment")
            [first, step] = cursor.fetchone() or [0, 1]
            ids += range(first, first + step * len(chunk), step)
        return ids

    def _refuse_too_large(self, rows: Sequence[Row]) -> None:
        """Refuse what becomes too large on the way; the server would end the connection."""
        if len(rows) > 1 or len(rows[0].body) + len(rows[0].headers) <= self._packet // 8:
            return
        size = sum(len(pymysql.converters.escape_string(text).encode()) for text in (rows[0].body, rows[0].headers))
        if size > self._packet - _REST_OF_STATEMENT:
            raise pymysql.DataError(1406, f"max_allowed_packet is {self._packet}, and the message takes {size} bytes")

    @property
    def _returns_ids(self) -> bool:
        return bool(getattr(self._engine.dialect, "is_mariadb", False))

    def is_single(self, rows: Sequence[Row]) -> bool:
        return False

    def claim(self, cursor: DBAPICursor, sql: Statements, which: Statement, values: Values) -> Claimed:
        self.execute(cursor, which, values)
        rows = cursor.fetchall()
        if not rows:
            return Claimed([], "")
        since = str(rows[0][3])
        self.execute(cursor, sql.mark_claimed, {"moved": since}, [row[0] for row in rows])
        return Claimed([row[:3] for row in rows], since)

    def change(
        self, cursor: DBAPICursor, sql: Statements, how: Statement, values: Values, ids: Sequence[int]
    ) -> list[tuple[int, str | None]]:
        # There is no UPDATE … RETURNING.
        self.execute(cursor, sql.hold, values, ids)
        held = [(id, str(moment)) for id, moment in cursor.fetchall()]
        if held:
            self.execute(cursor, how, {**values, "moved": held[0][1]}, [id for id, _ in held])
        return [(id, moment) for id, moment in held]

    # transactions

    @contextmanager
    def reading(self, connection: PoolProxiedConnection) -> Generator[DBAPICursor]:
        with closing(connection.cursor()) as cursor:
            yield cursor
        if not _driver(connection).get_autocommit():
            connection.rollback()

    @contextmanager
    def transaction(self, connection: PoolProxiedConnection, *, durable: bool, single: bool) -> Generator[DBAPICursor]:
        driver = _driver(connection)
        with closing(connection.cursor()) as cursor:
            if not self._is_ours:  # The app decides about its connections, so this is said for one transaction.
                cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            cursor.execute("START TRANSACTION")
            try:
                yield cursor
            except BaseException:
                if driver.open:
                    connection.rollback()
                raise
            connection.commit()

    @contextmanager
    def patience(self, connection: PoolProxiedConnection, longer: float) -> Generator[None]:
        driver = _driver(connection)
        usual = driver._read_timeout  # Which is said once, when connecting; and asked for at each answer.
        if usual:
            driver._read_timeout = usual + longer
        try:
            yield
        finally:
            driver._read_timeout = usual

    # waiting

    def watch(self, database: Source, table: str, options: SqlOptions) -> Watch:
        return MarkWatch(lambda: None, POLL)

    def is_replaced(self, connection: PoolProxiedConnection) -> bool:
        return False

    def forks_safely(self) -> bool:
        """Say yes: the child forgets its parent's connections, and PyMySQL says nothing to the server there."""
        return True

    # setup

    def obstacle(self) -> str | None:
        return None

    def lacks(self, cursor: DBAPICursor, table: str, indexes: Sequence[str]) -> list[str]:
        there = _indexes(cursor, table)
        return [slow_without(table, index) for index in indexes if index not in there]

    def prepare(self, connection: PoolProxiedConnection) -> None:
        """Do nothing: a database of a server is somebody else's."""

    def create(self, cursor: DBAPICursor, statements: Sequence[tuple[str, str]], table: str) -> None:
        (_, create_table), *create_indexes = statements
        cursor.execute(create_table)
        there = _indexes(cursor, table)
        for name, statement in create_indexes:
            if name in there:
                continue
            try:
                cursor.execute(statement)
            except pymysql.Error as error:
                if _code(error) != 1061:  # Somebody else has made it meanwhile.
                    raise

    # a transaction of the user's

    def is_same_database(self, database: Source, connection: Connection) -> bool:
        return self._identity.is_shared(database, connection)

    def commits_by_itself(self, connection: Connection) -> bool:
        driver = _driver(connection.connection)
        return bool(driver.get_autocommit()) and not driver.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS

    def has_failed(self, connection: Connection) -> bool:
        return False

    @contextmanager
    def joining(self, cursor: DBAPICursor) -> Generator[None]:
        """Set a savepoint, so that of several statements none is kept if one fails."""
        cursor.execute("SAVEPOINT postbus")
        try:
            yield
        except BaseException:
            with suppress(pymysql.Error):  # After a deadlock the server has undone everything, as the error says.
                cursor.execute("ROLLBACK TO SAVEPOINT postbus")
            raise
        cursor.execute("RELEASE SAVEPOINT postbus")

    # errors

    def describe(self, error: BaseException | None) -> str:
        if isinstance(error, pymysql.Error):
            text = str(error.args[1]) if len(error.args) > 1 and error.args[1] else "the connection is closed"
        else:
            text = str(error)
        return " ".join(text.split()).rstrip(".")

    def diagnose(self, error: BaseException | None) -> Trouble:
        if isinstance(error, PoolTimeout):
            return "lost"
        code = _code(error)
        if code in _BUSY:
            return "busy"
        # What is not even an OperationalError says that the connection was closed before.
        if code in _LOST or code in _LOST_CLIENT or isinstance(error, pymysql.InterfaceError):
            return "lost"
        if code == 1146:
            return "missing"
        return "unfit" if code in _UNFIT else "other"


def _execute(cursor: DBAPICursor, statement: str) -> None:
    cursor.execute(statement)


def _code(error: BaseException | None) -> int:
    code = error.args[0] if isinstance(error, pymysql.Error) and error.args else 0
    return code if isinstance(code, int) else 0


def _driver(connection: PoolProxiedConnection) -> Any:
    return connection.driver_connection


def _indexes(cursor: DBAPICursor, table: str) -> set[str]:
    cursor.execute(f"SHOW INDEX FROM {table}")
    return {str(row[2]) for row in cursor.fetchall()}
