"""The messages in a failure transport: looked at, tried again, removed, without loading more than a page of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice

from msgspec import Struct, field

from postbus import stamps
from postbus.app import Postbus
from postbus.envelope import Envelope
from postbus.errors import ConfigurationError, PostbusError, TransportError, describe, leaves, qualified_name
from postbus.events import MessageHandled, MessageReceived
from postbus.failures import Failures
from postbus.retry import Backoff
from postbus.serialization import Undecodable
from postbus.transport import Connection, Delivery, QueueTransport, SupportsBrowse

PAGE = 100
"""How many messages are fetched, and held, at a time."""


class FailedMessage(Struct, frozen=True):
    """One message in a failure transport, under the id that its broker knows it by."""

    id: str
    envelope: Envelope

    @property
    def kind(self) -> str:
        """The name of its class; of one that nobody here can read, the type that its headers name."""
        message = self.envelope.message
        if isinstance(message, Undecodable):
            return message.headers.get("type") or "unknown"
        return qualified_name(type(message))

    @property
    def unreadable(self) -> str | None:
        """Why nobody here can read it; None if it can be read."""
        message = self.envelope.message
        return message.reason if isinstance(message, Undecodable) else None

    @property
    def message_id(self) -> str | None:
        """The message's own id."""
        stamp = self.envelope.last(stamps.MessageId)
        return stamp.id if stamp is not None else None

    @property
    def origin(self) -> str | None:
        """The transport that it first failed in."""
        stamp = self.envelope.last(stamps.Buried)
        return stamp.transport if stamp is not None else None

    @property
    def errors(self) -> list[stamps.ErrorDetails]:
        """What went wrong, oldest first."""
        return self.envelope.all(stamps.ErrorDetails)

    @property
    def failed_at(self) -> datetime | None:
        """When it failed last."""
        if not self.errors:
            return None
        at = self.errors[-1].at
        return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


class Filter(Struct, frozen=True):
    """Which messages are meant: of a class, by its name, its last part or its wire name, and failed in some time."""

    kind: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __bool__(self) -> bool:
        return self != Filter()


class Result(Struct, frozen=True):
    """What came of one message, by its id.

    ``result`` is "handled"; "not removed", though it was handled; "failed" again, and kept under
    ``new_id``; "unreadable", and left as it was; or, if it was not tried, "skipped", "deleted", "not found".
    """

    id: str
    kind: str | None = field(name="class")
    result: str
    error: str | None = None
    new_id: str | None = None


