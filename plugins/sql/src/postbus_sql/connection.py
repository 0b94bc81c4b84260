"""The connection: who does what to the queue, in which transaction, and how long it waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Hashable, Sequence
from itertools import groupby
from typing import TypeVar

from sqlalchemy.engine.interfaces import DBAPICursor

from postbus.errors import ConnectionLost, MessageRefused, TransportError
from postbus.transport import Absence, Counts, Delivery, Outgoing, SupportsSetup
from postbus_sql.bell import Bell
from postbus_sql.database import Database, TableMissing
from postbus_sql.joining import Unjoinable, join, transaction_of
from postbus_sql.options import SqlOptions
from postbus_sql.queue import Held, Lease, Queue, Row, Unacceptable
from postbus_sql.schema import Schema
from postbus_sql.stamps import Transaction

T = TypeVar("T")

POLL = 0.04
"""Seconds between two looks at whether another process has changed the database."""

PURGE_BATCH = 10_000
"""Rows that `purge` deletes in one transaction, so that others get their turn."""


class SqlConnection:
    """Moves messages into and out of one queue of a table. A lease that it gave is settled by any other too."""

    def __init__(self, database: Database, options: SqlOptions) -> None:
        self._database = database
        self._dialect = database.dialect
        self._schema = Schema(options.table_name, database.engine)
        self._queue = Queue(options.queue_name, options.redeliver_timeout, self._schema.name, self._dialect)
        self._timeout = options.redeliver_timeout
        self._auto_setup = options.auto_setup or self._dialect.is_private
        self._largest: int | None = None
        self._bell = Bell()
        # Held while leases are read, used and changed, so that `keepalive` moves none that is being settled.
        self._leases = threading.Lock()

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        stored: dict[int, str | None] = {}
        rows, refused = self._rows_for(messages)
        try:
            for transaction, group in groupby(rows, lambda position: transaction_of(messages[position])):
                positions = list(group)
                try:
                    ids = self._store([rows[position] for position in positions], transaction)
                except Unjoinable as error:
                    refused |= dict.fromkeys(positions, str(error))
                else:
                    stored.update(zip(positions, ids, strict=True))
        except TransportError as error:
            error.stored = stored
            raise
        finally:
            self._bell.ring()
        if refused:
            raise MessageRefused(refused, stored=stored)
        return list(stored.values())

    def _rows_for(self, messages: Sequence[Outgoing]) -> tuple[dict[int, Row], dict[int, str]]:
        """Return what is to be stored, and what is refused, by the positions of the messages."""
        if self._largest is None:
            self._largest = self._database.read(self._dialect.largest_message)
        rows: dict[int, Row] = {}
        refused: dict[int, str] = {}
        for position, message in enumerate(messages):
            try:
                rows[position] = self._queue.row_for(message, self._largest)
            except Unacceptable as why:
                refused[position] = str(why)
        return rows, refused

    def _store(self, rows: Sequence[Row], transaction: Transaction | None) -> list[str]:
        def insert(cursor: DBAPICursor) -> list[str]:
            return self._queue.insert(cursor, rows)

        if transaction is None:
            return self._write(insert)
        try:
            return join(self._database, transaction, insert)
        except TableMissing:
            if not self._auto_setup:
                raise
        # In the same transaction: another connection would have to wait for its end.
        join(self._database, transaction, self._schema.create)
        return join(self._database, transaction, insert)

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        deadline = time.monotonic() + wait
        try:
            while not self._database.closed:
                rings, mark = self._bell.rings, self._dialect.change_mark()
                # Whoever only looks keeps nobody from writing.
                due = self._read(self._queue.next_due)
                if due <= time.time() and (deliveries := self._claim(limit)):
                    return deliveries
                if time.monotonic() >= deadline:
                    break
                self._wait_for_change(rings, mark, due, deadline)
        except ConnectionLost:
            if not self._database.closed:  # else another thread has just closed it
                raise
        return []

    def _claim(self, limit: int) -> list[Delivery]:
        # A claim that a power failure undoes is made again, so this need not wait for the disk.
        return self._write(lambda cursor: self._queue.claim(cursor, limit), durable=False)

    def _wait_for_change(self, rings: int, mark: Hashable, due: float, deadline: float) -> None:
        """Wait until a message may have come: published here, stored by another connection, or due by now."""
        while True:
            pause = min(POLL, deadline - time.monotonic())
            if due > time.time():
                pause = min(pause, due - time.time())
            if pause <= 0 or self._bell.wait(rings, pause):
                return
            if due <= time.time() or mark is None or self._dialect.change_mark() != mark:
                return

    def ack(self, tags: Sequence[Lease]) -> Sequence[Lease]:
        return self._settle(tags, self._queue.delete)

    def reject(self, tags: Sequence[Lease]) -> Sequence[Lease]:
        return self._settle(tags, self._queue.delete)

    def release(self, tags: Sequence[Lease]) -> Sequence[Lease]:
        lost = self._settle(tags, self._queue.release)
        self._bell.ring()
        return lost

    def _settle(self, tags: Sequence[Lease], how: Callable[[DBAPICursor, Sequence[Lease]], Held]) -> list[Lease]:
        with self._leases:
            held: Held = set()
            if any(lease.since for lease in tags):
                held = self._write(lambda cursor: how(cursor, tags))
            lost = [lease for lease in tags if (lease.id, lease.since) not in held]
            for lease in tags:
                lease.since = None
        return lost

    @property
    def lease(self) -> float:
        return float(self._timeout)

    def keepalive(self, tags: Sequence[Lease]) -> Sequence[Lease]:
        with self._leases:
            now, held = self._write(lambda cursor: self._queue.extend(cursor, tags))
            for lease in tags:
                lease.since = now if (lease.id, lease.since) in held else None
            return [lease for lease in tags if lease.since is None]

    def replace(self, tag: Lease, message: Outgoing) -> str | None:
        if transaction_of(message) is not None:
            raise MessageRefused({0: "A copy cannot take the place of its original in a transaction of the caller's."})
        rows, refused = self._rows_for([message])
        if refused:
            raise MessageRefused(refused)

        def replace(cursor: DBAPICursor) -> str:
            if not self._queue.delete(cursor, [tag]):
                raise TransportError(f"The lease on message {tag.id} was lost; its copy was not stored.")
            [id] = self._queue.insert(cursor, rows.values())
            return id

        with self._leases:
            id = self._write(replace)
            tag.since = None
        self._bell.ring()
        return id

    def count(self) -> Counts:
        return self._read(self._queue.count)

    def browse(self, limit: int, after: str | None = None) -> Sequence[Delivery]:
        return self._read(lambda cursor: self._queue.browse(cursor, limit, after))

    def find(self, id: str) -> Delivery | None:
        return self._read(lambda cursor: self._queue.find(cursor, id))

    def remove(self, ids: Sequence[str]) -> int:
        return self._write(lambda cursor: self._queue.remove(cursor, ids))

    def purge(self) -> int:
        purged, last = 0, self._read(self._queue.last_id)
        while some := self._write(lambda cursor: self._queue.purge(cursor, last, PURGE_BATCH)):
            purged += some
        return purged

    @property
    def lacks(self) -> Collection[type]:
        """What is in memory is set up at the first use, since nobody else could set it up before."""
        return (SupportsSetup,) if self._dialect.is_private else ()

    def setup(self) -> None:
        self._database.prepare()
        self._database.write(self._schema.create)

    def missing(self) -> Sequence[str]:
        obstacle = self._dialect.obstacle()
        if obstacle is not None:
            return [obstacle]
        try:
            return self._database.read(lambda cursor: self._schema.missing(cursor, self._dialect))
        except TableMissing as error:
            return [Absence(str(error))]
        except TransportError as error:
            return [str(error)]

    def close(self) -> None:
        self._database.close()
        self._bell.ring()

    def _write(self, work: Callable[[DBAPICursor], T], *, durable: bool = True) -> T:
        return self._with_table(lambda: self._database.write(work, durable=durable))

    def _read(self, work: Callable[[DBAPICursor], T]) -> T:
        return self._with_table(lambda: self._database.read(work))

    def _with_table(self, work: Callable[[], T]) -> T:
        """Do the work; if the table turns out to be missing, create it first."""
        try:
            return work()
        except TableMissing:
            if not self._auto_setup:
                raise
        self.setup()
        return work()
