"""Whether what is read is what was written: where two values differ, and which messages need not be tried.

`postbus.serialization` asks this of every message that it writes.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import zip_longest
from math import isfinite
from operator import attrgetter
from typing import Any, NamedTuple, cast, get_origin
from uuid import UUID
from weakref import WeakKeyDictionary

from msgspec import Struct, inspect

# --- two values ------------------------------------------------------------------------------------

_ATOMS = frozenset({int, str, bool, float, type(None), bytes, UUID, date})
"""Types of which any two values that are equal are the same."""

Trail = tuple[Any, str]
"""How a value is reached: the trail of what it is in, None for the outermost, and what leads from there to it."""

Pair = tuple[str, Any, Any]
"""A part of two values: what leads to it, and what it is in each."""


DEEPEST = 100
"""How deep `place_of` looks."""


class _Missing:
    """Stands for an element that is on one side only."""


_MISSING = _Missing()


def difference(sent: object, read: object) -> str | None:
    """Return where and how what was read differs from what was sent, as a clause; None if it does not.

    An element is as good in a list as in a tuple, and a number or text of a subclass, such as a member of an
    enumeration, as good as its plain value: code that was written for the annotation cannot tell.
    """
    with suppress(RecursionError):
        if _are_alike(sent, read):
            return None
    left: list[tuple[Trail, Any, Any]] = [((None, "$"), sent, read)]
    while left:  # No recursion: messages may be nested deeper than calls.
        trail, one, other = left.pop()
        parts = _parts(one, other)
        if parts is not None:
            left += [((trail, step), first, second) for step, first, second in parts]
        elif not _are_same(one, other):
            return _clause(_path(trail), one, other)
    return None


def place_of(value: object, is_wrong: Callable[[Any], bool]) -> str:
    """Return where in a value the innermost thing is of which this is true, such as ``$.lines[0].lock``."""
    trail: Trail = (None, "$")
    for _ in range(DEEPEST):  # A value may hold itself.
        wrong = next(((step, part) for step, part, _ in _parts(value, value) or () if is_wrong(part)), None)
        if wrong is None:
            break
        trail, value = (trail, wrong[0]), wrong[1]
    return _path(trail)


def _are_alike(one: Any, other: Any) -> bool:
    """Say in a fifth of the time whether two values are the same, to the last type; what is not may yet be as good."""
    kind = one.__class__
    if kind is not other.__class__:
        return False
    if kind in _ATOMS:
        return bool(one == other)
    if kind is list or kind is tuple:
        return len(one) == len(other) and all(map(_are_alike, one, other))
    if kind is dict:
        return (
            len(one) == len(other)
            and all(map(_are_alike, one, other))
            and all(map(_are_alike, one.values(), other.values()))
        )
    fields = _fields_of(kind)
    if fields is None:
        return _are_same(one, other)
    if fields.is_open and getattr(one, "__pydantic_extra__", None):
        return False
    return all(map(_are_alike, fields.values(one), fields.values(other)))


def _parts(one: Any, other: Any) -> Iterable[Pair] | None:
    """Return what two values are made of, in pairs; None if they are compared as a whole."""
    kind = one.__class__
    fields = _fields_of(kind)
    if fields is not None:
        if other.__class__ is not kind:
            return None
        pairs = zip(fields.steps, fields.values(one), fields.values(other), strict=True)
        extra: Any = getattr(one, "__pydantic_extra__", None) if fields.is_open else None
        return [*pairs, ("", extra, other.__pydantic_extra__)] if extra else pairs
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return _elements(cast("Iterable[Any]", one), cast("Iterable[Any]", other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return _entries(cast("Any", one), cast("Any", other))
    return None


def _elements(one: Iterable[Any], other: Iterable[Any]) -> Iterator[Pair]:
    for index, (first, second) in enumerate(zip_longest(one, other, fillvalue=_MISSING)):
        yield f"[{index}]", first, second


def _entries(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> Iterator[Pair]:
    nothing = (_MISSING, _MISSING)
    for index, ((key, first), (other_key, second)) in enumerate(
        zip_longest(one.items(), other.items(), fillvalue=nothing)
    ):
        yield f" (key {index})", key, other_key
        yield f" (value {index})", first, second


def _are_same(one: Any, other: Any) -> bool:
    if one.__class__ is bool or other.__class__ is bool:
        return one is other
    if isinstance(one, datetime | time):
        # In an hour that a clock repeats, two moments of different zones are never equal (PEP 495).
        return (
            isinstance(other, datetime if isinstance(one, datetime) else time)
            and (one.tzinfo is None) == (other.tzinfo is None)
            and one.utcoffset() == other.utcoffset()
            and one.replace(tzinfo=None) == other.replace(tzinfo=None)
        )
    if isinstance(one, Decimal):
        return isinstance(other, Decimal) and str(one) == str(other)
    if isinstance(one, set | frozenset) and isinstance(other, set | frozenset):
        mine, theirs = cast("frozenset[Any]", one), cast("frozenset[Any]", other)
        found = {item: item for item in theirs}
        return mine == theirs and all(difference(item, found[item]) is None for item in mine)
    return _are_equal(one, other)


def _are_equal(one: Any, other: Any) -> bool:
    kind = one.__class__
    if other.__class__ is not kind and not (other.__class__ in _ATOMS and issubclass(kind, int | float | str | bytes)):
        return False
    try:
        if kind.__eq__ is object.__eq__ and not issubclass(kind, enum.Enum):
            return bool(one.__dict__ == other.__dict__)
        return bool(one == other)
    except Exception:  # A border: a class whose objects cannot be compared, such as arrays. It is the same class.
        return True


def _clause(path: str, one: Any, other: Any) -> str:
    if one is _MISSING or other is _MISSING:
        return f"{path} would be {'lost' if other is _MISSING else 'added'}"
    if isinstance(one, datetime | time) and _has_odd_offset(one):
        return f"{path} has an offset from UTC with seconds, for which JSON has no form, so take .astimezone(UTC)"
    names = [_name(value.__class__) for value in (one, other)]
    if names[0] == names[1]:
        return f"{path}, of type {names[0]}, would have another value"
    return f"{path} is of type {names[0]}, and would be of type {names[1]}"


def _path(trail: Trail | None) -> str:
    steps: list[str] = []
    while trail is not None:
        trail, step = trail
        steps.append(step)
    return "".join(reversed(steps))


def _name(kind: type[Any]) -> str:
    return "None" if kind is type(None) else kind.__qualname__


def _has_odd_offset(moment: datetime | time) -> bool:
    offset = moment.utcoffset()
    return offset is not None and bool(offset.seconds % 60 or offset.microseconds)


def holds_lost_number(value: Any) -> bool:
    """Say whether there is a number in a value that JSON does not have: nan, or an infinity."""
    if isinstance(value, float):
        return not isfinite(value)
    if isinstance(value, Mapping):
        return any(map(holds_lost_number, cast("Any", value).values()))
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(holds_lost_number, cast("Iterable[Any]", value)))
    fields = _fields_of(value.__class__)
    return fields is not None and any(map(holds_lost_number, fields.values(value)))


class _Fields(NamedTuple):
    """The fields of a class: what leads to each, and what returns their values."""

    steps: tuple[str, ...]
    values: Callable[[Any], tuple[Any, ...]]
    is_open: bool
    """Whether there may be more of them in one object than in another."""


# Weak, so that it keeps no class, and with that no module of the user's, from being cleared away.
_known: WeakKeyDictionary[type[Any], _Fields | None] = WeakKeyDictionary()


def _fields_of(kind: Any) -> _Fields | None:
    """Return the fields of a class of fields; None for any other."""
    try:
        return _known[kind]
    except KeyError:
        pass
    names = names_of_fields(kind)
    fields = None
    if names is not None:
        steps = tuple(f".{name}" for name in names)
        fields = _Fields(steps, _values_of(names), hasattr(kind, "__pydantic_fields__"))
    _known[kind] = fields
    return fields


def _values_of(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda message: tuple(getattr(message, name) for name in names)


def names_of_fields(kind: Any) -> tuple[str, ...] | None:
    """Return the names of the fields of a class of messages, as attributes; None if it is no such class."""
    if issubclass(kind, Struct):
        return tuple(kind.__struct_fields__)
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    if hasattr(kind, "__attrs_attrs__"):
        return tuple(field.name for field in kind.__attrs_attrs__)
    return tuple(kind.__pydantic_fields__) if hasattr(kind, "__pydantic_fields__") else None


# --- messages that need not be tried ---------------------------------------------------------------

_HOOKS = ("__post_init__", "__attrs_post_init__", "__attrs_pre_init__")

_PLAIN: tuple[tuple[inspect.Type, str], ...] = (
    (inspect.NoneType(), "value is None"),
    (inspect.IntType(), "value.__class__ is int"),
    (inspect.StrType(), "value.__class__ is str"),
    (inspect.BoolType(), "value.__class__ is bool"),
    (inspect.FloatType(), "value.__class__ is float and isfinite(value)"),
    (inspect.BytesType(), "value.__class__ is bytes"),
    (inspect.UUIDType(), "value.__class__ is UUID"),
    (inspect.DateType(), "value.__class__ is date"),
    (inspect.TimeType(), "value.__class__ is time and value.tzinfo is None"),
    (inspect.TimeDeltaType(), "value.__class__ is timedelta"),
    (inspect.DecimalType(), "value.__class__ is Decimal"),
    (
        inspect.DateTimeType(),
        "value.__class__ is datetime and (value.tzinfo is None or value.tzinfo is UTC or not has_odd_offset(value))",
    ),
)
"""Types of fields, and when a value of such a field is read as what it is."""

_KEYS = [inspect.IntType(), inspect.StrType(), inspect.UUIDType(), inspect.DateType()]

_Collection = inspect.DictType | inspect.ListType | inspect.VarTupleType | inspect.SetType | inspect.FrozenSetType

_COLLECTIONS: dict[type[inspect.Type], str] = {
    inspect.ListType: "list",
    inspect.VarTupleType: "tuple",
    inspect.SetType: "set",
    inspect.FrozenSetType: "frozenset",
}


class _NotPlain(Exception):
    """Raised for a type of which each value must be tried."""


def make_plain_check(kind: type) -> Callable[[Any], bool] | None:
    """Return what says of messages of a class whether they are read as they are, without trying; None if it must be.

    Only for a class of plain fields: numbers, texts, moments, enumerations; collections, unions and classes of such;
    without limits to their values, and without code of their own that runs when one is made.
    """
    known = inspect.type_info(kind)
    if not isinstance(known, inspect.DataclassType | inspect.StructType):
        return None
    try:
        return _Checks().of_class(known)
    except _NotPlain:
        return None


class _Checks:
    """Writes the checks of one class as source, as dataclasses have their methods written.

    That takes a fifth of the time of a loop over fields. Nothing but names of fields is taken over into it.
    """

    def __init__(self) -> None:
        self._names: dict[str, Any] = {
            thing.__name__: thing for thing in (UUID, date, time, timedelta, datetime, Decimal)
        } | {"UTC": UTC, "isfinite": isfinite, "has_odd_offset": _has_odd_offset}
        self._begun: set[type] = set()

    def of_class(self, known: inspect.DataclassType | inspect.StructType) -> Callable[[Any], bool]:
        """Return the check of a class of fields; raise `_NotPlain` if each of its objects must be tried."""
        kind: type = get_origin(known.cls) or known.cls
        names = tuple(field.name for field in known.fields)
        attributes: Iterable[Any] = getattr(kind, "__attrs_attrs__", ())
        if (
            kind in self._begun  # It holds itself, so objects may be nested deeper than calls.
            or hasattr(kind, "__pydantic_validator__")
            or any(hasattr(kind, hook) for hook in _HOOKS)
            or any(each.validator or each.converter for each in attributes)
            or names != names_of_fields(kind)
            or not all(name.isidentifier() for name in names)
        ):
            raise _NotPlain
        self._begun.add(kind)
        tests = [f"({self._test_of(field.type)})" for field in known.fields]
        self._begun.remove(kind)
        fields = [
            test.replace("value", f"(value := message.{name})", 1) for name, test in zip(names, tests, strict=True)
        ]
        of_class = f"message.__class__ is {self._name(kind)}"
        return self._made(f"lambda message: {' and '.join([of_class, *fields])}")

    def _test_of(self, known: inspect.Type) -> str:
        """Return the expression that says of a ``value`` whether it is read as what it is."""
        for plain, test in _PLAIN:
            if plain == known:
                return test
        if isinstance(known, inspect.DataclassType | inspect.StructType):
            return f"{self._name(self.of_class(known))}(value)"
        if isinstance(known, inspect.UnionType):
            return " or ".join(f"({self._test_of(member)})" for member in known.types)
        if isinstance(known, inspect.EnumType) and not issubclass(known.cls, enum.Flag):
            return f"value.__class__ is {self._name(known.cls)}"
        if isinstance(known, inspect.LiteralType) and len(kinds := set(map(type, known.values))) == 1:
            return f"value.__class__ is {self._name(kinds.pop())} and value in {self._name(known.values)}"
        if isinstance(known, inspect.TupleType):
            tests = [f"{self._check_of(item)}(value[{index}])" for index, item in enumerate(known.item_types)]
            return " and ".join([f"value.__class__ is tuple and len(value) == {len(tests)}", *tests])
        if not isinstance(known, _Collection) or (known.min_length, known.max_length) != (None, None):
            raise _NotPlain
        if not isinstance(known, inspect.DictType):
            items = self._check_of(known.item_type)
            return f"value.__class__ is {_COLLECTIONS[type(known)]} and all(map({items}, value))"
        if known.key_type not in _KEYS:
            raise _NotPlain
        keys, values = self._check_of(known.key_type), self._check_of(known.value_type)
        return f"value.__class__ is dict and all(map({keys}, value)) and all(map({values}, value.values()))"

    def _check_of(self, known: inspect.Type) -> str:
        """Return the name of what checks the elements of a collection."""
        return self._name(self._made(f"lambda value: {self._test_of(known)}"))

    def _made(self, source: str) -> Callable[[Any], bool]:
        check: Callable[[Any], bool] = eval(source, self._names)  # noqa: S307
        return check

    def _name(self, thing: object) -> str:
        name = f"name_{len(self._names)}"
        self._names[name] = thing
        return name
