"""The broker contract: what a plugin author writes, and what the core makes of it.

A plugin brings a `Connection`, which moves bytes. `QueueTransport` turns it into a transport, which
sends and receives envelopes, and looks after lost connections and forks.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar, cast, runtime_checkable

from msgspec import Struct, field

from postbus import stamps
from postbus.envelope import Envelope
from postbus.errors import ConnectionLost, TransportError, describe
from postbus.events import MessageSent, Observers, TransportLost, TransportRestored
from postbus.serialization import Serializer, Undecodable
from postbus.stamps import Stamp

logger = logging.getLogger("postbus")

T = TypeVar("T")


# --- bytes: between a transport and a connection ---------------------------------------------------

# Both are made after all that they hold, so they are in no cycle, and the garbage collector need not look at them.


class Outgoing(Struct, frozen=True, gc=False):
    """One message as bytes, on its way to a broker."""

    body: bytes
    headers: Mapping[str, str]
    delay: float = 0.0
    """Seconds before it may be delivered; never early. A broker that cannot wait refuses it."""
    stamps: tuple[Stamp, ...] = ()
    """All stamps of the envelope, for a plugin with stamps of its own (a routing key, a transaction)."""


class Delivery(Struct, frozen=True, gc=False):
    """One message as bytes, as a broker delivered it."""

    body: bytes
    headers: Mapping[str, str]
    tag: Any
    """What this connection settles the delivery by; means nothing to anybody else."""
    id: str | None = None
    """The broker's own id of the message, where it has one."""
    count: int | None = None
    """How often it has been delivered, this time included; None where the broker does not tell."""
    stamps: tuple[Stamp, ...] = ()
    """What the plugin wants handlers to see (the queue, the routing key)."""


