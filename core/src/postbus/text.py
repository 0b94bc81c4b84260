"""Messages as text, for the connections of brokers that store no bytes: what a column or a field of JSON holds.

And headers as a single one, for those that have no form for some.
"""

from __future__ import annotations

import binascii
import sys
from collections.abc import Mapping
from typing import Protocol

import msgspec

from postbus.errors import cut

ENCODING = "X-Postbus-Body-Encoding"
"""Says ``base64`` of a body that is no text: one that is not UTF-8, or has a NUL, which PostgreSQL cannot store."""

UNREADABLE = "X-Postbus-Unreadable-Headers"
"""Holds what is there in place of headers, where that is no JSON object."""

UNREADABLE_ENCODING = "X-Postbus-Unreadable-Headers-Encoding"
"""Says ``base64`` of those that are not UTF-8."""

PACKED = "X-Postbus-Headers"
"""A header that holds all others, as JSON in ASCII, for a broker that has no form for one of them."""

JSON_ERRORS = (msgspec.DecodeError, UnicodeError, RecursionError)
"""What reading JSON of somebody else's may raise."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, str]).decode


class Content(Protocol):
    """What is written: a `postbus.transport.Outgoing`."""

    @property
    def body(self) -> bytes:
        """Any bytes."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Any texts."""
        ...


def write_body(message: Content) -> tuple[str, dict[str, str]]:
    """Return the body as text, and the headers, which say so if it is not as it was."""
    headers = dict(message.headers)
    try:
        body = message.body.decode()
    except UnicodeDecodeError:
        body = "\0"
    if "\0" in body or ENCODING in headers:  # The mark of another may be there already, and is to be kept.
        body = binascii.b2a_base64(message.body, newline=False).decode()
        headers[ENCODING] = f"base64;{headers[ENCODING]}" if ENCODING in headers else "base64"
    return body, headers


def read_body(body: bytes, headers: dict[str, str]) -> bytes:
    """Return the body as it was, and take out of ``headers`` what was said about it."""
    if ENCODING not in headers:
        return body
    how, is_kept, before = headers[ENCODING].partition(";")
    if how != "base64":
        return body
    try:
        body = binascii.a2b_base64(body, strict_mode=True)
    except binascii.Error:
        return body
    del headers[ENCODING]
    if is_kept:
        headers[ENCODING] = before
    return body


def write_headers(headers: dict[str, str]) -> bytes:
    """Return headers as JSON."""
    return _encode(headers)


def read_headers(text: bytes) -> dict[str, str]:
    """Return headers that were written as JSON, by whomever. Whatever the text holds, somebody gets to see it."""
    try:
        return _decode(text)
    except JSON_ERRORS:
        pass
    if text == b"[]":  # So PHP writes an empty map.
        return {}
    try:
        headers = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        return {name: _as_text(bytes(value)) for name, value in headers.items()}
    except JSON_ERRORS:
        pass
    try:
        return {UNREADABLE: text.decode()}
    except UnicodeDecodeError:
        return {UNREADABLE: binascii.b2a_base64(text, newline=False).decode(), UNREADABLE_ENCODING: "base64"}


def _as_text(value: bytes) -> str:
    """Return the text that a value of JSON is; of any other value, how it is written."""
    return msgspec.json.decode(value, type=str) if value[:1] == b'"' else value.decode()


def packed(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers as a single one, which every broker takes; what comes is unpacked by itself."""
    import json  # noqa: PLC0415  Few messages need it.

    return {PACKED: json.dumps({_plain(name): _plain(value) for name, value in headers.items()})}


def unpacked(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return headers as they were before they were `packed`; as they are, if somebody else has made that one."""
    try:
        return msgspec.json.decode(headers[PACKED], type=dict[str, str]) | {
            name: value for name, value in headers.items() if name != PACKED
        }
    except JSON_ERRORS:
        return headers


def _plain(value: str | bytes) -> str:
    # A plugin may hand over what its client could not read.
    return cut(value, sys.maxsize) if isinstance(value, str) else value.decode(errors="backslashreplace")
