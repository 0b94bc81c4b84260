"""Messages as rows: what the columns ``body`` and ``headers`` hold."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from typing import Any, NamedTuple

import msgspec

from postbus.transport import Outgoing

ENCODING = "X-Postbus-Body-Encoding"
"""Says ``base64`` of a body that is no text: one that is not UTF-8, or has a NUL, which PostgreSQL cannot store."""

COUNT = "X-Postbus-Delivery-Count"
"""How often the message has been delivered; absent until it has been delivered a second time."""

UNREADABLE = "X-Postbus-Unreadable-Headers"
"""Holds the text of the column, where that is no JSON object of strings."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, str]).decode


class Content(NamedTuple):
    """What a row says, without the marks that are the table's own."""

    body: bytes
    headers: dict[str, str]
    deliveries: int | None


def write(message: Outgoing) -> tuple[str, str]:
    """Return a message as the text of the two columns."""
    headers = dict(message.headers)
    try:
        body = message.body.decode()
    except UnicodeDecodeError:
        body = "\0"
    if "\0" in body:
        body = b64encode(message.body).decode()
        headers[ENCODING] = "base64"
    return body, _encode(headers).decode()


def read(body: bytes, headers: bytes) -> Content:
    """Return what the two columns say. Whatever they hold, somebody gets to see it."""
    names = _read_headers(headers)
    count = _number(names.pop(COUNT)) if COUNT in names else None
    if ENCODING in names and names[ENCODING] == "base64":
        try:
            body = b64decode(body, validate=True)
            del names[ENCODING]
        except binascii.Error:
            pass
    return Content(body, names, count)


def counted(headers: bytes) -> bytes:
    """Return the headers of a message that is now delivered once more."""
    names = _read_headers(headers)
    return _encode({**names, COUNT: str((_number(names.get(COUNT, "")) or 1) + 1)})


def _read_headers(text: bytes) -> dict[str, str]:
    try:
        return _decode(text)
    except msgspec.DecodeError:
        return _read_odd_headers(text)


def _read_odd_headers(text: bytes) -> dict[str, str]:
    if text == b"[]":  # So PHP writes an empty map.
        return {}
    try:
        headers = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        return {UNREADABLE: text.decode(errors="replace")}
    return {name: value if isinstance(value, str) else _encode(value).decode() for name, value in headers.items()}


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 10 else None
