"""A forwarder that is killed once it has moved something: ``python -m plugins.kafka.tests.forwarders``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

from postbus.dsn import Dsn
from postbus_kafka import forwarding
from postbus_kafka.membership import Settlement
from postbus_kafka.options import Settings
from postbus_kafka.publishing import Publisher
from postbus_kafka.transactions import Transactions

ROOT = Path(__file__).parents[3]
PATIENCE = 60.0


def move_and_die(dsn: str, *commits: str) -> list[bytes]:
    """Start one, and return what it had written, to wherever, when it was killed.

    If it does that in a transaction, this is not committed, unless something says that it ``commits``.
    """
    command = [sys.executable, "-m", "plugins.kafka.tests.forwarders", dsn, *commits]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=PATIENCE)
    assert -signal.SIGKILL == done.returncode
    return done.stdout.splitlines()


class Deadly(Publisher):
    """A publisher whose process is killed when the broker has taken what it wrote, before anybody hears of that."""

    def write(self, records: Sequence[Any]) -> list[str]:
        super().write(records)
        die_after(records)


class DeadlyTransactions(Transactions):
    """The same of a transaction, which is not committed, or is."""

    is_to_commit = False

    def _write(self, producer: Any, records: Sequence[Any]) -> list[Any]:
        written = super()._write(producer, records)
        return written if self.is_to_commit else die_after(records)

    def move(self, records: Sequence[Any], settlement: Settlement) -> list[str]:
        super().move(records, settlement)
        die_after(records)


def die_after(records: Sequence[Any]) -> NoReturn:
    """Tell what was written, and be killed."""
    print(*(record.value.decode() for record in records), sep="\n", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("It is killed.")


def main(dsn: str, *commits: str) -> None:
    """Move on what is due, once."""
    DeadlyTransactions.is_to_commit = bool(commits)
    forwarding.Publisher = Deadly  # type: ignore[misc]
    forwarding.Transactions = DeadlyTransactions  # type: ignore[misc]
    with closing(forwarding.Forwarder(Settings(Dsn.parse(dsn)), "test")) as forwarder:
        forwarder.start()
        threading.Event().wait(PATIENCE)


if __name__ == "__main__":
    main(*sys.argv[1:])
