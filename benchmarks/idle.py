"""How soon an idle worker handles a message of another process, and what its waiting costs.

The worker runs in a process of its own: ``python -m benchmarks.idle SECONDS DSN …``. It prints a line when
it is ready, the seconds from dispatch to handler for each message, and last its share of a core.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import machine
from benchmarks.measuring import Contender, Unavailable
from postbus import Limits, Postbus, stamps
from postbus.plugins import installed_plugins

SETTLING = 1.0
"""Seconds until a worker has connected, and does nothing but wait."""


@dataclass(frozen=True)
class Ping:
    """Says when it was dispatched, on the clock that all processes share."""

    sent_at: float


def print_latency(ping: Ping) -> None:
    """Tell how long ago the message was dispatched."""
    print(time.monotonic() - ping.sent_at, flush=True)


def make_app(dsns: Sequence[str]) -> Postbus:
    """Return the app of both processes, whose transports are named after their positions."""
    app = Postbus(transports={str(position): dsn for position, dsn in enumerate(dsns)}, routing={})
    app.handler(print_latency)
    return app


@contextmanager
def pinging(*dsns: str) -> Generator[list[Contender]]:
    """Start a worker of these transports.

    Give, for each of them, what sends it a message, once the worker has been idle, and returns how long that took.
    """
    with make_app(dsns) as app:

        def send(name: str, sent_at: float) -> None:
            app.dispatch(Ping(sent_at), stamps.TransportNames((name,)))

        with listening(_listener(3600, dsns), *(partial(send, name) for name in app.transports)) as pings:
            yield pings


@contextmanager
def listening(listener: Sequence[str], *sends: Callable[[float], object]) -> Generator[list[Contender]]:
    """Do so with any module that prints the same, and with what sends it a message with the time, in several ways."""
    here, there = machine.CORES[0], machine.CORES[-1]
    with _started(listener, there) as output, machine.pinned(here):

        def ping(send: Callable[[float], object]) -> float:
            time.sleep(random.uniform(0.05, 0.15))  # Until a random point of its waiting.
            send(time.monotonic())
            return float(output.readline())

        yield [partial(ping, send) for send in sends]


def waiting_cost(seconds: float, *dsns: str) -> float:
    """Return the share of a core that a worker of these transports takes while it waits for so long."""
    with _started(_listener(seconds, dsns), machine.CORES[-1]) as output:
        return float(output.readline())


def broker_cost(seconds: float, *dsns: str) -> float:
    """Return the share of a core that brokers started here take, while a worker of these transports waits for so long.

    Without a transport there is no worker, and it is what they take by themselves.
    """
    with ExitStack() as stack:
        worker = stack.enter_context(_started(_listener(3600, dsns), machine.CORES[-1])).pid if dsns else None
        time.sleep(SETTLING)
        before, started = machine.core_of_children(worker), time.monotonic()
        time.sleep(seconds)
        return (machine.core_of_children(worker) - before) / (time.monotonic() - started)


def memory_of_worker(dsn: str) -> float:
    """Return the bytes that `postbus consume` has in memory, once it has handled a message; with one plugin installed.

    That is what `ps` says, with all that other processes may share.
    """
    scheme = dsn.partition(":")[0]
    known = installed_plugins().schemes[scheme].plugin.name
    os.environ |= {"BENCHMARKED_DSN": dsn, "POSTBUS_PLUGINS": known}
    try:
        command = ("postbus", "--app", "benchmarks.consumed:app", "consume", "0")
        with make_app([dsn]) as app, _running(command, machine.CORES[-1]) as output:
            app.dispatch(Ping(time.monotonic()), stamps.TransportNames(("0",)))
            output.readline()
            return output.resident
    finally:
        del os.environ["BENCHMARKED_DSN"], os.environ["POSTBUS_PLUGINS"]


def memory_of_client(listener: Sequence[str], ping: Callable[[float], object]) -> float:
    """Return the same of any module that receives pings."""
    with _started(listener, machine.CORES[-1]) as output:
        ping(time.monotonic())
        output.readline()
        return output.resident


def _listener(seconds: float, dsns: Sequence[str]) -> Sequence[str]:
    return "benchmarks.idle", str(seconds), *dsns


@contextmanager
def _started(listener: Sequence[str], core: int) -> Generator[_Lines]:
    """Run a module until its caller is done, from when it says that it is ready."""
    with _running(listener, core) as output:
        output.readline()
        yield output


@contextmanager
def _running(listener: Sequence[str], core: int) -> Generator[_Lines]:
    with machine.pinned(core):
        root = Path(__file__).parents[1]
        command = [sys.executable, "-m", *listener]
        process = subprocess.Popen(command, cwd=root, env=os.environ, stdout=subprocess.PIPE, text=True)
    try:
        yield _Lines(process)
    finally:
        process.terminate()
        process.communicate()


class _Lines:
    """The lines that a worker prints."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def resident(self) -> float:
        """How many bytes the worker has in memory."""
        status = Path(f"/proc/{self._process.pid}/status")
        if not status.exists():
            raise Unavailable("this system does not tell how much memory a process has")
        [kilobytes] = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmRSS:")]
        return float(kilobytes) * 1024

    def readline(self) -> str:
        """Return the next line; raise `RuntimeError` if the worker has ended without one."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("The worker ended before it had handled everything; its error is above.")
        return line


def _wait_and_tell(seconds: float, dsns: Sequence[str]) -> None:
    with make_app(dsns) as app:
        app.worker(limits=Limits(time=1.0)).run()  # It connects, which is not what is measured.
        worker = app.worker(limits=Limits(time=seconds))
        print("ready", flush=True)
        before, started = time.process_time(), time.monotonic()
        worker.run()
        print((time.process_time() - before) / (time.monotonic() - started), flush=True)


if __name__ == "__main__":
    _wait_and_tell(float(sys.argv[1]), sys.argv[2:])
