"""greenstalk alone, on a tube: ``python -m benchmarks.raw.beanstalkd URL TUBE`` receives pings.

The client waits for each answer before it sends the next command. Here its commands are sent many at once, on the
socket that it is given, and its reader reads the answers: that is several times as fast.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import greenstalk

BATCH = 500
PRIORITY, TTR = 1024, 90


class Tube:
    """A tube, and a connection for it."""

    def __init__(self, url: str, name: str, data: Any = None) -> None:
        self.dsn = f"{url}?tube_name={name}"
        self.listener: Sequence[str] = ("benchmarks.raw.beanstalkd", url, name)
        self._url, self._name = url, name
        self._data: bytes = data or b""
        self._link = Link(url, name)

    def setup(self) -> None:
        """Do nothing: a tube is there once it is used."""

    def pop(self) -> bytes:
        job = self._link.client.reserve(timeout=0)
        self._link.client.delete(job)
        return job.body

    def store(self, count: int) -> None:
        put = b"put %d 0 %d %d\r\n%b\r\n" % (PRIORITY, TTR, len(self._data), self._data)
        for start in range(0, count, BATCH):
            number = min(BATCH, count - start)
            self._link.send(put * number)
            for _ in range(number):
                assert self._link.reader.readline().startswith(b"INSERTED ")

    def store_singly(self, count: int) -> None:
        for _ in range(count):
            self._link.client.put(self._data, priority=PRIORITY, ttr=TTR)

    def take(self, count: int) -> None:
        with Link(self._url, self._name) as link:
            while count:
                count -= link.take(min(BATCH, count))

    def ping(self, sent_at: float) -> None:
        self._link.client.put(repr(sent_at).encode(), priority=PRIORITY, ttr=TTR)

    def listen(self) -> None:
        """Tell how old each ping is."""
        print("ready", flush=True)
        while True:
            job = self._link.client.reserve()
            print(time.monotonic() - float(job.body), flush=True)
            self._link.client.delete(job)

    def empty(self) -> None:
        while self._link.take(BATCH):
            pass

    def delete(self) -> None:
        self.empty()

    def close(self) -> None:
        self._link.close()


class Link:
    """One connection, on which commands are sent many at once."""

    def __init__(self, url: str, tube: str) -> None:
        address = urlsplit(url)
        self._socket = socket.create_connection((address.hostname, address.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.client = greenstalk.Client(self._socket, encoding=None, use=tube, watch=tube)
        self.reader = self.client._reader
        self.send = self._socket.sendall

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, count: int) -> int:
        """Reserve so many jobs and delete them; return how many there were."""
        self.send(b"reserve-with-timeout 0\r\n" * count)
        ids: list[bytes] = []
        for _ in range(count):
            answer = self.reader.readline().split()
            if answer[0] == b"RESERVED":
                ids.append(answer[1])
                self.reader.read(int(answer[2]) + 2)
        self.send(b"".join([b"delete %b\r\n" % id for id in ids]))
        for _ in ids:
            assert self.reader.readline() == b"DELETED\r\n"
        return len(ids)

    def close(self) -> None:
        self.client.close()


if __name__ == "__main__":
    Tube(*sys.argv[1:]).listen()
