"""The stamps that Symfony has too, under another name and in another shape."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw, Struct

from postbus import stamps
from postbus.stamps import HEADER, Stamp
from postbus_symfony.identity import is_id

PREFIX = HEADER + "Symfony\\Component\\Messenger\\Stamp\\"
"""What the name of a header begins with that holds stamps of Symfony's."""

OWN = "X-Postbus-Stamp-"
"""What the name of a header begins with that holds stamps which Symfony does not have.

It refuses a whole message for one stamp of a class that it does not know, and ignores other headers.
"""

UNKNOWN = datetime(1970, 1, 1, tzinfo=UTC)
"""When something happened of which Symfony does not tell."""

S = TypeVar("S", bound=Stamp)

Entry = tuple[S | None, str]
"""One stamp of Symfony's: what it is here, None if it means nothing here; and its JSON as it came."""

_to_json = msgspec.json.Encoder().encode
_list_of = msgspec.json.Decoder(list[Raw]).decode


# The shapes, with the names that Symfony gives to their fields.


class DelayStamp(Struct):
    """In milliseconds."""

    delay: int


class RedeliveryStamp(Struct, rename="camel"):
    """How often, and when last; the format of the date is the application's."""

    retry_count: int
    redelivered_at: Any = None


class FlattenException(Struct):
    """What is read of one; an application without Symfony's error handler refuses a message that has one."""

    trace_as_string: str | None = None


class ErrorDetailsStamp(Struct, rename="camel"):
    """Why the message failed."""

    exception_class: str
    exception_code: int | str
    exception_message: str
    flatten_exception: FlattenException | None = None


class SentToFailureTransportStamp(Struct, rename="camel"):
    """Where the message failed."""

    original_receiver_name: str


class HandledStamp(Struct, rename="camel"):
    """Which handler is done, and what it returned."""

    handler_name: str
    result: Any = None


class TransportMessageIdStamp(Struct):
    """An id that some broker has given, or that Postbus has."""

    id: Any


class BusNameStamp(Struct, rename="camel"):
    """The bus that it was dispatched on."""

    bus_name: str


def _in_snake_case(shape: type[Struct]) -> type[Struct]:
    """Return the shape as an application writes it that renames all properties for JSON; it reads both."""
    fields = msgspec.structs.fields(shape)
    return msgspec.defstruct(
        shape.__name__,
        [(each.name, each.type) if each.required else (each.name, each.type, each.default) for each in fields],
    )


def _names_in(struct: type[Struct]) -> list[str]:
    return [each.encode_name for each in msgspec.structs.fields(struct)]


def _either(first: Any, second: Any) -> Callable[[str | Raw], Any]:
    decode, decode_otherwise = msgspec.json.Decoder(first).decode, msgspec.json.Decoder(second).decode

    def decode_either(text: str | Raw) -> Any:
        try:
            return decode(text)
        except msgspec.ValidationError:
            with suppress(msgspec.ValidationError):
                return decode_otherwise(text)
            raise

    return decode_either


class Twin(Generic[S]):
    """A stamp of ours, and the one of Symfony's that says the same."""

    def __init__(
        self,
        kind: type[S],
        shape: type[Struct],
        *,
        read: Callable[[Any], S | None],
        write: Callable[[S], Struct],
        says: Callable[[S], bool] | None = None,
        once: bool = False,
    ) -> None:
        self.kind = kind
        self.shape = shape
        self.header = PREFIX + shape.__name__
        self.own = OWN + (kind.wire_name or "")
        """The header for those of ours that Symfony's cannot say."""
        self.says = says
        """Returns whether Symfony's can say what one of ours does; None if it always can."""
        self.is_alike = _names_in(kind) == _names_in(shape)
        """Whether both look the same as JSON."""
        self._once = once
        self._read = read
        self._write = write
        snake = _in_snake_case(shape)
        self._decode = _either(shape, snake)
        self._decode_all = _either(list[shape], list[snake])  # type: ignore[valid-type]

    def stamps_in(self, text: str) -> list[S]:
        """Return what a header means here."""
        found = [stamp for shape in self._decode_all(text) if (stamp := self._read(shape)) is not None]
        return found[:1] if self._once else found

    def entries_in(self, text: str) -> list[Entry[S]]:
        """Return all that a header holds."""
        entries: list[Entry[S]] = [(self._read(self._decode(raw)), bytes(raw).decode()) for raw in _list_of(text)]
        if self._once:
            first = next((position for position, (stamp, _) in enumerate(entries) if stamp is not None), 0)
            entries[first + 1 :] = [(None, text) for _, text in entries[first + 1 :]]
        return entries

    def encode(self, group: Sequence[S], came: Sequence[Entry[S]], *, snake_case: bool) -> str:
        """Return the header for these stamps: those that came are written as they came, foreign ones among them."""
        left = list(group)
        parts: list[str] = []
        for stamp, text in came:
            if stamp is not None:
                if stamp not in left:
                    continue
                left.remove(stamp)
            parts.append(text)
        for stamp in left:
            shape = self._write(stamp)
            parts.append(_to_json(msgspec.structs.asdict(shape) if snake_case else shape).decode())
        return f"[{','.join(parts)}]"


