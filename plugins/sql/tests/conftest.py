"""What the tests stand on: connections as the plugin makes them, a look at the rows, and other processes."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest

from postbus.dsn import Dsn
from postbus.queue_transport import QueueTransport
from postbus.serialization import JsonSerializer, TypeRegistry
from postbus.testing import workbench
from postbus.transport import TransportContext
from postbus_sql import (
    GUARANTEES,
    make_engine_transport,
    make_mysql_transport,
    make_postgresql_transport,
    make_sqlite_transport,
)
from postbus_sql.connection import SqlConnection

FACTORIES = {
    "doctrine": make_engine_transport,
    "mysql": make_mysql_transport,
    "postgresql": make_postgresql_transport,
    "sqlite": make_sqlite_transport,
}

SYMFONY_TABLE = """
CREATE TABLE messenger_messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    body CLOB NOT NULL,
    headers CLOB NOT NULL,
    queue_name VARCHAR(190) NOT NULL,
    created_at DATETIME NOT NULL --(DC2Type:datetime_immutable)
    , available_at DATETIME NOT NULL --(DC2Type:datetime_immutable)
    , delivered_at DATETIME DEFAULT NULL --(DC2Type:datetime_immutable)
);
CREATE INDEX IDX_75EA56E0FB7336F0 ON messenger_messages (queue_name);
CREATE INDEX IDX_75EA56E0E3BD61CE ON messenger_messages (available_at);
CREATE INDEX IDX_75EA56E016BA31DB ON messenger_messages (delivered_at);
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the database of this test is, or will be."""
    return tmp_path / "messages.db"


@pytest.fixture
def make_transport(file: Path) -> Iterator[Callable[..., QueueTransport]]:
    """Return what makes a transport on the test's own file, or on another DSN."""
    with ExitStack() as stack:

        def make(dsn: str | None = None, **options: object) -> QueueTransport:
            context = TransportContext("test", JsonSerializer(TypeRegistry()), lambda envelope: envelope, GUARANTEES)
            parsed = Dsn.parse(dsn or f"sqlite:///{file}?synchronous=normal").with_options(options)
            factory = FACTORIES[parsed.scheme]
            return stack.enter_context(closing(factory(parsed, context)))

        yield make


@pytest.fixture
def connect(make_transport: Callable[..., QueueTransport]) -> Callable[..., SqlConnection]:
    """Return what makes a connection to the test's own file, or to another DSN."""

    def make(dsn: str | None = None, **options: object) -> SqlConnection:
        connection = make_transport(dsn, **options).connection
        assert isinstance(connection, SqlConnection)
        return connection

    return make


@pytest.fixture
def sql(file: Path) -> Iterator[Callable[..., list[Any]]]:
    """Return what runs SQL on the test's file, as another program would, and returns the rows."""
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as connection:

        def run(statement: str, *parameters: object) -> list[Any]:
            return connection.execute(statement, parameters).fetchall()

        yield run


@pytest.fixture
def symfony_table(file: Path) -> None:
    """Create the table as Symfony does."""
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(SYMFONY_TABLE)


class Child:
    """Another process, which waits to be told to begin."""

    def __init__(self, process: Popen[str]) -> None:
        self.process = process

    def begin(self) -> None:
        """Let it go."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def result(self) -> list[str]:
        """Wait until it is done, and return what it printed."""
        assert self.process.stdout is not None
        lines = iter(self.process.stdout.readline, "done\n")
        return [line.rstrip() for line in lines if line]


@pytest.fixture
def start(file: Path) -> Iterator[Callable[..., Child]]:
    """Return what starts ``child.py`` on the test's file, and returns when that has a connection."""
    with ExitStack() as stack:

        def run(verb: str, query: str = "") -> Child:
            command = [sys.executable, str(Path(__file__).with_name("child.py")), verb, f"sqlite:///{file}?{query}"]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            process = stack.enter_context(Popen(command, stdin=PIPE, stdout=PIPE, text=True, env=environment))
            stack.callback(process.kill)
            assert process.stdout is not None
            assert "ready" == process.stdout.readline().rstrip()
            return Child(process)

        yield run


@pytest.fixture
def in_background() -> Callable[[Callable[[], Any]], Future[Any]]:
    """Return what does something in a thread."""
    return workbench.in_background
