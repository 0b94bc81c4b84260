"""Messages as text, for the connections of brokers that store no bytes: what a column or a field of JSON holds."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode

import msgspec

from postbus.transport import Outgoing

ENCODING = "X-Postbus-Body-Encoding"
"""Says ``base64`` of a body that is no text: one that is not UTF-8, or has a NUL, which PostgreSQL cannot store."""

UNREADABLE = "X-Postbus-Unreadable-Headers"
"""Holds what is there in place of headers, where that is no JSON object."""

UNREADABLE_ENCODING = "X-Postbus-Unreadable-Headers-Encoding"
"""Says ``base64`` of those that are not UTF-8."""

JSON_ERRORS = (msgspec.DecodeError, UnicodeError, RecursionError)
"""What reading JSON of somebody else's may raise."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, str]).decode


def write_body(message: Outgoing) -> tuple[str, dict[str, str]]:
    """Return the body as text, and the headers, which say so if it is not as it was."""
    headers = dict(message.headers)
    try:
        body = message.body.decode()
    except UnicodeDecodeError:
        body = "\0"
    if "\0" in body or ENCODING in headers:  # The mark of another may be there already, and is to be kept.
        body = b64encode(message.body).decode()
        headers[ENCODING] = f"base64;{headers[ENCODING]}" if ENCODING in headers else "base64"
    return body, headers


def read_body(body: bytes, headers: dict[str, str]) -> bytes:
    """Return the body as it was, and take out of ``headers`` what was said about it."""
    how, is_kept, before = headers.get(ENCODING, "").partition(";")
    if how != "base64":
        return body
    try:
        body = b64decode(body, validate=True)
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
        return {UNREADABLE: b64encode(text).decode(), UNREADABLE_ENCODING: "base64"}


def _as_text(json: bytes) -> str:
    """Return the text that a value of JSON is; of any other value, how it is written."""
    return msgspec.json.decode(json, type=str) if json[:1] == b'"' else json.decode()
