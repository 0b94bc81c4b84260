"""Serialization: every type that a message may have, both ways; what cannot be read; and what must not get lost."""

from __future__ import annotations

import enum
import json
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar, cast

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postbus import ConfigurationError, Envelope, Stamp, stamps
from postbus.errors import SerializationError
from postbus.serialization import Codec, JsonSerializer, TypeRegistry, Undecodable, can_be_message, explain

T = TypeVar("T")
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


# The messages.


@dataclass(frozen=True)
class Order:
    user_id: int
    note: str = ""


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Right(enum.IntFlag):
    READ = 1
    WRITE = 2


class Word(enum.StrEnum):
    YES = "yes"


class Both(enum.Enum):
    """Neither all text nor all numbers."""

    ONE = 1
    TWO = "two"


class Point(NamedTuple):
    x: int
    y: int = 0


@dataclass
class Everything:
    """One field of each kind."""

    whole: int
    text: str
    yes: bool
    number: float
    at: datetime
    day: date
    hour: time
    length: timedelta
    id: uuid.UUID
    price: Decimal
    colour: Colour
    level: Level
    rights: Right
    word: Word
    raw: bytes
    pair: tuple[int, str]
    many: tuple[int, ...]
    some: set[int]
    fixed: frozenset[str]
    items: list[Order]
    by_name: dict[str, Order]
    by_number: dict[int, str]
    by_id: dict[uuid.UUID, Colour]
    point: Point
    maybe: Order | None
    either: int | str | None
    anything: Any
    chosen: Literal["a", "b"]
    positive: Annotated[int, msgspec.Meta(gt=0)]
    missing: str | None = None
    fallback: list[int] = field(default_factory=lambda: [1])


EVERYTHING = Everything(
    whole=-(2**40),
    text='é ☃ 😀 "\n\0',
    yes=True,
    number=0.1,
    at=NOW,
    day=date(2026, 1, 2),
    hour=time(3, 4, 5, 6),
    length=timedelta(days=-1, microseconds=1),
    id=ID,
    price=Decimal("1.20"),
    colour=Colour.BLUE,
    level=Level.HIGH,
    rights=Right.READ | Right.WRITE,
    word=Word.YES,
    raw=bytes(range(256)),
    pair=(1, "a"),
    many=(1, 2, 3),
    some={1, 2},
    fixed=frozenset({"a"}),
    items=[Order(1), Order(2, "b")],
    by_name={"é": Order(1)},
    by_number={-1: "a", 2**70: "b"},
    by_id={ID: Colour.RED},
    point=Point(1),
    maybe=Order(3),
    either="a",
    anything={"a": [1, None, True, {"b": 0.5}]},
    chosen="b",
    positive=1,
)


@dataclass(slots=True)
class Slotted:
    a: int
    b: list[int] = field(default_factory=list)


@dataclass(kw_only=True)
class ByKeyword:
    a: int


@dataclass(frozen=True)
class Derived(Order):
    more: tuple[int, ...] = ()


@dataclass
class Counting:
    """Has fields that the constructor does not take, and one that is no field."""

    kind: ClassVar[str] = "counting"
    a: int
    b: int = field(init=False)
    c: int = field(init=False, default=7)
    _private: int = 0

    def __post_init__(self) -> None:
        self.b = self.a * 2

    @cached_property
    def square(self) -> int:
        return self.a**2


@dataclass
class Appointment:
    at: datetime


@dataclass
class Box(Generic[T]):
    content: T


@dataclass
class Pair(Generic[T]):
    left: Box[int]
    right: list[Box[str]]


@dataclass
class Tree:
    value: int
    children: list[Tree] = field(default_factory=list)


@dataclass
class First:
    """Refers to a class that is defined after it."""

    second: Second | None


@dataclass
class Second:
    first: First | None


@attrs.frozen
class Attrs:
    a: int
    inner: Order
    many: list[int] = attrs.field(factory=list)
    later: int = attrs.field(init=False, default=4)


@attrs.define(slots=False, kw_only=True)
class AttrsOpen:
    a: int = 1


class Plain(msgspec.Struct):
    a: int
    at: datetime
    inner: Order


class Camel(msgspec.Struct, rename="camel", omit_defaults=True):
    user_id: int
    other_one: int = 5


class Array(msgspec.Struct, array_like=True):
    a: int
    b: str


class Cat(msgspec.Struct, tag="cat"):
    name: str


class Dog(msgspec.Struct, tag="dog"):
    name: str


@dataclass
class Owner:
    pet: Cat | Dog
    others: list[Cat | Dog]


class Address(pydantic.BaseModel):
    street: str
    number: int = 0


class Person(pydantic.BaseModel):
    name: str
    address: Address
    others: list[Address] = []


class Typed(pydantic.BaseModel):
    at: datetime
    id: uuid.UUID
    price: Decimal
    some: set[int]
    fixed: frozenset[str]
    many: tuple[int, ...]
    length: timedelta
    day: date
    colour: Colour
    level: Level
    maybe: int | None
    text: bytes


class Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="allow")
    a: int


MESSAGES = [
    Order(1),
    Order(5, "é"),
    EVERYTHING,
    Slotted(1, [2]),
    ByKeyword(a=1),
    Derived(1, "n", (1, 2)),
    Counting(3),
    Box(5),
    Box("text"),
    Pair(Box(1), [Box("a")]),
    Tree(1, [Tree(2, [Tree(3)])]),
    First(Second(First(None))),
    Attrs(1, Order(2), [3]),
    AttrsOpen(a=2),
    Plain(1, NOW, Order(2)),
    Camel(1),
    Camel(1, 6),
    Array(1, "b"),
    Cat("a"),
    Owner(Dog("a"), [Cat("b"), Dog("c")]),
    Person(name="a", address=Address(street="s"), others=[Address(street="t", number=2)]),
    Typed(
        at=NOW,
        id=ID,
        price=Decimal("1.20"),
        some={1},
        fixed=frozenset({"a"}),
        many=(1, 2),
        length=timedelta(days=-1, microseconds=1),
        day=date(2026, 1, 2),
        colour=Colour.RED,
        level=Level.LOW,
        maybe=None,
        text=b"text",
    ),
    Frozen(a=1, b="kept"),  # type: ignore[call-arg]
]


