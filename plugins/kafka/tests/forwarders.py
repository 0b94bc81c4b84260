"""A forwarder that is killed once it has moved something: ``python -m plugins.kafka.tests.forwarders DSN``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from postbus.dsn import Dsn
from postbus_kafka import forwarding
from postbus_kafka.options import Settings
from postbus_kafka.publishing import Publisher

ROOT = Path(__file__).parents[3]
PATIENCE = 60.0


def move_and_die(dsn: str) -> list[bytes]:
    """Start one, and return what it had moved, to wherever, when it was killed."""
    command = [sys.executable, "-m", "plugins.kafka.tests.forwarders", dsn]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=PATIENCE)
    assert -signal.SIGKILL == done.returncode
    return done.stdout.splitlines()


class Deadly(Publisher):
    """A publisher whose process is killed when the broker has taken what it wrote, before anybody hears of that."""

    def write(self, records: Sequence[Any]) -> list[str]:
        super().write(records)
        print(*(record.value.decode() for record in records), sep="\n", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("It is killed.")


def main(dsn: str) -> None:
    """Move on what is due, once."""
    forwarding.Publisher = Deadly  # type: ignore[misc]
    with closing(forwarding.Forwarder(Settings(Dsn.parse(dsn)), "test")) as forwarder:
        forwarder.start()
        threading.Event().wait(PATIENCE)


if __name__ == "__main__":
    main(*sys.argv[1:])
