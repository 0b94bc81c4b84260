"""A worker in a process of its own that writes down what it reads: ``python -m plugins.kafka.tests.readers``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from postbus.testing.subject import Subject

ROOT = Path(__file__).parents[3]


class Reading(NamedTuple):
    """One message that somebody has read."""

    at: float
    reader: str
    partition: int
    offset: int
    key: str
    number: int


@contextmanager
def reader_of(dsn: str, notes: Path) -> Generator[subprocess.Popen[bytes]]:
    """Start one; it stops in order at SIGTERM, which it gets in the end."""
    command = [sys.executable, "-m", "plugins.kafka.tests.readers", dsn, str(notes)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.terminate()


def readings_in(folder: Path) -> list[Reading]:
    """Return what all have written down, in the order of time."""
    readings: list[Reading] = []
    for path in folder.iterdir():
        for line in path.read_text().splitlines():
            at, partition, offset, key, number = line.split()
            readings.append(Reading(float(at), path.name, int(partition), int(offset), key, int(number)))
    return sorted(readings)


def main(dsn: str, notes: str) -> None:
    """Read until told to stop."""
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    transport = Subject(dsn, "postbus_kafka").make_transport()
    with closing(transport), Path(notes).open("ab", buffering=0) as file:
        while not over.is_set():
            deliveries = transport.connection.fetch(100, 0.2)
            now = time.monotonic()
            lines = []
            for delivery in deliveries:
                _, partition, offset = str(delivery.id).rsplit("/", 2)
                lines.append(f"{now} {partition} {offset} {delivery.group} {int(delivery.body)}\n")
            os.write(file.fileno(), "".join(lines).encode())
            transport.connection.ack([delivery.tag for delivery in deliveries])


if __name__ == "__main__":
    main(*sys.argv[1:])
