"""psycopg alone, on a table: ``python -m benchmarks.raw.postgresql URL QUEUE`` receives pings."""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Sequence
from typing import Any

import psycopg

BATCH = 500
WORN = 50_000
TABLE = "messenger_messages"
NOW = "(statement_timestamp() AT TIME ZONE 'UTC')"

INSERT = (
    f"INSERT INTO {TABLE} (body, headers, queue_name, created_at, available_at)"
    f" SELECT body, headers, %s, {NOW}, {NOW} FROM unnest(%b::text[], %b::text[]) AS row (body, headers) RETURNING id"
)
CLAIM = (
    f"WITH chosen AS MATERIALIZED (SELECT id FROM {TABLE} WHERE queue_name = %s AND delivered_at IS NULL"
    f" AND available_at <= {NOW} ORDER BY available_at, id LIMIT %s FOR UPDATE SKIP LOCKED),"
    f" claimed AS (UPDATE {TABLE} SET delivered_at = {NOW} WHERE id = ANY(ARRAY(SELECT id FROM chosen))"
    " RETURNING id, body, headers, available_at)"
    " SELECT id, body, headers FROM claimed ORDER BY available_at, id"
)
DELETE = f"DELETE FROM {TABLE} WHERE id = ANY(%s)"


class Table:
    """A queue in the table that Postbus makes. Each statement is a transaction, and none is prepared."""

    def __init__(self, url: str, name: str, message: Any = None, *, table: str = TABLE) -> None:
        self.dsn = f"{url}?queue_name={name}&table_name={table}"
        self.table = table
        self.listener: Sequence[str] = ("benchmarks.raw.postgresql", url, name)
        self._url, self._name = url, name
        self._message = message
        self._connection = _connect(url)

    def setup(self) -> None:
        """Leave the table to the app, whose queue is made first: with its indexes."""

    def pop(self) -> Any:
        return self._run(f"DELETE FROM {TABLE} WHERE queue_name = %s RETURNING body, headers", self._name).fetchone()

    def store(self, count: int) -> None:
        body, headers = self._message
        for start in range(0, count, 1000):
            number = min(1000, count - start)
            self._run(INSERT, self._name, [body] * number, [headers] * number).fetchall()

    def store_singly(self, count: int) -> None:
        body, headers = self._message
        for _ in range(count):
            self._run(INSERT, self._name, [body], [headers]).fetchall()

    def take(self, count: int) -> None:
        with _connect(self._url) as connection:
            while count:
                rows = connection.execute(CLAIM, [self._name, min(BATCH, count)]).fetchall()
                connection.execute(DELETE, [[row[0] for row in rows]])
                count -= len(rows)

    def wear(self, count: int) -> None:
        """Let so many messages have been stored, claimed and deleted, in large steps."""
        for start in range(0, count, WORN):
            self.store(min(WORN, count - start))
            self._run(
                f"UPDATE {TABLE} SET delivered_at = {NOW} WHERE queue_name = %s AND delivered_at IS NULL", self._name
            )
            self.empty()

    def ping(self, sent_at: float) -> None:
        self._run(INSERT, self._name, [repr(sent_at)], ["{}"])
        self._connection.execute("SELECT pg_notify('raw', '')")

    def listen(self) -> None:
        """Tell how old each ping is."""
        listener = _connect(self._url)
        listener.execute("LISTEN raw")
        print("ready", flush=True)
        while True:
            select.select([listener], [], [], 1)
            list(listener.notifies(timeout=0))
            rows = self._connection.execute(CLAIM, [self._name, BATCH]).fetchall()
            for row in rows:
                print(time.monotonic() - float(row[1]), flush=True)
            if rows:
                self._connection.execute(DELETE, [[row[0] for row in rows]])

    def empty(self) -> None:
        self._run(f"DELETE FROM {TABLE} WHERE queue_name = %s", self._name)

    def delete(self) -> None:
        if self._run("SELECT to_regclass(%s)", self.table).fetchone() != (None,):
            self.empty()

    def close(self) -> None:
        self._connection.close()

    def _run(self, statement: str, *values: object) -> psycopg.Cursor[Any]:
        return self._connection.execute(statement.replace(TABLE, self.table), values or None)


def _connect(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(url, autocommit=True, prepare_threshold=None)


if __name__ == "__main__":
    Table(*sys.argv[1:]).listen()
