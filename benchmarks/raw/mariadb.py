"""PyMySQL alone, on a table: ``python -m benchmarks.raw.mariadb URL QUEUE`` receives pings."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import pymysql

BATCH = 500
WORN = 50_000
TABLE = "messenger_messages"
POLL = 0.05

ROW = "(%s, %s, %s, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))"
INSERT = f"INSERT INTO {TABLE} (body, headers, queue_name, created_at, available_at) VALUES "
CLAIM = (
    f"SELECT id, CAST(body AS BINARY), CAST(headers AS BINARY) FROM {TABLE} WHERE queue_name = %s"
    " AND delivered_at IS NULL AND available_at <= UTC_TIMESTAMP(6) ORDER BY available_at, id LIMIT %s"
    " FOR UPDATE SKIP LOCKED"
)
MARK = f"UPDATE {TABLE} SET delivered_at = UTC_TIMESTAMP(6) WHERE id IN %s"
DELETE = f"DELETE FROM {TABLE} WHERE id IN %s"


class Table:
    """A queue in the table that Postbus makes."""

    def __init__(self, url: str, name: str, message: Any = None, *, table: str = TABLE) -> None:
        self.dsn = f"{url}?queue_name={name}&table_name={table}"
        self.table = table
        self.listener: Sequence[str] = ("benchmarks.raw.mariadb", url, name)
        self._url, self._name = url, name
        self._message = message
        self._connection = _connect(url)

    def setup(self) -> None:
        """Leave the table to the app, whose queue is made first."""

    def pop(self) -> Any:
        [row] = self._run(f"SELECT body, headers FROM {TABLE} WHERE queue_name = %s", [self._name])
        self.empty()
        return row

    def store(self, count: int) -> None:
        for start in range(0, count, 1000):
            self._store(min(1000, count - start))

    def store_singly(self, count: int) -> None:
        for _ in range(count):
            self._store(1)

    def _store(self, number: int) -> None:
        self._run(f"{INSERT}{', '.join([ROW] * number)} RETURNING id", [*self._message, self._name] * number)

    def take(self, count: int) -> None:
        connection = _connect(self._url)
        while count:
            count -= len(_take(connection, self._name, min(BATCH, count)))
        connection.close()

    def wear(self, count: int) -> None:
        """Let so many messages have been stored, claimed and deleted, in large steps."""
        claimed = f"UPDATE {TABLE} SET delivered_at = UTC_TIMESTAMP(6) WHERE queue_name = %s AND delivered_at IS NULL"
        for start in range(0, count, WORN):
            self.store(min(WORN, count - start))
            self._run(claimed, [self._name])
            self.empty()

    def ping(self, sent_at: float) -> None:
        self._run(f"{INSERT}{ROW}", [repr(sent_at), "{}", self._name])

    def listen(self) -> None:
        """Tell how old each ping is."""
        print("ready", flush=True)
        while True:
            for row in _take(self._connection, self._name, BATCH):
                print(time.monotonic() - float(row[1]), flush=True)
            time.sleep(POLL)

    def empty(self) -> None:
        self._run(f"DELETE FROM {TABLE} WHERE queue_name = %s", [self._name])

    def delete(self) -> None:
        if self._run("SHOW TABLES LIKE %s", [self.table]):
            self.empty()

    def close(self) -> None:
        self._connection.close()

    def _run(self, statement: str, values: Sequence[object]) -> Any:
        with self._connection.cursor() as cursor:
            cursor.execute(statement.replace(TABLE, self.table), values)
            return cursor.fetchall()


def _take(connection: Any, name: str, limit: int) -> Any:
    with connection.cursor() as cursor:
        cursor.execute("START TRANSACTION")
        cursor.execute(CLAIM, [name, limit])
        rows = cursor.fetchall()
        if rows:
            cursor.execute(MARK, [[row[0] for row in rows]])
        connection.commit()
        if rows:
            cursor.execute(DELETE, [[row[0] for row in rows]])
    return rows


def _connect(url: str) -> Any:
    address = urlsplit(url)
    return pymysql.connect(
        host=address.hostname,
        port=address.port or 3306,
        user=address.username,
        password=unquote(address.password or ""),
        database=address.path[1:],
        autocommit=True,
        init_command="SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    )


if __name__ == "__main__":
    Table(*sys.argv[1:]).listen()
