"""Links to the server: one exchange of commands and replies at a time each, any number of them at once."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any

from redis.exceptions import RedisError

from postbus.errors import ConnectionLost
from postbus_redis.errors import translate
from postbus_redis.server import Server

Reply = Any
"""What Redis answers to one command, as bytes, numbers and lists of them; or the exception that took its place."""

CHUNK = 100
"""How many commands are sent at once."""

SHORT = 1.0
"""Seconds of idleness after which a link is looked at before it is used."""


class Link:
    """One connection. After an exchange that failed half-way it is lost: the next reply would answer something else."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._used_at = time.monotonic()
        self.lost = False

    def send(self, commands: Sequence[bytes]) -> BaseException | None:
        """Send commands; return what prevented it."""
        try:
            self._connection.send_packed_command([b"".join(commands)], check_health=False)
        except (RedisError, OSError) as error:
            self.lost = True
            return error
        return None

    def receive(self, number: int, timeout: float | None = None) -> list[Reply]:
        """Return so many replies; where none came, the exception instead. ``timeout`` replaces the usual one."""
        # The connection's own method would raise errors that are replies, and look after its health each time.
        read = self._connection._parser.read_response
        if timeout is not None:  # Apart, as to call with options that may be none takes twice as long.
            read = partial(read, timeout=timeout)
        replies: list[Reply] = []
        try:
            for _ in range(number):
                replies.append(read())  # noqa: PERF401 - what came before an exception counts
        except (RedisError, OSError) as error:
            self.lost = True
            replies += [error] * (number - len(replies))
        self._used_at = time.monotonic()
        return replies

    def call(self, commands: Iterable[bytes], timeout: float | None = None) -> list[Reply]:
        """Send commands and return their replies. Redis works on the first while later ones are being made."""
        number, remaining = 0, iter(commands)
        while some := list(islice(remaining, CHUNK)):
            number += len(some)
            if error := self.send(some):
                return [error] * (number + sum(1 for _ in remaining))
        return self.receive(number, timeout)

    def is_readable(self, timeout: float) -> bool:
        """Wait until there is something to read, be it the end; say whether there is."""
        try:
            return bool(self._connection.can_read(timeout))
        except (RedisError, OSError):
            return True

    def was_dropped(self) -> bool:
        """Tell whether a link that was idle for a while has been closed by the server, or by what is between."""
        return time.monotonic() - self._used_at > SHORT and self.is_readable(0)

    def interrupt(self) -> None:
        """Let whoever waits for a reply find the connection lost. From another thread."""
        self.lost = True
        sock: socket.socket | None = self._connection._sock
        if sock is not None:
            # Not the method of an SSL socket, which would take its state from under the one that reads.
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it."""
        self.lost = True
        self._connection.disconnect()


class Links:
    """Links that are not in use, and what makes more. Safe to use from several threads."""

    def __init__(self, server: Server, prepare: Sequence[bytes]) -> None:
        self._server = server
        self._prepare = prepare
        self._idle: list[Link] = []
        self.closed = False
        self.lost = False

    def __str__(self) -> str:
        return str(self._server)

    def open(self) -> Link:
        """Return a new link, which belongs to the caller."""
        if self.closed:
            raise ConnectionLost(f"The connection to {self} is closed")
        try:
            link = Link(self._server.open())
        except ConnectionLost:
            self.lost = True
            raise
        for reply in link.call(self._prepare):
            if isinstance(reply, Exception):
                link.close()
                raise translate(reply, str(self)) from reply
        return link

    def call(self, commands: Iterable[bytes], timeout: float | None = None) -> list[Reply]:
        """Send commands on some link; return their replies, or the exceptions that took their place."""
        link = self._take() or self.open()
        try:
            replies = link.call(commands, timeout)
        except BaseException:
            link.close()
            raise
        if link.lost:
            self.lost = True
            link.close()
            return replies
        self._idle.append(link)
        if self.closed:
            self.close()
        return replies

    def _take(self) -> Link | None:
        """Return an idle link that is still open."""
        while True:
            try:
                link = self._idle.pop()
            except IndexError:
                return None
            if not link.was_dropped():
                return link
            link.close()

    def ask(self, *commands: bytes) -> list[Reply]:
        """Send commands and return their replies; raise what took the place of one, translated."""
        replies = self.call(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise translate(reply, str(self)) from reply
        return replies

    def close(self) -> None:
        """Close what is idle, and the others as they come back."""
        self.closed = True
        while link := self._take():
            link.close()
