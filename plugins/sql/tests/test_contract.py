"""The contract, on SQLite files."""

import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import ClassVar
from uuid import uuid4

import pytest

from postbus.dsn import Dsn
from postbus.queue_transport import QueueTransport
from postbus.testing import TransportContract, TransportFaults, TransportHistories
from postbus.transport import Outgoing
from postbus_sql import GUARANTEES, stamps
from postbus_sql.connection import SqlConnection
from tests.faults.subjects import certified


@pytest.mark.slow
class TestSqlite(TransportContract):
    plugin = "postbus_sql"
    guarantees = GUARANTEES
    short_lease: ClassVar = {"redeliver_timeout": 1}
    refused = Outgoing(b"refused", {}, stamps=(stamps.Transaction("no connection"),))  # type: ignore[arg-type]

    def dsn(self) -> str:
        # No test pulls the plug, so none need wait for the disk.
        return f"sqlite:///{self.tmp_path}/messages.db?synchronous=normal&queue_name={uuid4()}"

    def put_foreign(self, body: bytes, headers: Mapping[str, object] | None) -> bool:
        queue = Dsn.parse(self.queue).options["queue_name"]
        at = "2024-10-23 10:00:00"
        with closing(sqlite3.connect(self.tmp_path / "messages.db")) as connection, connection:
            connection.execute(
                "INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at)"
                " VALUES (?, ?, ?, ?, ?)",
                (body, "[]" if headers is None else json.dumps(headers), queue, at, at),
            )
        return True


@pytest.mark.slow
@pytest.mark.once
def test_a_body_may_have_a_hundred_megabytes(connect: Callable[..., SqlConnection]) -> None:
    """It arrives whole."""
    connection = connect()
    connection.setup()
    body = bytes(range(256)) * 400_000
    connection.publish([Outgoing(body, {})])

    [delivery] = connection.fetch(1, 5)

    assert body == delivery.body


class Clock:
    """In place of the module `time`: time stands still until it is moved."""

    monotonic = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._now = time.time()

    def now(self) -> float:
        return self._now

    time = now

    def move(self, seconds: float) -> None:
        self._now += seconds


@pytest.mark.slow
class TestHistories(TransportHistories):
    plugin = "postbus_sql"
    guarantees = GUARANTEES
    short_lease: ClassVar = {"redeliver_timeout": 10}
    short_delay = 4.0
    rounding = 1.0
    histories = 60

    @pytest.fixture(autouse=True)
    def _stop_the_clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._clock = Clock()
        for module in ("connection", "queue"):
            monkeypatch.setattr(f"postbus_sql.{module}.time", self._clock)

    def dsn(self) -> str:
        return f"sqlite:///{self.tmp_path}/messages.db?synchronous=normal&queue_name={uuid4()}"

    def clock_of(self, transport: QueueTransport) -> Clock:
        return self._clock


@certified
@pytest.mark.slow
@pytest.mark.once
@pytest.mark.timeout(0)
class TestFaults(TransportFaults):
    plugin = "postbus_sql"
    guarantees = GUARANTEES
    short_lease: ClassVar = {"redeliver_timeout": 1}

    def dsn(self) -> str:
        return f"sqlite:///{self.tmp_path}/messages.db?queue_name={uuid4()}"
