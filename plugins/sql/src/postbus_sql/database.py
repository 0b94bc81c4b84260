"""One database: runs work on it, waits while others write, and translates the driver's errors."""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Engine
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import Pool, PoolProxiedConnection

from postbus.errors import ConnectionLost, TransportError
from postbus.transport import Absence
from postbus_sql.dialects import Trouble, dialect_for

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds for which to wait, at most, while others write to the database."""

LONGEST_PAUSE = 0.02
"""Seconds between two attempts meanwhile, at most."""


class TableMissing(TransportError):
    """The table is not there (yet)."""


class Unfit(TransportError):
    """The database does not take a value; with another one the statement would have succeeded."""


class Database:
    """An engine. Where its dialect takes turns, one thread at a time uses it; else each has a connection of its own.

    In SQLite there is one writer anyway, and taking turns is faster. ``owned`` says whether the engine is this
    plugin's own, and closed with it, or the user's.
    """

    def __init__(self, engine: Engine, *, owned: bool) -> None:
        self.engine = engine
        self.dialect = dialect_for(engine)
        # Drivers take passwords in the query too.
        self.name = engine.url.set(query={}).render_as_string(hide_password=True)
        self._owned = owned
        # Taking a connection from the pool takes longer than storing a message; the user's others may need theirs.
        self._kept: PoolProxiedConnection | None = None
        self._lock = threading.RLock()
        self._closed = threading.Event()
        _open_databases.add(self)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed.is_set()

    def write(
        self, work: Callable[[DBAPICursor], T], *, durable: bool = True, single: bool = False, longer: float = 0.0
    ) -> T:
        """Do the work in a transaction, and return its result once that is committed; the work may run repeatedly.

        ``single`` says that it is one statement. An answer may take so many seconds ``longer`` than usual.
        """

        def transaction(connection: PoolProxiedConnection) -> T:
            with self.dialect.transaction(connection, durable=durable, single=single) as cursor:
                return work(cursor)

        return self._run(transaction, longer)

    def read(self, work: Callable[[DBAPICursor], T]) -> T:
        """Do work that changes nothing, and return its result."""

        def query(connection: PoolProxiedConnection) -> T:
            with self.dialect.reading(connection) as cursor:
                return work(cursor)

        return self._run(query)

    def prepare(self) -> None:
        """Set up the database as a whole, as far as it is ours."""
        if self._owned:
            self._run(self.dialect.prepare)

    def translate(self, error: Exception) -> tuple[Trouble, str]:
        """Return what an error means, and what it says; not what SQLAlchemy adds, which shows what was stored."""
        original = error.orig if isinstance(error, DBAPIError) else error
        return self.dialect.diagnose(original), self.dialect.describe(original)

    def as_error(self, error: Exception) -> TransportError:
        """Return an error of the driver's, or of SQLAlchemy's, as what it means."""
        return self._error(*self.translate(error))

    def close(self) -> None:
        """Let go of the database. Twice is fine."""
        self._closed.set()
        with self._lock:
            if self._owned:
                self._let_go()

    def forget_inherited(self) -> None:
        """Leave to the parent what it has open; this process opens the database anew."""
        if not self.dialect.takes_turns:
            self.engine.dispose(close=False)

    def _run(self, work: Callable[[PoolProxiedConnection], T], longer: float = 0.0) -> T:
        end = time.monotonic() + PATIENCE
        pause = 0.001
        while True:
            try:
                return self._take_turn(work) if self.dialect.takes_turns else self._borrow(work, longer)
            except (self.dialect.error, SQLAlchemyError) as error:
                trouble, text = self.translate(error)
                if trouble == "busy" and time.monotonic() < end:
                    self._closed.wait(random.uniform(0, pause))
                    pause = min(pause * 2, LONGEST_PAUSE)
                    continue
                raise self._error(trouble, text) from error

    def _take_turn(self, work: Callable[[PoolProxiedConnection], T]) -> T:
        with self._lock:
            self._refuse_if_closed()
            connection = self._kept or self.engine.raw_connection()
            try:
                if self.dialect.is_replaced(connection):
                    connection.invalidate()
                    self.engine.dispose()
                    raise ConnectionLost(f"The file of {self.name} was deleted or replaced while it was in use.")
                return work(connection)
            finally:
                if self._owned and connection.is_valid:
                    self._kept = connection
                else:
                    self._kept = None
                    connection.close()

    def _borrow(self, work: Callable[[PoolProxiedConnection], T], longer: float) -> T:
        self._refuse_if_closed()
        pool, connection = self.engine.pool, self.engine.raw_connection()
        try:
            with self.dialect.patience(connection, longer):
                return work(connection)
        except self.dialect.error as error:
            if self.dialect.diagnose(error) == "lost":
                # The others in the pool go the same way, and each would cost an attempt.
                connection.invalidate()
                with self._lock:
                    self.engine.dispose()
            raise
        finally:
            self._give_back(connection, pool)

    def _give_back(self, connection: PoolProxiedConnection, pool: Pool) -> None:
        if not self._owned:
            connection.close()
            return
        # A pool that was disposed of meanwhile would keep it open, and nobody would ever close it.
        with self._lock:
            if pool is not self.engine.pool and connection.is_valid:
                connection.invalidate()
            connection.close()

    def _refuse_if_closed(self) -> None:
        if self.closed:
            raise ConnectionLost(f"The connection to {self.name} is closed.")

    def _error(self, trouble: Trouble, text: str) -> TransportError:
        if trouble == "missing":
            return TableMissing(f"{self.name}: {text}. Run `postbus setup`.")
        if trouble == "unfit":
            return Unfit(f"{self.name} does not take it: {text}.")
        if trouble == "busy":
            return ConnectionLost(
                f"{self.name} was locked for {PATIENCE:.0f} s. Look for a program that keeps a transaction open."
            )
        obstacle = self.dialect.obstacle()
        if obstacle is not None and not isinstance(obstacle, Absence):
            return (ConnectionLost if trouble == "lost" else TransportError)(f"Cannot use {self.name}. {obstacle}")
        if trouble == "lost":
            return ConnectionLost(f"Cannot use {self.name}: {text}. {self.dialect.hint}")
        remedy = " Name another one in the DSN." if "not a database" in text else ""
        return TransportError(f"{self.name}: {text}.{remedy}")

    def _let_go(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None
        self.engine.dispose()

    # Forks

    def hold_for_fork(self) -> None:
        """Wait until nobody takes a turn, and keep it so; close what must not be open during a fork."""
        self._lock.acquire()
        if not self.dialect.forks_safely():
            self._let_go()

    def resume_after_fork(self) -> None:
        """Let the threads go on, each of which opens the database anew."""
        self._lock.release()


_open_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_forking = threading.RLock()
_held: list[Database] = []


def _before_fork() -> None:
    _forking.acquire()
    for database in list(_open_databases):
        _held.append(database)
        database.hold_for_fork()


def _after_fork_in_child() -> None:
    for database in _held:
        database.forget_inherited()
    _after_fork()


def _after_fork() -> None:
    while _held:
        _held.pop().resume_after_fork()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
