"""Ports that nobody else takes, and the network between a broker and its clients, which a test can break."""

from __future__ import annotations

import fcntl
import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from tests.brokers.programs import SHARED

_reserved: dict[int, IO[Any]] = {}


def reserve_port() -> int:
    """Return a free port, and keep it from other test runs until this process ends.

    It is below those that the system gives to clients: a client that knocks at the port of a stopped server
    would in the end be given this very port, connect to itself, and keep the server out.
    """
    SHARED.mkdir(mode=0o700, exist_ok=True)
    for port in random.sample(range(20_000, 32_000), 1_000):
        lock = (SHARED / f"port-{port}").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            lock.close()
            continue
        _reserved[port] = lock
        return port
    raise RuntimeError("There is no free port between 20000 and 32000.")


class Partition:
    """A proxy in front of a broker, in a process of its own. It passes everything on until it is told otherwise."""

    dsn: str
    """The broker's DSN, through the proxy."""

    def __init__(self, dsn: str, host: str, port: int, *, at: int | None = None) -> None:
        self.port = reserve_port() if at is None else at
        before, _, after = dsn.rpartition(f"{host}:{port}")
        # A certificate is made out for the host's name, so that stays.
        self.dsn = f"{before}{host if host == 'localhost' else '127.0.0.1'}:{self.port}{after}"
        command = [sys.executable, "-S", str(Path(__file__).with_name("_proxy.py")), str(self.port), host, str(port)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._hear()

    def __enter__(self) -> Partition:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()  # It ends when its input does.

    def cut(self) -> None:
        """Reset all connections, and refuse new ones."""
        self._tell("cut")

    def black_hole(self) -> None:
        """Swallow everything in silence. Connections stay open, and new ones are accepted.

        They are never told that anything is wrong, not even when the network is healed: as if a firewall had
        forgotten them.
        """
        self._tell("black-hole")

    def delay(self, seconds: float) -> None:
        """Let everything take so much longer, each way."""
        self._tell(f"delay {seconds}")

    def lose_replies(self, number: int, text: str) -> None:
        """Reset a connection in place of each of the next replies in which this word occurs; take new ones."""
        self._tell(f"lose-replies {number} {text}")

    def heal(self) -> None:
        """Pass everything on again, at once."""
        self._tell("heal")

    @property
    def connections(self) -> int:
        """How many connections clients have to it."""
        return int(self._tell("count"))

    def _tell(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"The proxy on port {self.port} is gone.")
        return answer
