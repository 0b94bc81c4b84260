"""What another program says to ActiveMQ: frames as it writes them, over a socket of its own, without a library."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit


def written(command: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """Return a frame of STOMP 1.2."""
    lines = "".join(f"{_escaped(name)}:{_escaped(value)}\n" for name, value in headers.items())
    return f"{command}\n{lines}\n".encode(errors="replace") + body + b"\0"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace(":", "\\c")


class Stranger:
    """A program that is connected to the broker of a DSN."""

    def __init__(self, dsn: str) -> None:
        address = urlsplit(dsn)
        self._socket = socket.create_connection((address.hostname, address.port), timeout=10)
        login = f"login:{unquote(address.username or '')}\npasscode:{unquote(address.password or '')}"
        self._socket.sendall(f"CONNECT\naccept-version:1.2\nhost:broker\n{login}\n\n\0".encode())
        assert self.hear().startswith("CONNECTED")
        self._queue = "/queue/" + address.path.removeprefix("/")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._socket.close()

    def put(self, body: bytes, headers: Mapping[str, str] | None = None, *, is_text: bool = False) -> None:
        """Put a message on the queue: one of bytes, or of text, which says no length and so has no NUL in it."""
        own = {"destination": self._queue, "receipt": "put"}
        if not is_text:
            own["content-length"] = str(len(body))
        self._socket.sendall(written("SEND", {**(headers or {}), **own}, body))
        answer = self.hear()
        assert answer.startswith("RECEIPT"), answer

    def hear(self) -> str:
        """Return the next frame."""
        heard = b""
        while not heard.endswith((b"\0", b"\0\n")):
            more = self._socket.recv(65536)
            assert more, f"The broker hung up after {heard!r}."
            heard += more
        return heard.decode(errors="replace").lstrip("\n")
