"""The transport: a `QueueTransport` that shows what was sent and what became of it."""

from __future__ import annotations

from collections.abc import Mapping

from postbus import stamps
from postbus.envelope import Envelope
from postbus.queue_transport import QueueTransport
from postbus.serialization import Encoded, Serializer
from postbus.transport import Delivery, TransportContext
from postbus_in_memory.connection import InMemoryConnection
from postbus_in_memory.queue import Clock, Queue


class InMemoryTransport(QueueTransport):
    """Sends to, and receives from, a queue in this process; transports on one queue show the same."""

    def __init__(self, queue: Queue, context: TransportContext, *, lease: float) -> None:
        super().__init__(lambda: InMemoryConnection(queue, lease=lease), context)
        self._queue = queue

    @property
    def clock(self) -> Clock:
        """The clock of delays and leases; ``clock.move(60)`` lets a minute pass."""
        return self._queue.clock

    @property
    def until_next(self) -> float:
        """In how many seconds of the clock a delay or a lease ends next; infinite if none is under way."""
        with self._queue.changed:
            return self._queue.seconds_until_next()

    @property
    def sent(self) -> list[Envelope]:
        """Everything that was sent, oldest first: each message as it is read back, with the stamps that it had."""
        with self._queue.changed:
            sent = [(message.id, message.content) for message in self._queue.sent]
        return [
            Envelope(self.decode(Delivery(content.body, content.headers, None)).message, content.stamps).with_(
                stamps.Sent(self.name, id)
            )
            for id, content in sent
        ]

    @property
    def acknowledged(self) -> list[Envelope]:
        """What was acked, in that order, as it was received; what was replaced by a copy is among it."""
        with self._queue.changed:
            deliveries = list(self._queue.acknowledged)
        return [self.decode(delivery) for delivery in deliveries]

    @property
    def rejected(self) -> list[Envelope]:
        """What was rejected, in that order, as it was received."""
        with self._queue.changed:
            deliveries = list(self._queue.rejected)
        return [self.decode(delivery) for delivery in deliveries]

    def reset(self) -> None:
        """Begin anew: no messages, and nothing to show. The clock stays where it was moved to."""
        with self._queue.changed:
            self._queue.clear()


class _Reference(bytes):
    """An empty body that brings the envelope itself along."""

    envelope: Envelope


class ByReference:
    """A serializer that writes nothing down: the receiver gets the very objects that were sent.

    Only stamps that travel are kept, as with any other serializer. ``checking`` writes each message all the same,
    so that none is sent which could not be.
    """

    def __init__(self, checking: Serializer | None = None) -> None:
        self._checking = checking

    def encode(self, envelope: Envelope) -> Encoded:
        if self._checking is not None:
            self._checking.encode(envelope)
        body = _Reference()
        body.envelope = Envelope(
            envelope.message, tuple(stamp for stamp in envelope.stamps if stamp.wire_name is not None)
        )
        return Encoded(body, {})

    def decode(self, body: bytes, headers: Mapping[str, str]) -> Envelope:
        assert isinstance(body, _Reference), "Only what was sent with serialize=false can be received so."
        return body.envelope
