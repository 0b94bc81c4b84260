"""What goes through a watched connection is written into the ledger as it was."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from postbus import Postbus
from postbus.queue_transport import QueueTransport
from postbus.testing.faults.ledger import AtRisk, Entry, Ledger, Reader
from postbus.testing.faults.watching import Job, Watch


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with closing(Reader(tmp_path / "ledger")) as reader:
        yield reader


@pytest.fixture
def transport(tmp_path: Path, reader: Reader) -> Iterator[QueueTransport]:
    with closing(Ledger(tmp_path / "ledger")) as ledger:
        app = Postbus(
            transports={"work": f"sqlite:///{tmp_path}/queue.db"},
            routing={"*": "work"},
            plugins=Watch(ledger, "w").plugins(),
        )
        with app:
            app.message("job")(Job)
            app.dispatch_many([Job("a"), Job("b")])
            transport = app.transport("work")
            assert isinstance(transport, QueueTransport)
            yield transport


def at_risk(reader: Reader) -> list[list[str]]:
    entries: list[Entry] = reader.news()
    return [[*entry.held] for entry in entries if isinstance(entry, AtRisk)]


@pytest.mark.parametrize("settle", ["ack", "reject", "release"])
def test_what_could_not_be_settled_is_at_risk(transport, reader, tmp_path: Path, settle: str):
    """It is somebody else's by now, and may come a second time; what was settled with it may not."""
    deliveries = transport.connection.fetch(9, 0)
    with closing(sqlite3.connect(tmp_path / "queue.db")) as other, other:
        other.execute("DELETE FROM messenger_messages WHERE body LIKE '%\"a\"%'")

    lost = getattr(transport.connection, settle)([delivery.tag for delivery in deliveries])

    assert [deliveries[0].tag] == list(lost)
    assert [["a"]] == at_risk(reader)


def test_what_was_settled_is_not_at_risk(transport, reader):
    """Nobody else has it."""
    transport.connection.ack([delivery.tag for delivery in transport.connection.fetch(9, 0)])

    assert [] == at_risk(reader)