@runtime_checkable
class Connection(Protocol):
    """Moves bytes to and from one broker.

    *Threads.* Safe to use from several: at any moment at most one of them is in `fetch`, while others
    publish and settle. Settling works while a `fetch` waits.

    *Errors.* The client's own errors stop here: `ConnectionLost` when the broker cannot be reached, after
    which this connection is closed and never used again; `TransportError` for everything else. Opening
    happens in the constructor or at the first use, and raises the same.
    """

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        """Store all of them, in this order, and return the ids that the broker gave.

        Returns only when the broker has taken responsibility (confirm, commit, fsync as configured).
        Otherwise raises, with ``stored`` telling which it has taken for certain.
        """
        ...

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Return up to ``limit`` deliveries; wait up to ``wait`` seconds when there is none.

        Returns as soon as there is at least one. The wait is the broker's own push or long poll, where it
        has one. Undecodable content is not this method's business: bytes are delivered as they are.
        """
        ...

    def ack(self, tags: Sequence[Any]) -> None:
        """Settle deliveries that were handled, in one round trip where the broker can.

        A tag that was settled before, whose lease has been lost, or that belongs to an earlier
        connection is settled if the broker still can, and ignored otherwise.
        """
        ...

    def reject(self, tags: Sequence[Any]) -> None:
        """Settle deliveries that are finished with, badly: the broker does not deliver them again."""
        ...

    def release(self, tags: Sequence[Any]) -> None:
        """Give deliveries back, unhandled and uncounted; other workers see them at once."""
        ...

    def close(self) -> None:
        """Let go of everything. Twice is fine; while another thread waits in `fetch` is fine, and ends that wait."""
        ...


# --- optional abilities: asked for with isinstance, where they are used ----------------------------


@runtime_checkable
class SupportsSetup(Protocol):
    """Can make its tables, queues, streams."""

    def setup(self) -> None:
        """Create what is missing. Repeatable, and safe from several processes at once."""
        ...

    def missing(self) -> Sequence[str]:
        """Return a sentence for each thing that is not there, or not permitted; changes nothing."""
        ...


class Counts(Struct, frozen=True):
    """How much is on a broker; None for what it cannot tell."""

    waiting: int
    delayed: int | None = None
    in_flight: int | None = None
    oldest_age: float | None = None
    """Seconds since the oldest waiting message could have been delivered."""


@runtime_checkable
class SupportsCount(Protocol):
    """Can tell how many messages it holds."""

    def count(self) -> Counts:
        """Count, at a cost that does not hurt the broker."""
        ...


@runtime_checkable
class SupportsBrowse(Protocol):
    """Can show messages without delivering them; delayed and in-flight ones too."""

    def browse(self, limit: int, after: str | None = None) -> Sequence[Delivery]:
        """Return up to ``limit`` messages, always in the same order, beginning behind the one with id ``after``."""
        ...

    def find(self, id: str) -> Delivery | None:
        """Return the message with this id, or None."""
        ...

    def remove(self, ids: Sequence[str]) -> int:
        """Delete the messages with these ids, whatever their state; return how many there were."""
        ...


@runtime_checkable
class SupportsKeepalive(Protocol):
    """Delivers on a lease: what is neither settled nor kept alive for ``lease`` seconds is delivered again."""

    @property
    def lease(self) -> float:
        """The length of a lease, in seconds."""
        ...

    def keepalive(self, tags: Sequence[Any]) -> Sequence[Any]:
        """Begin each lease anew; return the tags whose lease was lost already. From any thread."""
        ...


@runtime_checkable
class SupportsQueues(Protocol):
    """Can fetch from some of its queues only."""

    def fetch_from(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        """As `Connection.fetch`, from these queues, the first of them first.

        A queue that does not exist raises `TransportError`, which names it; the connection goes on.
        """
        ...


@runtime_checkable
class SupportsReplace(Protocol):
    """Can put a copy and settle the original in one atomic step."""

    def replace(self, tag: Any, message: Outgoing) -> str | None:
        """Store the message and settle the delivery, both or neither; return the copy's id.

        If the lease on the delivery has been lost, does neither and raises `TransportError`.
        """
        ...


@runtime_checkable
class SupportsPurge(Protocol):
    """Can delete every message at once."""

    def purge(self) -> int:
        """Delete all messages, delayed and in-flight ones too; return how many there were."""
        ...


# --- what a plugin promises ------------------------------------------------------------------------


class Guarantees(Struct, frozen=True, kw_only=True):
    """What a transport promises. The contract tests hold it to that; the documentation prints it."""

    durable: bool
    """A stored message survives a restart of the broker."""
    shared: bool = True
    """Several processes can use it at once."""
    ordering: Literal["none", "fifo"] = "none"
    """In which order a single consumer gets messages that became available one after the other.

    What was given back becomes available anew, so it may come before or after what was behind it.
    """
    delay: bool = True
    """A message can be sent now, to be delivered later."""
    longest_delay: float | None = None
    """How long a delay may be, in seconds; None for no limit."""
    priority: bool = False
    """A message of a higher priority overtakes those that wait."""
    lease: bool = False
    """Deliveries run out unless they are kept alive."""
    delivery_count: bool = False
    """A delivery tells how often its message was delivered.

    So a message that three workers died of is buried at the next delivery. Without this, it comes again for ever.
    """
    release_is_counted: bool = False
    """Giving a delivery back counts as a delivery, because the broker counts so.

    Then a message that workers die of is buried at the 21st delivery, and so is one that was fetched along with it
    each time.
    """
    redelivery_on_crash: bool = True
    """What a process that died had fetched is delivered again."""
    transactional_send: bool = False
    """Can send inside a database transaction of the caller's."""
    binary_body: bool = True
    """A body may hold any bytes, not only text."""
    publish_batch: int = 1000
    """How many messages one `Connection.publish` is given at most."""
    fetch_batch: int = 1000
    """How many messages one `Connection.fetch` is asked for at most."""
    largest_body: int | None = None
    """How large a body may be, in bytes; None for no limit of the broker's own."""


# --- envelopes: what the rest of the core sees -----------------------------------------------------


@runtime_checkable
class Sender(Protocol):
    """Stores envelopes, to be handled later or elsewhere."""

    def send(self, envelopes: Sequence[Envelope]) -> list[Envelope]:
        """Return when all are stored, each with `stamps.Sent`; otherwise raise `TransportError`."""
        ...


@runtime_checkable
class Receiver(Protocol):
    """Delivers envelopes, which the caller settles: each is acked, rejected or released."""

    def receive(self, limit: int, wait: float, queues: Sequence[str] = ()) -> list[Envelope]:
        """Return up to ``limit`` envelopes, each with `stamps.Received`; wait up to ``wait`` seconds for the first."""
        ...

    def ack(self, envelopes: Sequence[Envelope]) -> None:
        """Settle what was handled."""
        ...

    def reject(self, envelopes: Sequence[Envelope]) -> None:
        """Settle what is finished with, badly."""
        ...

    def release(self, envelopes: Sequence[Envelope]) -> None:
        """Give back what was not handled."""
        ...


class Transport(Sender, Protocol):
    """What the factory of a plugin makes. One that can be consumed is a `Receiver` too."""

    @property
    def name(self) -> str:
        """The name that the app knows it by."""
        ...

    def close(self) -> None:
        """Let go of the broker. Twice is fine."""
        ...


class TransportContext(Struct, frozen=True):
    """What the app hands to the factory of a plugin."""

    name: str
    """The transport's name in the app."""
    serializer: Serializer
    dispatch: Callable[[Envelope], Envelope]
    """The app's own buses, for a transport that handles in this process."""
    observers: Observers = field(default_factory=Observers)
    """Who is told of events."""


