"""Messages as text, for the connections of brokers that store no bytes: what a column or a field of JSON holds."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from typing import Any

import msgspec

from postbus.transport import Outgoing

ENCODING = "X-Postbus-Body-Encoding"
"""Says ``base64`` of a body that is no text: one that is not UTF-8, or has a NUL, which PostgreSQL cannot store."""

UNREADABLE = "X-Postbus-Unreadable-Headers"
"""Holds the text of the headers, where that is no JSON object."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, str]).decode


def write_body(message: Outgoing) -> tuple[str, dict[str, str]]:
    """Return the body as text, and the headers, which say so if it is not as it was."""
    headers = dict(message.headers)
    try:
        body = message.body.decode()
    except UnicodeDecodeError:
        body = "\0"
    if "\0" in body:
        body = b64encode(message.body).decode()
        headers[ENCODING] = "base64"
    return body, headers


def read_body(body: bytes, headers: dict[str, str]) -> bytes:
    """Return the body as it was, and take out of ``headers`` what was said about it."""
    if headers.get(ENCODING) == "base64":
        try:
            body = b64decode(body, validate=True)
            del headers[ENCODING]
        except binascii.Error:
            pass
    return body


def write_headers(headers: dict[str, str]) -> bytes:
    """Return headers as JSON."""
    return _encode(headers)


def read_headers(text: bytes) -> dict[str, str]:
    """Return headers that were written as JSON, by whomever. Whatever the text holds, somebody gets to see it."""
    try:
        return _decode(text)
    except msgspec.DecodeError:
        pass
    if text == b"[]":  # So PHP writes an empty map.
        return {}
    try:
        headers = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        return {UNREADABLE: text.decode(errors="replace")}
    return {name: value if isinstance(value, str) else _encode(value).decode() for name, value in headers.items()}
