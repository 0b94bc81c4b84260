"""`Stamp`, and the stamps that the core itself reads or writes.

They are always written qualified (``stamps.Delay``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform
from uuid import UUID

import msgspec
from msgspec import Struct, field
from msgspec.structs import force_setattr

from postbus.errors import ConfigurationError, qualified_name, seconds_of

HEADER = "X-Message-Stamp-"
"""What the name of a header begins with that holds stamps; their ``wire_name`` follows."""

MOST_RETRIES = 1_000_000
"""A count above this is taken for this: it can be calculated with, and no message gets there by itself."""

travelling: dict[str, type[Stamp]] = {}
"""The stamps that travel and are known to this process, by the header in which they do."""


demanding: set[type[Stamp]] = set()
"""The stamps that have `Stamp.requires`; mostly none is known, and no message need be looked at for them."""

propagating: set[type[Stamp]] = set()
"""The stamps that have `Stamp.propagates`; likewise."""


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Stamp(Struct, frozen=True):
    """A frozen value with metadata about one journey of a message.

    A subclass with a ``wire_name`` travels with the message, as JSON, under that name; one without
    stays in the process. Declare fields as in a dataclass::

        class Tenant(Stamp):
            wire_name = "tenant"
            name: str
    """

    wire_name: ClassVar[str | None] = None
    header: ClassVar[str | None] = None
    requires: ClassVar[str | None] = None
    """The promise of `postbus.transport.Guarantees` without which no transport takes a message with this stamp."""
    propagates: ClassVar[bool] = False
    """Whether what is dispatched while a message is handled gets this stamp of it, unless it brings one of the type."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # The name is not inherited: another class would arrive as its parent, without its own fields.
        wire_name: object = cls.__dict__.get("wire_name")
        name = qualified_name(cls)
        if wire_name is not None and not isinstance(wire_name, str):
            raise TypeError(f'wire_name is a field of {name}. Write it without annotation: wire_name = "...".')
        cls.wire_name = wire_name
        cls.header = None if wire_name is None else HEADER + wire_name
        if cls.requires is not None:
            demanding.add(cls)
        if cls.propagates:
            propagating.add(cls)
        if cls.header is None:
            return
        other = travelling.get(cls.header)
        if other is not None and qualified_name(other) != name:
            raise TypeError(
                f"Two stamps travel as {wire_name!r}: {qualified_name(other)} and {name}. "
                "Give one of them another wire_name."
            )
        travelling[cls.header] = cls


# What a user puts on a message.


class Delay(Stamp):
    """Not to be delivered before so many seconds, or a `timedelta`, have passed.

    Raises `ConfigurationError` for what is no finite number from 0 up.
    """

    seconds: float

    if TYPE_CHECKING:

        def __init__(self, seconds: float | timedelta) -> None: ...

    def __post_init__(self) -> None:
        seconds = seconds_of(self.seconds)
        if seconds is None or seconds < 0:
            raise ConfigurationError(
                f"stamps.Delay must be given a number of seconds from 0 up, or a timedelta, got {self.seconds!r}."
            )
        force_setattr(self, "seconds", seconds)


class NotBefore(Stamp):
    """Not to be handled before this time, as its delay is longer than its broker can keep.

    It is stored with the longest delay that there is, and what comes too early is sent on by the worker that gets it.
    """

    wire_name = "not-before"
    at: datetime

    def __post_init__(self) -> None:
        force_setattr(self, "at", _in_utc(self.at))


class Key(Stamp, gc=False):
    """What a message belongs to: messages of one key are handled one after the other, in order, where brokers can.

    That is where `postbus.transport.Guarantees.groups` says so; elsewhere it travels along, and orders nothing. A whole
    number, a UUID, a date or a member of an enumeration is what JSON writes of it. None is no key, whatever the class
    of the message names. Raises `ConfigurationError` for anything else.
    """

    wire_name = "key"
    value: str | None

    if TYPE_CHECKING:

        def __init__(self, value: str | int | UUID | date | Enum | None) -> None: ...

    def __post_init__(self) -> None:
        value: object = self.value
        if value is not None and type(value) is not str:
            force_setattr(self, "value", _key_of(value))


class Deduplication(Stamp, gc=False):
    """No other message of this key is to be sent while this one is under way; see `postbus.deduplication.Deduplicate`.

    After ``ttl`` seconds, or a `timedelta`, without a sign of this one the key is free whatever became of it. Raises
    `ConfigurationError` for what is no time.
    """

    wire_name = "deduplication"
    key: str
    ttl: float = 300.0

    if TYPE_CHECKING:

        def __init__(self, key: str, ttl: float | timedelta = 300.0) -> None: ...

    def __post_init__(self) -> None:
        seconds = seconds_of(self.ttl)
        if seconds is None or seconds <= 0:
            raise ConfigurationError(
                f"stamps.Deduplication must be given a time above 0, in seconds or as a timedelta, got {self.ttl!r}."
            )
        force_setattr(self, "ttl", seconds)


class Duplicate(Stamp, gc=False):
    """Was neither sent nor handled, because a message of the same key is under way: that with the id ``of``."""

    of: str


