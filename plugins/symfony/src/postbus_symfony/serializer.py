"""The serializer: writes and reads what Symfony Messenger's own one for JSON does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

from postbus import stamps
from postbus.envelope import Envelope
from postbus.errors import SerializationError, qualified_name
from postbus.serialization import (
    WIRE,
    Encoded,
    JsonSerializer,
    TypeRegistry,
    Undecodable,
    encode_stamps,
    explain,
    keep_headers,
    stamp_decoder_for,
)
from postbus.stamps import HEADER, Stamp
from postbus_symfony.bodies import Codecs, Rename
from postbus_symfony.twins import BURIED, ERROR, OWN, REDELIVERY, TWINS, Entry, Twin, complete, make_bus_twin

DETAILS = OWN + "error"
"""Holds what Symfony's stamp cannot say of the errors that happened here."""

Entries = Sequence[Entry[Any]]

_details_in = stamp_decoder_for(stamps.ErrorDetails)

_OF_MESSAGE = frozenset({"type", "Content-Type", WIRE})


class Came(Stamp):
    """The headers that a message came with: what a serializer leaves for itself, to write them again."""

    headers: Mapping[str, str]


class SymfonySerializer:
    """The `Serializer` for a queue that is shared with a Symfony application, which uses its own one for JSON.

    Stamps that Symfony has too travel as Symfony's; others of ours in headers that it ignores. What was
    received and is sent on is written as it came: the body, and each stamp of Symfony's.

    ``rename`` returns what a field of a message is called there, as `camel_case` does. ``buses`` has the
    names of buses there by their names here; messages of others are handled on the default bus.
    """

    def __init__(
        self, types: TypeRegistry, *, rename: Rename | None = None, buses: Mapping[str, str] | None = None
    ) -> None:
        self._json = JsonSerializer(types, codec_for=Codecs(types, rename).codec_for)
        twins = [*TWINS, make_bus_twin(buses)] if buses else TWINS
        self._twins: dict[str, Twin[Any]] = {twin.header: twin for twin in twins}
        self._twins_by_kind: dict[type[Stamp], Twin[Any]] = {twin.kind: twin for twin in twins}

    def encode(self, envelope: Envelope) -> Encoded:
        """Return the envelope as Symfony reads it; raise `SerializationError` if it cannot be written."""
        message = envelope.message
        if type(message) is Undecodable:
            entries = self._entries(message.headers)
            grouped = self._stamps_by_header(envelope, entries)
            headers = keep_headers(message.headers, grouped, partial(self._stamps_in, message.headers))
            return Encoded(message.body, headers | self._encode_stamps(grouped, entries))

        body, headers = self._json.encode_message(message, envelope.last(stamps.Encoded))
        unknown = envelope.last(stamps.UnknownHeaders)
        if unknown is not None:
            headers.update((_outside(name), text) for name, text in unknown.headers.items())
        came = envelope.last(Came)
        entries = {} if came is None else self._entries(came.headers)
        grouped = self._stamps_by_header(envelope, entries)
        for header, found in entries.items():
            if header not in grouped and any(stamp is None for stamp, _ in found):
                grouped[header] = []
        headers.update(self._encode_stamps(grouped, entries))
        if ERROR.header not in headers:
            headers.pop(DETAILS, None)
        return Encoded(body, headers)

    def decode(self, body: bytes, headers: Mapping[str, str]) -> Envelope:
        """Return the envelope; `Undecodable` says why, and where in the body, when it cannot be read."""
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

        if problem is None:
            message, problem = self._json.decode_message(body, headers)
            if problem is None:
                known += (stamps.Encoded(body, message, self._json), Came(headers))
                if unknown:
                    known.append(stamps.UnknownHeaders(unknown))
                return Envelope(message, tuple(known))
            problem = _improved(problem, body, headers)
        return Envelope(Undecodable(body, dict(headers), problem), tuple(known))

    # stamps

    def _stamps_in(self, headers: Mapping[str, str], name: str, text: str) -> list[Stamp] | None:
        """Return the stamps in a header; None if it holds none that are known here."""
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

    def _stamps_by_header(self, envelope: Envelope, entries: Mapping[str, Entries]) -> dict[str, list[Stamp]]:
        by_kind: dict[type[Stamp], list[Stamp]] = {}
        for stamp in envelope.stamps:
            kind = stamp.__class__
            if kind in by_kind:
                by_kind[kind].append(stamp)
            else:
                by_kind[kind] = [stamp]
        grouped: dict[str, list[Stamp]] = {}
        for kind, group in by_kind.items():
            twin = self._twins_by_kind.get(kind)
            header = twin.header if twin is not None and all(map(twin.says, group)) else _own_header_for(kind)
            if header is not None:
                grouped[header] = group
        errors = grouped.get(ERROR.header)
        if errors is not None and errors != [error for error, _ in entries.get(ERROR.header, ())]:
            grouped[DETAILS] = errors
        if BURIED.header in grouped and REDELIVERY.header not in grouped:
            grouped[REDELIVERY.header] = [stamps.Retried(0, _failed_at(envelope))]  # There it says when.
        return grouped

    def _encode_stamps(self, grouped: Mapping[str, list[Stamp]], came: Mapping[str, Entries]) -> dict[str, str]:
        headers: dict[str, str] = {}
        ours: dict[str, list[Stamp]] = {}
        for name, group in grouped.items():
            twin = self._twins.get(name)
            if twin is None:
                ours[name] = group
                continue
            try:
                headers[name] = twin.encode(group, came.get(name, ()))
            except Exception as error:  # A border: nothing keeps a stamp from holding what its annotations forbid.
                raise SerializationError(
                    f"The stamp {qualified_name(twin.kind)} cannot be written for Symfony, as {twin.shape.__name__}: "
                    f"{error}. Give it plain fields."
                ) from error
        return headers | encode_stamps(ours)


