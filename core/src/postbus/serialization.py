"""Envelopes to bytes and back, through a registry of types: nothing on the wire names what is imported."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import msgspec

from postbus import stamps
from postbus.display import sentence
from postbus.dsn import masked
from postbus.envelope import Envelope
from postbus.errors import ConfigurationError, SerializationError, qualified_name
from postbus.stamps import Stamp
from postbus.verification import difference, holds_lost_number, make_plain_check, place_of
from postbus.whereabouts import whereabouts_of

S = TypeVar("S", bound=Stamp)

BROKEN = "X-Postbus-Broken-"
"""What a header with an unreadable stamp is renamed with when its place is needed."""

WIRE = "X-Postbus-Wire"
WIRE_VERSION = "1"
DESCRIBING = frozenset({"type", "Content-Type", WIRE})
"""The headers that say what a body is."""

SERIALIZER = "X-Postbus-Serializer"
"""The header that says which serializer reads a message, where that is not the transport's own.

Only failure transports have such messages, and only there it counts.
"""
_OWN_HEADERS = DESCRIBING | {SERIALIZER}


class Encoded(NamedTuple):
    """A message as it lies on a broker."""

    body: bytes
    headers: dict[str, str]


_new_tuple = cast(Callable[[type[Encoded], tuple[bytes, dict[str, str]]], Encoded], cast(Any, tuple).__new__)
"""Makes one in half the time that its class takes, which calls a function written in Python."""


class Undecodable(msgspec.Struct, frozen=True):
    """The message of an envelope that nobody here can read, exactly as it came.

    It is buried at once, and its bytes and headers are sent on unchanged, so that it can be retried by
    code that understands it.
    """

    body: bytes
    headers: Mapping[str, str]
    reason: str

    @property
    def is_of_unknown_type(self) -> bool:
        """Whether all that is wrong with it is that its type is not known here; elsewhere it may be."""
        return self.reason.startswith(_not_registered(self.headers.get("type", "")))


class Serializer(Protocol):
    """Turns envelopes into bytes and headers. Used from several threads at once."""

    def encode(self, envelope: Envelope) -> Encoded:
        """Return the message, and those stamps that travel; raise `SerializationError` if it cannot be written.

        An `Undecodable` is written as the bytes and headers that came, with its new stamps added.
        """
        ...

    def decode(self, body: bytes, headers: Mapping[str, str]) -> Envelope:
        """Return the envelope; where it cannot be read, an `Undecodable` with the stamps that could be."""
        ...


@runtime_checkable
class SupportsSealing(Protocol):
    """A serializer that closes what it writes, as by a signature: see `postbus.sealing`."""

    def seal(self, encoded: Encoded) -> Encoded:
        """Return a message that is written already, closed."""
        ...

    def opened(self, body: bytes, headers: Mapping[str, str]) -> Encoded | str:
        """Return what was closed; or why that cannot be, as a clause."""
        ...


# --- types -----------------------------------------------------------------------------------------


class Codec(NamedTuple):
    """How one type is written and read."""

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    is_plain: Callable[[Any], bool] | None = None
    """Says that a message will be read as what it is, without trying; None for a type of which each is tried."""


class TypeRegistry:
    """Which type travels under which name.

    A type is known once it is registered; its default name is its module and qualified name.
    """

    verifies = True
    """Whether serializers of this registry check that what they write can be read, as what it was."""

    def __init__(self) -> None:
        self._types: dict[str, type] = {}
        self.names: dict[type, str] = {}
        """The names of the types that are known; `name_for` has those of all."""
        self._codecs: dict[type, Codec] = {}
        self._given: set[type] = set()

    def register(self, type: type, name: str | None = None, aliases: Iterable[str] = ()) -> None:
        """Make a type known under a name, and under the names that it had before.

        Registering a type again changes nothing, unless a name is given, which replaces a default one.
        """
        old = self.names.get(type)
        if type in self._given and name not in (None, old):
            raise ConfigurationError(
                f"{type.__qualname__} is registered as {old!r} and as {name!r}. Choose one; names from before go into "
                "aliases."
            )
        if not can_be_message(type):
            raise ConfigurationError(
                f"{qualified_name(type)} cannot be a message: it is not a dataclass, attrs class, msgspec Struct or "
                "pydantic model. Make it one, for example with @dataclass(frozen=True)."
            )
        wire_name = name or old or qualified_name(type)
        names = [wire_name, *aliases]
        for one in names:
            self._refuse_clash(one, type)
        with suppress(NameError):  # A field's class is defined further down: tried again when a message comes.
            self.codec_for(type)
        if old is not None and old != wire_name:
            del self._types[old]
        if name is not None:
            self._given.add(type)
        self.names[type] = wire_name
        self._types.update(dict.fromkeys(names, type))

    def name_for(self, type: type) -> str:
        """Return the wire name of a type, and register one that is seen for the first time."""
        name = self.names.get(type)
        if name is None:
            self.register(type)
            name = self.names[type]
        return name

    def type_for(self, name: str) -> type | None:
        """Return the type that travels under this name, or None."""
        return self._types.get(name)

    def codec_for(self, type: type) -> Codec:
        """Return what writes and reads a type."""
        codec = self._codecs.get(type)
        if codec is None:
            # What holds a message of any type is written by who knows the types.
            own = getattr(type, "__postbus_codec__", None)
            codec = self._codecs[type] = make_codec(type) if own is None else own(self)
        return codec

    def unverified(self) -> TypeRegistry:
        """Return this very registry, for serializers that write without checking."""
        same = copy(self)
        same.verifies = False
        return same

    def check(self) -> None:
        """Raise `ConfigurationError` if a registered type cannot be read from JSON."""
        for type in self.names:
            try:
                self.codec_for(type)
            except NameError as error:
                raise ConfigurationError(
                    f"{qualified_name(type)} cannot be read from JSON: {sentence(str(error))}"
                ) from error

    def __iter__(self) -> Iterator[tuple[str, type]]:
        return iter(sorted(self._types.items()))

    def _refuse_clash(self, name: str, type: type) -> None:
        other = self._types.get(name)
        # A module that was started as a program, and imported too, defines the same class twice.
        if other is not None and other is not type and qualified_name(other) != qualified_name(type):
            raise ConfigurationError(
                f"{qualified_name(other)} and {qualified_name(type)} both travel as {name!r}. Give one of them another "
                'name: @app.message("...").'
            )


def can_be_message(type: type) -> bool:
    """Say whether instances of a type can travel: a dataclass, attrs class, msgspec Struct or pydantic model."""
    return (
        dataclasses.is_dataclass(type)
        or issubclass(type, msgspec.Struct)
        or hasattr(cast(Any, type), "__attrs_attrs__")
        or hasattr(cast(Any, type), "__pydantic_validator__")
    )


_to_json = msgspec.json.Encoder().encode


def make_codec(type: type, *, by_alias: bool = False) -> Codec:
    """Return what writes and reads a type; raise `ConfigurationError` if it cannot be read from JSON.

    The fields of a pydantic model go by their names, unless ``by_alias``, for readers who know its aliases alone.
    """
    if hasattr(cast(Any, type), "__pydantic_validator__"):
        return _make_pydantic_codec(type, by_alias=by_alias)
    hidden = [field.name for field in getattr(type, "__attrs_attrs__", ()) if field.name.startswith("_")]
    if hidden:
        raise ConfigurationError(
            f"{qualified_name(type)} cannot be a message: the attrs field {hidden[0]!r} would be left out, because its "
            "name begins with an underscore. Rename it."
        )
    try:
        decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(type)
    except TypeError as error:
        raise ConfigurationError(f"{qualified_name(type)} cannot be read from JSON: {sentence(str(error))}") from error
    return Codec(_to_json, decoder.decode, make_plain_check(type))


def _make_pydantic_codec(type: type, *, by_alias: bool) -> Codec:
    pydantic: Any = sys.modules["pydantic"]
    if tuple(map(int, pydantic.VERSION.split(".")[:2])) < (2, 11):
        raise ConfigurationError(
            f"{qualified_name(type)} cannot be a message: pydantic {pydantic.VERSION} cannot read fields by their "
            'names. Upgrade it: pip install "postbus[pydantic]"'
        )
    import json  # noqa: PLC0415  As does pydantic.

    adapter = pydantic.TypeAdapter(type)
    try:
        schema = json.dumps(adapter.json_schema())
    except Exception:  # A border: not every model has a schema, and it need not.
        schema = ""
    if '"writeOnly": true' in schema:
        raise ConfigurationError(
            f"{qualified_name(type)} cannot be a message: pydantic writes its secret as asterisks. Send what "
            "the secret can be looked up by."
        )

    def encode(message: Any) -> bytes:
        # It warns of what it will write otherwise than it is. That is found by reading it.
        text: bytes = adapter.dump_json(message, by_alias=by_alias, round_trip=True, warnings=False)
        return text

    # An alias may be the name of another field, so it is either those or these.
    return Codec(encode, partial(adapter.validate_json, strict=True, by_alias=by_alias, by_name=not by_alias))


def _refuse_lost_numbers(message: object) -> None:
    # JSON has no NaN and no infinity. They are written as null, and would arrive as nothing, or not at all.
    if holds_lost_number(message):
        raise ValueError("JSON has no nan and no inf")


SerializerFactory = Callable[[TypeRegistry], Serializer]
"""Makes a serializer for an app, whose types it is given."""


class Serializers:
    """The serializers of an app by name: ``json``, those that plugins bring, and those that transports are given.

    All transports that name the same one share it. One that is given in code is called after the first of them.
    """

    def __init__(
        self,
        types: TypeRegistry,
        brought: Callable[[], Mapping[str, SerializerFactory]],
        load: Callable[[str], Serializer | SerializerFactory],
    ) -> None:
        """``brought`` returns those of plugins; ``load`` what the configuration names as ``module:attribute``."""
        self._types = types
        self._brought = brought
        self._load = load
        self.names: dict[int, str] = {}
        self._made: dict[tuple[str, bool], Serializer] = {}

    def name_for(self, wanted: str | Serializer | SerializerFactory, transport: str) -> str:
        """Return the name of what a transport is configured with."""
        return wanted if isinstance(wanted, str) else self.names.setdefault(id(wanted), f"transport:{transport}")

    def make(self, wanted: str | Serializer | SerializerFactory, transport: str, *, verify: bool) -> Serializer:
        """Return what a transport is configured with; raise `ConfigurationError` for a name that is unknown."""
        key = self.name_for(wanted, transport), verify
        if key not in self._made:
            self._made[key] = self._make(wanted, self._types if verify else self._types.unverified())
        return self._made[key]

    def _make(self, wanted: str | Serializer | SerializerFactory, types: TypeRegistry) -> Serializer:
        if not isinstance(wanted, str):
            return wanted(types) if callable(wanted) else wanted
        if wanted == "json":
            return JsonSerializer(types)
        if ":" in wanted:
            return self._make(self._load(wanted), types)
        factory = self._brought().get(wanted)
        if factory is None:
            known = ", ".join(["json", *self._brought()])
            raise ConfigurationError(
                f"There is no serializer {masked(wanted)!r}. Write 'module:attribute', or one of: {known}."
            )
        return factory(types)

    def find(self, name: str) -> Serializer | None:
        """Return the serializer of a name that came with a message; None if there is none here."""
        made = self._made.get((name, True)) or self._made.get((name, False))
        if made is None and (name == "json" or name in self._brought()):
            return self.make(name, "", verify=True)
        return made


# --- JSON ------------------------------------------------------------------------------------------


class JsonSerializer:
    """JSON body and text headers.

    The body of a message that was received and is sent on is not written anew, so that fields which this
    process does not know stay in it; neither do headers and stamps of unknown names get lost. What is written is
    checked: a message that would not be read, or not as what it is, is refused.

    ``codec_for`` returns what writes and reads a type, where that is not what the registry has.
    """

    def __init__(self, registry: TypeRegistry, *, codec_for: Callable[[type], Codec] | None = None) -> None:
        self._registry = registry
        self._codec_for = codec_for or registry.codec_for
        self._verifies = registry.verifies
        self._tried: dict[type, Codec] = {}
        """What writes the types of which a message has been read back, and was what it had been."""

    def encode(self, envelope: Envelope) -> Encoded:
        """Return the envelope as JSON; raise `SerializationError` naming what cannot be written, or not be read."""
        encoded = self._encode_begun(envelope)
        if encoded is not None:
            return encoded
        message = envelope.message
        if type(message) is not Undecodable and (written := _write_texts(envelope)) is not None:
            body, headers = self.encode_message(message, None, verify=self._verifies)
            return Encoded(body, headers | written)

        grouped, original, unknown = _sorted_stamps(envelope)
        if type(message) is Undecodable:
            came = keep_headers(message.headers, grouped, _read_header)
            return Encoded(message.body, came | encode_stamps(grouped))

        # What has failed is kept, whatever it is.
        verify = self._verifies and stamps.ErrorDetails.header not in grouped
        body, headers = self.encode_message(message, original, verify=verify)
        if unknown is not None:
            headers.update(unknown.headers)
        headers.update(encode_stamps(grouped, verify=verify))
        return Encoded(body, headers)

    def _encode_begun(self, envelope: Envelope) -> Encoded | None:
        """Return the same, in a third of the time, for what most messages are; None for any other.

        Those that begin a conversation, of a type of which one has been read back. All is done in one place, because
        what takes time here is to call functions, and to make dictionaries larger.
        """
        message = envelope.message
        given: tuple[Any, ...] = envelope.stamps
        codec = self._tried.get(message.__class__)
        if codec is None or codec.is_plain is None or len(given) != 3:
            return None
        bus, ided, correlation = given
        if type(bus) is not stamps.BusName or type(ided) is not stamps.MessageId:
            return None
        if type(correlation) is not stamps.Correlation or correlation.id is not ided.id:
            return None
        try:
            if not codec.is_plain(message):
                return None
            id = f'[{{"id":{_to_json(ided.id).decode()}}}]'
            headers = {
                "type": self._registry.names[message.__class__],
                "Content-Type": "application/json",
                WIRE: WIRE_VERSION,
                _BUS: _bus_names.get(bus.name) or _write_bus_name(bus),
                _ID: id,
                _CORRELATION: id,
            }
            return _new_tuple(Encoded, (codec.encode(message), headers))
        except Exception:  # A border, as below, where it is told what cannot be written.
            return None

    def encode_message(
        self, message: Any, original: stamps.Encoded | None, *, verify: bool
    ) -> tuple[bytes, dict[str, str]]:
        """Return the message alone, and what the headers say of it; ``original`` is what it came as, if it came.

        With ``verify``, raise `SerializationError` if it would not be read, or not as what it is.
        """
        type_ = message.__class__
        codec: Codec | None = None
        try:
            headers = {"type": self._registry.name_for(type_), "Content-Type": "application/json", WIRE: WIRE_VERSION}
            if original is not None and original.message is message and original.serializer is self:
                return original.body, headers
            codec = self._codec_for(type_)
            body = codec.encode(message)
            if not verify:
                if body.find(b"null") >= 0:  # In half the time of `in`.
                    _refuse_lost_numbers(message)
            elif not (codec.is_plain and type_ in self._tried and codec.is_plain(message)):
                self._read_back(message, body, codec)
        except SerializationError:
            raise
        except ConfigurationError as error:
            raise SerializationError(str(error)) from error
        except Exception as error:  # A border: a message's fields may raise anything.
            fact = str(error)
            if codec is not None and codec.encode is _to_json and isinstance(error, TypeError):
                fact = f"{place_of(message, _has_no_form)}: {fact[:1].lower()}{fact[1:]}"
            raise SerializationError(
                f"{qualified_name(type_)} cannot be written as JSON: {sentence(fact)} Give it fields of plain types."
            ) from error
        return body, headers

    def _read_back(self, message: Any, body: bytes, codec: Codec) -> None:
        name = qualified_name(message.__class__)
        try:
            again = codec.decode(body)
        except Exception as error:  # A border: a model's own checks may raise anything.
            _refuse_lost_numbers(message)
            raise SerializationError(
                f"{name} cannot be sent, because it could not be read: {sentence(explain(error))} Give each field what "
                "it is annotated with."
            ) from error
        problem = difference(message, again)
        if problem is not None:
            _refuse_lost_numbers(message)
            raise SerializationError(
                f"{name} cannot be sent, because it would not be read as what it is: {sentence(problem)} Let the "
                "annotations say what the fields hold, and let what its class writes be what it reads."
            )
        self._tried[message.__class__] = codec

    def has_changed(self, original: stamps.Encoded) -> bool:
        """Say whether a message is not any more what it was read from; if in doubt, it is."""
        try:
            again = self._codec_for(original.message.__class__).decode(original.body)
            return difference(original.message, again) is not None
        except Exception:  # A border, as above.
            return True

    def decode(self, body: bytes, headers: Mapping[str, str]) -> Envelope:
        """Return the envelope; `Undecodable` says why, and where in the body, when it cannot be read."""
        envelope = self._decode_begun(body, headers)
        if envelope is not None:
            return envelope
        known: list[Stamp] = []
        unknown: dict[str, str] = {}
        problem: str | None = None
        for name, value in headers.items():
            type_ = stamps.travelling.get(name)
            if type_ is None:
                if name not in _OWN_HEADERS:
                    unknown[name] = value
                continue
            try:
                read: list[Any] = (_decoders.get(type_) or stamp_decoder_for(type_))(value)
                known += read
                if type_ is stamps.BusName and len(read) == 1 and _may_be_kept(value, _buses):
                    _buses[value] = read[0]
            except Exception as error:  # A border: a stamp's own checks may raise anything.
                problem = f"header {name}: {explain(error)}"

        if problem is None:
            message, problem = self.decode_message(body, headers)
            if problem is None:
                known.append(stamps.Encoded(body, message, self))
                if unknown:
                    known.append(stamps.UnknownHeaders(unknown))
                return Envelope(message, tuple(known))
        return Envelope(Undecodable(body, dict(headers), problem), tuple(known))

    def _decode_begun(self, body: bytes, headers: Mapping[str, str]) -> Envelope | None:
        """Return the same, in half the time, for what `_encode_begun` has written; None for anything else."""
        if len(headers) != 6:  # It has written each of those below, and so there is nothing else.
            return None
        try:
            bus, id = _buses[headers[_BUS]], headers[_ID]
            if headers[_CORRELATION] != id or headers[WIRE] != WIRE_VERSION or "Content-Type" not in headers:
                return None
            type_ = self._registry.type_for(headers["type"])
            if type_ is None:
                return None
            [ided] = _read_ids(id)
            message = self._codec_for(type_).decode(body)
        except Exception:  # A border, as in `decode`, which tells what is wrong.
            return None
        encoded = stamps.Encoded(body, message, self)
        return Envelope(message, (bus, ided, stamps.Correlation(ided.id), encoded))

    def decode_message(self, body: bytes, headers: Mapping[str, str]) -> tuple[Any, str | None]:
        """Return the message alone, and None; or anything, and why it cannot be read."""
        version = headers.get(WIRE, WIRE_VERSION)
        if version != WIRE_VERSION:
            return None, f"wire format {version!r} is not known here, only {WIRE_VERSION!r}"
        name = headers.get("type")
        if not name:
            return None, "there is no type header"
        type_ = self._registry.type_for(name)
        if type_ is None:
            return None, _not_registered(name) + whereabouts_of(name, (type for _, type in self._registry))
        try:
            return self._codec_for(type_).decode(body), None
        except Exception as error:  # A border: a model's own checks may raise anything.
            reason = explain(error)
            is_missing = "missing required field" in reason or "Field required" in reason
            return None, f"{reason}; a field that is added needs a default" if is_missing else reason


def _has_no_form(value: object) -> bool:
    try:
        _to_json(value)
    except Exception as error:  # A border, as above.
        return isinstance(error, TypeError)
    return False


def _not_registered(name: str) -> str:
    return f"no message is registered as {name!r}"


def explain(error: Exception) -> str:
    """Return why decoding failed, with the path in front: ``$.user_id: expected int, got str``."""
    try:
        if isinstance(error, msgspec.ValidationError):
            text, _, path = str(error).rpartition(" - at `")
            text, path = (text, path.removesuffix("`")) if text else (path, "$")
            if error.__cause__ is None:  # else these are the words of a check of the user's own
                text = f"{text[:1].lower()}{text[1:].replace('`', '')}"
            return f"{path}: {text}"
        if type(error).__module__.startswith("pydantic"):
            return "; ".join(f"{_path(detail['loc'])}: {detail['msg']}" for detail in cast(Any, error).errors())
        return str(error) or type(error).__name__
    except Exception:  # A border: an error that cannot even be shown.
        return type(error).__name__


def _path(location: Sequence[str | int]) -> str:
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)


def _sorted_stamps(
    envelope: Envelope,
) -> tuple[dict[str, list[Stamp]], stamps.Encoded | None, stamps.UnknownHeaders | None]:
    """Return what travels, by header, and what a serializer has left for itself; in one loop, as each is asked for."""
    grouped: dict[str, list[Stamp]] = {}
    original = unknown = None
    for stamp in envelope.stamps:
        header = stamp.header
        if header is None:
            if type(stamp) is stamps.Encoded:
                original = stamp
            elif type(stamp) is stamps.UnknownHeaders:
                unknown = stamp
        elif header in grouped:
            grouped[header].append(stamp)
        else:
            grouped[header] = [stamp]
    return grouped, original, unknown


_BUS, _ID, _CORRELATION = (
    stamps.HEADER + str(kind.wire_name) for kind in (stamps.BusName, stamps.MessageId, stamps.Correlation)
)
_IDS: Mapping[type, str | None] = {
    kind: kind.header for kind in (stamps.MessageId, stamps.Correlation, stamps.Causation)
}
"""The headers of the stamps that hold nothing but an id, which is text, so that there is nothing to be checked."""

_bus_names: dict[str, str] = {}
"""What the header says of a bus, by its name: most programs have one, and write it for every message."""

_buses: dict[str, stamps.BusName] = {}
"""The stamps that such headers hold."""

MOST_BUS_NAMES = 100
LONGEST_BUS_NAME = 200
"""How many of them are kept, and how long they may be, as whatever may have come with messages."""


def _write_texts(envelope: Envelope) -> dict[str, str] | None:
    """Return what `encode_stamps` does for an envelope as it is dispatched, in half the time; None for any other."""
    headers: dict[str, str] = {}
    number = 0
    stamp: Any
    try:
        for stamp in envelope.stamps:
            kind: type[Stamp] = stamp.__class__
            header = _IDS.get(kind)
            if header is not None:
                headers[header] = f'[{{"id":{_to_json(stamp.id).decode()}}}]'
            elif kind is stamps.BusName:
                headers[_BUS] = _bus_names.get(stamp.name) or _write_bus_name(stamp)
            elif stamp.header is None and kind is not stamps.Encoded and kind is not stamps.UnknownHeaders:
                continue
            else:
                return None
            number += 1
    except Exception:  # A border, as above, where it is told what cannot be written.
        return None
    return headers if len(headers) == number else None  # Else there is one twice.


def _write_bus_name(stamp: stamps.BusName) -> str:
    text = _to_json((stamp,)).decode()
    if type(stamp.name) is str and _may_be_kept(text, _bus_names):
        _bus_names[stamp.name] = text
    return text


def _may_be_kept(text: str, kept: Mapping[str, object]) -> bool:
    return len(kept) < MOST_BUS_NAMES and len(text) < LONGEST_BUS_NAME


_OWN_STAMPS = frozenset(kind for kind in vars(stamps).values() if isinstance(kind, type))


def encode_stamps(grouped: Mapping[str, list[Stamp]], *, verify: bool = False) -> dict[str, str]:
    """Return each group of stamps as a JSON list, under its header; raise `SerializationError` if one has no JSON.

    With ``verify`` also if one of the user's would not be read as what it is.
    """
    header = ""
    headers: dict[str, str] = {}
    try:
        for header, group in grouped.items():
            headers[header] = text = _to_json(group).decode()
            if "null" in text:
                _refuse_lost_numbers(group)
            if verify and type(group[0]) not in _OWN_STAMPS:
                _read_stamps_back(group, text)
    except SerializationError:
        raise
    except Exception as error:  # A border, as above.
        name = qualified_name(type(grouped[header][0]))
        raise SerializationError(
            f"The stamp {name} cannot be written as JSON, for header {header}: {sentence(str(error))} Give it plain "
            "fields."
        ) from error
    return headers


def _read_stamps_back(group: list[Stamp], text: str) -> None:
    kind = type(group[0])
    try:
        problem = difference(group, stamp_decoder_for(kind)(text))
    except Exception as error:  # A border, as above.
        problem = explain(error)
    if problem is not None:
        raise SerializationError(
            f"The stamp {qualified_name(kind)} cannot be sent, because it would not be read as what it is: "
            f"{sentence(problem)} Let the annotations say what its fields hold."
        )


_decoders: dict[type[Stamp], Callable[[str], list[Any]]] = {}


def stamp_decoder_for(type_: type[S]) -> Callable[[str], list[S]]:
    """Return what reads a header that holds stamps of a type."""
    decode = _decoders.get(type_)  # In half the time of a cached function.
    if decode is None:
        decode = _decoders[type_] = msgspec.json.Decoder(list[type_]).decode  # type: ignore[valid-type]
    return decode


_read_ids = stamp_decoder_for(stamps.MessageId)


def _read_header(header: str, value: str) -> list[Stamp] | None:
    type_ = stamps.travelling.get(header)
    return None if type_ is None else stamp_decoder_for(type_)(value)


def keep_headers(
    came: Mapping[str, str], grouped: dict[str, list[Stamp]], read: Callable[[str, str], list[Stamp] | None]
) -> dict[str, str]:
    """Return the headers of an `Undecodable` as they came, but for stamps that were put on, or taken off, since.

    ``grouped`` are its stamps by header; what stays as it came is taken out, so that the rest is to be
    written. ``read`` returns the stamps in a header, None where it holds no known ones, and may raise.
    """
    headers = dict(came)
    for header, value in came.items():
        try:
            before = read(header, value)
        except Exception:  # A border, as above. It stays, under another name if its own is needed.
            if header in grouped:
                headers[BROKEN + header] = value
            continue
        if before is None:
            continue
        if before == grouped.get(header, []):
            grouped.pop(header, None)
        elif header not in grouped:
            del headers[header]
    return headers


# --- what came -------------------------------------------------------------------------------------


def forget_changed(envelope: Envelope) -> Envelope:
    """Return an envelope that user code sends on: if its message has changed since it came, it is written anew."""
    original = envelope.last(stamps.Encoded)
    if original is None:
        return envelope
    serializer = original.serializer
    if (
        original.message is envelope.message
        and isinstance(serializer, JsonSerializer)
        and not serializer.has_changed(original)
    ):
        return envelope
    return envelope.without(stamps.Encoded)


def keep(envelope: Envelope, original: stamps.Original) -> Encoded:
    """Return what came as it came, beside the stamps that travel, and the name of the serializer that reads it."""
    grouped, _, _ = _sorted_stamps(envelope)
    headers = keep_headers(original.headers, grouped, _read_header) | encode_stamps(grouped)
    return Encoded(original.body, headers | {SERIALIZER: original.serializer})


def read_kept(body: bytes, headers: Mapping[str, str], serializer: Serializer | None) -> Envelope:
    """Return what `keep` has made bytes of, as this serializer, which it names, reads it; None is one that is unknown.

    Its stamps are those that were on it when it was kept, whatever its own headers say.
    """
    theirs: dict[str, str] = {}
    known: list[Stamp] = []
    problem: str | None = None
    for name, value in headers.items():
        try:
            found = _read_header(name, value)
        except Exception as error:  # A border: a stamp's own checks may raise anything.
            problem = f"header {name}: {explain(error)}"
            continue
        if found is not None:
            known += found
        elif name != SERIALIZER:
            theirs[name] = value

    if serializer is None:
        problem = (
            f"it is to be read by the serializer {headers[SERIALIZER]!r}, which is not known here; install its plugin, "
            "or name it at a transport"
        )
    elif problem is None:
        try:
            envelope = serializer.decode(body, theirs)
        except Exception as error:  # A border: whatever a serializer trips over must not cost the stamps.
            envelope = Envelope(Undecodable(body, theirs, explain(error)))
        if not isinstance(envelope.message, Undecodable):
            left = [stamp for stamp in envelope.stamps if stamp.header is None]
            return Envelope(envelope.message, (*left, *known))
        problem = envelope.message.reason
    return Envelope(Undecodable(body, dict(headers), problem), tuple(known))
