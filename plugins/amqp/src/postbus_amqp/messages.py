"""Messages as properties and frames of AMQP, and back."""

from __future__ import annotations

import math
import struct
from operator import attrgetter
from time import time
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from postbus.errors import MessageRefused
from postbus.transport import Delivery, Outgoing
from postbus_amqp.fields import Properties, Text, Unwritable, read_properties, time_of, write_properties, write_short
from postbus_amqp.options import LARGEST_MESSAGE
from postbus_amqp.stamps import AmqpProperties, AmqpReceived, AmqpRouting

PERSISTENT = 2

LONGEST_EXPIRATION = 10 * 365 * 86_400.0
"""Seconds. RabbitMQ closes the channel for a longer one."""

HEADERS_IN_BODY = "x-postbus-headers"
"""The content encoding of a body that begins with the headers, because they do not fit into a frame."""

TEXTS = ("correlation_id", "reply_to", "message_id", "type", "app_id")
"""Properties that a message keeps when it is sent again; not the user, who may be another one by then."""

KEPT = ("priority", "content_encoding", *TEXTS)

OF_THE_JOURNEY = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count", "x-delay")
"""Beginnings of headers that say what happened on the way here; a message that is sent again begins anew."""

MOST_METHODS = 1000
"""How many encoded commands are kept at most, one for each exchange and routing key."""

_kept_values = attrgetter(*KEPT)
_NOTHING = (None,) * len(KEPT)
_OF_THE_JOURNEY = tuple(name.encode() for name in OF_THE_JOURNEY)

_METHOD, _HEADER, _BODY = 1, 2, 3
_FRAME = struct.Struct(">BHI")
_FRAME_END = b"\xce"
_BASIC_PUBLISH = struct.pack(">HHxx", 60, 40)
_CONTENT = struct.Struct(">HxxQ")


class Message(Struct, frozen=True):
    """A message on its way to an exchange."""

    exchange: str
    routing_key: str
    body: bytes
    properties: Properties
    is_mandatory: bool = True


def refused(reason: str) -> MessageRefused:
    """Return the refusal of a single message."""
    return MessageRefused({0: reason})


def properties_of(message: Outgoing) -> Properties:
    """Return the properties of a message, its headers among them; raise `MessageRefused` for what cannot be."""
    headers: dict[str, Any] = dict(message.headers)
    properties = Properties(
        content_type=headers.pop("Content-Type", None),
        headers=headers,
        delivery_mode=PERSISTENT,
        timestamp=int(time()),
    )
    came = routing = None
    for stamp in message.stamps:
        if isinstance(stamp, AmqpProperties):
            came = stamp
        elif isinstance(stamp, AmqpRouting):
            routing = stamp
    if came is not None:
        # A serializer has written them too, in a header that it names as it likes.
        for name in [name for name in headers if name.endswith(str(AmqpProperties.wire_name))]:
            del headers[name]
        _copy(read_properties(came.encoded), properties)
    if routing is not None:
        try:
            _apply(routing, properties, is_delayed=message.delay > 0)
        except (TypeError, ValueError, ArithmeticError, AttributeError):
            raise refused("A message cannot be sent with stamps.AmqpRouting: a value has the wrong type.") from None
    return properties


def _copy(came: Properties, properties: Properties) -> None:
    """Set what a message had when it came; but not what was about that journey alone, such as its expiration."""
    for name in KEPT:
        setattr(properties, name, getattr(came, name))
    properties.headers = came.headers | properties.headers


def _apply(routing: AmqpRouting, properties: Properties, *, is_delayed: bool) -> None:
    """Set what the stamp says."""
    for name in (*KEPT, "user_id"):
        value = getattr(routing, name)
        if value is not None:
            setattr(properties, name, value)
    if routing.timestamp is not None:
        properties.timestamp = int(routing.timestamp.timestamp())
    if routing.expiration is not None:
        if is_delayed:
            raise refused(
                "A message cannot have a delay and an expiration, because it would expire while it is delayed. "
                "Leave one of them out."
            )
        if not 0 <= routing.expiration <= LONGEST_EXPIRATION:
            raise refused(
                f"A message can have an expiration from 0 to {LONGEST_EXPIRATION:.0f} s, and not of "
                f"{routing.expiration:g} s."
            )
        properties.expiration = str(math.ceil(routing.expiration * 1000))
    properties.headers.update(routing.headers)