@cache
def _own_header_for(kind: type[Stamp]) -> str | None:
    return None if kind.header is None else _outside(kind.header)


def _outside(name: str) -> str:
    """Return the name, on the way to Symfony, of a header that is called so here."""
    if name.startswith(HEADER) and "\\" not in name:  # One with a backslash is for a class of PHP's.
        return OWN + name[len(HEADER) :]
    return name


def _inside(name: str) -> str:
    """Return the name here of a header that came from a shared queue."""
    return HEADER + name[len(OWN) :] if name.startswith(OWN) else name


_decoders: dict[str, Callable[[str], list[Stamp]]] = {}
"""What reads each header that was met and is known."""


def _decoder_for(name: str) -> Callable[[str], list[Stamp]] | None:
    kind = stamps.travelling.get(_inside(name))
    if kind is None:
        return None
    decode = _decoders[name] = stamp_decoder_for(kind)
    return decode


def _errors_in(headers: Mapping[str, str], text: str) -> list[tuple[stamps.ErrorDetails, str]]:
    return complete(ERROR.entries_in(text), headers, _details_in(headers.get(DETAILS, "[]")))


def _failed_at(envelope: Envelope) -> datetime:
    error = envelope.last(stamps.ErrorDetails)
    return datetime.now(UTC) if error is None else error.at


def _improved(problem: str, body: bytes, headers: Mapping[str, str]) -> str:
    """Return why a message cannot be read; what Symfony wrote otherwise than in JSON is called by its name."""
    if "type" not in headers and body.lstrip().startswith((b"O:", b"Tzo")):  # The latter is the same in base64.
        return (
            "it was written by PHP's own serializer, which only PHP can read; set the transport's serializer to "
            "messenger.transport.symfony_serializer there"
        )
    content_type = headers.get("Content-Type", "")
    if content_type and "json" not in content_type:
        return f"it is {content_type}, of which only JSON can be read here"
    return problem
