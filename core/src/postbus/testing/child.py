"""A process of the contract tests, to be killed or to race with others: ``python -m postbus.testing.child``.

It reads what to do from its standard input, where a DSN is seen by nobody else, and says when it is done.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import msgspec

from postbus.testing.subject import Task
from postbus.transport import Connection, Outgoing, SupportsSetup, supports


def main() -> None:
    """Do one task."""
    task = msgspec.json.decode(sys.stdin.readline(), type=Task)
    connection = task.subject.make_transport().connection
    if task.verb == "setup":
        _set_up(connection)
        return
    if task.verb == "publish":
        for number in range(task.number):
            connection.publish([Outgoing(b"%d" % number, {})])
        os.kill(os.getpid(), signal.SIGKILL)
    _say(f"fetched {_fetch(connection, task)}")
    sys.stdin.read()  # It is killed here; should the parent die first, this ends too.


def _fetch(connection: Connection, task: Task) -> int:
    deadline = time.monotonic() + task.patience
    fetched = 0
    while fetched < task.number and time.monotonic() < deadline:
        fetched += len(connection.fetch(task.number - fetched, deadline - time.monotonic()))
    return fetched


def _set_up(connection: Connection) -> None:
    assert supports(connection, SupportsSetup)
    _say("ready")
    sys.stdin.readline()
    connection.setup()


def _say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
