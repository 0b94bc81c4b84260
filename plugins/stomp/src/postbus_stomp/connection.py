"""The connection: two of stomp.py's, one to send on and one to receive on, each opened at its first use."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TypeVar

from postbus.errors import ConnectionLost, MessageRefused
from postbus.transport import Delivery, Outgoing
from postbus_stomp.fetching import Consumer
from postbus_stomp.options import Settings
from postbus_stomp.publishing import Publisher

T = TypeVar("T", Publisher, Consumer)


class StompConnection:
    """A connection to one queue of ActiveMQ; what it has fetched, no other settles."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opening = threading.Lock()
        self._publisher: Publisher | None = None
        self._consumer: Consumer | None = None
        self._is_closed = False

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        """Store all of them, in this order; ActiveMQ tells no ids over STOMP."""
        self._send().publish(messages)
        return [None] * len(messages)

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Return up to ``limit`` deliveries, pushed by the broker."""
        return self._receive().fetch(limit, wait)

    def ack(self, tags: Sequence[str]) -> Sequence[str]:
        return self._consumer.settle("ACK", tags) if self._consumer is not None else tags

    def reject(self, tags: Sequence[str]) -> Sequence[str]:
        """Have them moved to the broker's own ``ActiveMQ.DLQ``; only what has no failure transport is rejected."""
        return self._consumer.settle("NACK", tags) if self._consumer is not None else tags

    def release(self, tags: Sequence[str]) -> Sequence[str]:
        return self._consumer.release(tags) if self._consumer is not None else tags

    def close(self) -> None:
        with self._opening:
            self._is_closed = True
            open_ones = [one for one in (self._consumer, self._publisher) if one is not None]
        for one in open_ones:
            one.close()

    # SupportsReplace

    def replace(self, tag: str, message: Outgoing) -> str | None:
        reason = self._send().refusal_of(message)
        if reason is not None:
            raise MessageRefused({0: reason})
        self._receive().replace(tag, message)
        return None

    # SupportsCount, SupportsBrowse and what goes with it are left out: STOMP has no way to ask how many there are, and
    # ActiveMQ's browser does not show what is delayed.

    def _send(self) -> Publisher:
        with self._opening:
            self._must_be_open()
            if self._publisher is None:
                self._publisher = Publisher(self._settings)
            return self._publisher

    def _receive(self) -> Consumer:
        with self._opening:
            self._must_be_open()
            if self._consumer is None:
                self._consumer = Consumer(self._settings)
            return self._consumer

    def _must_be_open(self) -> None:
        if self._is_closed:
            raise ConnectionLost(f"The connection to {self._settings.where} was closed.")
