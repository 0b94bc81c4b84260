"""Messages as rows: what the columns ``body`` and ``headers`` hold."""

from __future__ import annotations

from typing import NamedTuple

from postbus import text
from postbus.transport import Outgoing

COUNT = "X-Postbus-Delivery-Count"
"""How often the message has been delivered; absent until it has been delivered a second time."""


class Content(NamedTuple):
    """What a row says, without the marks that are the table's own."""

    body: bytes
    headers: dict[str, str]
    deliveries: int | None
    problem: str | None


def write(message: Outgoing) -> tuple[str, str]:
    """Return a message as the text of the two columns; raise ValueError or TypeError for a header without a form."""
    body, headers = text.write_body(message)
    headers.pop(COUNT, None)  # It is not for whoever sent the message to say.
    return body, text.write_headers(headers).decode()


def read(body: bytes | None, headers: bytes | None) -> Content:
    """Return what the two columns say. Whatever they hold, somebody gets to see it."""
    names = text.read_headers(b"{}" if headers is None else headers)
    problem = None
    if body is None or headers is None:
        problem = "its body is NULL" if body is None else "its headers are NULL"
    elif text.UNREADABLE in names:
        problem = "its headers are no JSON object"
    count = _number(names.pop(COUNT)) if COUNT in names else None
    return Content(text.read_body(body or b"", names), names, count, problem)


def counted(headers: bytes | None) -> bytes:
    """Return the headers of a message that is now delivered once more."""
    names = text.read_headers(b"{}" if headers is None else headers)
    return text.write_headers({**names, COUNT: str((_number(names.get(COUNT, "")) or 1) + 1)})


def _number(digits: str) -> int | None:
    return int(digits) if digits.isdecimal() and len(digits) < 10 else None