class QueueTransport:
    """A transport on top of a connection.

    It encodes and decodes, and it owns the connection: it opens it at the first use, again after a fork,
    and again, with backoff and jitter, after it was lost.
    """

    first_pause = 0.2
    longest_pause = 30.0

    def __init__(
        self, connect: Callable[[], Connection], context: TransportContext, guarantees: Guarantees | None = None
    ) -> None:
        self.name = context.name
        self.guarantees = guarantees or Guarantees(durable=True)
        self.serializer = context.serializer
        self._connect = connect
        self._observers = context.observers
        self._lock = threading.RLock()
        self._connection: Connection | None = None
        self._inherited: list[Connection] = []
        self._pid = os.getpid()
        self.lost_since: float | None = None
        """When the broker was lost, by the monotonic clock; None while it can be reached, as far as is known."""
        self._pause = 0.0
        self._retry_at = 0.0
        self._closed = threading.Event()

    # sending

    def send(self, envelopes: Sequence[Envelope]) -> list[Envelope]:
        """Encode, publish in batches, and return the envelopes with `stamps.Sent`.

        A connection that turns out to be lost is replaced once, for what is in doubt; a second copy that
        this may leave has the same message id.
        """
        outgoing = [self.encode(envelope) for envelope in envelopes]
        ids: list[str | None] = []
        for start in range(0, len(outgoing), self.guarantees.publish_batch):
            try:
                ids += self._publish(outgoing[start : start + self.guarantees.publish_batch])
            except TransportError as error:
                stored = dict(enumerate(ids)) | {start + position: id for position, id in error.stored.items()}
                error.stored = stored
                raise
        sent = [envelope.with_(stamps.Sent(self.name, id)) for envelope, id in zip(envelopes, ids, strict=True)]
        if self._observers:
            for envelope in sent:
                self._observers.notify(MessageSent(envelope, self.name))
        return sent

    def encode(self, envelope: Envelope) -> Outgoing:
        """Return the envelope as bytes, ready to be published."""
        body, headers = self.serializer.encode(envelope)
        delay = envelope.last(stamps.Delay)
        return Outgoing(body, headers, max(delay.seconds, 0.0) if delay else 0.0, envelope.stamps)

    def _publish(self, batch: Sequence[Outgoing]) -> Sequence[str | None]:
        connection = self._open()
        try:
            ids = connection.publish(batch)
        except ConnectionLost as error:
            self._discard(connection, error)
            stored = dict(error.stored)
        else:
            self._found()  # Nobody else finds out about a transport that is only sent to.
            return ids

        # Brokers and load balancers drop idle connections, so one fresh one is tried before the caller hears of it.
        doubtful = [position for position in range(len(batch)) if position not in stored]
        try:
            ids = self._attempt(lambda connection: connection.publish([batch[position] for position in doubtful]))
        except TransportError as error:
            error.stored = stored | {doubtful[position]: id for position, id in error.stored.items()}
            raise
        stored.update(zip(doubtful, ids, strict=True))
        return [stored[position] for position in range(len(batch))]

    # receiving

    def receive(self, limit: int, wait: float, queues: Sequence[str] = ()) -> list[Envelope]:
        """Fetch and decode. What cannot be decoded comes as an `Undecodable` message.

        While the broker is away, waits and returns nothing; the observers and the log are told once.
        """
        limit = min(limit, self.guarantees.fetch_batch)
        pause = self._retry_at - time.monotonic()
        if pause > 0:
            self._closed.wait(min(pause, wait))
            if pause > wait:
                return []
        connection = None
        try:
            connection = self._open()
            deliveries = _fetch(connection, queues, limit, wait)
        except ConnectionLost as error:
            if self._closed.is_set():
                return []
            self._discard(connection, error)
            self._pause = min(max(self._pause * 2, self.first_pause), self.longest_pause)
            self._retry_at = time.monotonic() + self._pause * random.uniform(0.8, 1.2)
            return []
        # Else another thread has found it lost, and closed it, which is why nothing came.
        if deliveries or self._connection is connection:
            self._found()
        return [self.decode(delivery) for delivery in deliveries]

    def decode(self, delivery: Delivery) -> Envelope:
        """Return a delivery as an envelope."""
        try:
            envelope = self.serializer.decode(delivery.body, delivery.headers)
        except Exception as error:  # A border: whatever a serializer trips over must not cost the message.
            envelope = Envelope(Undecodable(delivery.body, dict(delivery.headers), describe(error)))
        received = stamps.Received(self.name, delivery.tag, delivery.id, delivery.count)
        return Envelope(envelope.message, (*envelope.stamps, *delivery.stamps, received))

    # settling

    def ack(self, envelopes: Sequence[Envelope]) -> None:
        """Settle what was handled, in one call."""
        tags = _tags(envelopes)
        self.call(lambda connection: connection.ack(tags))

    def reject(self, envelopes: Sequence[Envelope]) -> None:
        """Settle what is finished with, badly, in one call."""
        tags = _tags(envelopes)
        self.call(lambda connection: connection.reject(tags))

    def release(self, envelopes: Sequence[Envelope]) -> None:
        """Give back what was not handled, in one call."""
        tags = _tags(envelopes)
        self.call(lambda connection: connection.release(tags))

    @property
    def lease(self) -> float | None:
        """For how many seconds a delivery is ours without `keepalive`; None for as long as we are connected."""
        connection = self._open()
        return connection.lease if isinstance(connection, SupportsKeepalive) else None

    def keepalive(self, envelopes: Sequence[Envelope]) -> list[Envelope]:
        """Begin the leases of all of them anew; return those whose lease was lost already."""
        tags = _tags(envelopes)
        lost = self.call(lambda connection: cast(SupportsKeepalive, connection).keepalive(tags))
        return [envelope for envelope, tag in zip(envelopes, tags, strict=True) if tag in lost]

    def replace(self, original: Envelope, copy: Envelope) -> bool:
        """Store the copy and settle the original in one step, where the broker can; say whether it could."""
        if not isinstance(self._open(), SupportsReplace):
            return False
        (tag,) = _tags([original])
        outgoing = self.encode(copy)
        # Once more on a fresh connection stores no second copy: the original is settled then, and that raises.
        self.call(lambda connection: cast(SupportsReplace, connection).replace(tag, outgoing))
        return True

    # the connection

    @property
    def connection(self) -> Connection:
        """The open connection; ask it with isinstance what else it can do."""
        return self._open()

    def call(self, operation: Callable[[Connection], T]) -> T:
        """Run an operation on the open connection; once more on a fresh one if it turns out to be lost."""
        connection = self._open()
        try:
            return operation(connection)
        except ConnectionLost as error:
            self._discard(connection, error)
        return self._attempt(operation)

    def close(self) -> None:
        """Close the connection, for good. A thread that waits in `receive` returns."""
        self._closed.set()
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _attempt(self, operation: Callable[[Connection], T]) -> T:
        connection = None
        try:
            connection = self._open()
            result = operation(connection)
        except ConnectionLost as error:
            self._discard(connection, error)
            raise
        self._found()
        return result

    def _open(self) -> Connection:
        if self._closed.is_set():
            raise TransportError(f"Transport {self.name!r} is closed.")
        if self._pid != os.getpid():
            self._forget_parents_connection()
        connection = self._connection
        if connection is not None:
            return connection
        with self._lock:
            if self._connection is None:
                self._connection = self._connect()
            return self._connection

    def _forget_parents_connection(self) -> None:
        # The parent still talks through it: closing it here, or letting it be collected, would do so for the parent.
        if self._connection is not None:
            self._inherited.append(self._connection)
        self._connection = None
        self._lock = threading.RLock()
        self._pid = os.getpid()

    def _discard(self, connection: Connection | None, error: ConnectionLost) -> None:
        with self._lock:
            if self._connection is connection:  # else another thread has replaced it already
                self._connection = None
            first = self.lost_since is None
            if first:
                self.lost_since = time.monotonic()
        if connection is not None:
            try:
                connection.close()
            except Exception:  # A border: it is broken already, and there will be a new one.
                logger.debug("Closing the lost connection of %r failed.", self.name, exc_info=True)
        if first:
            reason = str(error).removesuffix(".")
            logger.warning("Lost %r: %s. Reconnecting.", self.name, reason, extra={"transport": self.name})
            self._observers.notify(TransportLost(self.name, error))

    def _found(self) -> None:
        if self.lost_since is None:
            return
        self.lost_since, self._pause, self._retry_at = None, 0.0, 0.0
        logger.info("Reached %r again.", self.name, extra={"transport": self.name})
        self._observers.notify(TransportRestored(self.name))


def _fetch(connection: Connection, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
    if not queues:
        return connection.fetch(limit, wait)
    if isinstance(connection, SupportsQueues):
        return connection.fetch_from(queues, limit, wait)
    raise TransportError(f"{type(connection).__name__} cannot fetch from single queues. Leave out --queues.")


def _tags(envelopes: Sequence[Envelope]) -> list[Any]:
    return [received.tag for envelope in envelopes if (received := envelope.last(stamps.Received))]
