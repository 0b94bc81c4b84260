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

from postbus.text import ENCODING, read_body, read_headers, write_body
from postbus.transport import Outgoing

FIELD = b"message"

OTHER_FIELD = "X-Redis-Field-"
"""What the name of a header begins with that holds a further field of an entry."""

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
    """Return the value of the field."""
    return _encode(_Message(*write_body(message)))


def write_member(message: Outgoing) -> bytes:
    """Return the member of the delayed set."""
    return _encode(_Member(*write_body(message), secrets.token_urlsafe(9)))


def read(fields: Sequence[bytes]) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of an entry, whoever has written it; all that it holds is in there."""
    if len(fields) == 2 and fields[0] == FIELD:
        return read_value(fields[1])
    names = fields[::2]
    if names.count(FIELD) != 1:
        return _encode(_as_mapping(fields)), {}
    body, headers = read_value(fields[2 * names.index(FIELD) + 1])
    for name, value in _as_mapping(fields).items():
        if name != FIELD.decode():
            headers[OTHER_FIELD + name] = value if isinstance(value, str) else _encode(value).decode()
    return body, headers


def read_value(value: bytes) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of the value of the field, or of a member."""
    try:
        message = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _read_odd_value(value)
    body = message.body.encode()
    if ENCODING in message.headers:
        body = read_body(body, message.headers)
    return body, message.headers


def _read_odd_value(value: bytes) -> tuple[bytes, dict[str, str]]:
    json = _unwrap(value)
    try:
        odd = msgspec.json.decode(json, type=_OddMessage)
        body = bytes(odd.body)
        if body[:1] == b'"':
            body = msgspec.json.decode(body, type=str).encode()
    except (msgspec.DecodeError, UnicodeError):
        return json, {}
    headers = read_headers(bytes(odd.headers))
    return read_body(body, headers), headers


def _unwrap(value: bytes) -> bytes:
    """Return the text in what phpredis makes of one: a serialized string of PHP, or one of JSON."""
    php = _PHP_STRING.fullmatch(value)
    if php is not None and int(php[1]) == len(php[2]):
        return php[2]
    if value[:1] == b'"':
        try:
            return msgspec.json.decode(value, type=str).encode()
        except (msgspec.DecodeError, UnicodeError):
            pass
    return value


def _as_mapping(fields: Sequence[bytes]) -> dict[str, Any]:
    """Return fields by their names; several of one name as a list."""
    mapping: dict[str, Any] = {}
    for name, value in zip(fields[::2], fields[1::2], strict=True):
        text = name.decode(errors="backslashreplace")
        seen = mapping.get(text)
        shown = _as_text(value)
        mapping[text] = shown if seen is None else [*(seen if isinstance(seen, list) else [seen]), shown]
    return mapping


def _as_text(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(value).decode()}
