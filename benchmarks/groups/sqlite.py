"""SQLite, in a file.

The raw equivalent is the driver in the standard library, on the same table with the same index and rows,
and as durable: see the README.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from statistics import mean

from benchmarks import idle, machine
from benchmarks.groups import Prepared
from benchmarks.measuring import Figure, seconds_for_each, seconds_per
from benchmarks.messages import MESSAGE, TRANSPORT, make_app
from postbus import Limits

TABLE = "messenger_messages"
BATCH = 100
WORKED_OFF = 10_000
STORED = 5_000
STORED_SINGLY = 500
TAKEN, TIMES = 1_000, 5
"""How many messages are taken off a queue of a given depth, and how often in a round."""
PINGS = 50
SECONDS_IDLE = 10.0

CLAIM = f"""
    UPDATE {TABLE} SET delivered_at = datetime() WHERE id IN (
        SELECT id FROM {TABLE}
        WHERE queue_name = 'default' AND delivered_at IS NULL AND available_at <= datetime()
        ORDER BY available_at, id LIMIT ?
    ) RETURNING id, body, headers
"""


@contextmanager
def figures() -> Generator[Prepared]:
    """Measure on one core, in a folder on a disk."""
    with machine.folder_on_disk() as folder, machine.pinned(machine.CORES[-1]):
        ours, raw = Database(folder / "ours.db"), Database(folder / "raw.db")
        conditions = {
            "Libraries": f"{machine.versions('postbus', 'postbus-sql', 'SQLAlchemy')}, SQLite {sqlite3.sqlite_version}",
            "Durability": f"journal_mode = {raw.pragma('journal_mode')}; synchronous = full for storing and deleting, "
            "normal for claiming (a claim that a power failure undoes is made again); the same for both",
            "Database": f"on {machine.file_system(folder)}",
        }
        try:
            yield conditions, chain(throughput(ours, raw), depth(folder), waiting(folder))
        finally:
            ours.close()
            raw.close()


def throughput(ours: Database, raw: Database) -> Iterable[Figure]:
    """Return what a worker and a sender reach."""
    batches = f"raw: 1 transaction claims {BATCH}, 1 deletes them"
    yield Figure(
        name=f"worker, a handler that does nothing\n{batches}",
        ours=lambda: ours.work_off(WORKED_OFF),
        raw=lambda: raw.claim_and_delete(WORKED_OFF, BATCH),
        target=0.4,
    )
    yield Figure(
        name=f"the same\n{batches.replace(str(BATCH), '500')}",
        ours=lambda: ours.work_off(WORKED_OFF),
        raw=lambda: raw.claim_and_delete(WORKED_OFF, 500),
    )
    batch = ours.app.BATCH
    yield Figure(
        name=f"dispatch_many, which stores {batch} in a transaction\nraw: inserts of {BATCH} in a transaction",
        ours=lambda: ours.dispatch_many(STORED),
        raw=lambda: raw.insert(STORED, BATCH),
        target=0.4,
    )
    yield Figure(
        name=f"the same\nraw: inserts of {batch} in a transaction",
        ours=lambda: ours.dispatch_many(STORED),
        raw=lambda: raw.insert(STORED, batch),
    )
    yield Figure(
        name="dispatch, one by one\nraw: each insert its own transaction",
        ours=lambda: ours.dispatch_singly(STORED_SINGLY),
        raw=lambda: raw.insert_singly(STORED_SINGLY),
        target=0.6,
    )


def depth(folder: Path) -> Iterable[Figure]:
    """Return how what a message costs depends on how many are queued: beside it is a short queue."""
    yield from deeper(100_000, folder, target=None)
    yield from deeper(1_000_000, folder, target=0.9)


def deeper(queued: int, folder: Path, *, target: float | None) -> Iterable[Figure]:
    """Compare a queue of some depth with one of 1 000, for the worker and for the driver."""
    short, deep = Database(folder / f"beside-{queued}.db"), Database(folder / f"{queued}.db")
    short.fill(1_000)
    deep.fill(queued)
    os.sync()  # Or it would be written back while the first rounds run.
    name = f"{queued:,}".replace(",", " ")
    yield Figure(
        name=f"worker, {name} queued\nbeside it: the same with 1 000",
        ours=lambda: deep.work_off(TAKEN, TIMES),
        raw=lambda: short.work_off(TAKEN, TIMES),
        target=target,
    )
    yield Figure(
        name=f"the driver alone, {name} queued\nbeside it: the same with 1 000",
        ours=lambda: deep.claim_and_delete(TAKEN, BATCH, TIMES),
        raw=lambda: short.claim_and_delete(TAKEN, BATCH, TIMES),
    )
    for database in (short, deep):
        database.close()


def waiting(folder: Path) -> Iterable[Figure]:
    """Return what an idle worker is like."""
    dsn = f"sqlite:///{folder / 'idle.db'}"
    with idle.pinging(dsn) as [ping]:
        yield Figure(
            name="idle worker: from dispatch in another process to the handler",
            ours=ping,
            comparison="cost",
            rounds=PINGS,
        )
    yield Figure(
        name=f"idle worker: share of a core, over {SECONDS_IDLE:.0f} s",
        ours=lambda: idle.waiting_cost(SECONDS_IDLE, dsn),
        comparison="cost",
        unit="%",
        target=0.01,
        rounds=1,
        warm_up=False,
    )


class Database:
    """A file with the plugin's own table, as an app uses it and as the driver does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.app = make_app(f"sqlite:///{path}")
        self.app.dispatch(MESSAGE)
        self._driver = _connect(path, "full")
        # A connection of its own, so that neither contender finds in its cache what was stored.
        self._filler = _connect(path, "off")
        columns = "body, headers, queue_name, created_at, available_at"
        self._row = self._driver.execute(f"SELECT {columns} FROM {TABLE}").fetchone()
        self._insert = f"INSERT INTO {TABLE} ({columns}) VALUES (?, ?, ?, ?, ?)"
        self.empty()

    def pragma(self, name: str) -> str:
        """Return a setting of the database."""
        return str(self._driver.execute(f"PRAGMA {name}").fetchone()[0])

    def fill(self, count: int) -> None:
        """Put so many messages into the queue, all of them as the app stored its first one."""
        for start in range(0, count, 50_000):
            with _transaction(self._filler):
                self._filler.executemany(self._insert, [self._row] * min(50_000, count - start))
        self._filler.execute("PRAGMA wal_checkpoint(truncate)")

    def empty(self) -> None:
        """Delete everything."""
        self._filler.execute(f"DELETE FROM {TABLE}")
        self._filler.execute("PRAGMA wal_checkpoint(truncate)")

    def work_off(self, count: int, times: int = 1) -> float:
        """Store so many, let a worker take as many; return the seconds for each."""

        def run() -> float:
            self.fill(count)
            return seconds_per(count, self.app.worker(TRANSPORT, limits=Limits(messages=count)).run)

        return mean(run() for _ in range(times))

    def claim_and_delete(self, count: int, batch: int, times: int = 1) -> float:
        """Do the same with the driver, so many in a transaction."""
        delete = f"DELETE FROM {TABLE} WHERE id IN ({', '.join('?' * batch)})"

        def take() -> None:
            for _ in range(count // batch):
                self._driver.execute("PRAGMA synchronous = normal")
                rows = self._driver.execute(CLAIM, (batch,)).fetchall()
                self._driver.execute("PRAGMA synchronous = full")
                self._driver.execute(delete, [id for id, *_ in rows])

        def run() -> float:
            self.fill(count)
            return seconds_per(count, take)

        return mean(run() for _ in range(times))

    def dispatch_many(self, count: int) -> float:
        """Dispatch so many at once into an empty queue; return the seconds for each."""
        self.empty()
        return seconds_per(count, lambda: self.app.dispatch_many([MESSAGE] * count))

    def insert(self, count: int, batch: int) -> float:
        """Do the same with the driver, so many in a transaction."""
        self.empty()

        def store() -> None:
            for _ in range(count // batch):
                with _transaction(self._driver):
                    self._driver.executemany(self._insert, [self._row] * batch)

        return seconds_per(count, store)

    def dispatch_singly(self, count: int) -> float:
        """Dispatch one after the other into an empty queue; return the seconds for each."""
        self.empty()
        return seconds_for_each([MESSAGE] * count, self.app.dispatch)

    def insert_singly(self, count: int) -> float:
        """Do the same with the driver."""
        self.empty()
        return seconds_for_each([self._row] * count, lambda row: self._driver.execute(self._insert, row))

    def close(self) -> None:
        """Close everything that is open, and delete the file."""
        self.app.close()
        self._driver.close()
        self._filler.close()
        self._path.unlink()


def _connect(path: Path, synchronous: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    return connection


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Generator[None]:
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")
