"""Commands as Redis reads them (RESP, the Redis serialization protocol)."""

from __future__ import annotations

from collections.abc import Iterable


def pack(*parts: bytes) -> bytes:
    """Return one command."""
    return b"*%d\r\n%b" % (len(parts), pack_parts(parts))


def pack_parts(parts: Iterable[bytes]) -> bytes:
    """Return the parts of a command, without its head."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])
