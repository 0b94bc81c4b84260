"""Messages as properties and frames of AMQP, and back."""

from __future__ import annotations

import math
import struct
from copy import copy
from datetime import UTC, datetime
from time import time
from typing import Any

import msgspec
from msgspec import Struct

from postbus.errors import TransportError, describe
from postbus.transport import Delivery, Outgoing
from postbus_amqp.stamps import AmqpReceived, AmqpRouting
from postbus_amqp.untyped import exceptions, frame, spec

PERSISTENT = 2

HEADERS_IN_BODY = "x-postbus-headers"
"""The content encoding of a body that begins with the headers, because they do not fit into a frame."""

TEXTS = ("correlation_id", "reply_to", "message_id", "type", "app_id")
"""Properties that a message keeps when it is sent again; not the user, who may be another one by then."""

OF_THE_JOURNEY = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count", "x-delay")
"""Beginnings of headers that say what happened on the way here; a message that is sent again begins anew."""

MOST_METHODS = 1000
"""How many encoded commands are kept at most, one for each exchange and routing key."""

NOT_WRITABLE = (
    exceptions.AMQPError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    TypeError,
    ValueError,
    struct.error,
)
"""What pika raises for values that AMQP has no form for."""


class Message(Struct, frozen=True):
    """A message on its way to an exchange."""

    exchange: str
    routing_key: str
    body: bytes
    properties: Any
    is_mandatory: bool = True

    def is_returned_as(self, method: Any, properties: Any, body: bytes) -> bool:
        """Tell whether what the broker could not route is this message, or one just like it."""
        return (
            self.routing_key == method.routing_key
            and self.exchange == method.exchange
            and self.body == body
            and self.properties.headers == (properties.headers or {})
        )


def properties_of(message: Outgoing) -> Any:
    """Return the properties of a message, its headers among them."""
    headers: dict[str, Any] = dict(message.headers)
    properties = spec.BasicProperties(
        content_type=headers.pop("Content-Type", None),
        headers=headers,
        delivery_mode=PERSISTENT,
        timestamp=int(time()),
    )
    received = routing = None
    for stamp in message.stamps:
        if isinstance(stamp, AmqpReceived):
            received = stamp
        elif isinstance(stamp, AmqpRouting):
            routing = stamp
    if received is not None:
        _copy(received, properties)
    if routing is not None:
        _apply(routing, properties, is_delayed=message.delay > 0)
    return properties


def _copy(received: AmqpReceived, properties: Any) -> None:
    """Set what a message had when it came; but not what was about that journey alone, such as its expiration."""
    for name in ("priority", "content_encoding", *TEXTS):
        setattr(properties, name, getattr(received, name))
    for name, value in received.headers.items():
        if not name.startswith(OF_THE_JOURNEY):
            properties.headers.setdefault(name, value)


def _apply(routing: AmqpRouting, properties: Any, *, is_delayed: bool) -> None:
    """Set what the stamp says."""
    for name in ("priority", "content_encoding", "user_id", *TEXTS):
        value = getattr(routing, name)
        if value is not None:
            setattr(properties, name, value)
    if routing.timestamp is not None:
        properties.timestamp = int(routing.timestamp.timestamp())
    if routing.expiration is not None:
        if is_delayed:
            raise TransportError(
                "A message cannot have a delay and an expiration, because it would expire while it is delayed. "
                "Leave one of them out."
            )
        properties.expiration = str(math.ceil(routing.expiration * 1000))
    properties.headers.update(routing.headers)


class Encoder:
    """Writes messages as frames for one channel."""

    def __init__(self, channel: int, largest_frame: int) -> None:
        self._channel = channel
        self._largest_frame = largest_frame
        self._methods: dict[tuple[str, str, bool], bytes] = {}

    def encode(self, message: Message) -> bytes:
        """Return the frames that publish a message; raise `TransportError` if AMQP has no form for it."""
        try:
            body, size = message.body, self._largest_frame
            header = frame.Header(self._channel, len(body), message.properties).marshal()
            if len(header) > size:
                properties, body = _with_headers_in_body(message.properties, body)
                header = frame.Header(self._channel, len(body), properties).marshal()
            parts = [frame.Body(self._channel, body[at : at + size]).marshal() for at in range(0, len(body), size)]
            return b"".join((self._method(message), header, *parts))
        except NOT_WRITABLE as error:
            raise TransportError(f"A message cannot be written as AMQP: {describe(error)}.") from error

    def _method(self, message: Message) -> bytes:
        key = (message.exchange, message.routing_key, message.is_mandatory)
        encoded = self._methods.get(key)
        if encoded is None:
            method = spec.Basic.Publish(exchange=key[0], routing_key=key[1], mandatory=key[2])
            encoded = frame.Method(self._channel, method).marshal()
            if len(self._methods) < MOST_METHODS:
                self._methods[key] = encoded
        return encoded


def _with_headers_in_body(properties: Any, body: bytes) -> tuple[Any, bytes]:
    """Return a message in another form, because its headers, as those with tracebacks can be, are too long."""
    texts = {name: value for name, value in properties.headers.items() if isinstance(value, str)}
    prefix = msgspec.json.encode((texts, properties.content_encoding))
    properties = copy(properties)
    properties.headers = {name: value for name, value in properties.headers.items() if name not in texts}
    properties.content_encoding = HEADERS_IN_BODY
    return properties, len(prefix).to_bytes(4, "big") + prefix + body


def _headers_in(body: bytes) -> tuple[dict[str, str], str | None, bytes]:
    """Return the headers, the content encoding and the body, as they were before."""
    end = 4 + int.from_bytes(body[:4], "big")
    try:
        texts, content_encoding = msgspec.json.decode(body[4:end], type=tuple[dict[str, str], str | None])
    except msgspec.DecodeError:  # Somebody else wrote it.
        return {}, HEADERS_IN_BODY, body
    return texts, content_encoding, body[end:]


def delivery_of(queue: str, tag: object, is_counted: bool, method: Any, properties: Any, body: bytes) -> Delivery:
    """Return what the broker delivered; ``is_counted`` tells whether the queue counts how often it does."""
    table: dict[str, Any] = properties.headers or {}
    headers: dict[str, str] = {}
    others: dict[str, Any] = {}
    for name, value in table.items():
        (headers if type(value) is str else others)[name] = value
    if "x-death" in table:  # The broker says more about that in headers that look like the message's own.
        for name in [name for name in headers if name.startswith(OF_THE_JOURNEY)]:
            others[name] = headers.pop(name)
    content_encoding = properties.content_encoding
    if content_encoding == HEADERS_IN_BODY:
        texts, content_encoding, body = _headers_in(body)
        headers = texts | headers
    if properties.content_type is not None:
        headers["Content-Type"] = properties.content_type

    deliveries = table.get("x-delivery-count", 0)
    count = deliveries + 1 if deliveries or is_counted or not method.redelivered else None
    received = AmqpReceived(
        method.exchange,
        method.routing_key,
        queue,
        method.redelivered,
        others,
        content_encoding,
        properties.priority,
        properties.correlation_id,
        properties.reply_to,
        _seconds(properties.expiration),
        properties.message_id,
        datetime.fromtimestamp(properties.timestamp, UTC) if properties.timestamp is not None else None,
        properties.type,
        properties.user_id,
        properties.app_id,
    )
    return Delivery(body, headers, tag, None, count, (received,))


def _seconds(expiration: str | None) -> float | None:
    return int(expiration) / 1000 if expiration is not None and expiration.isdigit() else None
