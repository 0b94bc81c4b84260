"""Messages as rows: what the columns ``body`` and ``headers`` hold."""

from __future__ import annotations

from msgspec.structs import replace

from postbus import text
from postbus.transport import Delivery, Outgoing

COUNT = "X-Postbus-Delivery-Count"
"""How often the message has been delivered; absent until it has been delivered a second time."""

Column = bytes | str | None
"""What a driver gives of one of the two columns."""


def write(message: Outgoing) -> tuple[str, str]:
    """Return a message as the text of the two columns; raise ValueError or TypeError for a header without a form."""
    body, headers = text.write_body(message)
    headers.pop(COUNT, None)  # It is not for whoever sent the message to say.
    return body, text.write_headers(headers).decode()


def read(id: int, body: Column, headers: Column, lease: object = None) -> Delivery:
    """Return what a row says; what is leased is being delivered. Whatever it holds, somebody gets to see it."""
    if body is None or headers is None:
        there = read(id, body or b"", b"{}" if headers is None else headers, lease)
        return replace(there, problem="its body is NULL" if body is None else "its headers are NULL")
    names = text.read_headers(_as_bytes(headers))
    count = _number(names.pop(COUNT)) if COUNT in names else None
    if lease is not None:
        count = count or 1
    problem = "its headers are no JSON object" if text.UNREADABLE in names else None
    return Delivery(text.read_body(_as_bytes(body), names), names, lease, str(id), count, problem=problem)


def counted(headers: Column) -> bytes:
    """Return the headers of a message that is now delivered once more."""
    names = text.read_headers(b"{}" if headers is None else _as_bytes(headers))
    return text.write_headers({**names, COUNT: str((_number(names.get(COUNT, "")) or 1) + 1)})


def _as_bytes(column: bytes | str) -> bytes:
    return column.encode() if isinstance(column, str) else column


def _number(digits: str) -> int | None:
    return int(digits) if digits.isdecimal() and len(digits) < 10 else None
