"""The contract, on each database server, and on each way to reach it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, ClassVar, Protocol
from uuid import uuid4

import pytest

from postbus.dsn import Dsn
from postbus.queue_transport import QueueTransport
from postbus.testing import TransportContract, TransportHistories
from postbus.testing.rules.restarts import Restarts
from postbus.testing.workbench import Broker as Breakable
from postbus.testing.workbench import Workbench
from postbus.transport import Outgoing
from postbus_sql import GUARANTEES, MYSQL, POSTGRESQL, stamps

pytestmark = pytest.mark.slow


class Database(Breakable, Protocol):
    """A broker of the tests that is a database."""

    dsn: str

    def connect(self) -> Any:
        """Return a connection of the driver, which commits by itself."""
        ...


class OnServer(Workbench):
    """Each test has a table of its own."""

    plugin = "postbus_sql"
    guarantees = GUARANTEES
    short_lease: ClassVar = {"redeliver_timeout": 1}
    short_delay = 0.2
    refused = Outgoing(b"refused", {}, stamps=(stamps.Transaction("no connection"),))  # type: ignore[arg-type]
    options = ""

    database: Database

    def dsn(self) -> str:
        return f"{self.database.dsn}?table_name=test_{uuid4().hex[:12]}&queue_name={uuid4()}{self.options}"

    def put_foreign(self, body: bytes, headers: Mapping[str, object] | None) -> bool:
        options = Dsn.parse(self.queue).options
        try:
            text = body.decode()
        except UnicodeDecodeError:  # A column of text takes no other.
            return False
        run(
            self.database,
            f"INSERT INTO {options['table_name']} (body, headers, queue_name, created_at, available_at)"
            " VALUES (%s, %s, %s, '2024-10-23 10:00:00', '2024-10-23 10:00:00')",
            text,
            "[]" if headers is None else json.dumps(headers),
            str(options["queue_name"]),
        )
        return True


def run(database: Database, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Run SQL as another program would, and return the rows if there are some."""
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(statement, values)
        return list(cursor.fetchall()) if cursor.description else []


class TestPostgreSql(OnServer, TransportContract):
    guarantees = POSTGRESQL

    @pytest.fixture(autouse=True)
    def _use(self, postgresql: Database) -> None:
        self.database = postgresql


@pytest.mark.once
class TestPgBouncer(OnServer, TransportContract):
    guarantees = POSTGRESQL

    @pytest.fixture(autouse=True)
    def _use(self, pgbouncer: Database) -> None:
        self.database = pgbouncer


@pytest.mark.once
class TestBreakablePostgreSql(OnServer, Restarts):
    guarantees = POSTGRESQL
    options = "&read_timeout=2"

    @pytest.fixture(autouse=True)
    def _use(self, own_postgresql: Database) -> None:
        self.database = own_postgresql

    def broker(self) -> Breakable:
        return self.database


class MovedClock:
    """The clock of a server, and how far it was moved: whatever the plugin says about now has that added."""

    def __init__(self, move: Callable[[float], None]) -> None:
        self._move = move
        self._moved = 0.0

    def now(self) -> float:
        return time.time() + self._moved

    def move(self, seconds: float) -> None:
        self._moved += seconds
        self._move(self._moved)


class OnMovedClock(OnServer, TransportHistories):
    """The server's clock is moved, so that no history waits."""

    short_lease: ClassVar = {"redeliver_timeout": 10}
    short_delay = 4.0
    histories = 25
    module: ClassVar[str]
    moved: ClassVar[str]

    def move_the_clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have the plugin take the time from a table."""
        table = f"clock_{uuid4().hex[:12]}"
        run(self.database, f"CREATE TABLE {table} (moved bigint NOT NULL)")
        run(self.database, f"INSERT INTO {table} VALUES (0)")
        monkeypatch.setattr(f"postbus_sql.dialects.{self.module}.NOW", self.moved.format(table=table))
        self._clock = MovedClock(
            lambda seconds: run(self.database, f"UPDATE {table} SET moved = {round(seconds * 1e6)}") and None
        )

    def clock_of(self, transport: QueueTransport) -> MovedClock:
        return self._clock


@pytest.mark.once
class TestPostgreSqlHistories(OnMovedClock):
    guarantees = POSTGRESQL
    module = "postgresql"
    moved = "(statement_timestamp() AT TIME ZONE 'UTC' + (SELECT moved FROM {table}) * interval '1 microsecond')"

    @pytest.fixture(autouse=True)
    def _use(self, postgresql: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database = postgresql
        self.move_the_clock(monkeypatch)


class TestMariaDb(OnServer, TransportContract):
    guarantees = MYSQL

    @pytest.fixture(autouse=True)
    def _use(self, mariadb: Database) -> None:
        self.database = mariadb


@pytest.mark.once
class TestBreakableMariaDb(OnServer, Restarts):
    guarantees = MYSQL
    options = "&read_timeout=2"

    @pytest.fixture(autouse=True)
    def _use(self, own_mariadb: Database) -> None:
        self.database = own_mariadb

    def broker(self) -> Breakable:
        return self.database


@pytest.mark.once
class TestMariaDbHistories(OnMovedClock):
    guarantees = MYSQL
    module = "mysql"
    moved = "(UTC_TIMESTAMP(6) + INTERVAL (SELECT moved FROM {table}) MICROSECOND)"

    @pytest.fixture(autouse=True)
    def _use(self, mariadb: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database = mariadb
        self.move_the_clock(monkeypatch)
