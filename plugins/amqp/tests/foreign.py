"""Messages as others write them: frames that no client library would make."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import pika
from pika import data, frame, spec

FLAGS = {
    name: 1 << (15 - place)
    for place, name in enumerate(
        (
            *("content_type", "content_encoding", "headers", "delivery_mode", "priority", "correlation_id"),
            *("reply_to", "expiration", "message_id", "timestamp", "type", "user_id", "app_id", "cluster_id"),
        )
    )
}


class Raw:
    """Properties that are bytes already."""

    INDEX = spec.BasicProperties.INDEX

    def __init__(self, written: bytes) -> None:
        self._written = written

    def encode(self) -> list[bytes]:
        """Return the bytes."""
        return [self._written]


def short(text: bytes) -> bytes:
    """Return a short text."""
    return bytes((len(text),)) + text


def sized(kind: bytes, inner: bytes) -> bytes:
    """Return a value with a length: a text (S), bytes (x), a table (F) or a list (A)."""
    return kind + struct.pack(">I", len(inner)) + inner


def nested(depth: int) -> bytes:
    """Return a list in a list in a list."""
    value = b"V"
    for _ in range(depth):
        value = sized(b"A", value)
    return value


def written(headers: Mapping[bytes, bytes] | None = None, **properties: bytes) -> bytes:
    """Return properties, each given as it is written, and headers with the type in front of the value.

    The headers are in order, in which RabbitMQ 4 puts them by itself.
    """
    given = dict(properties)
    if headers is not None:
        table = b"".join(short(name) + value for name, value in sorted(headers.items()))
        given["headers"] = struct.pack(">I", len(table)) + table
    flags = sum(FLAGS[name] for name in given)
    return struct.pack(">H", flags) + b"".join(given[name] for name in FLAGS if name in given)


def value_of(value: object) -> bytes:
    """Return a value of a header as AMQP writes it."""
    if isinstance(value, float):  # pika has no form for it.
        return struct.pack(">cd", b"d", value)
    pieces: list[bytes] = []
    data.encode_value(pieces, value)
    return b"".join(pieces)


def publish(dsn: str, queue: str, *messages: tuple[bytes, bytes], exchange: str = "", key: bytes = b"") -> None:
    """Publish messages, given as properties and body, to a queue, or to an exchange; wait until the broker has them."""
    with closing(pika.BlockingConnection(pika.URLParameters(dsn))) as connection:
        channel = connection.channel()
        number: Any = channel.channel_number
        for properties, body in messages:
            place = short(exchange.encode()) + short(key or queue.encode())
            method = struct.pack(">HHH", 60, 40, 0) + place + b"\0"
            parts = [struct.pack(">BHI", 1, number, len(method)) + method + b"\xce"]
            parts.append(frame.Header(number, len(body), Raw(properties)).marshal())
            parts += [frame.Body(number, body).marshal()] if body else []
            connection._impl._output_marshaled_frames([b"".join(parts)])
        channel.queue_declare(queue, passive=True)  # It is answered behind all of them.