# Stamps of the tests.


class Noted(Stamp):
    wire_name = "tests.serialization.noted"
    text: str
    at: datetime | None = None


class Anything(Stamp):
    wire_name = "tests.serialization.anything"
    value: Any


class Share(Stamp):
    wire_name = "tests.serialization.share"
    value: float


class Staying(Stamp):
    text: str


class Picky(Stamp):
    wire_name = "tests.serialization.picky"
    value: int

    def __post_init__(self) -> None:
        if self.value == 1:
            raise ValueError("not 1")
        if self.value == 2:
            raise LookupError("not 2")


class Unwritable:
    """Has no JSON form."""


NOTED = "X-Message-Stamp-tests.serialization.noted"


def serializer(*types: type, **names: type) -> JsonSerializer:
    """Return a serializer that knows these types, by their default names or by those given."""
    registry = TypeRegistry()
    for type_ in types:
        registry.register(type_)
    for name, type_ in names.items():
        registry.register(type_, name)
    return JsonSerializer(registry)


def round_trip(message: Any, *more: Stamp) -> Envelope:
    """Return what another process, with the same code, makes of a message."""
    body, headers = serializer().encode(Envelope.wrap(message, *more))
    return serializer(type(message)).decode(body, headers)


def reason(type_: type, body: bytes, **headers: str) -> str:
    """Return why a message cannot be decoded."""
    message = serializer(m=type_).decode(body, {"type": "m", **headers}).message
    assert isinstance(message, Undecodable)
    return message.reason


# Messages.


@pytest.mark.parametrize(
    "message", MESSAGES, ids=[f"{type(message).__name__}-{number}" for number, message in enumerate(MESSAGES)]
)
def test_a_message_comes_back_as_it_was(message: Any) -> None:
    """Each kind of class, with each type of field, is the same value of the same type after the journey."""
    decoded = round_trip(message).message
    assert message == decoded
    assert type(message) is type(decoded)


def test_each_field_has_its_type_again() -> None:
    """What JSON has no type for comes back as what it was, down to the elements."""
    decoded = round_trip(EVERYTHING).message
    for name in Everything.__dataclass_fields__:
        assert type(getattr(EVERYTHING, name)) is type(getattr(decoded, name)), name
    assert type(decoded.items[0]) is Order
    assert Right.READ in decoded.rights


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 1, 2, 3, 4, 5, 678901),  # noqa: DTZ001
        datetime(2026, 1, 2, tzinfo=UTC),
        datetime(2026, 7, 2, 3, tzinfo=timezone(timedelta(hours=2), "CEST")),
        datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=-9, minutes=-30))),
        datetime.min,  # noqa: DTZ901
        datetime.max.replace(tzinfo=UTC),
    ],
    ids=str,
)
def test_a_moment_stays_the_same_moment(moment: datetime) -> None:
    """A time with an offset is the same instant, one without has none afterwards either."""
    envelope = round_trip(Appointment(moment), Noted("", moment))
    noted = envelope.last(Noted)
    assert noted is not None
    for decoded in (envelope.message.at, noted.at):
        assert moment.isoformat() == decoded.isoformat()


def test_unknown_fields_are_ignored() -> None:
    """A message from newer code, which has more fields, can be read."""
    decoded = serializer(m=Order).decode(b'{"user_id":1,"new":{"a":[1]},"note":"n"}', {"type": "m"})
    assert Order(1, "n") == decoded.message


def test_missing_fields_have_their_defaults() -> None:
    """A message from older code, which had fewer fields, can be read where they have defaults."""
    assert Slotted(1) == serializer(m=Slotted).decode(b'{"a":1}', {"type": "m"}).message


def test_only_fields_are_written() -> None:
    """Class variables, cached properties and defaults of the class do not travel; private fields do."""
    message = Counting(3, _private=5)
    assert 9 == message.square
    body, _ = serializer().encode(Envelope(message))
    assert {"a": 3, "b": 6, "_private": 5} == json.loads(body)


def test_a_body_is_json_and_headers_are_text() -> None:
    """The format on the wire: a JSON object, the registered name, the content type and the version."""
    body, headers = serializer(order=Order).encode(Envelope(Order(1, "é")))
    assert '{"user_id":1,"note":"é"}'.encode() == body
    assert {"type": "order", "Content-Type": "application/json", "X-Postbus-Wire": "1"} == headers


@dataclass
class Number:
    value: float


@dataclass
class MaybeNumber:
    value: float | None


class NumberModel(pydantic.BaseModel):
    value: float


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
@pytest.mark.parametrize("type_", [Number, MaybeNumber, NumberModel, Box])
def test_a_number_that_json_does_not_have_is_refused_or_kept(type_: Callable[..., Any], value: float) -> None:
    """NaN and infinities do not turn into something else on the way: sending raises, or they arrive."""
    message = type_(value=value) if type_ is not Box else Box(value)
    try:
        decoded = round_trip(message).message
    except SerializationError:
        return
    assert repr(message) == repr(decoded)


def test_a_stamps_number_that_json_does_not_have_is_refused_or_kept() -> None:
    """The same holds for the fields of a stamp."""
    given = Share(float("inf"))
    try:
        decoded = round_trip(Order(1), given)
    except SerializationError:
        return
    assert given == decoded.last(Share)


@attrs.define
class AttrsPrivate:
    _secret: int = 0
    a: int = 1


def test_a_private_field_of_an_attrs_class_travels() -> None:
    """A field that begins with an underscore, as dataclasses may have, is not silently left out."""
    try:
        decoded = round_trip(AttrsPrivate(secret=5)).message
    except (ConfigurationError, SerializationError):
        return
    assert AttrsPrivate(secret=5) == decoded


class Aliased(pydantic.BaseModel):
    user_id: int = pydantic.Field(alias="userId")