def make_bus_twin(buses: Mapping[str, str]) -> Twin[stamps.BusName]:
    """Return the twin for names of buses; ``buses`` has those there by those here."""
    ours = {theirs: name for name, theirs in buses.items()}
    return Twin(
        stamps.BusName,
        BusNameStamp,
        read=lambda shape: stamps.BusName(ours[shape.bus_name]) if shape.bus_name in ours else None,
        write=lambda stamp: BusNameStamp(buses[stamp.name]),
        says=lambda stamp: stamp.name in buses,
    )


def _moment(value: Any) -> datetime:
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return UNKNOWN


REDELIVERY = Twin(
    stamps.Retried,
    RedeliveryStamp,
    read=lambda shape: stamps.Retried(shape.retry_count, _moment(shape.redelivered_at)),
    write=lambda stamp: RedeliveryStamp(stamp.count, stamp.at),
)

ERROR = Twin(
    stamps.ErrorDetails,
    ErrorDetailsStamp,
    read=lambda shape: stamps.ErrorDetails(
        shape.exception_class,
        shape.exception_message,
        UNKNOWN,
        traceback=shape.flatten_exception.trace_as_string if shape.flatten_exception else None,
    ),
    write=lambda stamp: ErrorDetailsStamp(stamp.type, 0, stamp.message),
)

BURIED = Twin(
    stamps.Buried,
    SentToFailureTransportStamp,
    read=lambda shape: stamps.Buried(shape.original_receiver_name),
    write=lambda stamp: SentToFailureTransportStamp(stamp.transport),
)

IDENTITY = Twin(
    stamps.MessageId,
    TransportMessageIdStamp,
    # The ids that brokers gave on the way stand there too. They would be the same in other queues.
    read=lambda shape: stamps.MessageId(shape.id) if is_id(str(shape.id)) else None,
    write=lambda stamp: TransportMessageIdStamp(stamp.id),
    says=lambda stamp: is_id(str(stamp.id)) is not None,
    once=True,
)

TWINS: tuple[Twin[Any], ...] = (
    Twin(
        stamps.Delay,
        DelayStamp,
        read=lambda shape: stamps.Delay(max(shape.delay, 0) / 1000),  # Symfony's may be negative.
        write=lambda stamp: DelayStamp(round(stamp.seconds * 1000)),
    ),
    REDELIVERY,
    ERROR,
    BURIED,
    Twin(
        stamps.Handled,
        HandledStamp,
        read=lambda shape: stamps.Handled(shape.handler_name),
        write=lambda stamp: HandledStamp(stamp.handler),
    ),
    IDENTITY,
)


def complete(
    errors: Sequence[Entry[stamps.ErrorDetails]], headers: Mapping[str, str], details: Iterable[stamps.ErrorDetails]
) -> list[tuple[stamps.ErrorDetails, str]]:
    """Return errors with all that is known of them: ``details`` are those that went out from here.

    Of one that happened at Symfony's, the time is that of the redelivery which followed.
    """
    times = [stamp.at for stamp in REDELIVERY.stamps_in(headers.get(REDELIVERY.header, "[]"))]
    ours = list(details)
    # Anybody may send any number of them, so none is looked for in all of the others.
    positions: dict[tuple[str, str], list[int]] = {}
    for position, detail in enumerate(ours):
        positions.setdefault((detail.type, detail.message), []).append(position)
    begin = 0
    completed: list[tuple[stamps.ErrorDetails, str]] = []
    for position, (error, text) in enumerate(errors, start=len(times) - len(errors)):
        if error is None:
            continue
        same = positions.get((error.type, error.message), [])
        nearest = bisect_left(same, begin)
        if nearest < len(same):
            begin = same[nearest] + 1
            completed.append((ours[same[nearest]], text))
        else:
            at = times[max(position, 0)] if times else UNKNOWN
            completed.append((msgspec.structs.replace(error, at=at), text))
    return completed