class FailedMessages:
    """The messages in one failure transport. Raises `ConfigurationError` for one that cannot show them."""

    def __init__(self, app: Postbus, name: str) -> None:
        transport = app.transport(name)
        if not isinstance(transport, QueueTransport) or not isinstance(transport.connection, SupportsBrowse):
            raise ConfigurationError(
                f"Transport {name!r} cannot show or remove single messages. To retry them all: postbus consume {name}"
            )
        self.name = name
        self._app = app
        self._transport = transport
        self._kept: set[str] = set()

    def __iter__(self) -> Iterator[FailedMessage]:
        """Yield every message once, oldest first; not the copies of those that failed again meanwhile."""
        after: str | None = None
        while page := self._browse(after):
            for delivery in page:
                after = _id(delivery)
                if after not in self._kept:
                    yield self._read(delivery)

    def matching(self, filter: Filter, limit: int | None = None) -> Iterator[FailedMessage]:
        """Yield the messages that a filter admits, up to a number of them."""
        return islice((message for message in self if self._admits(filter, message)), limit)

    def find(self, id: str) -> FailedMessage | None:
        """Return the message with this id, or None."""
        delivery = self._transport.call(lambda connection: _browsable(connection).find(id))
        return self._read(delivery) if delivery is not None else None

    def remove(self, ids: Sequence[str]) -> int:
        """Delete messages; return how many there were."""
        return self._transport.call(lambda connection: _browsable(connection).remove(ids))

    def retry(self, message: FailedMessage) -> Result:
        """Handle a message here and now; it is removed only after it was handled, or a newer copy was stored."""
        envelope, observers = message.envelope, self._app.observers
        if message.unreadable is not None:
            return Result(message.id, message.kind, "unreadable", message.unreadable)
        observers.notify(MessageReceived(envelope, self.name))
        started = time.monotonic()
        try:
            handled = self._app.handle(envelope)
        except Exception as error:  # A border: whatever a handler raises is a failure of this message.
            return self._keep(message, error)
        observers.notify(MessageHandled(handled, self.name, time.monotonic() - started))
        try:
            self.remove([message.id])
        except PostbusError as error:
            return Result(message.id, message.kind, "not removed", str(error))
        return Result(message.id, message.kind, "handled")

    def _keep(self, message: FailedMessage, error: Exception) -> Result:
        """Store a copy that knows of the new error, then remove the message; if that fails, it stays as it is."""
        reason = "; ".join(map(describe, leaves(error)))
        settled = _SettledById(self._transport, self.remove)
        never = Backoff(max_retries=0)
        failures = Failures({self.name: settled}, lambda _: never, lambda _: self.name, self._app.observers)
        try:
            failures.handle(message.envelope, error)
        except PostbusError as problem:
            reason += f"; and then: {problem}"
        if settled.stored is not None:
            self._kept.add(settled.stored)
        return Result(message.id, message.kind, "failed", reason, settled.stored)

    def _browse(self, after: str | None) -> Sequence[Delivery]:
        return self._transport.call(lambda connection: _browsable(connection).browse(PAGE, after))

    def _read(self, delivery: Delivery) -> FailedMessage:
        """Decode a message; what the failure transport cannot read, the transport that it came from perhaps can."""
        envelope = self._transport.decode(delivery)
        message, buried = envelope.message, envelope.last(stamps.Buried)
        if isinstance(message, Undecodable) and buried is not None and buried.transport in self._app.transports:
            origin = self._app.transport(buried.transport)
            if isinstance(origin, QueueTransport):
                again = origin.decode(Delivery(message.body, message.headers, None))
                if not isinstance(again.message, Undecodable):
                    again = again.without(stamps.Received)
                    envelope = again.with_(*(stamp for stamp in envelope.stamps if stamp not in again.stamps))
        return FailedMessage(_id(delivery), envelope)

    def _admits(self, filter: Filter, message: FailedMessage) -> bool:
        at = message.failed_at
        if filter.since is not None and (at is None or at < filter.since):
            return False
        if filter.until is not None and (at is None or at > filter.until):
            return False
        return filter.kind is None or filter.kind in self._names_of(message)

    def _names_of(self, message: FailedMessage) -> list[str]:
        names = [message.kind, message.kind.rpartition(".")[2]]
        return names + [name for name, type_ in self._app.types if type_ is type(message.envelope.message)]


class _SettledById:
    """A failure transport as `Failures` needs it: what is settled was only looked at, so its id settles it."""

    def __init__(self, transport: QueueTransport, remove: Callable[[Sequence[str]], int]) -> None:
        self.name = transport.name
        self.stored: str | None = None
        self._transport = transport
        self._remove = remove

    def send(self, envelopes: Sequence[Envelope]) -> list[Envelope]:
        sent = self._transport.send(envelopes)
        stamp = sent[-1].last(stamps.Sent)
        self.stored = stamp.id if stamp is not None else None
        return sent

    def receive(self, limit: int, wait: float, queues: Sequence[str] = ()) -> list[Envelope]:
        return []

    def ack(self, envelopes: Sequence[Envelope]) -> None:
        received = [envelope.last(stamps.Received) for envelope in envelopes]
        self._remove([stamp.id for stamp in received if stamp is not None and stamp.id is not None])

    reject = ack

    def release(self, envelopes: Sequence[Envelope]) -> None:
        """Do nothing: what was only looked at need not be given back."""

    def close(self) -> None:
        """Do nothing: the transport is closed with the app."""


def _browsable(connection: Connection) -> SupportsBrowse:
    if not isinstance(connection, SupportsBrowse):
        raise TransportError(f"{type(connection).__name__} cannot show single messages.")
    return connection


def _id(delivery: Delivery) -> str:
    if delivery.id is None:
        raise TransportError("A message was shown without an id, so nothing can be done with it.")
    return delivery.id