class Computing(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    a: int

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> int:
        return self.a * 2


class Quoting(pydantic.BaseModel):
    items: pydantic.Json[list[int]]


class Login(pydantic.BaseModel):
    user: str
    password: pydantic.SecretStr


@pytest.mark.parametrize(
    "message",
    [
        Aliased(userId=1),
        Computing(a=1),
        Quoting(items="[1]"),  # type: ignore[arg-type]
        Login(user="a", password=pydantic.SecretStr("b")),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_a_model_writes_it_can_read(message: Any) -> None:
    """A model arrives as it was, whatever its fields are called and made of, or cannot be sent."""
    try:
        decoded = round_trip(message).message
    except SerializationError:
        return
    assert message == decoded


def test_a_model_is_read_strictly() -> None:
    """A text is no number, also where pydantic would be lenient."""
    assert "$.number: Input should be a valid integer" == reason(Address, b'{"street":"s","number":"5"}')


# What cannot be a message.


@dataclass
class WithInitVar:
    a: int
    b: InitVar[int]

    def __post_init__(self, b: int) -> None: ...


@dataclass
class TwoDataclasses:
    either: Order | Slotted


@dataclass
class TwoTexts:
    either: datetime | str


@dataclass
class WithBoth:
    both: Both


@dataclass
class Untagged:
    either: Plain | Camel


@pytest.mark.parametrize("type_", [WithInitVar, TwoDataclasses, TwoTexts, WithBoth, Untagged])
def test_a_class_that_could_not_be_read_is_refused_when_it_is_registered(type_: type) -> None:
    """What JSON cannot tell apart is an error that names the class and the reason, before any message is sent."""
    registry = TypeRegistry()
    with pytest.raises(ConfigurationError) as caught:
        registry.register(type_)
    assert f"{__name__}.{type_.__qualname__} cannot be read from JSON: " in str(caught.value)
    assert registry.type_for(f"{__name__}.{type_.__qualname__}") is None


class Bare:
    """None of the kinds of class that a message may be."""


@pytest.mark.parametrize("type_", [Bare, dict, int, str, Point, Colour, Unwritable])
def test_what_is_no_class_of_fields_is_refused(type_: type) -> None:
    """The error says what a message may be, and how to make it one."""
    with pytest.raises(ConfigurationError) as caught:
        TypeRegistry().register(type_)
    assert (
        f"{type_.__module__}.{type_.__qualname__} cannot be a message: it is not a dataclass, attrs class, msgspec "
        "Struct or pydantic model. Make it one, for example with @dataclass(frozen=True)." == str(caught.value)
    )


def test_what_can_be_a_message() -> None:
    """Dataclasses, attrs classes, Structs and models can, other classes not."""
    assert [True] * 5 == [can_be_message(type_) for type_ in (Order, Attrs, AttrsOpen, Plain, Person)]
    assert [False] * 3 == [can_be_message(type_) for type_ in (Bare, dict, Colour)]


@pytest.mark.parametrize("message", [Bare(), {"a": 1}, None, Order], ids=["object", "dict", "none", "class"])
def test_a_message_that_cannot_be_written_is_a_serialization_error(message: Any) -> None:
    """`Serializer.encode` raises `SerializationError` for whatever it cannot write, a class that is none too."""
    with pytest.raises(SerializationError):
        serializer().encode(Envelope(message))


class BytesModel(pydantic.BaseModel):
    raw: bytes


@dataclass
class ByPair:
    items: dict[tuple[int, int], str]


def circle() -> Tree:
    tree = Tree(1)
    tree.children.append(tree)
    return tree


@pytest.mark.parametrize(
    "message",
    [
        Box(Unwritable()),
        Box(1j),
        Box("\udcff"),
        Box(10**5000),
        Box(Person(name="a", address=Address(street="s"))),
        ByPair({(1, 2): "a"}),
        BytesModel(raw=b"\xff"),
        circle(),
    ],
    ids=["object", "complex", "surrogate", "huge", "model-in-dataclass", "dict-by-tuple", "bytes-in-model", "circle"],
)
def test_a_value_without_a_json_form_is_a_serialization_error(message: Any) -> None:
    """The error names the class of the message, says why, and what to do."""
    with pytest.raises(SerializationError) as caught:
        serializer().encode(Envelope(message))
    assert f".{type(message).__qualname__} cannot be written as JSON: " in str(caught.value)
    assert str(caught.value).endswith(" Give it fields of plain types.")
    assert caught.value.__cause__ is not None


# Definitions that refer to later ones.


def load(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> Any:
    """Return a module that is imported from its source, and forgotten after the test."""
    (folder / f"{name}.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(folder)
    try:
        return import_module(name)
    finally:
        if name in sys.modules:
            monkeypatch.delitem(sys.modules, name)


FORWARD = """
{future}
from dataclasses import dataclass
from postbus.serialization import JsonSerializer, TypeRegistry

types = TypeRegistry()

def message(cls):
    types.register(cls)
    return cls

@message
@dataclass
class Folder:
    files: {files}
    folders: {folders}

@message
@dataclass
class File:
    name: str
"""


@pytest.mark.parametrize(
    "words",
    [
        {"future": "from __future__ import annotations", "files": "list[File]", "folders": "list[Folder]"},
        {"future": "", "files": "list['File']", "folders": "list['Folder']"},
        {"future": "", "files": "list[str]", "folders": "list['Folder']"},
    ],
    ids=["postponed", "quoted", "itself"],
)
def test_a_message_may_refer_to_itself_and_to_later_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: Mapping[str, str]
) -> None:
    """A class can be registered where it is defined, before the classes that its fields name."""
    shop = load(tmp_path, monkeypatch, "shop_with_folders", FORWARD.format(**words))
    monkeypatch.setitem(sys.modules, "shop_with_folders", shop)
    json_ = JsonSerializer(shop.types)
    folder = shop.Folder([], [shop.Folder([], [])])
    assert folder == json_.decode(*json_.encode(Envelope(folder))).message


def test_a_name_that_never_comes_is_an_error_by_name() -> None:
    """A field whose type is only there for the type checker is refused, with its name."""

    @dataclass
    class Unresolved:
        a: Nowhere  # type: ignore[name-defined]  # noqa: F821

    def register_and_use() -> None:
        registry = TypeRegistry()
        registry.register(Unresolved)
        registry.check()

    with pytest.raises(ConfigurationError, match="'Nowhere' is not defined"):
        register_and_use()


# Names.


def test_the_default_name_is_module_and_class() -> None:
    """A type that is given no name has the one that Python calls it by."""
    registry = TypeRegistry()
    registry.register(Order)
    assert (f"{__name__}.Order", Order) == (registry.name_for(Order), registry.type_for(f"{__name__}.Order"))


def test_a_type_is_registered_when_it_is_first_sent() -> None:
    """Sending needs no declaration; from then on it can be read too."""
    registry = TypeRegistry()
    assert registry.type_for(f"{__name__}.Order") is None
    assert f"{__name__}.Order" == registry.name_for(Order)
    assert Order is registry.type_for(f"{__name__}.Order")


def test_a_given_name_takes_the_place_of_the_default_one() -> None:
    """Whether the type was known before or not, only the given name counts then, for reading too."""
    for before in (True, False):
        registry = TypeRegistry()
        if before:
            registry.register(Order)
        registry.register(Order, "order")
        registry.register(Order)
        assert "order" == registry.name_for(Order)
        assert [Order, None] == [registry.type_for(name) for name in ("order", f"{__name__}.Order")]


def test_aliases_are_read_and_not_written() -> None:
    """Messages that were sent under an earlier name can be read; what is sent has the present one."""
    registry = TypeRegistry()
    registry.register(Order, "order", aliases=["bestellung", "old.module.Order"])
    json_ = JsonSerializer(registry)
    for name in ("order", "bestellung", "old.module.Order"):
        assert Order(1) == json_.decode(b'{"user_id":1}', {"type": name}).message
    assert "order" == json_.encode(Envelope(Order(1))).headers["type"]


def test_aliases_may_be_added_later() -> None:
    """Registering again with aliases adds them, and giving a name keeps those that there are."""
    registry = TypeRegistry()
    registry.register(Order)
    registry.register(Order, aliases=["a"])
    registry.register(Order, aliases=["a", "b"])
    registry.register(Order, "order")
    assert [("a", Order), ("b", Order), ("order", Order)] == list(registry)


def test_another_name_for_a_named_type_is_refused() -> None:
    """The error names the type and both names, and says where old names go."""
    registry = TypeRegistry()
    registry.register(Order, "one")
    with pytest.raises(ConfigurationError) as caught:
        registry.register(Order, "two")
    assert "Order is registered as 'one' and as 'two'. Choose one; names from before go into aliases." == str(
        caught.value
    )
    assert ("one", None) == (registry.name_for(Order), registry.type_for("two"))


@pytest.mark.parametrize("before", ["order", None], ids=["given", "default"])
def test_registering_under_the_same_name_again_changes_nothing(before: str | None) -> None:
    """The name that a type has may be given to it again, also the default one."""
    registry = TypeRegistry()
    registry.register(Order, before)
    registry.register(Order, registry.name_for(Order))
    assert Order is registry.type_for(registry.name_for(Order))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((Order, "a"), (Slotted, "a")),
        ((Order, "a", ["b"]), (Slotted, "b")),
        ((Order, "a"), (Slotted, "b", ["a"])),
        ((Order, f"{__name__}.Slotted"), (Slotted,)),
    ],
    ids=["name", "alias", "new-alias", "default"],
)
def test_two_types_of_one_name_are_refused(first: tuple[Any, ...], second: tuple[Any, ...]) -> None:
    """The error names both types and the name, and the first one keeps it."""
    registry = TypeRegistry()
    registry.register(*first)
    before = dict(registry)
    with pytest.raises(ConfigurationError) as caught:
        registry.register(*second)
    assert f"{__name__}.Order and {__name__}.Slotted both travel as " in str(caught.value)
    assert 'Give one of them another name: @app.message("...").' in str(caught.value)
    assert before == {name: type_ for name, type_ in registry if type_ is Order}


def test_the_same_class_may_be_defined_again() -> None:
    """After a module was reloaded its new class is read, and objects of both are written under the one name."""
    old, new = (dataclass(type("Order", (), {"__module__": "m", "__annotations__": {"a": int}})) for _ in range(2))
    registry = TypeRegistry()
    registry.register(old)
    registry.register(new)
    assert new is registry.type_for("m.Order")
    assert ["m.Order", "m.Order"] == [registry.name_for(type_) for type_ in (old, new)]
    json_ = JsonSerializer(registry)
    for type_ in (old, new):
        assert type(json_.decode(*json_.encode(Envelope(type_(1)))).message) is new


def test_registries_are_independent() -> None:
    """What one app knows another does not."""
    one, two = TypeRegistry(), TypeRegistry()
    one.register(Order, "order")
    assert two.type_for("order") is None
    two.register(Slotted, "order")


PROGRAM = """
from dataclasses import dataclass
from postbus import Envelope
from postbus.serialization import JsonSerializer, TypeRegistry

@dataclass
class Order:
    id: int

if __name__ == "__main__":
    import shop.orders
    types = TypeRegistry()
    print(JsonSerializer(types).encode(Envelope(Order(1))).headers["type"])
    types.register(shop.orders.Order)
    print(types.type_for("shop.orders.Order") is shop.orders.Order)
"""


@pytest.mark.slow
def test_a_started_program_writes_its_modules_name(tmp_path: Path) -> None:
    """What a program defines is not sent as ``__main__.Order``, and is the class that others import by its name."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "orders.py").write_text(PROGRAM)
    assert ["shop.orders.Order", "True"] == run(tmp_path, "-m", "shop.orders").split()


def run(folder: Path, *arguments: str) -> str:
    """Return what a Python process in a folder printed."""
    finished = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert "" == finished.stderr
    return finished.stdout


@pytest.mark.slow
def test_nothing_on_the_wire_is_imported(tmp_path: Path) -> None:
    """A type or stamp by the name of a module, a class or a function is only looked up, never imported or called."""
    (tmp_path / "trap.py").write_text("print('imported')\nclass Message:\n    pass\n")
    program = """
        import sys
        from dataclasses import dataclass
        from postbus.serialization import JsonSerializer, TypeRegistry, Undecodable

        @dataclass
        class Order:
            id: int

        types = TypeRegistry()
        types.register(Order, "order")
        json = JsonSerializer(types)
        for name in ("order", "unknown.Order"):
            json.decode(b'{"id":1}', {"type": name})
        before = set(sys.modules)
        names = ["os.system", "os:system", "trap", "trap.Message", "xml.dom.minidom.Document", "builtins.eval", "int"]
        names += ["postbus.stamps.Received", "postbus.serialization.Undecodable", "__main__.Order", "subprocess.Popen"]
        for name in names:
            for body in (b"{}", b'{"id":1}', b'["ls"]', b'"ls"', b'{"__class__":"os.system"}'):
                decoded = json.decode(body, {"type": name})
                assert isinstance(decoded.message, Undecodable), name
                reason = decoded.message.reason
                assert reason.startswith(f"no message is registered as {name!r}"), reason
                decoded = json.decode(b'{"id":1}', {"type": "order", f"X-Message-Stamp-{name}": body.decode()})
                assert decoded.message == Order(1), decoded
        assert before == set(sys.modules), set(sys.modules) - before
        print("done")
    """
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    assert "done\n" == run(tmp_path, "program.py")


# Stamps.


def test_only_stamps_with_a_wire_name_travel() -> None:
    """The others stay here, whichever side of them the travelling ones stand on."""
    envelope = round_trip(Order(1), Staying("a"), stamps.BusName("main"), stamps.Delay(5), Noted("n"), Staying("b"))
    assert [stamps.BusName("main"), Noted("n")] == [
        stamp for stamp in envelope.stamps if not isinstance(stamp, stamps.Encoded)
    ]


def test_several_stamps_of_a_type_travel_in_one_header_in_their_order() -> None:
    """A header is a JSON list of all stamps of its name, oldest first."""
    given = [Noted("a"), Noted("é", NOW), Noted("a")]
    _, headers = serializer().encode(Envelope.wrap(Order(1), given[0], stamps.BusName("m"), *given[1:]))
    assert [
        {"text": "a", "at": None},
        {"text": "é", "at": "2026-01-02T03:04:05.678901Z"},
        {"text": "a", "at": None},
    ] == (json.loads(headers[NOTED]))
    assert given == round_trip(Order(1), *given).all(Noted)


def test_every_stamp_of_the_core_that_travels_comes_back() -> None:
    """With all of its fields."""
    given: list[Stamp] = [
        stamps.BusName("main"),
        stamps.MessageId("1"),
        stamps.Correlation("2"),
        stamps.Causation("3"),
        stamps.Handled("h"),
        stamps.Retried(2, NOW),
        stamps.ErrorDetails("E", 'a "text"\nof lines', NOW, "h", "Traceback…"),
        stamps.Buried("work"),
    ]
    assert given == [stamp for stamp in round_trip(Order(1), *given).stamps if stamp.wire_name is not None]


@pytest.mark.parametrize("stamp", [stamps.MessageId("\udcff"), stamps.BusName(cast("str", Unwritable()))])
def test_an_own_stamp_without_a_json_form_is_a_serialization_error(stamp: Stamp) -> None:
    """Those that every message has are written in another way, and refused in the same one."""
    with pytest.raises(SerializationError, match=f"{type(stamp).__name__} cannot be written as JSON, for header "):
        serializer().encode(Envelope.wrap(Order(1), stamp))


@pytest.mark.parametrize("stamp", [stamps.MessageId("1"), stamps.Correlation("1")])
def test_of_two_stamps_of_a_kind_both_travel(stamp: Stamp) -> None:
    """Whoever wrote them, nothing that came is left out."""
    given = [stamp, type(stamp)("2")]
    assert given == round_trip(Order(1), *given).all(type(stamp))


@pytest.mark.parametrize("value", [Unwritable(), 1j, "\udcff", {(1, 2): 3}], ids=["object", "complex", "text", "dict"])
def test_a_stamp_without_a_json_form_is_a_serialization_error(value: object) -> None:
    """The error names the class of the message and says what to do, also for a message that nobody here can read."""
    for message in (Order(1), Undecodable(b"", {}, "?")):
        with pytest.raises(SerializationError) as caught:
            serializer().encode(Envelope.wrap(message, Anything(value)))
        assert "Anything cannot be written as JSON, for header " in str(caught.value)


def endless() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


def test_an_endless_stamp_is_a_serialization_error() -> None:
    """Whatever is wrong with a stamp's value, the error is the one that callers expect."""
    with pytest.raises(SerializationError):
        serializer().encode(Envelope.wrap(Order(1), Anything(endless())))


def test_a_stamp_cannot_be_forged_that_does_not_travel() -> None:
    """A header by the name of a stamp of this process puts no such stamp on; it is kept as unknown."""
    forged = {f"X-Message-Stamp-{name}": "[{}]" for name in ("received", "Received", "Delay", "sent", "result", "")}
    envelope = serializer(m=Order).decode(b'{"user_id":1}', {"type": "m", **forged})
    assert [stamps.UnknownHeaders(forged)] == [
        stamp for stamp in envelope.stamps if not isinstance(stamp, stamps.Encoded)
    ]


# What is sent on unchanged.


def test_unknown_stamps_and_headers_are_sent_on_byte_for_byte() -> None:
    """What means nothing here, broken or not, is there again after decoding and encoding."""
    unknown = {
        "X-Message-Stamp-nobody.knows": '[ {"a" : 1} ]',
        "X-Message-Stamp-broken": "{",
        "X-Message-Stamp-": "",
        "x-request-id": "é \u2028 \\u00e9",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "": "empty",
        "Type": "not the type",
    }
    json_ = serializer(m=Order)
    headers = json_.encode(Envelope.wrap(Order(1), Noted("n"))).headers | unknown
    decoded = json_.decode(b'{"user_id":1}', headers)
    assert [Noted("n")] == decoded.all(Noted)
    assert headers == json_.encode(decoded).headers
    replaced = Envelope(Order(2), decoded.stamps).with_(stamps.Buried("t"))
    assert headers.items() < json_.encode(replaced).headers.items()
    assert headers == json_.encode(json_.decode(*json_.encode(decoded))).headers


def test_a_received_body_is_sent_on_byte_for_byte() -> None:
    """Spaces, the order of fields and fields that this process does not know stay as they were."""
    json_ = serializer(m=Order)
    body = b'{ "note":"\\u00e9", "unknown" : [1, 2.50],\n"user_id" :1 }'
    decoded = json_.decode(body, {"type": "m"})
    assert Order(1, "é") == decoded.message
    assert body == json_.encode(decoded.with_(stamps.Retried(1, NOW))).body


def test_a_replaced_message_is_written_anew() -> None:
    """A middleware that puts another message in the envelope, an equal one even, has that one sent."""
    json_ = serializer(m=Order)
    decoded = json_.decode(b'{"user_id":1,"unknown":2}', {"type": "m"})
    assert b'{"user_id":2,"note":""}' == json_.encode(Envelope(Order(2), decoded.stamps)).body
    assert b'{"user_id":1,"note":""}' == json_.encode(Envelope(Order(1), decoded.stamps)).body


def test_a_changed_message_is_sent_on_as_it_came() -> None:
    """A handler that changes the object it was given does not change what a retry will see."""
    json_ = serializer(m=Slotted)
    decoded = json_.decode(b'{"a":1}', {"type": "m"})
    decoded.message.a = 2
    assert b'{"a":1}' == json_.encode(decoded).body


def test_another_codec_may_write_and_read_the_messages() -> None:
    """A serializer can be told what writes and reads each type; the registry goes on to know the names."""
    registry = TypeRegistry()
    registry.register(Order, "order")

    def reversed_codec(type_: type) -> Codec:
        codec = registry.codec_for(type_)
        return Codec(lambda message: codec.encode(message)[::-1], lambda body: codec.decode(body[::-1]))

    serializer = JsonSerializer(registry, codec_for=reversed_codec)
    body, headers = serializer.encode(Envelope(Order(13)))

    assert b'{"user_id":13,"note":""}'[::-1] == body
    assert "order" == headers["type"]
    assert Order(13) == serializer.decode(body, headers).message


def test_another_format_writes_the_message_anew() -> None:
    """What one kind of serializer has read is not passed on by another as its own."""

    class Upper(JsonSerializer):
        pass

    registry = TypeRegistry()
    registry.register(Order, "m")
    body = b'{"user_id":1,"unknown":2}'
    decoded = JsonSerializer(registry).decode(body, {"type": "m"})
    assert body != Upper(registry).encode(decoded).body


# What cannot be read.


@pytest.mark.parametrize(
    ("type_", "body", "expected"),
    [
        (Order, b'{"user_id":"5"}', "$.user_id: expected int, got str"),
        (Order, b'{"user_id":1.0}', "$.user_id: expected int, got float"),
        (Order, b'{"user_id":true}', "$.user_id: expected int, got bool"),
        (Order, b'{"user_id":null}', "$.user_id: expected int, got null"),
        (Order, b"{}", "$: object missing required field user_id"),
        (Order, b"null", "$: expected object, got null"),
        (Order, b"[]", "$: expected object, got array"),
        (Order, b"5", "$: expected object, got int"),
        (Owner, b'{"pet":{"type":"cow"}}', "$.pet.type: invalid value 'cow'"),
        (Tree, b'{"value":1,"children":[{"value":2,"children":[{"value":"x"}]}]}', "$.children[0].children[0].value: "),
        (Attrs, b'{"a":1,"inner":{"user_id":[]}}', "$.inner.user_id: expected int, got array"),
        (Plain, b'{"a":1,"at":"yesterday","inner":{}}', "$.at: invalid RFC3339 encoded datetime"),
        (Person, b'{"name":"a","address":{"street":5}}', "$.address.street: Input should be a valid string"),
        (Person, b'{"name":"a","address":{"street":"s"},"others":[{}]}', "$.others[0].street: Field required"),
        (Person, b'{"address":{}}', "$.name: Field required; $.address.street: Field required"),
        (Person, b"[]", "$: Input should be an object"),
        (Person, b"{", "$: Invalid JSON: "),
        (Order, b"", "Input data was truncated"),
        (Order, b'{"user_id":1', "Input data was truncated"),
        (Order, b"not json", "JSON is malformed: "),
        (Order, b"\xff\xfe\x00", "JSON is malformed: "),
        (Order, b'{"user_id":1}{}', "JSON is malformed: trailing characters"),
        (Order, b"<xml/>", "JSON is malformed: "),
    ],
)
def test_the_reason_names_the_path(type_: type, body: bytes, expected: str) -> None:
    """What is wrong, and where in the body."""
    assert expected == reason(type_, body)[: len(expected)]


@dataclass
class Chosen:
    colour: Colour


@dataclass
class Checked:
    amount: int

    def __post_init__(self) -> None:
        if self.amount < 0:
            raise ValueError("OrderAmount - at least 0, not `-1`")


@pytest.mark.parametrize(
    ("type_", "body", "expected"),
    [
        (Chosen, b'{"colour":"red - at night"}', "$.colour: invalid enum value 'red - at night'"),
        (Checked, b'{"amount":-1}', "$: OrderAmount - at least 0, not `-1`"),
    ],
)
def test_the_reason_is_not_cut_up(type_: type, body: bytes, expected: str) -> None:
    """A value, or an error text of the user's own, is quoted as it is, whatever stands in it."""
    assert expected == reason(type_, body)


class Peculiar(Exception):
    """Has what looks like pydantic's errors()."""

    def errors(self) -> list[str]:
        return ["not what pydantic returns"]


class Boundless(Exception):
    """Cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@dataclass
class Raising:
    how: str

    def __post_init__(self) -> None:
        raise {"key": KeyError("k"), "mine": Peculiar(), "mute": Boundless(), "empty": LookupError()}[self.how]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("key", "'k'"),
        ("empty", "LookupError"),
        pytest.param("mine", ""),
        pytest.param("mute", ""),
    ],
)
def test_what_a_messages_own_checks_raise_is_the_reason(how: str, expected: str) -> None:
    """Whatever a class raises while it is read makes the message undecodable, and nothing escapes."""
    assert expected in reason(Raising, b'{"how":"%s"}' % how.encode())


BODY = b'{"user_id":1}'


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, "there is no type header"),
        ({"type": ""}, "there is no type header"),
        ({"type": "nobody"}, "no message is registered as 'nobody'"),
        ({"type": "m", "X-Postbus-Wire": "2"}, "wire format '2' is not known here, only '1'"),
        ({"type": "m", "X-Postbus-Wire": ""}, "wire format '' is not known here, only '1'"),
        ({"type": "m", NOTED: "["}, f"header {NOTED}: Input data was truncated"),
        ({"type": "m", NOTED: ""}, f"header {NOTED}: Input data was truncated"),
        ({"type": "m", NOTED: "{}"}, f"header {NOTED}: $: expected array, got object"),
        ({"type": "m", NOTED: '[{"text":5}]'}, f"header {NOTED}: $[0].text: expected str, got int"),
        ({"type": "m", NOTED: '[{"text":"a"},null]'}, f"header {NOTED}: $[1]: expected object, got null"),
    ],
)
def test_what_is_wrong_with_the_headers(headers: Mapping[str, str], expected: str) -> None:
    """A missing or unknown type, a later version, a stamp that cannot be read: the reason says which."""
    decoded = serializer(m=Order).decode(BODY, headers)
    assert Undecodable(BODY, headers, expected) == decoded.message


def test_without_a_version_it_is_the_first() -> None:
    """What somebody else has written, without our header, can be read."""
    assert Order(1) == serializer(m=Order).decode(BODY, {"type": "m"}).message


UNREADABLE = [
    pytest.param(BODY, {}, id="no-type"),
    pytest.param(BODY, {"type": "nobody", "Content-Type": "text/plain; charset=latin-1", "other": "é"}, id="unknown"),
    pytest.param(BODY, {"type": "m", "X-Postbus-Wire": "99", "new": "header"}, id="future"),
    pytest.param(b"\xff\x00binary", {"type": "m"}, id="binary"),
    pytest.param(b"", {"type": "m"}, id="empty"),
    pytest.param(BODY, {"type": "m", NOTED: "broken", "X-Message-Stamp-nobody": " [ ] "}, id="broken-stamp"),
    pytest.param(
        b"O:8:stdClass", {"X-Message-Stamp-Symfony\\Component\\Stamp": "[{}]", "type": "App\\M"}, id="symfony"
    ),
    pytest.param(
        BODY,
        {"type": "nobody", NOTED: '[{"text":"a","at":null}]'},
        id="known-stamp",
    ),
    pytest.param(
        BODY,
        {"type": "nobody", NOTED: '[{"text": "a"}]'},
        id="known-stamp-other-spelling",
    ),
    pytest.param(
        BODY,
        {"type": "nobody", NOTED: '[{"text":"a","at":null,"new":5}]'},
        id="known-stamp-of-newer-code",
    ),
    pytest.param(
        BODY,
        {"type": "nobody", NOTED: "[]"},
        id="empty-stamp",
    ),
]


@pytest.mark.parametrize(("body", "headers"), UNREADABLE)
def test_an_undecodable_message_is_sent_on_exactly_as_it_came(body: bytes, headers: Mapping[str, str]) -> None:
    """Bytes and headers are the same after decoding and encoding, once and again."""
    json_ = serializer(m=Order)
    decoded = json_.decode(body, headers)
    assert isinstance(decoded.message, Undecodable)
    assert (body, headers) == json_.encode(decoded)
    assert (body, headers) == json_.encode(json_.decode(*json_.encode(decoded)))


@pytest.mark.parametrize(("body", "headers"), UNREADABLE[:8])
def test_new_stamps_are_added_to_an_undecodable_message(body: bytes, headers: Mapping[str, str]) -> None:
    """Burying and retrying it adds headers and changes none, so that code that understands it can handle it."""
    json_ = serializer(m=Order)
    details = stamps.ErrorDetails("NotDecoded", "no", NOW)
    first = json_.encode(json_.decode(body, headers).with_(stamps.Buried("work"), details))
    assert body == first.body
    assert headers.items() <= first.headers.items()
    assert {"X-Message-Stamp-buried", "X-Message-Stamp-error"} == first.headers.keys() - headers.keys()

    again = json_.decode(*first)
    assert isinstance(again.message, Undecodable)
    assert ([stamps.Buried("work")], [details]) == (again.all(stamps.Buried), again.all(stamps.ErrorDetails))
    second = json_.encode(again.with_(stamps.MessageId("1"), details))
    assert (body, '[{"id":"1"}]') == (second.body, second.headers["X-Message-Stamp-id"])
    assert headers.items() <= second.headers.items()
    assert 2 == len(json.loads(second.headers["X-Message-Stamp-error"]))


def test_a_broken_stamp_is_not_overwritten() -> None:
    """A header that could not be read is sent on as it came, also where stamps of its name are added."""
    json_ = serializer(m=Order)
    headers = {"type": "m", "X-Message-Stamp-error": '[{"type":"E","message":"m","at":"in another form"}]'}
    decoded = json_.decode(BODY, headers).with_(stamps.ErrorDetails("NotDecoded", "no", NOW))
    assert headers["X-Message-Stamp-error"] in json_.encode(decoded).headers.values()


def test_the_stamps_that_can_be_read_are_there() -> None:
    """An undecodable message has its id and history all the same; the rest is kept as text."""
    sent = serializer().encode(Envelope.wrap(Order(1), stamps.MessageId("1"), Noted("a"), stamps.Handled("h")))
    decoded = serializer().decode(sent.body, sent.headers | {"other": "x"})
    assert (stamps.MessageId("1"), Noted("a"), stamps.Handled("h")) == decoded.stamps


def test_it_can_be_read_once_the_code_is_there() -> None:
    """What was buried undecodable by old code is decoded by new code, with everything that came along."""
    sent = serializer().encode(Envelope.wrap(Order(1), stamps.MessageId("1"), Noted("a")))
    buried = serializer().encode(serializer().decode(*sent).with_(stamps.Buried("work")))
    decoded = serializer(Order).decode(*buried)
    assert Order(1) == decoded.message
    assert [True] * 3 == [decoded.has(type_) for type_ in (stamps.MessageId, Noted, stamps.Buried)]


# Nothing escapes.

DEEP = "[" * 100_000 + "]" * 100_000


@dataclass
class Loose:
    value: Any


@pytest.mark.parametrize(
    ("type_", "body"),
    [
        (Loose, b'{"value":' + DEEP.encode() + b"}"),
        (Order, b"[" * 100_000),
        (Frozen, b'{"a":1,"b":' + DEEP.encode() + b"}"),
        (Order, b'{"user_id":' + b"9" * 10_000 + b"}"),
        (Number, b'{"value":1e999}'),
        (Number, b'{"value":NaN}'),
        (Order, b'\xef\xbb\xbf{"user_id":1}'),
        (Order, b'{"user_id":1,"note":"\xff"}'),
        (Order, b'{"user_id":1,"note":"\\ud800"}'),
        (Order, b"\x00" * 100),
    ],
    ids=["deep", "open", "deep-model", "digits", "large", "nan", "bom", "utf-8", "surrogate", "zeros"],
)
def test_no_body_makes_decoding_raise(type_: type, body: bytes) -> None:
    """Whatever the bytes are, what comes back is an envelope around them."""
    decoded = serializer(m=type_).decode(body, {"type": "m"}).message
    assert isinstance(decoded, Undecodable)
    assert (body, {"type": "m"}) == (decoded.body, decoded.headers)
    assert decoded.reason


def test_what_is_deep_and_not_wanted_is_skipped_or_explained() -> None:
    """Whether Python can step over it depends on its version: from 3.14 on the message is simply read."""
    body, headers = b'{"user_id":1,"x":' + DEEP.encode() + b"}", {"type": "m"}
    message = serializer(m=Order).decode(body, headers).message
    if isinstance(message, Undecodable):
        assert (body, headers) == (message.body, message.headers)
        assert message.reason
    else:
        assert Order(1) == message


def test_a_stamp_that_holds_too_much_is_read_or_explained() -> None:
    """As in any stamp of ours, a field that it does not have is left out, or the message is undecodable, as it came."""
    headers = {"type": "m", NOTED: f'[{{"text":"a","x":{DEEP}}}]'}
    decoded = serializer(m=Order).decode(BODY, headers)
    if isinstance(decoded.message, Undecodable):
        assert (BODY, headers) == (decoded.message.body, decoded.message.headers)
    else:
        assert (Order(1), [Noted("a")]) == (decoded.message, decoded.all(Noted))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (NOTED, '[{"text":"\udcff"}]'),
        (NOTED, 5),
        (NOTED, None),
        ("X-Message-Stamp-tests.serialization.picky", '[{"value":2}]'),
        (5, "a"),
    ],
    ids=["surrogate", "number", "none", "own-check", "name"],
)
def test_no_header_makes_decoding_raise(name: Any, value: Any) -> None:
    """Whatever the headers are, what comes back is an envelope, and they are all in it."""
    headers = {"type": "m", name: value}
    decoded = serializer(m=Order).decode(BODY, headers)
    assert decoded.message in (Order(1), Undecodable(BODY, headers, getattr(decoded.message, "reason", "")))
    assert headers.items() <= serializer(m=Order).encode(decoded).headers.items()


def test_a_stamps_own_check_makes_the_message_undecodable() -> None:
    """A stamp that refuses its values with a ValueError is named in the reason."""
    found = reason(Order, BODY, **{"X-Message-Stamp-tests.serialization.picky": '[{"value":1}]'})
    assert "header X-Message-Stamp-tests.serialization.picky: $[0]: not 1" == found


ORDERS = serializer(m=Order)
NAMES = st.text(max_size=8) | st.sampled_from(
    ["type", "Content-Type", "X-Postbus-Wire", "X-Message-Stamp-", "X-Message-Stamp-nobody"]
)


@given(body=st.binary() | st.text().map(str.encode), headers=st.dictionaries(NAMES, st.text()))
def test_whatever_comes_is_sent_on(body: bytes, headers: dict[str, str]) -> None:
    """Any bytes with any headers that are not ours come out as they came in."""
    decoded = ORDERS.decode(body, headers)
    assert isinstance(decoded.message, Undecodable)
    assert (body, headers) == ORDERS.encode(decoded)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3),
    max_leaves=8,
)


@given(value=VALUES, header=VALUES)
def test_any_json_in_body_and_stamps_is_read_or_explained(value: Any, header: Any) -> None:
    """What is JSON but not ours never makes decoding raise, and is never changed."""
    body = json.dumps(value).encode()
    headers = {"type": "m", NOTED: json.dumps(header)}
    decoded = ORDERS.decode(body, headers)
    if isinstance(decoded.message, Undecodable):
        assert decoded.message.reason
    assert body == ORDERS.encode(decoded).body


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.builds(
        Everything,
        whole=st.integers(-(10**60), 10**60),
        number=st.floats(allow_nan=False, allow_infinity=False),
        at=st.datetimes() | st.datetimes(timezones=st.just(UTC)),
        hour=st.times(),
        price=st.decimals(allow_nan=False),
        point=st.builds(Point, st.integers(), st.integers()),
        anything=VALUES,
        positive=st.integers(1),
        fallback=st.lists(st.integers()),
    )
)
def test_any_value_of_each_type_comes_back(message: Everything) -> None:
    """Whatever the fields hold, the message is the same after the journey."""
    assert message == round_trip(message).message


@given(texts=st.lists(st.text(), max_size=3), id_=st.text(), at=st.datetimes(timezones=st.just(UTC)))
def test_any_value_of_a_stamp_comes_back(texts: list[str], id_: str, at: datetime) -> None:
    """Whatever the fields of a stamp hold, it is the same after the journey."""
    given_ = [*(Noted(text, at) for text in texts), stamps.MessageId(id_)]
    decoded = round_trip(Order(1), *given_)
    assert given_ == [*decoded.all(Noted), *decoded.all(stamps.MessageId)]


def test_several_threads_may_use_one_serializer() -> None:
    """What threads encode and decode at the same time does not get mixed up."""
    json_ = serializer(m=Order)

    def there_and_back(number: int) -> bool:
        order = Order(number, str(number) * 50)
        decoded = json_.decode(*json_.encode(Envelope.wrap(order, Noted(str(number)))))
        return (order, Noted(str(number))) == (decoded.message, decoded.last(Noted))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(there_and_back, range(2_000)))


@pytest.mark.parametrize(
    ("error", "expected"),
    [(ValueError("no"), "no"), (ValueError(), "ValueError"), (msgspec.DecodeError("broken"), "broken")],
)
def test_an_error_without_a_path_is_explained_by_its_text(error: Exception, expected: str) -> None:
    """Where there is no path, the text stands alone; without a text, the type does."""
    assert expected == explain(error)
