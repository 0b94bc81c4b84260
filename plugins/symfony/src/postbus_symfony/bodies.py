"""Bodies, where PHP writes them otherwise: other names for the fields, and ``[]`` for what is empty.

Both are mended in the JSON itself, along the schema of the message's type, before the type's own codec
reads it and after it has written it. So dataclasses, attrs classes, Structs and models are all treated
alike, and values pass through as they were written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import chain, repeat, zip_longest
from typing import Any, Literal, cast

import msgspec
from msgspec import Raw

from postbus.serialization import Codec, make_codec

Rename = Callable[[str], str]
"""Returns what a field that has this name here is called there."""

Schema = Mapping[str, Any]

_ANYTHING = {"title": "Anything"}

_object_of = msgspec.json.Decoder(dict[str, Raw]).decode
_array_of = msgspec.json.Decoder(list[Raw]).decode
_to_json = msgspec.json.Encoder().encode


def camel_case(name: str) -> str:
    """Return ``userId`` for ``user_id``; underscores in front stay."""
    words = name.lstrip("_")
    first, *others = words.split("_")
    return name[: len(name) - len(words)] + first + "".join(word[:1].upper() + word[1:] for word in others)


class Codecs:
    """What writes and reads each type as Symfony does."""

    def __init__(self, rename: Rename | None) -> None:
        self._rename = rename
        self._codecs: dict[type, Codec] = {}

    def codec_for(self, type: type) -> Codec:
        """Return what writes and reads a type."""
        codec = self._codecs.get(type)
        if codec is None:
            own = make_codec(type, by_alias=True)  # Here a model's aliases are what its fields are called there.
            codec = _make_lenient(type, own) if self._rename is None else _make_renaming(type, own, self._rename)
            self._codecs[type] = codec
        return codec


def _make_lenient(type: type, codec: Codec) -> Codec:
    @cache
    def shape() -> Shape | None:
        return shape_of(type, "validation")

    def decode(body: bytes) -> Any:
        # What PHP writes otherwise is looked for when reading has failed, so that it costs nothing else.
        try:
            return codec.decode(body)
        except Exception:  # A border: a model's own checks may raise anything.
            known = shape()
            if known is None:
                raise
        return codec.decode(known.mend(body))

    return codec._replace(decode=decode)


def _make_renaming(type: type, codec: Codec, rename: Rename) -> Codec:
    written = shape_of(type, "serialization", lambda name: (name, rename(name)))
    read = shape_of(type, "validation", lambda name: (rename(name), name))
    if written is None or read is None:
        raise ValueError("it has no JSON schema, so its fields cannot be renamed")

    def encode(message: Any) -> bytes:
        return written.mend(codec.encode(message))

    def decode(body: bytes) -> Any:
        return codec.decode(read.mend(body))

    return Codec(encode, decode, codec.is_plain)


# --- shapes ----------------------------------------------------------------------------------------


class Shape:
    """What is known of one place in the JSON: there stands an object, unless an array may."""

    def __init__(self) -> None:
        self.is_array = False
        self.fields: dict[str, tuple[str, Shape | None]] = {}
        """The name of each field as it was: as it shall be, and the shape of what it holds."""
        self.values: Shape | None = None
        """The shape of what an object holds under other names, which stay."""
        self.first: list[Shape | None] = []
        """The shapes of an array's first elements."""
        self.others: Shape | None = None
        """The shape of an array's other elements."""

    def mend(self, body: bytes) -> bytes:
        """Return JSON with its fields renamed, at any depth, and with ``{}`` where ``[]`` stands for an object."""
        return _to_json(self._mended(Raw(body.strip())))

    def _mended(self, value: Raw) -> Any:
        first = bytes(memoryview(value)[:1])
        if first == b"{" and (self.fields or self.values is not None):
            return dict(self._mended_fields(value))
        if first != b"[":
            return value
        items = _array_of(value)
        if not items:
            return value if self.is_array else {}
        shapes = chain(self.first, repeat(self.others))
        return [item if shape is None else shape._mended(item) for item, shape in zip(items, shapes, strict=False)]

    def _mended_fields(self, value: Raw) -> Iterator[tuple[str, Any]]:
        for name, item in _object_of(value).items():
            target, shape = self.fields.get(name, (name, self.values))
            yield target, item if shape is None else shape._mended(item)


def shape_of(
    type: type, mode: Literal["validation", "serialization"], names: Callable[[str], tuple[str, str]] | None = None
) -> Shape | None:
    """Return the shape of a type's JSON; None for one that has no schema.

    ``names`` returns how a field is called in the JSON that is to be mended, and then.
    """
    try:
        if hasattr(cast(Any, type), "__pydantic_validator__"):
            adapter = cast(Any, sys.modules["pydantic"]).TypeAdapter(type)
            schema: Schema = adapter.json_schema(mode=mode)
        else:
            schema = msgspec.json.schema(type, schema_hook=lambda _: _ANYTHING)
    except Exception:  # A border: not every model has a schema.
        return None
    return _Shapes(schema.get("$defs", {}), names or _same).of([schema])


def _same(name: str) -> tuple[str, str]:
    return name, name


class _Shapes:
    """Makes shapes out of one schema; what refers to itself is made once."""

    def __init__(self, definitions: Schema, names: Callable[[str], tuple[str, str]]) -> None:
        self._definitions = definitions
        self._names = names
        self._made: dict[frozenset[int], Shape] = {}

    def of(self, alternatives: Iterable[Schema]) -> Shape | None:
        """Return the shape of a place where any of these may stand; None if it has neither fields nor elements."""
        schemas = [schema for alternative in alternatives for schema in self._resolved(alternative)]
        objects = [schema for schema in schemas if schema.get("type") == "object"]
        arrays = [schema for schema in schemas if schema.get("type") == "array"]
        if not objects and not arrays:
            return None
        key = frozenset(map(id, objects + arrays))
        if key in self._made:
            return self._made[key]

        shape = self._made[key] = Shape()
        shape.is_array = bool(arrays)
        fields: dict[str, list[Schema]] = {}
        for schema in objects:
            for name, field in schema.get("properties", {}).items():
                fields.setdefault(name, []).append(field)
        for name, kinds in fields.items():
            before, after = self._names(name)
            if before in shape.fields:
                raise ValueError(f"{shape.fields[before][0]!r} and {after!r} would both be called {before!r} there")
            shape.fields[before] = (after, self.of(kinds))
        shape.values = self.of(_schemas(schema.get("additionalProperties") for schema in objects))
        firsts = zip_longest(*(schema.get("prefixItems", ()) for schema in arrays))
        shape.first = [self.of(_schemas(kinds)) for kinds in firsts]
        shape.others = self.of(_schemas(schema.get("items") for schema in arrays))
        return shape

    def _resolved(self, schema: Schema) -> Iterator[Schema]:
        if "$ref" in schema:
            yield from self._resolved(self._definitions[schema["$ref"].rpartition("/")[2]])
        for key in ("anyOf", "oneOf", "allOf"):
            for alternative in schema.get(key, ()):
                yield from self._resolved(alternative)
        yield schema


def _schemas(found: Iterable[object]) -> Iterator[Schema]:
    """Leave out what is no schema: JSON Schema has ``true`` and ``false`` in their place."""
    return (cast(Schema, schema) for schema in found if isinstance(schema, Mapping))
