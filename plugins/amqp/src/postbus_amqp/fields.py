"""Fields of AMQP as bytes, and back: values, tables, and the properties of a message.

pika's own write no float, and read one as an int. What they cannot read they raise for in the thread that owns the
connection, so that it is lost, and the message comes again, for ever; here it is a problem of that message.

The types are those of RabbitMQ: https://www.rabbitmq.com/amqp-0-9-1-errata#section_3
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, cast

from msgspec import Struct, field

LONGEST_TEXT = 255
"""Bytes of a name, and of a property that is a text."""

DEEPEST = 100
"""How many tables and lists may lie in each other, so that nobody who reads them runs out of stack."""

NUMBER = "x-postbus-number"
"""The header by which a message that the broker returns is known; it is taken off where it is delivered."""

_TEXT, _BYTES, _TABLE, _LIST, _TIME, _DECIMAL, _NOTHING = b"SxFATDV"
_NUMBERS = {ord(kind): struct.Struct(f">{form}") for kind, form in zip("tbBsUuIilLfd", "?bBhhHiIqqfd", strict=True)}
_SIZES = {kind: form.size for kind, form in _NUMBERS.items()} | {_TIME: 8, _DECIMAL: 5, _NOTHING: 0}
_SIZED = frozenset((_TEXT, _BYTES, _TABLE, _LIST))
_OCTET, _SHORT, _LONG, _LONG_LONG = (struct.Struct(f">{form}") for form in "BHIQ")
_SCALED = struct.Struct(">Bi")

_NAMES = (
    "content_type content_encoding headers delivery_mode priority correlation_id reply_to expiration message_id "
    "timestamp type user_id app_id cluster_id"
).split()
_FLAGS = {name: 1 << (15 - place) for place, name in enumerate(_NAMES)}
_WHOLE = {"delivery_mode": _OCTET, "priority": _OCTET, "timestamp": _LONG_LONG}
_NUMBER_KEY = bytes((len(NUMBER),)) + NUMBER.encode()

Text = str | bytes
"""A text, as bytes if it is no UTF-8."""


class Properties(Struct):
    """The properties of a message, to be written, or as far as they could be read."""

    content_type: Text | None = None
    content_encoding: Text | None = None
    headers: dict[str, Any] = field(default_factory=dict[str, Any])
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: Text | None = None
    reply_to: Text | None = None
    expiration: Text | None = None
    message_id: Text | None = None
    timestamp: int | None = None
    type: Text | None = None
    user_id: Text | None = None
    app_id: Text | None = None
    cluster_id: Text | None = None
    others: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    """The headers that are no texts, name and value as they came; written if ``headers`` has no such name."""
    number: Any = None
    """What the publisher knows the message by, as text."""
    problem: str | None = None
    """What could not be read, as a clause."""


class Unwritable(ValueError):
    """AMQP has no form for something; says what is wrong with it, and nothing of its value."""


class _Unreadable(ValueError):
    """Something is not as AMQP has it."""


# --- writing ---------------------------------------------------------------------------------------


def write_properties(properties: Properties) -> bytes:
    """Return what stands behind the size of the body in the frame of a header; raise `Unwritable`."""
    flags = 0
    pieces: list[bytes] = []
    for name, flag in _FLAGS.items():
        value = getattr(properties, name)
        if name == "headers":
            written = _write_table(properties)
        elif value is not None:
            written = _write_property(name, value)
        else:
            continue
        if written:
            flags |= flag
            pieces.append(written)
    return _SHORT.pack(flags) + b"".join(pieces)


def write_short(text: Any) -> bytes:
    """Return a name, or a text of up to so many bytes, its length in front."""
    encoded = text if isinstance(text, bytes) else _encoded(text)
    if len(encoded) > LONGEST_TEXT:
        raise Unwritable(f"has {len(encoded)} bytes, and may have {LONGEST_TEXT}")
    return _OCTET.pack(len(encoded)) + encoded


def _write_property(name: str, value: Any) -> bytes:
    try:
        return _WHOLE[name].pack(value) if name in _WHOLE else write_short(value)
    except (Unwritable, struct.error) as error:
        why = error if isinstance(error, Unwritable) else "is out of range, or no whole number"
        raise Unwritable(f"its {name} {why}") from None


def _write_table(properties: Properties) -> bytes:
    """Return the headers, their size in front; nothing if there are none."""
    pieces: list[bytes] = []
    for name, value in properties.headers.items():
        try:
            pieces.append(write_short(name))
        except Unwritable as error:
            raise Unwritable(f"the name of header {_shown(name)} {error}") from None
        try:
            pieces.append(_write_value(value))
        except (Unwritable, struct.error, ArithmeticError, ValueError) as error:
            why = error if isinstance(error, Unwritable) else f"holds a {type(value).__qualname__} that is out of range"
            raise Unwritable(f"header {_shown(name)} {why}") from None
    for key, encoded in properties.others.items():
        if key.decode(errors="replace") not in properties.headers:
            pieces += (_OCTET.pack(len(key)), key, encoded)
    if properties.number is not None:
        pieces.append(_NUMBER_KEY + _write_value(properties.number))
    entries = b"".join(pieces)
    return _LONG.pack(len(entries)) + entries if entries else b""


def _write_value(value: Any, depth: int = 0) -> bytes:
    """Return a value of a table, its type in front."""
    if isinstance(value, str):
        text = _encoded(value)
        return b"S" + _LONG.pack(len(text)) + text
    if value is None:
        return b"V"
    if isinstance(value, bool):
        return b"t" + _OCTET.pack(value)
    if isinstance(value, int):
        return struct.pack(">ci", b"I", value) if -(2**31) <= value < 2**31 else struct.pack(">cq", b"l", value)
    if isinstance(value, float):
        if not math.isfinite(value):  # RabbitMQ closes the connection.
            raise Unwritable("holds a number that is not finite")
        return struct.pack(">cd", b"d", value)
    if isinstance(value, bytes | bytearray):
        return b"x" + _LONG.pack(len(value)) + value
    if isinstance(value, datetime):
        return b"T" + _LONG_LONG.pack(int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()))
    if isinstance(value, Decimal):
        places = max(-cast(int, value.as_tuple().exponent), 0) if value.is_finite() else -1
        return b"D" + _SCALED.pack(places, int(value.scaleb(places)))
    if not isinstance(value, Mapping | list | tuple):
        raise Unwritable(f"holds a {type(value).__qualname__}, for which AMQP has no form")
    if depth == DEEPEST:
        raise Unwritable(f"holds more than {DEEPEST} tables or lists in each other")
    if isinstance(value, Mapping):
        inner = b"".join(_write_name(name) + _write_value(one, depth + 1) for name, one in value.items())
        return b"F" + _LONG.pack(len(inner)) + inner
    inner = b"".join(_write_value(one, depth + 1) for one in cast(Sequence[Any], value))
    return b"A" + _LONG.pack(len(inner)) + inner


def _write_name(name: Any) -> bytes:
    try:
        return write_short(name)
    except Unwritable as error:
        raise Unwritable(f"holds a name that {error}") from None


def _encoded(text: Any) -> bytes:
    if not isinstance(text, str):
        raise Unwritable("is no text")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Unwritable("holds half a character") from None


def _shown(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 60 else f"{text[:60]}…"


# --- reading ---------------------------------------------------------------------------------------


def read_properties(data: bytes) -> Properties:
    """Return what stands behind the size of the body in the frame of a header. What is wrong with it is its problem."""
    properties = Properties()
    try:
        _read_into(properties, data)
    except (_Unreadable, struct.error, IndexError):
        properties.problem = "its properties are broken"
    return properties


def time_of(seconds: int | None) -> datetime | None:
    """Return the time of a timestamp, which some write in milliseconds; None if it has none."""
    if seconds is None:
        return None
    for since_1970 in seconds, seconds / 1000:
        with suppress(ValueError, OverflowError, OSError):
            return datetime.fromtimestamp(since_1970, UTC)
    return None


def _read_into(properties: Properties, data: bytes) -> None:
    flags, at = _SHORT.unpack_from(data)[0], 2
    if flags & 1:
        raise _Unreadable
    for name in _names_of(flags):
        if name == "headers":
            start = at + _LONG.size
            at = _end(data, start, _LONG.unpack_from(data, at)[0])
            _read_entries(properties, data[start:at])
        elif name in _WHOLE:
            form = _WHOLE[name]
            setattr(properties, name, form.unpack_from(data, at)[0])
            at += form.size
        else:
            start, at = at + 1, _end(data, at + 1, data[at])
            text = _text_in(data[start:at])
            if isinstance(text, bytes):
                properties.problem = f"its {name} is no UTF-8"
            setattr(properties, name, text)


@lru_cache(maxsize=64)
def _names_of(flags: int) -> list[str]:
    return [name for name, flag in _FLAGS.items() if flags & flag]


def _read_entries(properties: Properties, table: bytes) -> None:
    headers, others = properties.headers, properties.others
    at = 0
    try:
        while at < len(table):
            start = at + 1 + table[at]
            key = table[at + 1 : start]
            at = _end_of_value(table, start)
            if table[start] == _TEXT:  # Nearly all are.
                try:
                    headers[key.decode()] = table[start + 5 : at].decode()
                    continue
                except UnicodeDecodeError:
                    pass
            others[key] = table[start:at]
            _read_other(properties, key, table, start, at)
    except (_Unreadable, struct.error, IndexError):
        properties.problem = "its table of headers is broken"
    properties.number = headers.pop(NUMBER, None)


def _read_other(properties: Properties, key: bytes, table: bytes, at: int, end: int) -> None:
    name = _text_in(key)
    if isinstance(name, bytes):
        properties.problem = f"the name of its header {_shown(name)} is no UTF-8"
        return
    try:
        properties.headers[name] = _read_value(table, at, end)
    except (_Unreadable, struct.error, IndexError) as error:
        why = error if isinstance(error, _Unreadable) else "is cut off"
        properties.problem = f"its header {_shown(name)} {why}"


def _entries_in(table: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Give the name of each entry, and where its value begins, its type in front, and ends."""
    at = 0
    while at < len(table):
        key = table[at + 1 : at + 1 + table[at]]
        at += 1 + len(key)
        start, at = at, _end_of_value(table, at)
        yield key, start, at


