"""The messages in a failure transport: looked at, chosen and removed, without holding more than a page of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from tempfile import SpooledTemporaryFile
from typing import TypeVar, cast

from msgspec import Struct

from postbus import stamps
from postbus.app import Postbus
from postbus.envelope import Envelope
from postbus.errors import ConfigurationError, TransportError, qualified_name
from postbus.queue_transport import QueueTransport
from postbus.serialization import SERIALIZER, Undecodable
from postbus.transport import (
    Connection,
    Delivery,
    SupportsBrowse,
    SupportsCount,
    SupportsFind,
    SupportsRemove,
    supports,
)

A = TypeVar("A")

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
        return self.errors[-1].at if self.errors else None

    @property
    def reasons(self) -> set[str]:
        """The names of the classes of errors that its handlers failed with last, whole and by their last parts."""
        handled = {stamp.handler for stamp in self.envelope.all(stamps.Handled)}
        last = {error.handler: error.type for error in self.errors if error.handler not in handled}
        return {*last.values(), *(name.rpartition(".")[2] for name in last.values())}


class Filter(Struct, frozen=True):
    """Which messages are meant: of a class, that failed with an error of a class, in some time.

    A class of messages goes by its name, the last part of that, or its wire name; one of errors by the first two.
    """

    kind: str | None = None
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __bool__(self) -> bool:
        return self != Filter()


class Ids:
    """The ids of messages, in their order; kept in a file if they are many. A context that lets go of them."""

    IN_MEMORY = 2**20
    """Bytes."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._file = SpooledTemporaryFile(self.IN_MEMORY, "w+", encoding="utf-8")  # noqa: SIM115  It is closed below.
        self._number = 0
        for id in ids:
            self._file.write(json.dumps(id) + "\n")
            self._number += 1

    def __enter__(self) -> Ids:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[str]:
        self._file.seek(0)
        for line in self._file:
            yield json.loads(line)


class FailedMessages:
    """The messages in one failure transport. Raises `ConfigurationError` for one that cannot show them."""

    def __init__(self, app: Postbus, name: str) -> None:
        transport = app.transport(name)
        abilities = (SupportsBrowse, SupportsFind, SupportsRemove)
        if not isinstance(transport, QueueTransport) or not all(
            supports(transport.connection, ability) for ability in abilities
        ):
            raise ConfigurationError(
                f"Transport {name!r} cannot show or remove single messages. To retry them all: postbus consume {name}"
            )
        self.name = name
        self._app = app
        self._transport = transport

    def matching(self, filter: Filter, *, after: str | None = None) -> Iterator[FailedMessage]:
        """Yield the messages that a filter admits, oldest first, beginning behind the one with the id ``after``."""
        while page := self._browse(after):
            for delivery in page:
                after = _id(delivery)
                message = self._read(delivery)
                if self._admits(filter, message):
                    yield message

    def until_now(self, filter: Filter) -> Iterator[FailedMessage]:
        """Yield what a filter admits and had failed before; not what fails, or fails again, meanwhile."""
        began = datetime.now(UTC)
        for message in self.matching(filter):
            at = message.failed_at
            # One that has failed in the future comes from a clock that is ahead of ours, so it is none of those.
            if at is None or not began <= at <= datetime.now(UTC):
                yield message

    def count(self) -> int | None:
        """Return how many there are; None if their broker cannot tell."""
        if not supports(self._transport.connection, SupportsCount):
            return None
        counts = self._transport.call(lambda connection: cast(SupportsCount, connection).count())
        return counts.waiting + (counts.delayed or 0) + (counts.in_flight or 0)

    def find(self, id: str) -> FailedMessage | None:
        """Return the message with this id, or None."""
        delivery = self._transport.call(lambda connection: _able(connection, SupportsFind).find(id))
        return self._read(delivery) if delivery is not None else None

    def remove(self, ids: Sequence[str]) -> int:
        """Delete messages; return how many there were."""
        return self._transport.call(lambda connection: _able(connection, SupportsRemove).remove(ids))

    def _browse(self, after: str | None) -> Sequence[Delivery]:
        return self._transport.call(lambda connection: _able(connection, SupportsBrowse).browse(PAGE, after))

    def _read(self, delivery: Delivery) -> FailedMessage:
        """Decode a message; one that was not buried by us may be read by the transport that it came from alone."""
        envelope = self._transport.decode(delivery)
        message, buried = envelope.message, envelope.last(stamps.Buried)
        if not isinstance(message, Undecodable) or SERIALIZER in message.headers:
            return FailedMessage(_id(delivery), envelope)
        if buried is not None and buried.transport in self._app.origins:
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
        if filter.error is not None and filter.error not in message.reasons:
            return False
        return filter.kind is None or filter.kind in self._names_of(message)

    def _names_of(self, message: FailedMessage) -> list[str]:
        names = [message.kind, message.kind.rpartition(".")[2]]
        return names + [name for name, type_ in self._app.types if type_ is type(message.envelope.message)]


def _able(connection: Connection, ability: type[A]) -> A:
    if not supports(connection, ability):
        raise TransportError(f"{type(connection).__name__} cannot show single messages.")
    return connection


def _id(delivery: Delivery) -> str:
    if delivery.id is None:
        raise TransportError("A message was shown without an id, so nothing can be done with it.")
    return delivery.id
