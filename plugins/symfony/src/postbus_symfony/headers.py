"""Headers: which stamps are in them, and what they are called on each side.

Stamps that Symfony has too are in Symfony's headers. Others of ours are in headers of our own; but for
those that the user has named after a class of PHP's, which has a backslash in its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from postbus import stamps
from postbus.envelope import Envelope
from postbus.errors import SerializationError, qualified_name
from postbus.serialization import WIRE, encode_stamps, explain, keep_headers, stamp_decoder_for
from postbus.stamps import HEADER, Stamp
from postbus_symfony.identity import CONTEXT, id_in, with_id
from postbus_symfony.twins import (
    BURIED,
    ERROR,
    IDENTITY,
    OWN,
    PREFIX,
    REDELIVERY,
    TWINS,
    BusNameStamp,
    Entry,
    Twin,
    complete,
    make_bus_twin,
)

DETAILS = ERROR.own
"""Holds what Symfony's stamp cannot say of errors: when each happened, in which handler, and where."""

_OF_MESSAGE = frozenset({"type", "Content-Type", WIRE})

_BUS_NAME = PREFIX + BusNameStamp.__name__

Entries = Sequence[Entry[Any]]

_details_in = stamp_decoder_for(stamps.ErrorDetails)


class Found(NamedTuple):
    """What was in headers: the stamps, the headers that mean nothing here, by their names here, and what is wrong."""

    stamps: list[Stamp]
    unknown: dict[str, str]
    problem: str | None


