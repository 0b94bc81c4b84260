"""Envelopes to bytes and back, through a registry of types: nothing on the wire names what is imported."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from typing import Any, NamedTuple, Protocol, cast

import msgspec

from postbus import stamps
from postbus.envelope import Envelope
from postbus.errors import ConfigurationError, SerializationError
from postbus.handlers import qualified_name
from postbus.stamps import Stamp

STAMP = "X-Message-Stamp-"
WIRE = "X-Postbus-Wire"
WIRE_VERSION = "1"
_OWN_HEADERS = frozenset({"type", "Content-Type", WIRE})


class Encoded(NamedTuple):
    """A message as it lies on a broker."""

    body: bytes
    headers: dict[str, str]


class Undecodable(msgspec.Struct, frozen=True):
    """The message of an envelope that nobody here can read, exactly as it came.

    It is buried at once, and its bytes and headers are sent on unchanged, so that it can be retried by
    code that understands it.
    """

    body: bytes
    headers: Mapping[str, str]
    reason: str


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


class TypeRegistry:
    """Which type travels under which name.

    A type is known once it is registered; its default name is its module and qualified name.
    """

    def __init__(self) -> None:
        self._types: dict[str, type] = {}
        self._names: dict[type, str] = {}
        self._codecs: dict[type, Codec] = {}
        self._given: set[type] = set()

    def register(self, type: type, name: str | None = None, aliases: Iterable[str] = ()) -> None:
        """Make a type known under a name, and under the names that it had before.

        Registering a type again changes nothing, unless a name is given, which replaces a default one.
        """
        if type in self._names and name is None:
            self._add_aliases(type, aliases)
            return
        if type in self._given and name != self._names[type]:
            raise ConfigurationError(
                f"{type.__qualname__} is registered as {self._names[type]!r} and as {name!r}. Choose one; "
                "names from before go into aliases."
            )
        codec = make_codec(type)
        old = self._names.get(type)
        wire_name = name or qualified_name(type)
        self._claim(wire_name, type)
        if old is not None:
            del self._types[old]
        if name is not None:
            self._given.add(type)
        self._names[type] = wire_name
        self._codecs[type] = codec
        self._add_aliases(type, aliases)

    def name_for(self, type: type) -> str:
        """Return the wire name of a type, and register one that is seen for the first time."""
        try:
            return self._names[type]
        except KeyError:
            self.register(type)
            return self._names[type]

    def type_for(self, name: str) -> type | None:
        """Return the type that travels under this name, or None."""
        return self._types.get(name)

    def codec_for(self, type: type) -> Codec:
        """Return what writes and reads a registered type."""
        return self._codecs[type]

    def __iter__(self) -> Iterator[tuple[str, type]]:
        return iter(sorted(self._types.items()))

    def _add_aliases(self, type: type, aliases: Iterable[str]) -> None:
        for alias in aliases:
            self._claim(alias, type)

    def _claim(self, name: str, type: type) -> None:
        other = self._types.get(name)
        if other is not None and other is not type and not _same_definition(other, type):
            raise ConfigurationError(
                f"{other.__module__}.{other.__qualname__} and {type.__module__}.{type.__qualname__} both travel as "
                f'{name!r}. Give one of them another name: @app.message("...").'
            )
        self._types[name] = type


class Codec(NamedTuple):
    """How one type is written and read."""

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


_encode_json = msgspec.json.Encoder().encode


def can_be_message(type: type) -> bool:
    """Say whether instances of a type can travel: a dataclass, attrs class, msgspec Struct or pydantic model."""
    pydantic = sys.modules.get("pydantic")  # Without it having been imported, no class is a model.
    return (
        dataclasses.is_dataclass(type)
        or hasattr(cast(Any, type), "__attrs_attrs__")
        or issubclass(type, msgspec.Struct)
        or (pydantic is not None and issubclass(type, cast(Any, pydantic).BaseModel))
    )


def _encode_model(message: Any) -> bytes:
    text: str = message.model_dump_json()
    return text.encode()


def make_codec(type: type) -> Codec:
    """Return the codec of a dataclass, attrs class, msgspec Struct or pydantic model."""
    name = f"{type.__module__}.{type.__qualname__}"
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and issubclass(type, cast(Any, pydantic).BaseModel):
        model = cast(Any, type)
        decode = partial(model.model_validate_json, strict=True)
        return Codec(_encode_model, decode)
    if not can_be_message(type):
        raise ConfigurationError(
            f"{name} cannot be a message: it is not a dataclass, attrs class, msgspec Struct or pydantic model. "
            "Make it one, for example with @dataclass(frozen=True)."
        )
    try:
        decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(type)
    except (TypeError, NameError) as error:
        raise ConfigurationError(f"{name} cannot be read from JSON: {error}") from error
    return Codec(_encode_json, decoder.decode)


def _same_definition(a: type, b: type) -> bool:
    # A module that was loaded twice, or started as a program and imported too.
    return qualified_name(a) == qualified_name(b)


class JsonSerializer:
    """JSON body and text headers.

    The body of a message that was received and is sent on is not written anew, so that fields which this
    process does not know stay in it; neither do headers and stamps of unknown names get lost.
    """

    def __init__(self, registry: TypeRegistry) -> None:
        self._registry = registry

    def encode(self, envelope: Envelope) -> Encoded:
        """Return the envelope as JSON; raise `SerializationError` naming what has no JSON form."""
        message = envelope.message
        if isinstance(message, Undecodable):
            return Encoded(message.body, {**message.headers, **_stamp_headers(envelope)})

        type_ = message.__class__
        headers = {"type": self._registry.name_for(type_), "Content-Type": "application/json", WIRE: WIRE_VERSION}
        for unknown in envelope.all(stamps.UnknownHeaders):
            headers.update(unknown.headers)
        headers.update(_stamp_headers(envelope))

        original = envelope.last(stamps.Encoded)
        if original is not None and original.message is message and original.serializer is self:
            return Encoded(original.body, headers)
        try:
            return Encoded(self._registry.codec_for(type_).encode(message), headers)
        except Exception as error:
            raise SerializationError(
                f"{type_.__qualname__} has no JSON form: {error}. Give it fields of plain types."
            ) from error

    def decode(self, body: bytes, headers: Mapping[str, str]) -> Envelope:
        """Return the envelope; `Undecodable` says why, and where in the body, when it cannot be read."""
        known: list[Stamp] = []
        unknown: dict[str, str] = {}
        problem: str | None = None
        for name, value in headers.items():
            if name in _OWN_HEADERS:
                continue
            stamp_type = stamps.type_for(name[len(STAMP) :]) if name.startswith(STAMP) else None
            if stamp_type is None:
                unknown[name] = value
                continue
            try:
                known += _stamp_decoder_for(stamp_type).decode(value)
            except msgspec.DecodeError as error:
                unknown[name] = value
                problem = f"header {name}: {explain(error)}"

        if problem is None:
            message, problem = self._decode_message(body, headers)
            if problem is None:
                known.append(stamps.Encoded(body, message, self))
                if unknown:
                    known.append(stamps.UnknownHeaders(unknown))
                return Envelope(message, tuple(known))

        own = {name: value for name, value in headers.items() if name in _OWN_HEADERS}
        return Envelope(Undecodable(body, own | unknown, problem), tuple(known))

    def _decode_message(self, body: bytes, headers: Mapping[str, str]) -> tuple[Any, str | None]:
        version = headers.get(WIRE, WIRE_VERSION)
        if version != WIRE_VERSION:
            return None, f"wire format {version!r} is not known here, only {WIRE_VERSION!r}"
        name = headers.get("type")
        if not name:
            return None, "there is no type header"
        type_ = self._registry.type_for(name)
        if type_ is None:
            return None, f"no message is registered as {name!r}"
        try:
            return self._registry.codec_for(type_).decode(body), None
        except Exception as error:  # A border: a model's own checks may raise anything.
            return None, explain(error)


def explain(error: Exception) -> str:
    """Return why decoding failed, with the path in front: ``$.user_id: expected int, got str``."""
    if isinstance(error, msgspec.ValidationError):
        text, _, path = str(error).replace("`", "").partition(" - at ")
        return f"{path or '$'}: {text[:1].lower()}{text[1:]}"
    errors = getattr(error, "errors", None)
    if callable(errors):  # pydantic's ValidationError, without importing it
        return "; ".join(
            f"{'.'.join(['$', *map(str, detail['loc'])])}: {detail['msg']}" for detail in cast(Any, errors)()
        )
    return str(error) or type(error).__name__


def _stamp_headers(envelope: Envelope) -> dict[str, str]:
    grouped: dict[str, list[Stamp]] = {}
    for stamp in envelope.stamps:
        if stamp.wire_name is not None:
            grouped.setdefault(stamp.wire_name, []).append(stamp)
    try:
        return {STAMP + name: _encode_json(group).decode() for name, group in grouped.items()}
    except (TypeError, ValueError) as error:
        raise SerializationError(
            f"A stamp of {type(envelope.message).__qualname__} has no JSON form: {error}. Give it plain fields."
        ) from error


@cache
def _stamp_decoder_for(type_: type[Stamp]) -> msgspec.json.Decoder[list[Stamp]]:
    return msgspec.json.Decoder(list[type_])  # type: ignore[valid-type]