class TransportNames(Stamp):
    """Where to send this message, whatever the routing says; see `HERE` for nowhere."""

    names: Sequence[str]


HERE = TransportNames(())
"""Handle this message where it is dispatched, whatever the routing says. Names that happen to be none are logged."""


class HandlerArguments(Stamp):
    """Further arguments for the handlers of a message, by name; mostly a middleware puts them on, the last counts.

    A handler gets those that it has parameters for; these must have a default, for messages without. What is given so
    takes the place of what `Postbus.provide` makes, and of other stamps.
    """

    arguments: Mapping[str, Any]


class AfterCurrent(Stamp):
    """Wait until the message that is being handled has succeeded; forgotten if it fails."""


# Who a message is. These hold only text, so the garbage collector need not look at them.


class BusName(Stamp, gc=False):
    """The bus that a message was first dispatched on, which handles it at the other end."""

    wire_name = "bus"
    name: str


class MessageId(Stamp, gc=False):
    """The message's own id: survives retries and burials, and is the same in every copy."""

    wire_name = "id"
    id: str


class Correlation(Stamp, gc=False):
    """The id of the message that began the conversation, the same at any depth."""

    wire_name = "correlation"
    id: str


class Causation(Stamp, gc=False):
    """The id of the message whose handler dispatched this one."""

    wire_name = "causation"
    id: str


# What has happened to it. The garbage collector need not look at those that are put on every message.


class Received(Stamp, gc=False):
    """Came from a transport; such an envelope is handled, never sent.

    ``tag`` is what the connection settles the delivery by. ``count`` says how often the broker has
    delivered it, this time included; None where the broker does not tell. ``lease`` is how many seconds this
    delivery is ours, where that is not what the connection says of all; ``group`` is its ordering key: messages of
    one group are handled one after the other.
    """

    transport: str
    tag: Any = None
    id: str | None = None
    count: int | None = None
    lease: float | None = None
    group: str | None = None
    original: Original | None = None
    """What it came as; None where there were no bytes."""


class Sent(Stamp, gc=False):
    """Stored by a transport, under the id that its broker gave (None where it gives none)."""

    transport: str
    id: str | None = None


class Handled(Stamp, gc=False):
    """A handler of this name has succeeded and is not run again when the message is retried."""

    wire_name = "handled"
    handler: str


class Result(Stamp):
    """What a handler returned, for the caller in the same process."""

    handler: str
    value: Any


class Retried(Stamp, omit_defaults=True):
    """How many times the message has failed and been sent again, and when it was retried last.

    ``immediate`` is how many times more it was tried again at once, by whichever workers had it. No count is below 0 or
    above `MOST_RETRIES`, and the time is in UTC, whatever came.
    """

    wire_name = "retried"
    count: int
    at: datetime
    immediate: int = 0

    def __post_init__(self) -> None:
        force_setattr(self, "count", min(max(self.count, 0), MOST_RETRIES))
        force_setattr(self, "immediate", min(max(self.immediate, 0), MOST_RETRIES))
        force_setattr(self, "at", _in_utc(self.at))


class ErrorDetails(Stamp):
    """Why the message failed, as text; live exceptions do not travel. The time is in UTC, whatever came."""

    wire_name = "error"
    type: str
    message: str
    at: datetime
    handler: str | None = None
    traceback: str | None = None

    def __post_init__(self) -> None:
        force_setattr(self, "at", _in_utc(self.at))


class Buried(Stamp):
    """Finally failed, and kept in a failure transport; ``transport`` is where it had come from.

    Believed only of what comes out of a failure transport.
    """

    wire_name = "buried"
    transport: str


# What it came as.


class Original(Stamp, gc=False):
    """Body and headers that came, and the name of the serializer that reads them.

    On the copy of a message that is retried or buried: it is stored as these, whatever became of the object.
    """

    body: bytes
    headers: Mapping[str, str]
    serializer: str


# What a serializer leaves for itself, so that what it received can be sent on unchanged.


class Encoded(Stamp, gc=False):
    """The bytes that this very message object was decoded from, and by which serializer."""

    body: bytes
    message: Any
    serializer: Any


class UnknownHeaders(Stamp):
    """Headers that arrived and mean nothing here, stamps of unknown names among them."""

    headers: Mapping[str, str]


def _key_of(value: object) -> str:
    """Return what JSON writes of a value, if that is a text or a whole number."""
    if isinstance(value, str):  # Of a class of its own, which may say something else when it is asked.
        return str.__str__(value)
    try:
        written: object = msgspec.to_builtins(value)
    except Exception:  # A border: an object of whatever class.
        written = None
    if isinstance(written, str) or (isinstance(written, int) and not isinstance(written, bool)):
        return str(written)
    raise ConfigurationError(
        f"A key is a text, a whole number, a UUID, a date or a member of an enumeration, and this is of type "
        f"{qualified_name(type(value))}."
    )


def _in_utc(at: datetime) -> datetime:
    """Return a time in UTC, so that it can be compared and shown; of the first and last hours of all only about it."""
    try:
        return at.astimezone(UTC) if at.tzinfo is not None else at.replace(tzinfo=UTC)
    except OverflowError:
        return at.replace(tzinfo=UTC)
