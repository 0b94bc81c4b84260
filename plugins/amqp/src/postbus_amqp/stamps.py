"""The stamps of this plugin; written qualified, like those of the core (``stamps.AmqpRouting``)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec import field

from postbus.stamps import Stamp


class AmqpRouting(Stamp):
    """How this message is published: its routing key, and the properties of AMQP that are to be set.

    ``expiration`` is in seconds. ``headers`` are put beside those that the message has anyway, and may hold
    any value of AMQP: they are what a ``headers`` exchange goes by.
    """

    routing_key: str | None = None
    priority: int | None = None
    expiration: float | None = None
    headers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    content_encoding: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    message_id: str | None = None
    timestamp: datetime | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None


class AmqpReceived(Stamp, gc=False):
    """Where this message came from, and what its publisher said about it.

    ``expiration`` is in seconds. ``headers`` holds those whose value is no text; the others are the
    message's own, which the serializer reads.
    """

    exchange: str
    routing_key: str
    queue: str
    redelivered: bool = False
    headers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    content_encoding: str | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: float | None = None
    message_id: str | None = None
    timestamp: datetime | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None


class AmqpProperties(Stamp, gc=False):
    """What a message had on AMQP and is to have there again: its properties, and its headers that are no texts.

    It travels, so that they are there again after a time on another broker, where nobody needs to know it. What was
    about the journey alone is not among them, such as the expiration and ``x-death``. `AmqpReceived` has all that a
    handler may want to know.
    """

    wire_name = "amqp-properties"
    encoded: bytes
    """As AMQP writes them, behind the size of the body in the frame of a header."""
