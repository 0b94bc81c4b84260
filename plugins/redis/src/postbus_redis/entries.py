"""Messages as entries of a stream, and as members of the delayed set: as Symfony lays them out there.

An entry has one field, ``message``: JSON with the body and the headers. A member is the same JSON with a random
``uniqid``, so that no two are equal; it becomes an entry as it is.
"""

from __future__ import annotations

import re
import secrets
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from postbus.errors import describe
from postbus.text import ENCODING, JSON_ERRORS, UNREADABLE, read_body, read_headers, write_body
from postbus.transport import Delivery, Outgoing

FIELD = b"message"

OTHER_FIELD = "X-Redis-Field-"
"""What the name of a header begins with that holds a further field of an entry."""

Content = tuple[bytes, dict[str, str], str | None]
"""Body, headers, and what could not be read, if anything; see `Delivery.problem`."""

_PHP_STRING = re.compile(rb's:([0-9]{1,10}):"(.*)";', re.DOTALL)


class _Message(Struct, gc=False):
    body: str
    headers: dict[str, str]


class _Member(Struct, gc=False):
    body: str
    headers: dict[str, str]
    uniqid: str


class _OddMessage(Struct):
    body: Raw
    headers: Raw


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Message).decode


def write(message: Outgoing) -> bytes:
    """Return the value of the field; raise ValueError or TypeError for a header that JSON has no form for."""
    headers = message.headers
    try:
        body = message.body.decode()
        # As `write_body`, without a copy of the headers, for a body that needs no word about it.
        if "\0" not in body and ENCODING not in headers and isinstance(headers, dict):
            return _encode(_Message(body, headers))
    except UnicodeDecodeError:
        pass
    return _encode(_Message(*write_body(message)))


def write_member(message: Outgoing) -> bytes:
    """Return the member of the delayed set; as `write`."""
    return _encode(_Member(*write_body(message), secrets.token_urlsafe(9)))


def read(fields: Sequence[bytes]) -> Content:
    """Return what an entry holds, whoever has written it; all of it is in there."""
    if len(fields) == 2 and fields[0] == FIELD:
        return read_value(fields[1])
    names, values = fields[::2], fields[1::2]
    shown = list(zip(map(_as_text, names), map(_as_text, values), strict=True))
    others = {name: value for name, value in shown if isinstance(name, str)}
    if len(others) < len(names):
        return _encode(shown), {}, "its entry has fields of one name, or with a name that is no text"
    if FIELD not in names:
        return _encode(others), {}, f"its entry has no field {FIELD.decode()!r}"
    body, headers, problem = read_value(values[names.index(FIELD)])
    del others[FIELD.decode()]
    for name, value in others.items():
        headers[OTHER_FIELD + name] = value if isinstance(value, str) else _encode(value).decode()
    return body, headers, problem


def read_value(value: bytes) -> Content:
    """Return what the value of the field holds, or a member."""
    try:
        message = _decode(value)
    except JSON_ERRORS:
        return _read_odd_value(value)
    body = message.body.encode()
    if ENCODING in message.headers:
        body = read_body(body, message.headers)
    return body, message.headers, None


def _read_odd_value(value: bytes) -> Content:
    try:
        odd = msgspec.json.decode(_unwrap(value), type=_OddMessage)
    except msgspec.DecodeError:
        return value, {}, None  # It is no message of ours or Symfony's, but perhaps the user's serializer knows it.
    except JSON_ERRORS as error:
        return value, {}, f"its JSON cannot be read: {describe(error)}"
    body, headers = bytes(odd.body), read_headers(bytes(odd.headers))
    if UNREADABLE in headers:
        return value, {}, "its headers are no JSON object"
    if body[:1] == b'"':
        try:
            body = msgspec.json.decode(body, type=str).encode()
        except JSON_ERRORS as error:
            return value, {}, f"its body cannot be read: {describe(error)}"
    return read_body(body, headers), headers, None


def as_delivery(content: Content, tag: Any, id: str, count: int | None = None) -> Delivery:
    """Return content as a connection hands it out."""
    body, headers, problem = content
    return Delivery(body, headers, tag, id, count, problem=problem)


def _unwrap(value: bytes) -> bytes:
    """Return the text in what phpredis makes of one: a serialized string of PHP, or one of JSON."""
    php = _PHP_STRING.fullmatch(value)
    if php is not None and int(php[1]) == len(php[2]):
        return php[2]
    if value[:1] == b'"':
        try:
            return msgspec.json.decode(value, type=str).encode()
        except JSON_ERRORS:
            pass
    return value


def _as_text(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(value).decode()}