class Encoder:
    """Writes messages as frames for one channel."""

    def __init__(self, channel: int, largest_frame: int) -> None:
        self._channel = channel
        self._largest_frame = largest_frame
        self._methods: dict[tuple[str, str, bool], bytes] = {}

    def encode(self, message: Message, number: int) -> bytes:
        """Return the frames that publish a message, known by a number; raise `MessageRefused` if AMQP has no form."""
        try:
            method = self._method(message)
            content, body = self._content(message, number)
        except Unwritable as error:
            raise refused(f"A message cannot be written as AMQP: {error}.") from None
        size = self._largest_frame
        parts = [self._frame(_BODY, body[at : at + size]) for at in range(0, len(body), size)]
        return b"".join((method, self._frame(_HEADER, content), *parts))

    def _content(self, message: Message, number: int) -> tuple[bytes, bytes]:
        """Return a header frame and the body."""
        properties, body = message.properties, message.body
        properties.number = str(number)
        written = write_properties(properties)
        if _CONTENT.size + len(written) > self._largest_frame:
            properties, body = _with_headers_in_body(properties, body)
            written = write_properties(properties)
            if _CONTENT.size + len(written) > self._largest_frame:
                raise Unwritable(f"its headers that are no texts have {len(written)} bytes, too many for a frame")
        if len(body) > LARGEST_MESSAGE:
            raise Unwritable(f"its body has {len(body)} bytes, and may have {LARGEST_MESSAGE}")
        return _CONTENT.pack(60, len(body)) + written, body

    def _method(self, message: Message) -> bytes:
        key = (message.exchange, message.routing_key, message.is_mandatory)
        encoded = self._methods.get(key)
        if encoded is None:
            try:
                place = write_short(message.exchange) + write_short(message.routing_key)
            except Unwritable as error:
                raise Unwritable(f"its routing key {error}") from None
            encoded = self._frame(_METHOD, _BASIC_PUBLISH + place + bytes((message.is_mandatory,)))
            if len(self._methods) < MOST_METHODS:
                self._methods[key] = encoded
        return encoded

    def _frame(self, kind: int, payload: bytes) -> bytes:
        return _FRAME.pack(kind, self._channel, len(payload)) + payload + _FRAME_END


def _with_headers_in_body(properties: Properties, body: bytes) -> tuple[Properties, bytes]:
    """Return a message in another form, because its headers, as those with tracebacks can be, are too long."""
    texts = {name: value for name, value in properties.headers.items() if isinstance(value, str)}
    others = {name: value for name, value in properties.headers.items() if name not in texts}
    prefix = msgspec.json.encode((texts, properties.content_encoding))
    properties = replace(properties, headers=others, content_encoding=HEADERS_IN_BODY)
    return properties, len(prefix).to_bytes(4, "big") + prefix + body


def _headers_in(body: bytes) -> tuple[dict[str, str], str | None, bytes]:
    """Return the headers, the content encoding and the body, as they were before."""
    end = 4 + int.from_bytes(body[:4], "big")
    try:
        texts, content_encoding = msgspec.json.decode(body[4:end], type=tuple[dict[str, str], str | None])
        write_short(content_encoding or "")
    except (msgspec.DecodeError, UnicodeDecodeError, Unwritable):  # Somebody else wrote it.
        return {}, HEADERS_IN_BODY, body
    return texts, content_encoding, body[end:]


def delivery_of(queue: str, tag: object, is_counted: bool, method: Any, encoded: bytes, body: bytes) -> Delivery:
    """Return what the broker delivered; ``is_counted`` tells whether the queue counts how often it does."""
    properties = read_properties(encoded)
    table = properties.headers
    headers: dict[str, str] = table
    others: dict[str, Any] = {}
    if properties.others:
        headers = {name: value for name, value in table.items() if type(value) is str}
        others = {name: value for name, value in table.items() if name not in headers}
    if "x-death" in table:  # The broker says more about that in headers that look like the message's own.
        for name in [name for name in headers if name.startswith(OF_THE_JOURNEY)]:
            others[name] = headers.pop(name)
    if properties.content_encoding == HEADERS_IN_BODY:
        texts, properties.content_encoding, body = _headers_in(body)
        headers = texts | headers
    if isinstance(properties.content_type, str):
        headers["Content-Type"] = properties.content_type

    received = AmqpReceived(
        _text(method.exchange),
        _text(method.routing_key),
        queue,
        method.redelivered,
        others,
        _text(properties.content_encoding),
        properties.priority,
        _text(properties.correlation_id),
        _text(properties.reply_to),
        _seconds(properties.expiration),
        _text(properties.message_id),
        time_of(properties.timestamp),
        _text(properties.type),
        _text(properties.user_id),
        _text(properties.app_id),
    )
    kept = _kept(properties)
    given = (received,) if kept is None else (received, kept)
    count = _count(table.get("x-delivery-count"), method.redelivered, is_counted)
    return Delivery(body, headers, tag, None, count, given, problem=properties.problem)


def _kept(properties: Properties) -> AmqpProperties | None:
    """Return what a message is to have again if it comes back by way of another broker; None if there is nothing."""
    values = _kept_values(properties)
    if values == _NOTHING and not properties.others:
        return None
    others = {key: value for key, value in properties.others.items() if not key.startswith(_OF_THE_JOURNEY)}
    if values == _NOTHING and not others:
        return None
    return AmqpProperties(write_properties(Properties(others=others, **dict(zip(KEPT, values, strict=True)))))


def _count(told: object, redelivered: bool, is_counted: bool) -> int | None:
    """Return how often a message has been delivered, by a header that its publisher may have set as well."""
    if not redelivered:
        return 1
    if not is_counted:
        return None
    return told + 1 if isinstance(told, int) and told > 0 else 1


def _text(value: Any) -> Any:
    """Return a text as it can be shown, and None as None."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def _seconds(expiration: Text | None) -> float | None:
    return int(expiration) / 1000 if isinstance(expiration, str) and expiration.isdecimal() else None
