"""How a message lies on SQS: as Symfony puts it there, and how what lies there is read, whoever wrote it.

The headers ``type`` and ``Content-Type`` are attributes. All others are in one attribute, as JSON, because SQS takes
no more than ten, and not every name.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec
from msgspec import Struct

from postbus.errors import describe
from postbus.transport import Outgoing

OTHERS = "X-Symfony-Messenger"
"""The attribute with the headers that are none themselves."""
ENCODING = "Content-Transfer-Encoding"
"""The attribute that says ``base64`` where the body is no text that SQS takes."""
DELAY = "X-Postbus-Delay"
"""The attribute that says for how many milliseconds, from when it was sent, a message on a FIFO queue is to wait."""

_PLAIN = ("type", "Content-Type")
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_EMPTY = "="

Items = Iterable[tuple[str, Any]]


class Unacceptable(Exception):
    """A message that the service will never take; says why, in a sentence."""


class Written(Struct, frozen=True):
    """A message as SQS takes it, and how many bytes of the limit that is."""

    entry: dict[str, Any]
    size: int


def write(message: Outgoing, delay: int = 0) -> Written:
    """Return a message as SQS takes it, with a delay in milliseconds if it is to carry one."""
    body, attributes = _as_text(message.body), dict[str, str]()
    if body is None:
        body, attributes[ENCODING] = b64encode(message.body).decode() or _EMPTY, "base64"
    if delay:
        attributes[DELAY] = str(delay)
    others = dict(message.headers)
    for name in _PLAIN:
        value = others.get(name)
        if value and not _ILLEGAL.search(value):
            attributes[name] = others.pop(name)
    if others:
        attributes[OTHERS] = _as_json(others)
    entry: dict[str, Any] = {"MessageBody": body}
    if attributes:
        entry["MessageAttributes"] = {
            name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()
        }
    size = len(body.encode()) + sum(len(name) + 6 + len(value.encode()) for name, value in attributes.items())
    return Written(entry, size)


def read(message: Mapping[str, Any]) -> tuple[bytes, dict[str, str], int]:
    """Return body, headers and delay in milliseconds of a message as botocore gives it; nothing about it raises."""
    attributes = {name: _value_of(value) for name, value in message.get("MessageAttributes", {}).items()}
    text = message.get("Body", "")
    body = text.encode(errors="surrogatepass")
    if attributes.get(ENCODING) == "base64" and (decoded := _decoded(text)) is not None:
        body = decoded
        del attributes[ENCODING]
    delay = attributes.pop(DELAY, "")
    headers = _from_json(attributes.get(OTHERS, ""))
    if headers is not None:
        del attributes[OTHERS]
    return body, (headers or {}) | attributes, int(delay) if re.fullmatch("[0-9]{1,15}", delay, re.ASCII) else 0


def _as_text(body: bytes) -> str | None:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return None if not text or _ILLEGAL.search(text) else text


def _as_json(headers: Mapping[str, str]) -> str:
    try:
        text = msgspec.json.encode(headers).decode()
        return json.dumps(headers) if _ILLEGAL.search(text) else text
    except UnicodeEncodeError:
        return json.dumps(headers)  # Half of a surrogate, which has a form there.
    except (TypeError, ValueError) as error:
        raise Unacceptable(f"A header has no form in JSON: {describe(error)}.") from error


def _from_json(text: str) -> dict[str, str] | None:
    """Return the headers that a text holds; None if it holds none. What is no text in there comes as it is written."""
    try:
        values = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        return {name: _as_written(bytes(value)) for name, value in values.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        found: Any = json.loads(text) if text else None  # It reads half of a surrogate.
    except (ValueError, RecursionError):
        return None
    if type(found) is not dict:
        return None
    return {name: value if type(value) is str else json.dumps(value) for name, value in cast(Items, found.items())}


def _as_written(value: bytes) -> str:
    return msgspec.json.decode(value, type=str) if value.startswith(b'"') else value.decode()


def _value_of(attribute: Mapping[str, Any]) -> str:
    if "StringValue" in attribute:
        return str(attribute["StringValue"])
    value: bytes = attribute.get("BinaryValue", b"")
    try:
        return value.decode()
    except UnicodeDecodeError:
        return b64encode(value).decode()


def _decoded(text: str) -> bytes | None:
    if text == _EMPTY:
        return b""
    try:
        return b64decode(text, validate=True)
    except ValueError:
        return None
