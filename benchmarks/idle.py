"""How soon an idle worker handles a message of another process, and what its waiting costs.

The worker runs in a process of its own: ``python -m benchmarks.idle DSN SECONDS``. It prints a line when
it is ready, the seconds from dispatch to handler for each message, and last its share of a core.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine
from benchmarks.measuring import Contender
from postbus import Limits, Postbus

TRANSPORT = "async"


@dataclass(frozen=True)
class Ping:
    """Says when it was dispatched, on the clock that all processes share."""

    sent_at: float


def print_latency(ping: Ping) -> None:
    """Tell how long ago the message was dispatched."""
    print(time.monotonic() - ping.sent_at, flush=True)


def make_app(dsn: str) -> Postbus:
    """Return the app of both processes."""
    app = Postbus(transports={TRANSPORT: dsn}, routing={Ping: TRANSPORT})
    app.handler(print_latency)
    return app


@contextmanager
def pinging(dsn: str) -> Generator[Contender]:
    """Start a worker, and give what sends it a message, once it has been idle, and returns how long that took."""
    listener = ("benchmarks.idle", dsn, "3600")
    with make_app(dsn) as app, listening(listener, lambda sent_at: app.dispatch(Ping(sent_at))) as ping:
        yield ping


@contextmanager
def listening(listener: Sequence[str], send: Callable[[float], object]) -> Generator[Contender]:
    """Do so with any module that prints the same, and with what sends it a message with the time."""
    here, there = machine.CORES[0], machine.CORES[-1]
    with _started(listener, there) as output, machine.pinned(here):

        def ping() -> float:
            time.sleep(random.uniform(0.05, 0.15))  # Until a random point of its waiting.
            send(time.monotonic())
            return float(output.readline())

        yield ping


def waiting_cost(dsn: str, seconds: float) -> float:
    """Return the share of a core that a worker takes while it waits for so long."""
    with _started(("benchmarks.idle", dsn, str(seconds)), machine.CORES[-1]) as output:
        return float(output.readline())


@contextmanager
def _started(listener: Sequence[str], core: int) -> Generator[_Lines]:
    with machine.pinned(core):
        root = Path(__file__).parents[1]
        command = [sys.executable, "-m", *listener]
        process = subprocess.Popen(command, cwd=root, env=os.environ, stdout=subprocess.PIPE, text=True)
    try:
        output = _Lines(process)
        output.readline()
        yield output
    finally:
        process.terminate()
        process.communicate()


class _Lines:
    """The lines that a worker prints."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def readline(self) -> str:
        """Return the next line; raise `RuntimeError` if the worker has ended without one."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("The worker ended before it had handled everything; its error is above.")
        return line


def _wait_and_tell(dsn: str, seconds: float) -> None:
    with make_app(dsn) as app:
        worker = app.worker(TRANSPORT, limits=Limits(time=seconds))
        print("ready", flush=True)
        before, started = time.process_time(), time.monotonic()
        worker.run()
        print((time.process_time() - before) / (time.monotonic() - started), flush=True)


if __name__ == "__main__":
    _wait_and_tell(sys.argv[1], float(sys.argv[2]))