def _end_of_value(data: bytes, at: int) -> int:
    kind = data[at]
    if kind in _SIZED:
        return _end(data, at + 5, _LONG.unpack_from(data, at + 1)[0])
    if kind in _SIZES:
        return _end(data, at + 1, _SIZES[kind])
    raise _Unreadable("has a value of a type that AMQP does not know")


def _end(data: bytes, start: int, size: int) -> int:
    end = start + size
    if end > len(data):
        raise _Unreadable("is cut off")
    return end


def _read_value(data: bytes, at: int, end: int, depth: int = 0) -> Any:
    """Return the value between these places; a text that is no UTF-8 as bytes, an impossible time as its number."""
    kind = data[at]
    if kind == _TEXT:
        return _text_in(data[at + 5 : end])
    if kind in _NUMBERS:
        return _NUMBERS[kind].unpack_from(data, at + 1)[0]
    if kind == _NOTHING:
        return None
    if kind == _BYTES:
        return data[at + 5 : end]
    if kind == _TIME:
        (seconds,) = _LONG_LONG.unpack_from(data, at + 1)
        return time_of(seconds) or seconds
    if kind == _DECIMAL:
        places, number = _SCALED.unpack_from(data, at + 1)
        return Decimal(number).scaleb(-places)
    if depth == DEEPEST:
        raise _Unreadable("is nested too deep")
    inner = data[at + 5 : end]
    if kind == _TABLE:
        return {_name_in(key): _read_value(inner, at, end, depth + 1) for key, at, end in _entries_in(inner)}
    values: list[Any] = []
    at = 0
    while at < len(inner):
        start, at = at, _end_of_value(inner, at)
        values.append(_read_value(inner, start, at, depth + 1))
    return values


def _name_in(key: bytes) -> str:
    name = _text_in(key)
    if isinstance(name, bytes):
        raise _Unreadable("holds a name that is no UTF-8")
    return name


def _text_in(data: bytes) -> Text:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
