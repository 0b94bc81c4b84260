"""`SqlStore`: where `postbus.deduplication.Deduplicate` holds its keys for all processes that share a database."""

from __future__ import annotations

import time
from hashlib import blake2b

from sqlalchemy import Column, Engine, Float, MetaData, String, Table, delete, insert, inspect, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

SWEEP = 1000
"""After how many keys those are deleted whose time is over."""


class SqlStore:
    """Holds each key as a row, whose time the clocks of the processes tell; let them agree within a second.

    A key is stored as its digest, so it may be of any length and letters. Each call is a transaction of its own, on a
    connection of the engine. The table is made at the first use; for Alembic, `deduplication_table` adds it to your
    metadata.
    """

    def __init__(self, engine: Engine, *, table: str = "postbus_deduplication", auto_setup: bool = True) -> None:
        # In a stricter level, which may be the app's, these statements would fail or lock the gaps between keys.
        is_server = engine.dialect.name != "sqlite"
        self._engine = engine.execution_options(isolation_level="READ COMMITTED") if is_server else engine
        self._table = deduplication_table(table, MetaData())
        self._is_set_up = not auto_setup
        self._until_sweep = SWEEP

    def acquire(self, key: str, owner: str, ttl: float) -> str | None:
        self._setup()
        table, name = self._table, _digest(key)
        while True:
            now = time.time()
            theirs = (table.c.owner == owner) | (table.c.until <= now)
            with self._engine.begin() as connection:
                changed = connection.execute(
                    update(table).where(table.c.key == name, theirs).values(owner=owner, until=now + ttl)
                )
                if changed.rowcount:
                    return None
            try:
                with self._engine.begin() as connection:
                    connection.execute(insert(table).values(key=name, owner=owner, until=now + ttl))
                self._sweep_sometimes(now)
                return None
            except IntegrityError:
                pass
            with self._engine.connect() as connection:
                holder: str | None = connection.scalar(
                    select(table.c.owner).where(table.c.key == name, table.c.until > now)
                )
            if holder is not None and holder != owner:
                return holder
            # It was released, or its time was over, between these two.

    def renew(self, key: str, owner: str, ttl: float, successor: str) -> bool:
        self._setup()
        table, now = self._table, time.time()
        held = (table.c.key == _digest(key), table.c.owner == owner, table.c.until > now)
        with self._engine.begin() as connection:
            return bool(
                connection.execute(update(table).where(*held).values(owner=successor, until=now + ttl)).rowcount
            )

    def release(self, key: str, owner: str) -> None:
        self._setup()
        table = self._table
        with self._engine.begin() as connection:
            connection.execute(delete(table).where(table.c.key == _digest(key), table.c.owner == owner))

    def _setup(self) -> None:
        if not self._is_set_up:
            try:
                self._table.metadata.create_all(self._engine)
            except DBAPIError:
                if not inspect(self._engine).has_table(self._table.name):  # Else another process was faster.
                    raise
            self._is_set_up = True

    def _sweep_sometimes(self, now: float) -> None:
        self._until_sweep -= 1
        if not self._until_sweep:
            self._until_sweep = SWEEP
            with self._engine.begin() as connection:
                connection.execute(delete(self._table).where(self._table.c.until <= now))


def deduplication_table(name: str, metadata: MetaData) -> Table:
    """Add the table of keys to the metadata, and return it."""
    return Table(
        name,
        metadata,
        Column("key", String(64), primary_key=True),
        Column("owner", String(190), nullable=False),
        Column("until", Float(53), nullable=False),
    )


def _digest(key: str) -> str:
    return blake2b(key.encode(errors="surrogatepass"), digest_size=32).hexdigest()
