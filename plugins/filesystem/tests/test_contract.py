"""The promises of `postbus.transport`, kept on a folder."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote
from uuid import uuid4

import pytest

from postbus.dsn import Dsn
from postbus.queue_transport import QueueTransport
from postbus.testing import TransportContract, TransportFaults, TransportHistories
from postbus_filesystem import GUARANTEES
from postbus_filesystem.files import MARK
from postbus_filesystem.options import folder_of
from tests.faults.subjects import certified


def new_queue(disk: Path) -> str:
    """Return the DSN of a queue that nobody has used. No test pulls the plug, so none need wait for the disk."""
    disk.mkdir(exist_ok=True)
    return f"filesystem://{quote(str(disk))}/{uuid4()}?fsync=false&poll_interval=0.02"


class Disk:
    """The broker of these tests: a folder with the queues in it, which can be taken away as a disk is."""

    def __init__(self, path: Path) -> None:
        self._path, self._elsewhere = path, path.with_name("elsewhere")

    def stop(self) -> None:
        self._path.rename(self._elsewhere)

    kill = stop  # Whether a disk is taken out with a warning or without one is all the same to a file.

    def start(self) -> None:
        self._elsewhere.rename(self._path)


@pytest.mark.slow
class TestContract(TransportContract):
    """Each promise by itself."""

    guarantees = GUARANTEES
    short_lease: ClassVar[Mapping[str, object]] = {"redeliver_timeout": 1}
    load = 1000

    def dsn(self) -> str:
        return new_queue(self.tmp_path / "disk")

    def broker(self) -> Disk:
        return Disk(self.tmp_path / "disk")

    def put_foreign(self, body: bytes, headers: Mapping[str, object] | None) -> bool:
        """Put a file there as another program does, with what README.md says."""
        head = b"" if headers is None else MARK + json.dumps(dict(headers)).encode() + b"\n"
        waiting = folder_of(Dsn.parse(self.queue)) / "waiting"
        draft = waiting.with_name("writing") / "foreign"
        draft.write_bytes(head + body)
        draft.rename(waiting / f"{time.time_ns():020}-foreign.0")
        return True


@certified
@pytest.mark.slow
@pytest.mark.once
@pytest.mark.timeout(0)
class TestFaults(TransportFaults):
    """Producers and workers that are real processes, killed amid all that they do; a ledger says that none is lost."""

    guarantees = GUARANTEES
    short_lease: ClassVar[Mapping[str, object]] = {"redeliver_timeout": 2}

    def dsn(self) -> str:
        return new_queue(self.tmp_path / "disk")


@pytest.mark.slow
class TestHistories(TransportHistories):
    """Many steps in any order."""

    guarantees = GUARANTEES
    short_lease: ClassVar[Mapping[str, object]] = {"redeliver_timeout": 10}
    short_delay = 4.0

    @pytest.fixture(autouse=True)
    def _stop_the_clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._clock = Clock()
        monkeypatch.setattr("postbus_filesystem.folder.time", self._clock)

    def dsn(self) -> str:
        return new_queue(self.tmp_path / "disk")

    def clock_of(self, transport: QueueTransport) -> Clock:
        return self._clock


class Clock:
    """The clock that the folder goes by, in place of the module `time`: it ticks when it is looked at."""

    def __init__(self) -> None:
        self._ns = time.time_ns()

    def time_ns(self) -> int:
        self._ns += 1
        return self._ns

    def now(self) -> float:
        return self._ns / 1e9

    def move(self, seconds: float) -> None:
        self._ns += int(seconds * 1e9)
