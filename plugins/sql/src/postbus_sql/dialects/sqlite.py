"""SQLite, with the driver of the standard library."""

# ruff: noqa: S608  (The name of the table is quoted, and all else in these statements is our own.)

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Generator, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import PoolProxiedConnection, StaticPool

from postbus.errors import ConfigurationError
from postbus.transport import Absence
from postbus_sql.dialects.dialect import END_OF_TIME, Claimed, Row, Trouble, Values, slow_without
from postbus_sql.statements import Statement, Statements
from postbus_sql.waiting import MarkWatch, Source, Watch

if TYPE_CHECKING:
    from postbus_sql.options import SqlOptions

_WHICH = " RETURNING id, NULL"
"""SQL that says which rows were changed, where nobody asks what they hold now."""

_REST_OF_ROW = 1000
"""Bytes that a row has at most beside body and headers."""

_SETTLING = 1.0
"""Seconds after which what was written to a file is on the disk, and then visible, or else takes unusually long."""

_LOST = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL})
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class Sqlite:
    """SQLite 3.35 or newer, in a file or in memory."""

    error: type[Exception] = sqlite3.Error
    takes_turns = True
    looks_first = True
    claims_at_once = False
    creates_in_transactions = True
    rounding = 1.0
    hint = "Look whether its folder exists, and whether the disk has room."
    purging = "WHERE id IN (SELECT id FROM {table} WHERE queue_name = :queue AND id <= :last LIMIT :limit)"

    # Its clock is that of this process, in whole seconds.
    pieces: Mapping[str, str] = MappingProxyType(
        {
            "{now}": ":now",
            "{edge}": ":edge",
            "{moment}": ":now",
            "{renewed}": ":now",
            "{moved}": ":now",
            "{since}": ":since",
            "{held}": "delivered_at >= :epoch",
            "{returning}": _WHICH,
            "{extended}": " RETURNING id, delivered_at",
            "{alive}": "",
            "{there}": "",
        }
    )

    def __init__(self, engine: Engine) -> None:
        if sqlite3.sqlite_version_info < (3, 35):
            raise ConfigurationError(
                f"The SQL transport needs SQLite 3.35 or newer; Python here has {sqlite3.sqlite_version}."
            )
        file = engine.url.database or ""
        self.is_private = file in ("", ":memory:")
        """Whether nobody but this process sees the database."""
        self._in_memory = self.is_private or isinstance(engine.pool, StaticPool)
        # As SQLAlchemy does, who makes it absolute when it makes the engine: the process may go to another folder.
        self._file = None if self._in_memory or file.startswith("file:") else os.path.abspath(file)

    # the language

    def statement(self, text: str, table: str) -> Statement:
        return Statement(text, "?", table)

    def execute(self, cursor: DBAPICursor, statement: Statement, values: Values, ids: Sequence[int] = ()) -> None:
        text = statement.replace("{ids}", ",".join("?" * len(ids))) if ids else statement
        cursor.execute(text, (*[values[name] for name in statement.names], *ids))

    def times(self, now: float, timeout: float) -> Values:
        seconds = math.floor(now)
        return {
            "now": self.timestamp(seconds),
            "edge": self.timestamp(math.floor(seconds - timeout)),
            "epoch": self.timestamp(0),
        }

    def timestamp(self, seconds: int) -> str:
        """Return a time as the driver takes it: whole seconds, in UTC."""
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(min(seconds, END_OF_TIME)))

    def seconds(self, timestamp: bytes) -> float:
        """Return a time that was read `as_bytes`.

        SQLite lets people store there what is none: that is past, or will never come, as its text compares with now.
        """
        try:
            return datetime.fromisoformat(timestamp.decode()).replace(tzinfo=UTC).timestamp()
        except ValueError:
            return 0.0 if timestamp <= self.timestamp(math.floor(time.time())).encode() else math.inf

    def as_bytes(self, column: str) -> str:
        """Return SQL for a text as bytes, so that one which is not UTF-8 does no harm."""
        return f"CAST({column} AS BLOB)"

    def until(self, time: str) -> str:
        return self.as_bytes(time)

    def seconds_until(self, value: bytes, now: float) -> float:
        return self.seconds(value) - now

    def adapt(self, cursor: DBAPICursor, table: str) -> None:
        """Do nothing: a column holds whatever is put into it."""

    def largest_message(self, cursor: DBAPICursor) -> int:
        """Return how many bytes body and headers may have together."""
        driver: Any = cursor
        return int(driver.connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)) - _REST_OF_ROW

    # transactions

    def reading(self, connection: PoolProxiedConnection) -> AbstractContextManager[DBAPICursor]:
        return closing(connection.cursor())

    def patience(self, connection: PoolProxiedConnection, longer: float) -> AbstractContextManager[None]:
        return nullcontext()

    @contextmanager
    def transaction(self, connection: PoolProxiedConnection, *, durable: bool, single: bool) -> Generator[DBAPICursor]:
        """Begin to write, and commit. One that need not be ``durable`` may be undone by a power failure."""
        cursor = connection.cursor()
        level = 0 if durable else self._lower_synchronous(connection, cursor)
        try:
            # Some engines of users have begun a transaction by themselves.
            if not _in_transaction(connection):
                cursor.execute("BEGIN IMMEDIATE")
            yield cursor
            _end(connection, "commit")
        finally:
            try:
                if _in_transaction(connection):
                    _end(connection, "rollback")
            finally:
                if level:
                    cursor.execute(f"PRAGMA synchronous = {level}")
                cursor.close()

    def _lower_synchronous(self, connection: PoolProxiedConnection, cursor: DBAPICursor) -> int:
        """Do without waiting for the disk, where that cannot harm the file; return the level to go back to, or 0."""
        if "wal" not in connection.info:
            cursor.execute("PRAGMA journal_mode")
            connection.info["wal"] = _one(cursor) == "wal"
        cursor.execute("PRAGMA synchronous")
        level = int(_one(cursor))
        if level <= 1 or not connection.info["wal"] or _in_transaction(connection):
            return 0
        cursor.execute("PRAGMA synchronous = 1")
        return level

    # what is done to rows

    def claiming(self, chosen: str) -> str:
        return (
            f"UPDATE {{table}} SET delivered_at = :now WHERE id IN ({chosen})"
            f" RETURNING {self.as_bytes('available_at')}, id, {self.as_bytes('body')}, {self.as_bytes('headers')}"
        )

    def insert(self, cursor: DBAPICursor, table: str, queue: str, rows: Sequence[Row], now: float) -> list[int]:
        # A delay is rounded up, so never ends early. The ids follow one another, because there is one writer.
        def later(delay: float) -> str:
            return self.timestamp(math.ceil(now + delay))

        at_once = self.timestamp(math.floor(now))
        values = [
            (row.body, row.headers, queue, at_once, later(row.delay) if row.delay > 0 else at_once) for row in rows
        ]
        cursor.executemany(
            f"INSERT INTO {table} (body, headers, queue_name, created_at, available_at) VALUES (?, ?, ?, ?, ?)", values
        )
        cursor.execute("SELECT last_insert_rowid()")
        last = int(_one(cursor))
        return list(range(last - len(rows) + 1, last + 1))

    def is_single(self, rows: Sequence[Row]) -> bool:
        return False

    def claim(self, cursor: DBAPICursor, sql: Statements, which: Statement, values: Values) -> Claimed:
        self.execute(cursor, which, values)
        rows = list(cursor.fetchall())
        # In the order of (available_at, id, …), in which RETURNING need not give them.
        try:
            rows.sort()
        except TypeError:  # A table of others may say NULL.
            rows.sort(key=lambda row: (row[0] or b"", row[1]))
        return Claimed([row[1:] for row in rows], str(values["now"]))

    def change(
        self, cursor: DBAPICursor, sql: Statements, how: Statement, values: Values, ids: Sequence[int]
    ) -> list[tuple[int, str | None]]:
        # To say which they were takes as long again as to change them, and mostly it is all of them.
        if how.endswith(_WHICH):
            cursor.execute("SAVEPOINT postbus_change")
            self.execute(cursor, how.without(_WHICH), values, ids)
            is_all = cursor.rowcount == len(ids)
            if not is_all:
                cursor.execute("ROLLBACK TO postbus_change")
            cursor.execute("RELEASE postbus_change")
            if is_all:
                return [(id, None) for id in ids]
        self.execute(cursor, how, values, ids)
        return list(cursor.fetchall())

    # watching

    def watch(self, database: Source, table: str, options: SqlOptions) -> Watch:
        return MarkWatch(self.change_mark)

    def change_mark(self) -> Hashable:
        """Return a value that is another one once anybody has committed anything; None while that cannot be told.

        It is read off the files, since asking SQLite costs ten times as much. A commit becomes visible a moment
        after it was written, when it is on the disk; so what was written lately may still be to come.
        """
        if self._file is None:
            return ()
        mark: list[int] = []
        for file in (self._file, f"{self._file}-wal"):
            try:
                stat = os.stat(file)
            except OSError:
                continue
            if abs(time.time() - stat.st_mtime) < _SETTLING:
                return None
            mark += (stat.st_mtime_ns, stat.st_size)
        return tuple(mark)

    def is_replaced(self, connection: PoolProxiedConnection) -> bool:
        """Say whether the file that the connection has open is not the one at its path any more.

        What is written into a deleted file is lost, and SQLite does not notice.
        """
        if self._file is None:
            return False
        try:
            stat = os.stat(self._file)
        except FileNotFoundError:
            return True
        identity = (stat.st_dev, stat.st_ino)
        return bool(connection.info.setdefault("file", identity) != identity)

    def forks_safely(self) -> bool:
        """Say whether a connection may be open while the process forks.

        Not to a file: parent and child would take each other's locks for their own, and either one's close
        deletes the log that the other writes to. https://sqlite.org/howtocorrupt.html, section 2.6.
        """
        return self._in_memory

    # setup

    def obstacle(self) -> str | None:
        """Look at the file and its folder; unlike opening it, this creates no file."""
        if self._file is None:
            return None
        folder = os.path.dirname(self._file)
        if not os.path.isdir(folder):
            return f"There is no folder {folder}. Make it, or name another one in the DSN."
        if not os.access(folder, os.W_OK | os.X_OK):
            return (
                f"This process may not write into {folder}, where SQLite has files beside {self._file}. Permit it that."
            )
        if not os.path.exists(self._file):
            return Absence(f"There is no file {self._file}. Run `postbus setup`.")
        if os.path.isdir(self._file):
            return f"{self._file} is a folder. Name a file in the DSN."
        if not os.access(self._file, os.R_OK | os.W_OK):
            return f"This process may not read and write {self._file}. Permit it that."
        return None

    def lacks(self, cursor: DBAPICursor, table: str, indexes: Sequence[str]) -> list[str]:
        cursor.execute("SELECT name FROM sqlite_master WHERE type = 'index'")
        there = {name for (name,) in cursor.fetchall()}
        return [slow_without(table, index) for index in indexes if index not in there]

    def create(self, cursor: DBAPICursor, statements: Sequence[tuple[str, str]], table: str) -> None:
        for _, statement in statements:
            cursor.execute(statement)

    def prepare(self, connection: PoolProxiedConnection) -> None:
        """Switch the file to write-ahead logging, in which readers and a writer do not wait for each other."""
        if not self._in_memory:
            connection.cursor().execute("PRAGMA journal_mode = WAL")

    # a transaction of the user's

    def is_same_database(self, database: Source, connection: Connection) -> bool:
        # Asking SQLite also makes SQLAlchemy begin the transaction, if it has not yet.
        [theirs] = [row[2] for row in connection.exec_driver_sql("PRAGMA database_list") if row[1] == "main"]
        if self._file is None or not theirs:
            return connection.engine.pool is database.engine.pool
        return os.path.exists(self._file) and os.path.samefile(theirs, self._file)

    def commits_by_itself(self, connection: Connection) -> bool:
        driver: Any = connection.connection.driver_connection
        if driver.in_transaction:
            return False
        return driver.isolation_level is None or getattr(driver, "autocommit", None) is True

    def has_failed(self, connection: Connection) -> bool:
        return False

    def joining(self, cursor: DBAPICursor) -> AbstractContextManager[None]:
        """Leave it to SQLite, where a statement that fails has done nothing, and the next one may succeed."""
        return nullcontext()

    # errors

    def describe(self, error: BaseException | None) -> str:
        return str(error)

    def diagnose(self, error: BaseException | None) -> Trouble:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _BUSY:
            return "busy"
        if code in _LOST or isinstance(error, PoolTimeout):
            return "lost"
        return "missing" if str(error).startswith("no such table") else "other"


def sqlite_engine(file: str | None, synchronous: str) -> Engine:
    """Return an engine on a file, or on a database of its own in memory."""
    if file is None:
        return create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})

    # SQLite's own waiting is short: whoever waits in it sleeps longer each time, and newcomers overtake him.
    engine = create_engine(URL.create("sqlite", database=file), connect_args={"timeout": 0.1})

    @event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, record: object) -> None:
        connection.execute(f"PRAGMA synchronous = {synchronous}")

    return engine


def _in_transaction(connection: PoolProxiedConnection) -> bool:
    driver: Any = connection.driver_connection
    return bool(driver.in_transaction)


def _end(connection: PoolProxiedConnection, how: Literal["commit", "rollback"]) -> None:
    driver: Any = connection.driver_connection
    # In this mode, which Python has since 3.12, the driver's own methods do nothing.
    if getattr(driver, "autocommit", None) is True:
        driver.execute(how)
    else:
        getattr(driver, how)()


def _one(cursor: DBAPICursor) -> Any:
    [value] = cursor.fetchone() or [None]
    return value
