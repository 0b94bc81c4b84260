"""How failed messages are shown: as a list, by class, or all about one; for people, and as JSON."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import islice
from textwrap import indent

import click
import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field

from postbus import stamps
from postbus.app import Postbus
from postbus.cli.failed_messages import FailedMessage, FailedMessages, Filter
from postbus.cli.output import JsonList, local_time, print_json, print_table
from postbus.display import one_line, printable
from postbus.errors import qualified_name
from postbus.failures import MOST_ERRORS
from postbus.serialization import Undecodable


class Listed(Struct, frozen=True):
    """One line of the list."""

    id: str
    kind: str = field(name="class")
    message_id: str | None
    transport: str | None
    failed_at: datetime | None
    error: str | None


INDENT = " " * 12

BLOCK = 500
"""How many lines of a list are held, to be aligned with each other."""


def print_list(messages: FailedMessages, filter: Filter, most: int, after: str | None, format: str) -> None:
    """Print a line for each message that a filter admits, up to so many, beginning behind the one with an id."""
    found = messages.matching(filter, after=after)
    lines = (
        Listed(message.id, message.kind, message.message_id, message.origin, message.failed_at, _reason(message))
        for message in islice(found, most)
    )
    if format == "json":
        with JsonList() as printed:
            for line in lines:
                printed.add(line)
        return
    last: str | None = None
    while block := list(islice(lines, BLOCK)):
        rows = [(line.id, line.kind, local_time(line.failed_at), line.error) for line in block]
        print_table(("Id", "Class", "Failed at", "Error"), rows, header=last is None)
        last = block[-1].id
    if last is None:
        which = "such message" if filter or after is not None else "message"
        click.echo(f"There is no {which} in {messages.name!r}.", err=True)
        return
    if next(found, None) is not None:
        first = "first" if after is None else "next"
        click.echo(
            f"These are the {first} {most}; --max shows more. Those behind them: --after {one_line(last)}.", err=True
        )
    click.echo("All about one: postbus failed show ID. Handle it again: postbus failed retry ID.", err=True)


MOST_CLASSES = 1000
"""How many classes are counted apart."""

OTHERS = "of other classes"
"""Where all the others are counted."""


class Summary(Struct):
    """How many messages of one class there are, and when the last of them failed."""

    kind: str = field(name="class")
    count: int = 0
    last_failed_at: datetime | None = None


def print_summary(messages: Iterable[FailedMessage], format: str) -> None:
    """Print how many messages of each class there are; what is more than can be listed, together."""
    by_class: dict[str, Summary] = {}
    for message in messages:
        # What nobody can read has whatever class its sender has written.
        kind = message.kind if message.kind in by_class or len(by_class) < MOST_CLASSES else OTHERS
        line = by_class.setdefault(kind, Summary(kind))
        line.count += 1
        times = [at for at in (line.last_failed_at, message.failed_at) if at is not None]
        line.last_failed_at = max(times, default=None)
    lines = sorted(by_class.values(), key=lambda line: -line.count)
    if format == "json":
        print_json(lines)
        return
    rows = [(line.kind, line.count, local_time(line.last_failed_at)) for line in lines]
    print_table(("Class", "Count", "Last failed at"), rows, right=("Count",))


class ErrorLine(Struct, frozen=True):
    """One thing that went wrong."""

    type: str
    message: str
    handler: str | None
    at: datetime
    traceback: str | UnsetType | None = UNSET


class Unreadable(Struct, frozen=True):
    """What there is of a message that nobody here can read."""

    reason: str
    headers: Mapping[str, str]
    body: str | None
    body_base64: str | UnsetType = UNSET
    """The body, where it is no text."""


class Details(Struct, frozen=True):
    """All about one failed message. There is either ``message`` or ``unreadable``."""

    id: str
    kind: str = field(name="class")
    message_id: str | None
    transport: str | None
    """Where it came from, and failed."""
    failed_at: datetime | None
    attempts: int
    """How often it is known to have failed; only so many errors are kept."""
    errors: list[ErrorLine]
    message: Raw | UnsetType = UNSET
    unreadable: Unreadable | UnsetType = UNSET


def details_of(app: Postbus, message: FailedMessage, *, with_traceback: bool = False) -> Details:
    """Return all about a message."""
    content = message.envelope.message
    unreadable = isinstance(content, Undecodable)
    return Details(
        id=message.id,
        kind=message.kind,
        message_id=message.message_id,
        transport=message.origin,
        failed_at=message.failed_at,
        attempts=max(Counter(error.handler for error in message.errors).values(), default=0),
        errors=[_line(error, with_traceback) for error in message.errors],
        message=UNSET if unreadable else _as_json(app, content),
        unreadable=_unreadable(content) if unreadable else UNSET,
    )


def _reason(message: FailedMessage) -> str | None:
    """Return in a line what went wrong last; None if the message does not tell."""
    if not message.errors:
        return None
    last = message.errors[-1]
    return f"{last.type.rpartition('.')[2]}: {last.message}"


def print_details(details: Details, *, err: bool = False) -> None:
    """Print all about a message as lines."""
    attempts = f"{details.attempts} or more" if len(details.errors) >= MOST_ERRORS else str(details.attempts)
    lines = {
        "Class": details.kind,
        "Id": details.id,
        "Message id": details.message_id,
        "Transport": details.transport or "unknown; it does not look as if it had failed",
        "Failed at": local_time(details.failed_at),
        "Attempts": attempts,
    }
    for label, value in lines.items():
        if value is not None:
            _print_line(label, value, err)
    for error in details.errors:
        by = f" (in {error.handler})" if error.handler else ""
        _print_line("Error", f"{local_time(error.at)} {error.type.removeprefix('builtins.')}: {error.message}{by}", err)
        if error.traceback:
            click.echo(indent(printable(error.traceback), INDENT), err=err)
    if details.message is not UNSET:
        click.echo("Message:", err=err)
        click.echo(printable(msgspec.json.format(bytes(details.message), indent=2).decode()), err=err)
    if details.unreadable is not UNSET:
        _print_line("Unreadable", details.unreadable.reason, err)
        for name, value in details.unreadable.headers.items():
            _print_line("Header", f"{name}: {value}", err)
        body = details.unreadable.body
        _print_line("Body", body if body is not None else f"base64 {details.unreadable.body_base64}", err)


def _print_line(label: str, value: str, err: bool) -> None:
    # Indented, the further lines of a value are not taken for lines of ours.
    click.echo(f"{label + ':':<12}{indent(printable(value), INDENT).removeprefix(INDENT)}", err=err)


def _line(error: stamps.ErrorDetails, with_traceback: bool) -> ErrorLine:
    return ErrorLine(error.type, error.message, error.handler, error.at, error.traceback if with_traceback else UNSET)


def _as_json(app: Postbus, content: object) -> Raw:
    type_ = type(content)
    try:
        app.types.name_for(type_)
        return Raw(app.types.codec_for(type_).encode(content))
    except Exception:  # A border: handed over as an object, it need not have a JSON form.
        return Raw(msgspec.json.encode(_shown(content)))


def _shown(content: object) -> str:
    try:
        return repr(content)
    except Exception:  # A border, as above.
        return f"a {qualified_name(type(content))}, which cannot be shown"


def _unreadable(content: Undecodable) -> Unreadable:
    try:
        return Unreadable(content.reason, content.headers, content.body.decode())
    except UnicodeDecodeError:
        return Unreadable(content.reason, content.headers, None, base64.b64encode(content.body).decode())
