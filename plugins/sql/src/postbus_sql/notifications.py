"""Waiting on PostgreSQL: LISTEN on a connection of its own, and looking where nothing is heard there."""

# ruff: noqa: S608  (The name of the table is quoted, and all else in these statements is our own.)

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import psycopg
from sqlalchemy import Connection, event
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import SQLAlchemyError

from postbus.errors import TransportError

if TYPE_CHECKING:
    from postbus_sql.options import SqlOptions
    from postbus_sql.waiting import Source
    from postbus_sql.watchdog import Watchdog

logger = logging.getLogger("postbus")

POLL = 0.08
"""Seconds between two looks into the queue where nothing is heard of a new message."""

DEAF_AFTER = 5.0
"""Seconds after which a notification of our own that has not come will not come."""

BUSY_AFTER = 3
"""How many fetches running must bring something until nobody is to be woken here any more."""

SELDOM = 1.0
"""Seconds after which others are told all the same, of whom nobody knows whether they wait."""

LONGEST_CHANNEL = 63
"""Bytes; what is longer, LISTEN cuts, and pg_notify refuses."""


class NotificationWatch:
    """Listens while there is nothing to do.

    Symfony's names are used: the channel is that of the table, the payload the name of the queue. Who may wait holds
    a shared advisory lock, and whoever has stored something notifies only if there is one: so a busy queue costs no
    notifications, all of which queue up behind one lock of the server.

    A connection through PgBouncer in transaction mode hears nothing. That is found out by a notification of our
    own; until it comes, and if it does not, the queue is looked into every `POLL` seconds.
    """

    def __init__(self, database: Source, table: str, options: SqlOptions, watchdog: Watchdog) -> None:
        self._database = database
        self._table = table
        self._watchdog = watchdog
        self._channel = _channel_for(options.table_name)
        self._queue = options.queue_name
        self._key = int.from_bytes(
            blake2b(f"postbus {self._channel} {self._queue}".encode(), digest_size=8).digest(), "big", signed=True
        )
        self._listens = options.use_notify
        self._interval = max(options.check_delayed_interval / 1000, POLL)
        self._longest = options.get_notify_timeout / 1000 or float("inf")
        self._lock = threading.Lock()
        """Held by the thread that uses the listener."""
        self._listener: Any = None
        self._is_told = False
        """Whether others know that somebody may wait here."""
        self._hears: bool | None = None
        self._probe = ""
        self._probed_at = 0.0
        self._successes = 0
        self._told_at = -SELDOM
        self._is_closed = False
        self._ear, self._bell = socket.socketpair()
        for end in self._ear, self._bell:
            end.setblocking(False)
        self._announcer = Announcer(self)

    # who waits

    def mark(self) -> bool:
        """Say whether what is stored from now on will be heard of."""
        return self._is_told

    def wait(self, mark: object, timeout: float) -> bool:
        self._successes = 0
        timeout = min(timeout, self._interval, self._longest)
        if not self._listens:
            return self._sleep(min(timeout, POLL), None)
        with self._lock:
            if self._is_closed:
                return False
            try:
                return self._wait(mark, timeout)
            except (psycopg.Error, SQLAlchemyError) as error:
                self._hang_up()
                raise self._database.as_error(error) from error

    def _wait(self, mark: object, timeout: float) -> bool:
        if self._listener is None:
            self._listen()
        if not self._hears:
            is_told = self._sleep(min(timeout, POLL), self._listener)
            self._judge()
            return is_told
        if not self._is_told:
            self._advisory("pg_advisory_lock_shared")
            self._is_told = True
        # Something may have been stored before others knew.
        return self._sleep(timeout, self._listener) if mark else False

    def relax(self) -> None:
        self._successes += 1
        if not self._is_told or self._successes < BUSY_AFTER:
            return
        with self._lock:
            self._is_told = False
            if self._listener is None:
                return
            try:
                self._advisory("pg_advisory_unlock_shared")
            except psycopg.Error:  # Whoever waits next listens anew; now there is something to do.
                self._hang_up()

    def _judge(self) -> None:
        """Say once that nothing is heard, if that is so."""
        if self._hears is None and time.monotonic() - self._probed_at > DEAF_AFTER:
            self._hears = False
            logger.warning(
                "Nothing is heard from %s about new messages, perhaps because PgBouncer is in between, so the queue "
                "is looked into every %g s. Say use_notify=false in the DSN, or reach the server directly.",
                self._database.name,
                POLL,
            )

    def _hang_up(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self._listener, self._is_told = None, False

    def _listen(self) -> None:
        connection = self._database.engine.raw_connection()
        driver: Any = connection.driver_connection
        self._listener = driver
        connection.detach()
        driver.autocommit = True
        driver.execute(f'LISTEN "{self._channel.replace(chr(34), chr(34) * 2)}"', prepare=False)
        if self._hears is None:  # Else it is known already.
            self._probe, self._probed_at = f"postbus-{os.urandom(8).hex()}", time.monotonic()
            self._notify(self._probe)

    def _advisory(self, function: str) -> None:
        with self._watchdog.over(self._listener):
            self._listener.execute(f"SELECT {function}(%s)", [self._key], prepare=False)
        self._take_in()

    def _sleep(self, timeout: float, listener: Any) -> bool:
        """Return at a ring, at a notification for this queue, or after so many seconds; say whether one came."""
        deadline = time.monotonic() + timeout
        if listener is not None and self._take_in():
            return True
        with selectors.DefaultSelector() as selector:
            selector.register(self._ear, selectors.EVENT_READ)
            if listener is not None:
                selector.register(listener, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                ready = {key.fileobj for key, _ in selector.select(left)}
                if self._ear in ready:
                    with suppress(BlockingIOError):
                        while self._ear.recv(4096):
                            pass
                    return True
                if ready and self._take_in():
                    return True
        return False

    def _take_in(self) -> bool:
        """Take in what was heard; say whether it concerns this queue."""
        concerns = False
        for notification in self._listener.notifies(timeout=0):
            if notification.payload in (self._probe, self._queue):
                self._hears = concerns = True
        return concerns

    # who wakes

    def ring(self) -> None:
        with suppress(OSError):  # It is full, so it has been rung; or it is closed.
            self._bell.send(b"!")

    def tell(self) -> None:
        if not self._listens:
            return
        now = time.monotonic()
        is_seldom = now - self._told_at >= SELDOM
        if is_seldom:
            self._told_at = now
        try:
            self._notify(self._queue, always=is_seldom)
        except TransportError as error:  # It is stored, and will be found.
            logger.debug("Could not wake those who wait for %s: %s", self._queue, error)

    def tell_later(self, ids: list[int], connection: Connection) -> None:
        if self._listens:
            self._announcer.expect(ids, connection)

    def _notify(self, payload: str, *, always: bool = True) -> None:
        # In a transaction of its own, which writes nothing: else all who notify would wait for one another.
        unless = "" if always else " WHERE NOT pg_try_advisory_xact_lock(%s)"
        values = [self._channel, payload, *([] if always else [self._key])]

        def notify(cursor: DBAPICursor) -> None:
            driver: Any = cursor
            driver.execute(f"SELECT pg_notify(%s, %s){unless}", values, prepare=False)

        self._database.read(notify)

    def are_there(self, ids: Sequence[int]) -> bool:
        """Say whether rows can be seen by others."""

        def look(cursor: DBAPICursor) -> Any:
            driver: Any = cursor
            table = self._table.replace("%", "%%")
            driver.execute(f"SELECT 1 FROM {table} WHERE id = %s", [max(ids)], prepare=False)
            return cursor.fetchone()

        return self._database.read(look) is not None

    def close(self) -> None:
        self._is_closed = True
        self.ring()
        with self._lock:
            self._hang_up()
            for end in self._ear, self._bell:
                end.close()


class Announcer:
    """Tells of messages that were stored in a transaction of the caller's, once it is committed.

    SQLAlchemy says when a commit begins, and not when it has come to its end; so a thread waits for the rows.
    """

    def __init__(self, watch: NotificationWatch) -> None:
        self._watch = watch
        self._expected: WeakKeyDictionary[Connection, list[int]] = WeakKeyDictionary()

    def expect(self, ids: Sequence[int], connection: Connection) -> None:
        """Wait for the commit of a connection."""
        if connection in self._expected:
            self._expected[connection] += ids
            return
        self._expected[connection] = list(ids)
        event.listen(connection, "commit", self._begin, once=True)

    def _begin(self, connection: Connection) -> None:
        ids = self._expected.pop(connection, None)
        if ids:
            threading.Thread(target=self._announce, args=(ids,), name="postbus-sql-announcer", daemon=True).start()

    def _announce(self, ids: Sequence[int]) -> None:
        pause, deadline = 0.001, time.monotonic() + DEAF_AFTER
        with suppress(TransportError):  # They are stored, and will be found.
            while time.monotonic() < deadline and not self._watch.are_there(ids):
                threading.Event().wait(pause)
                pause = min(2 * pause, 0.2)
            self._watch.tell()


def _channel_for(table: str) -> str:
    """Return the name of the channel: that of the table, as far as a channel can have it."""
    if len(table.encode()) <= LONGEST_CHANNEL:
        return table
    digest = blake2b(table.encode(), digest_size=8).hexdigest()
    return f"{table.encode()[: LONGEST_CHANNEL - 17].decode(errors='ignore')}_{digest}"