class Headers:
    """Reads and writes the stamps of messages; ``buses`` has the names of buses there by those here.

    Symfony's stamps are written with fields in snake case if so said, or if those that came are.
    """

    def __init__(self, buses: Mapping[str, str], *, snake_case: bool) -> None:
        self._snake_case = snake_case
        twins = [*TWINS, make_bus_twin(buses)] if buses else TWINS
        self._twins: dict[str, Twin[Any]] = {twin.header: twin for twin in twins}
        self._twins_by_kind: dict[type[Stamp], Twin[Any]] = {twin.kind: twin for twin in twins}
        self._choosy = [twin for twin in twins if twin.says is not None]
        self._fixed: dict[type[Stamp], str | None] = {}
        """The header of each kind of stamp that was met, if it is always the same; None if it does not travel."""

    def read(self, headers: Mapping[str, str]) -> Found:
        """Return what is in the headers of a message."""
        known: list[Stamp] = []
        unknown: dict[str, str] = {}
        problem: str | None = None
        for name, text in headers.items():
            if name in _OF_MESSAGE:
                continue
            try:
                found = self._stamps_in(headers, name, text)
            except Exception as error:  # A border: a stamp's own checks may raise anything.
                problem = f"header {name}: {explain(error)}"
                continue
            if found is None:
                inside = _inside(name)
                unknown[name if inside in headers else inside] = text
            else:
                known += found
        if CONTEXT in headers and not any(type(stamp) is stamps.MessageId for stamp in known):
            id = id_in(headers)
            if id is not None:
                known.append(id)
        return Found(known, unknown, problem)

    def write(self, envelope: Envelope, came: Mapping[str, str], *, verify: bool) -> dict[str, str]:
        """Return the stamps as headers; what is in those that the message came with is written as it came.

        With ``verify``, raise `SerializationError` for one of the user's that would not be read as what it is.
        """
        entries = self._entries(came) if came else {}
        grouped = self._grouped(envelope, entries)
        for name, found in entries.items():
            if name not in grouped and any(stamp is None for stamp, _ in found):
                grouped[name] = []
        headers = self._encode(grouped, entries, came, verify=verify)
        unknown = envelope.last(stamps.UnknownHeaders)
        if unknown is not None:
            for name, text in unknown.headers.items():
                outside = _outside(name)
                if outside != DETAILS or ERROR.header in headers:
                    headers.setdefault(outside, text)
        return headers

    def keep(self, envelope: Envelope, came: Mapping[str, str]) -> dict[str, str]:
        """Return headers as they came, but for stamps that were put on, or taken off, since."""
        entries = self._entries(came)
        grouped = self._grouped(envelope, entries)
        kept = keep_headers(came, grouped, partial(self._stamps_in, came))
        if grouped.get(IDENTITY.header) == [id_in(came)]:
            del grouped[IDENTITY.header]
        return kept | self._encode(grouped, entries, came, verify=False)

    def _stamps_in(self, headers: Mapping[str, str], name: str, text: str) -> list[Stamp] | None:
        """Return the stamps in one of these headers; None if it holds none that are known here."""
        twin = self._twins.get(name)
        if twin is None:
            if name == DETAILS and ERROR.header in headers:
                return None  # They are read together with Symfony's stamps, and stay as they are if those do.
            decode = _decoders.get(name) or _decoder_for(name)
            return None if decode is None else decode(text)
        if twin is ERROR:
            return [error for error, _ in _errors_in(headers, text)]
        return [] if twin.own in headers else twin.stamps_in(text)

    def _entries(self, headers: Mapping[str, str]) -> dict[str, Entries]:
        """Return what came in Symfony's stamps, by header, those left out that cannot be read."""
        found: dict[str, Entries] = {}
        for name in self._twins.keys() & headers.keys():
            twin, text = self._twins[name], headers[name]
            with suppress(Exception):  # A border, as above.
                if twin is ERROR:
                    found[name] = _errors_in(headers, text)
                elif twin.own in headers:  # It says more.
                    found[name] = [(None, text) for _, text in twin.entries_in(text)]
                else:
                    found[name] = twin.entries_in(text)
        return found

    def _grouped(self, envelope: Envelope, entries: Mapping[str, Entries]) -> dict[str, list[Stamp]]:
        """Return the stamps that travel by their headers, and those that Symfony is owed beside."""
        grouped: dict[str, list[Stamp]] = {}
        fixed = self._fixed
        for stamp in envelope.stamps:
            kind = stamp.__class__
            header = fixed[kind] if kind in fixed else self._header_for(stamp)
            if header is None:
                continue
            if header in grouped:
                grouped[header].append(stamp)
            else:
                grouped[header] = [stamp]
        for twin in self._choosy:
            if twin.own in grouped and twin.header in grouped:  # They stay together.
                del grouped[twin.header]
                grouped[twin.own] = [*envelope.all(twin.kind)]

        errors, buried = grouped.get(ERROR.header), grouped.get(BURIED.header)
        if errors is not None and errors != _stamps_of(entries, ERROR):
            grouped[DETAILS] = errors
        if buried is not None and REDELIVERY.header not in grouped:
            was_retried = bool(_stamps_of(entries, REDELIVERY))
            if was_retried or buried != _stamps_of(entries, BURIED):
                grouped[REDELIVERY.header] = [stamps.Retried(0, _failed_at(envelope))]  # It says there when.
        return grouped

    def _header_for(self, stamp: Stamp) -> str | None:
        kind = type(stamp)
        twin = self._twins_by_kind.get(kind)
        if twin is not None and twin.says is not None:
            return twin.header if twin.says(stamp) else twin.own
        own = None if kind.header is None else _outside(kind.header)
        header = self._fixed[kind] = own if twin is None else twin.header
        return header

    def _encode(
        self,
        grouped: Mapping[str, list[Stamp]],
        entries: Mapping[str, Entries],
        came: Mapping[str, str],
        *,
        verify: bool,
    ) -> dict[str, str]:
        # Every message of Symfony's names its bus. The application reads what is spelt as it writes.
        snake_case = self._snake_case or '"bus_name"' in came.get(_BUS_NAME, "")
        headers: dict[str, str] = {}
        ours: dict[str, list[Stamp]] = {}
        for name, group in grouped.items():
            twin = self._twins.get(name)
            if twin is None or (twin.is_alike and name not in entries):
                ours[name] = group
                continue
            try:
                headers[name] = twin.encode(group, entries.get(name, ()), snake_case=snake_case)
            except Exception as error:  # A border: nothing keeps a stamp from holding what its annotations forbid.
                raise SerializationError(
                    f"The stamp {qualified_name(twin.kind)} cannot be written for Symfony, as {twin.shape.__name__}: "
                    f"{error}. Give it plain fields."
                ) from error
        headers.update(encode_stamps(ours, verify=verify))
        for identity in grouped.get(IDENTITY.header, ())[:1]:
            assert isinstance(identity, stamps.MessageId)
            headers[CONTEXT] = with_id(headers.get(CONTEXT, came.get(CONTEXT)), identity.id)
        return headers


def _stamps_of(entries: Mapping[str, Entries], twin: Twin[Any]) -> list[Stamp | None]:
    return [stamp for stamp, _ in entries.get(twin.header, ())]


def _errors_in(headers: Mapping[str, str], text: str) -> list[tuple[stamps.ErrorDetails, str]]:
    return complete(ERROR.entries_in(text), headers, _details_in(headers.get(DETAILS, "[]")))


def _failed_at(envelope: Envelope) -> datetime:
    error = envelope.last(stamps.ErrorDetails)
    return datetime.now(UTC) if error is None else error.at


# --- names -----------------------------------------------------------------------------------------


def _outside(name: str) -> str:
    """Return the name, in a shared queue, of a header that is called so here."""
    return OWN + name[len(HEADER) :] if name.startswith(HEADER) and "\\" not in name else name


def _inside(name: str) -> str:
    """Return the name here of a header in a shared queue."""
    return HEADER + name[len(OWN) :] if name.startswith(OWN) else name


_decoders: dict[str, Callable[[str], list[Stamp]]] = {}
"""What reads each header that was met and is known."""


def _decoder_for(name: str) -> Callable[[str], list[Stamp]] | None:
    kind = stamps.travelling.get(_inside(name))
    if kind is None:
        return None
    decode = _decoders[name] = stamp_decoder_for(kind)
    return decode
