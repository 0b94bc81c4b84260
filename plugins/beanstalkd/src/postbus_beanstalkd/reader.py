"""What the server has answered, read from a socket in as few steps as can be.

A server answers each of many commands by itself, so who waits for the first answer is woken for each of them. Here it
is said beforehand how much will come at least, and the system wakes nobody before that much is there.
"""

from __future__ import annotations

import socket

SIZE = 64 * 1024
"""Bytes that are read at once, at most."""

MOST = 128
"""Bytes that are waited for at once, at most: a dozen short answers. To wait for more of them turned out slower."""

LOW_WATER = getattr(socket, "SO_RCVLOWAT", None)


class Reader:
    """Reads lines and blocks, as the reader of greenstalk's client does, in whose place it is."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""
        self._at = 0
        self._due = 0
        self._low_water = 1

    def expect(self, size: int) -> None:
        """Say that at least so many bytes are still to come; 0 if nobody knows."""
        self._due = size - (len(self._buffer) - self._at)
        if size == 0:
            self._set_low_water(1)

    def readline(self) -> bytes:
        """Return the next line with its end; less, or nothing, where the connection ends."""
        while (end := self._buffer.find(b"\n", self._at)) < 0:
            if not self._fill():
                return self._rest()
        line = self._buffer[self._at : end + 1]
        self._at = end + 1
        return line

    def read(self, size: int) -> bytes:
        """Return so many bytes; less where the connection ends."""
        while len(self._buffer) - self._at < size:
            if not self._fill():
                return self._rest()
        end = self._at + size
        block = self._buffer[self._at : end]
        self._at = end
        return block

    def close(self) -> None:
        """Forget what was read."""
        self._buffer, self._at = b"", 0

    def _fill(self) -> bool:
        self._set_low_water(max(1, min(self._due, MOST)))
        more = self._sock.recv(SIZE)
        self._due -= len(more)
        self._buffer = self._buffer[self._at :] + more
        self._at = 0
        return bool(more)

    def _rest(self) -> bytes:
        rest = self._buffer[self._at :]
        self.close()
        return rest

    def _set_low_water(self, size: int) -> None:
        if size != self._low_water and LOW_WATER is not None:
            self._sock.setsockopt(socket.SOL_SOCKET, LOW_WATER, size)
            self._low_water = size
