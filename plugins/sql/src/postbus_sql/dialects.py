"""What differs from one database to another.

For one more, write a class such as `Sqlite` and name it in `dialect_for`.
"""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Generator, Hashable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import PoolProxiedConnection, StaticPool

from postbus.errors import ConfigurationError
from postbus.transport import Absence

Trouble = Literal["busy", "missing", "lost", "other"]
"""What a driver's error means: another one writes, the table is missing, the database is gone, or anything else."""

_END_OF_TIME = 253_402_300_799
"""The last second of the year 9999, the longest year that a timestamp has room for."""

_REST_OF_ROW = 1000
"""Bytes that a row has at most beside body and headers."""

_SETTLING = 1.0
"""Seconds after which what was written to a file is on the disk, and then visible, or else takes unusually long."""

_LOST = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL})
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class Sqlite:
    """SQLite 3.35 or newer, in a file or in memory."""

    error = sqlite3.Error
    """What the driver raises."""

    def __init__(self, engine: Engine) -> None:
        file = engine.url.database or ""
        self.is_private = file in ("", ":memory:")
        """Whether nobody but this process sees the database."""
        self._in_memory = self.is_private or isinstance(engine.pool, StaticPool)
        self._file = None if self._in_memory or file.startswith("file:") else file

    # values and columns

    def timestamp(self, seconds: int) -> str:
        """Return a time as the driver takes it: whole seconds, in UTC."""
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(min(seconds, _END_OF_TIME)))

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

    def largest_message(self, cursor: DBAPICursor) -> int:
        """Return how many bytes body and headers may have together."""
        driver: Any = cursor
        return int(driver.connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)) - _REST_OF_ROW

    # transactions

    @contextmanager
    def transaction(self, connection: PoolProxiedConnection, *, durable: bool) -> Generator[DBAPICursor]:
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

    def insert(self, cursor: DBAPICursor, statement: str, rows: Sequence[tuple[Any, ...]]) -> list[int]:
        """Insert rows inside a transaction and return their ids, which follow one another: there is one writer."""
        cursor.executemany(statement, rows)
        cursor.execute("SELECT last_insert_rowid()")
        last = int(_one(cursor))
        return list(range(last - len(rows) + 1, last + 1))

    # watching

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
        """Return what keeps anybody from using the database, or None; unlike opening it, this creates no file."""
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
        if not os.access(self._file, os.R_OK | os.W_OK):
            return f"This process may not read and write {self._file}. Permit it that."
        return None

    def has_index(self, cursor: DBAPICursor, table: str, index: str) -> bool:
        """Say whether a table has an index of this name."""
        cursor.execute("SELECT 1 FROM pragma_index_list(?) WHERE name = ?", (table, index))
        return cursor.fetchone() is not None

    def prepare(self, connection: PoolProxiedConnection) -> None:
        """Switch the file to write-ahead logging, in which readers and a writer do not wait for each other."""
        if not self._in_memory:
            connection.cursor().execute("PRAGMA journal_mode = WAL")

    # a transaction of the user's

    def is_same_database(self, engine: Engine, connection: Connection) -> bool:
        """Say whether the user's connection reaches the database that the engine reaches."""
        # Asking SQLite also makes SQLAlchemy begin the transaction, if it has not yet.
        [theirs] = [row[2] for row in connection.exec_driver_sql("PRAGMA database_list") if row[1] == "main"]
        if self._file is None or not theirs:
            return connection.engine.pool is engine.pool
        return os.path.exists(self._file) and os.path.samefile(theirs, self._file)

    def commits_by_itself(self, connection: Connection) -> bool:
        """Say whether the user's connection is in no transaction: each statement would be committed at once."""
        driver: Any = connection.connection.driver_connection
        if driver.in_transaction:
            return False
        return driver.isolation_level is None or getattr(driver, "autocommit", None) is True

    # errors

    def diagnose(self, error: BaseException | None) -> Trouble:
        """Return what an error of the driver means, or one of SQLAlchemy's own, which come from its pool."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _BUSY:
            return "busy"
        if code in _LOST or isinstance(error, PoolTimeout):
            return "lost"
        return "missing" if str(error).startswith("no such table") else "other"


def dialect_for(engine: Engine) -> Sqlite:
    """Return the dialect that an engine speaks."""
    if engine.dialect.name != "sqlite" or engine.dialect.is_async:
        raise ConfigurationError(
            f"The SQL transport cannot use an engine of {engine.dialect.name}+{engine.dialect.driver}. "
            "Give it one of sqlite+pysqlite."
        )
    if sqlite3.sqlite_version_info < (3, 35):
        raise ConfigurationError(
            f"The SQL transport needs SQLite 3.35 or newer; Python here has {sqlite3.sqlite_version}."
        )
    return Sqlite(engine)


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
