"""The connection: who does what to the queue, in which transaction, and how long it waits."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TypeVar

from sqlalchemy import Connection as SqlAlchemyConnection
from sqlalchemy.engine.interfaces import DBAPICursor

from postbus.errors import ConnectionLost, MessageRefused, TransportError
from postbus.transport import Absence, Counts, Delivery, Outgoing, SupportsScript, SupportsSetup
from postbus_sql.database import Database, TableMissing, Unfit
from postbus_sql.dialects import Row
from postbus_sql.joining import Unjoinable, connection_of, is_joinable, join, transaction_of
from postbus_sql.options import SqlOptions
from postbus_sql.queue import Held, Lease, Queue, Unacceptable, note, row_for
from postbus_sql.schema import Schema
from postbus_sql.stamps import Transaction
from postbus_sql.waiting import POLL

T = TypeVar("T")

Work = Callable[[Queue, DBAPICursor], T]
"""Something to be done to the queue, in one transaction."""

EXPIRED_INTERVAL = 1.0
"""Seconds between two looks for what dead workers left, on a server."""

LONGEST_SETUP = 3600.0
"""Seconds that making an index may take, on a table that is large already."""

SLOWEST = 1_000_000.0
"""Characters that are stored in a second, at least."""

PURGE_BATCH = 10_000
"""Rows that `purge` deletes in one transaction, so that others get their turn."""


class SqlConnection:
    """Moves messages into and out of one queue of a table. A lease that it gave is settled by any other too."""

    def __init__(self, database: Database, options: SqlOptions) -> None:
        self._database = database
        self._dialect = database.dialect
        self._options = options
        self._schema = Schema(options.table_name, database.engine)
        self._queue: Queue | None = None
        self._watch = self._dialect.watch(database, self._schema.name, options)
        self._timeout = options.redeliver_timeout
        self._auto_setup = options.auto_setup or self._dialect.is_private
        self._largest: int | None = None
        self._look_for_expired_at = 0.0
        self._was_in_vain = False
        """Whether there was nothing at the last look, and none has been heard of since."""
        # Held while leases are read, used and changed, so that `keepalive` moves none that is being settled.
        self._leases = threading.Lock()

    def _queue_for(self, cursor: DBAPICursor) -> Queue:
        """Return the queue, once it is known what its table can hold."""
        if self._queue is None:
            self._dialect.adapt(cursor, self._schema.name)
            self._queue = Queue(self._options.queue_name, self._timeout, self._schema.name, self._dialect, self)
        return self._queue

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        stored: dict[int, str | None] = {}
        rows, refused = self._rows_for(messages)
        try:
            for transaction, group in groupby(rows, lambda position: transaction_of(messages[position])):
                self._store({position: rows[position] for position in group}, transaction, stored, refused)
        except TransportError as error:
            error.stored = stored
            raise
        finally:
            self._watch.ring()
        if refused:
            raise MessageRefused(refused, stored=stored)
        return [stored[position] for position in rows]

    def _rows_for(self, messages: Sequence[Outgoing]) -> tuple[dict[int, Row], dict[int, str]]:
        """Return what is to be stored, and what is refused, by the positions of the messages."""
        if self._largest is None:
            self._largest = self._database.read(self._dialect.largest_message)
        rows: dict[int, Row] = {}
        refused: dict[int, str] = {}
        for position, message in enumerate(messages):
            try:
                rows[position] = row_for(message, self._largest)
            except Unacceptable as why:
                refused[position] = str(why)
        return rows, refused

    def _store(
        self,
        rows: dict[int, Row],
        transaction: Transaction | None,
        stored: dict[int, str | None],
        refused: dict[int, str],
    ) -> None:
        """Store some messages together, and say by their positions what has become of each."""
        try:
            ids = self._insert(list(rows.values())) if transaction is None else self._join(rows.values(), transaction)
        except Unjoinable as error:
            refused.update(dict.fromkeys(rows, str(error)))
        except Unfit as error:
            if len(rows) == 1:
                refused.update(dict.fromkeys(rows, str(error)))
                return
            for position, row in rows.items():  # One of them has kept the others from being stored.
                self._store({position: row}, transaction, stored, refused)
        else:
            stored.update(zip(rows, ids, strict=True))

    def _insert(self, rows: Sequence[Row]) -> list[str]:
        single = self._dialect.is_single(rows)
        longer = sum(len(row.body) for row in rows) / SLOWEST
        ids = self._write(lambda queue, cursor: queue.insert(cursor, rows), single=single, longer=longer)
        self._watch.tell()  # Also of what is delayed, so that others know until when they wait.
        return ids

    def _join(self, rows: Collection[Row], transaction: Transaction) -> list[str]:
        def insert(cursor: DBAPICursor) -> list[str]:
            return self._queue_for(cursor).insert(cursor, rows)

        try:
            ids = join(self._database, transaction, insert)
        except TableMissing:
            if not self._auto_setup:
                raise
            if self._dialect.creates_in_transactions:
                # Another connection would have to wait for the end of this one.
                join(self._database, transaction, self._create)
            else:
                self.setup()
            ids = join(self._database, transaction, insert)
        self._watch.tell_later([int(id) for id in ids], connection_of(transaction.connection))
        return ids

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        deadline = time.monotonic() + wait
        try:
            while not self._database.closed:
                mark = self._watch.mark()
                deliveries, due = self._look(limit, asks=time.monotonic() < deadline)
                self._was_in_vain = not deliveries
                if deliveries:
                    self._watch.relax()
                    return deliveries
                pause = deadline - time.monotonic()
                if pause <= 0:
                    break
                left = due - time.time()
                # What is due, and was not to be had, is locked by somebody for a moment.
                if self._watch.wait(mark, min(pause, left if left > 0 else POLL)):
                    self._was_in_vain = False
        except ConnectionLost:
            if not self._database.closed:  # else another thread has just closed it
                raise
        return []

    def _look(self, limit: int, *, asks: bool) -> tuple[list[Delivery], float]:
        """Claim messages; else return when there will be one, if this is asked.

        Who waits looks often, and mostly in vain: that costs one query, and no transaction.
        """
        if not (self._was_in_vain or self._dialect.looks_first):
            deliveries = self._claim(limit)
            return deliveries, self._read(Queue.next_due) if asks and not deliveries else math.inf
        due = self._read(Queue.next_due)
        return self._claim(limit) if due <= time.time() else [], due

    def _claim(self, limit: int) -> list[Delivery]:
        # A claim that a power failure undoes is made again, so none of these need wait for the disk.
        if self._dialect.looks_first:
            return self._write(lambda queue, cursor: queue.claim(cursor, limit), durable=False)
        return self._claim_from_server(limit)

    def _claim_from_server(self, limit: int) -> list[Delivery]:
        """Claim what waits; and now and then, or if there is nothing else, what dead workers left."""
        deliveries = list[Delivery]()
        if time.monotonic() >= self._look_for_expired_at:
            deliveries = self._write(lambda queue, cursor: queue.claim_expired(cursor, limit), durable=False)
            if len(deliveries) == limit:
                return deliveries
            self._look_for_expired_at = time.monotonic() + EXPIRED_INTERVAL
        left = limit - len(deliveries)
        return deliveries + self._write(
            lambda queue, cursor: queue.claim_waiting(cursor, left), durable=False, single=self._dialect.claims_at_once
        )

    def ack(self, tags: Sequence[Lease]) -> Sequence[Lease]:
        return self._settle(tags, Queue.delete)

    def reject(self, tags: Sequence[Lease]) -> Sequence[Lease]:
        return self._settle(tags, Queue.delete)

    def release(self, tags: Sequence[Lease]) -> Sequence[Lease]:
        lost = self._settle(tags, Queue.release)
        if len(lost) < len(tags):
            self._watch.ring()
            self._watch.tell()
        return lost

    def _settle(self, tags: Sequence[Lease], how: Callable[[Queue, DBAPICursor, Sequence[Lease]], Held]) -> list[Lease]:
        with self._leases:
            held: Held = {}
            if any(lease.since for lease in tags):
                held = self._write(lambda queue, cursor: how(queue, cursor, tags))
            lost: list[Lease] = []
            if len(held) < len(tags):
                lost = [lease for lease in tags if (lease.id, lease.since) not in held and not lease.was_settled]
            for lease in tags:
                lease.since, lease.was_settled = None, False
        return lost

    @contextmanager
    def acknowledging(self, lease: Lease, connection: SqlAlchemyConnection) -> Generator[None]:
        """Acknowledge in a transaction of the caller's, which is committed inside, if it is of this database.

        Raises `TransportError` if the lease was lost: somebody else handles the message, so nothing is to be kept.
        """
        if not is_joinable(self._database, connection):
            yield
            return
        with self._leases:
            join(self._database, Transaction(connection), lambda cursor: self._delete(cursor, lease))
            yield
            lease.since, lease.was_settled = None, True

    def _delete(self, cursor: DBAPICursor, lease: Lease) -> None:
        if not self._queue_for(cursor).delete(cursor, [lease]):
            raise TransportError(f"The lease on message {lease.id} was lost; what its handlers wrote is undone.")

    @property
    def lease(self) -> float:
        return float(self._timeout)

    def keepalive(self, tags: Sequence[Lease]) -> Sequence[Lease]:
        with self._leases:
            held = self._write(lambda queue, cursor: queue.extend(cursor, tags))
            for lease in tags:
                lease.since = held.get((lease.id, lease.since))
            return [lease for lease in tags if lease.since is None and not lease.was_settled]

    def replace(self, tag: Lease, message: Outgoing) -> str | None:
        if transaction_of(message) is not None:
            raise MessageRefused({0: "A copy cannot take the place of its original in a transaction of the caller's."})
        rows, refused = self._rows_for([message])
        if refused:
            raise MessageRefused(refused)

        def replace(queue: Queue, cursor: DBAPICursor) -> str:
            if not queue.delete(cursor, [tag]):
                raise TransportError(f"The lease on message {tag.id} was lost; its copy was not stored.")
            [id] = queue.insert(cursor, rows.values())
            return id

        with self._leases:
            try:
                id = self._write(replace)
            except Unfit as error:
                raise MessageRefused({0: str(error)}) from error
            tag.since = None
        self._watch.ring()
        self._watch.tell()
        return id

    def count(self) -> Counts:
        return self._read(Queue.count)

    def browse(self, limit: int, after: str | None = None) -> Sequence[Delivery]:
        return self._read(lambda queue, cursor: queue.browse(cursor, limit, after))

    def find(self, id: str) -> Delivery | None:
        return self._read(lambda queue, cursor: queue.find(cursor, id))

    def remove(self, ids: Sequence[str]) -> int:
        return self._write(lambda queue, cursor: queue.remove(cursor, ids))

    def purge(self) -> int:
        purged, last = 0, self._read(Queue.last_id)
        while some := self._write(lambda queue, cursor: queue.purge(cursor, last, PURGE_BATCH)):
            purged += some
        return purged

    def write_note(self, name: str, text: str | None) -> None:
        old = [id for id, known, _ in self._read(Queue.notes) if known == name]
        rows, _ = self._rows_for([] if text is None else [note(name, text)])
        if old or rows:
            self._write(lambda queue, cursor: queue.replace_notes(cursor, old, list(rows.values())))

    def read_notes(self, names: Sequence[str]) -> Sequence[str | None]:
        try:
            notes = self._database.read(lambda cursor: self._queue_for(cursor).notes(cursor))
        except TableMissing:  # Nobody has set it up yet, and to look is no reason to.
            return [None] * len(names)
        # If two were written at the same time, the newest counts.
        texts = {name: text for _, name, text in notes}
        return [texts.get(name) for name in names]

    @property
    def lacks(self) -> Collection[type]:
        """What is in memory is set up at the first use, since nobody else could set it up before."""
        return (SupportsSetup, SupportsScript) if self._dialect.is_private else ()

    def setup(self) -> None:
        self._database.prepare()
        self._database.write(self._create, longer=LONGEST_SETUP)

    def script(self) -> str:
        return self._schema.script

    def _create(self, cursor: DBAPICursor) -> None:
        self._schema.create(cursor, self._dialect)

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
        self._watch.close()

    def _write(self, work: Work[T], *, durable: bool = True, single: bool = False, longer: float = 0.0) -> T:
        return self._with_table(
            lambda: self._database.write(
                lambda cursor: work(self._queue_for(cursor), cursor), durable=durable, single=single, longer=longer
            )
        )

    def _read(self, work: Work[T]) -> T:
        return self._with_table(lambda: self._database.read(lambda cursor: work(self._queue_for(cursor), cursor)))

    def _with_table(self, work: Callable[[], T]) -> T:
        """Do the work; if the table turns out to be missing, create it first."""
        try:
            return work()
        except TableMissing:
            if not self._auto_setup:
                raise
        self.setup()
        return work()
