"""A member of a group in a process of its own, which may be killed: ``python -m plugins.kafka.tests.members``.

It does what it is told, a line of JSON at a time, and answers each with a line of JSON.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from postbus.testing.subject import Subject
from postbus.transport import Connection

ROOT = Path(__file__).parents[3]
PATIENCE = 60.0


class Member:
    """The other end of such a process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def fetch(self, number: int, patience: float = PATIENCE) -> list[tuple[str, int]]:
        """Let it fetch so many messages, as long as there is patience; return their bodies and counts."""
        return [(body, count) for body, count in self._tell("fetch", number, patience)]

    def ack(self, *bodies: str) -> list[str]:
        """Let it acknowledge messages that it has; return those that were lost."""
        return self._tell("ack", *bodies)

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def _tell(self, *words: object) -> list[Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextmanager
def member_of(dsn: str) -> Generator[Member]:
    """Start one, and kill it in the end."""
    command = [sys.executable, "-m", "plugins.kafka.tests.members", dsn]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Member(process)
        finally:
            process.kill()


def main(dsn: str) -> None:
    """Do what is told until nobody says anything any more."""
    connection = Subject(dsn, "postbus_kafka").make_transport().connection
    held: dict[str, Any] = {}
    for line in sys.stdin:
        verb, *words = json.loads(line)
        answer = _fetch(connection, held, *words) if verb == "fetch" else _ack(connection, held, words)
        print(json.dumps(answer), flush=True)


def _fetch(connection: Connection, held: dict[str, Any], number: int, patience: float) -> list[tuple[str, int | None]]:
    end = time.monotonic() + patience
    fetched: list[tuple[str, int | None]] = []
    while len(fetched) < number and (left := end - time.monotonic()) > 0:
        for delivery in connection.fetch(number - len(fetched), left):
            body = delivery.body.decode()
            held[body] = delivery.tag
            fetched.append((body, delivery.count))
    return fetched


def _ack(connection: Connection, held: dict[str, Any], bodies: Sequence[str]) -> list[str]:
    tags = {body: held[body] for body in bodies}
    lost = list(connection.ack(list(tags.values())))
    return [body for body, tag in tags.items() if tag in lost]


if __name__ == "__main__":
    main(sys.argv[1])
