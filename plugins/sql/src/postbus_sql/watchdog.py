"""`Watchdog`, which ends a connection whose answer takes too long."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Protocol

READ_TIMEOUT = 10.0
"""Seconds that an answer may take, unless the DSN says otherwise."""


class HasSocket(Protocol):
    """A connection of a driver, as far as it matters here."""

    def fileno(self) -> int:
        """Return the number of its socket."""
        ...


class _Waiter:
    """Somebody who waits for answers, until when, and how much has come by the last look."""

    def __init__(self, connection: HasSocket, deadline: float) -> None:
        self.connection = connection
        self.deadline = deadline
        self.received = -1


class Watchdog:
    """Shuts the socket of a connection whose answer is overdue, for drivers that would wait for ever.

    An answer that is long, and still comes, is none of these, where the system can tell. A thread of its own looks
    once in a while, and ends when there has been nothing to look after.
    """

    def __init__(self, timeout: float = READ_TIMEOUT) -> None:
        self.timeout = timeout
        """Seconds; 0 means that an answer may take for ever."""
        self._waiters: dict[int, _Waiter] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    @contextmanager
    def over(self, connection: HasSocket, longer: float = 0.0) -> Generator[None]:
        """Look after a connection that waits for answers inside, some seconds longer than usual."""
        if not self.timeout:
            yield
            return
        waiter = _Waiter(connection, time.monotonic() + self.timeout + longer)
        self._waiters[id(waiter)] = waiter
        if self._thread is None or self._pid != os.getpid():
            self._start()
        try:
            yield
        finally:
            self._waiters.pop(id(waiter), None)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self._thread = threading.Thread(target=self._run, name="postbus-sql-watchdog", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        last = time.monotonic()
        while True:
            threading.Event().wait(min(self.timeout / 4, 1.0))
            now = time.monotonic()
            for waiter in list(self._waiters.values()):
                last = now
                if now > waiter.deadline:
                    self._look_at(waiter, now)
            if now - last > 2 * self.timeout:
                with self._lock:
                    if not self._waiters:
                        self._thread = None
                        return

    def _look_at(self, waiter: _Waiter, now: float) -> None:
        # It may be closed by now.
        with suppress(Exception), socket.socket(fileno=os.dup(waiter.connection.fileno())) as duplicate:
            received = _received(duplicate)
            if received > waiter.received:
                waiter.received, waiter.deadline = received, now + self.timeout / 2
            else:
                duplicate.shutdown(socket.SHUT_RDWR)


def _received(connection: socket.socket) -> int:
    """Return how many bytes have ever come, by the ``tcp_info`` of Linux; -1 where that cannot be told."""
    try:
        information = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
        return int(struct.unpack_from("Q", information, 128)[0])
    except (OSError, AttributeError, struct.error):
        return -1
