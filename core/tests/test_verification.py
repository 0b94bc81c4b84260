"""What is written is what is read: a message that would not be, is refused when it is dispatched."""

from __future__ import annotations

import enum
import gc
import itertools
import uuid
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, NewType, TypeVar
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
import pydantic_core
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postbus import ConfigurationError, Envelope, Limits, Postbus, Stamp, stamps
from postbus.errors import SerializationError
from postbus.serialization import JsonSerializer, TypeRegistry

T = TypeVar("T")
AMSTERDAM_IN_1930 = timezone(timedelta(minutes=19, seconds=32))
ODD = datetime(1930, 1, 1, tzinfo=AMSTERDAM_IN_1930)


@dataclass
class Order:
    user_id: int
    note: str = ""


@dataclass
class Payment:
    amount: int


@dataclass
class CardPayment(Payment):
    card: str


@dataclass
class Same(Payment):
    """Has no field more than its parent."""


@dataclass
class Checkout:
    payments: list[Payment]
    first: Payment | None = None
    by_name: dict[str, Payment] = field(default_factory=dict)


@dataclass
class Box(Generic[T]):
    content: T


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Word(enum.StrEnum):
    YES = "yes"


class Level(enum.IntEnum):
    LOW = 1


@dataclass
class Coloured:
    """Holds members of enumerations beside what is not quite what its annotation says."""

    colour: Colour
    many: list[tuple[Colour, Word]]
    some: Sequence[int]


UserId = NewType("UserId", int)


@dataclass
class Plain:
    whole: int = 1
    text: str = "a"
    maybe: str | None = None
    number: float = 0.5
    at: datetime | None = None
    raw: bytes = b""
    id: UserId = UserId(1)


@dataclass
class Limited:
    positive: Annotated[int, msgspec.Meta(gt=0)]
    short: Annotated[str, msgspec.Meta(max_length=2)] = ""


@dataclass
class Chosen:
    colour: Colour = Colour.RED
    letter: Literal["a", "b"] = "a"


@attrs.define
class Checked:
    a: int = attrs.field(default=1, validator=attrs.validators.ge(0))
    many: list[int] = attrs.Factory(list)


class Cat(msgspec.Struct, tag=True):
    name: str


class Dog(msgspec.Struct, tag=True):
    name: str


class Puppy(Dog, tag=True):
    weeks: int


class Owner(msgspec.Struct):
    pets: list[Cat | Dog]


@dataclass
class Stamped:
    """Makes a value of its own, each time that it is made."""

    numbers: ClassVar[Any] = itertools.count()
    number: int = field(init=False)

    def __post_init__(self) -> None:
        self.number = next(self.numbers)


@dataclass(eq=False)
class Unequal:
    """Is equal to no other object."""

    payments: list[Payment]


@dataclass
class Vague:
    """Says that it is equal to any other."""

    payments: list[Payment]

    def __eq__(self, other: object) -> bool:
        return True


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Loose:
    """Is annotated with what several types fulfil."""

    many: Sequence[int] = ()
    some: Mapping[str, int] = field(default_factory=dict)
    anything: Any = None


@dataclass
class Collected:
    pair: tuple[int, Decimal] = (1, Decimal(1))
    some: set[int] = field(default_factory=set)
    fixed: frozenset[Point] = frozenset()
    hour: time = time(1)
    length: timedelta = timedelta(1)


class Model(pydantic.BaseModel):
    number: int
    others: list[Model] = []


class Child(Model):
    more: int


class Moment(pydantic.BaseModel):
    at: datetime


def json() -> JsonSerializer:
    return JsonSerializer(TypeRegistry())


def read(message: Any) -> Any:
    """Return what another process, with the same code, makes of a message."""
    registry = TypeRegistry()
    registry.register(type(message))
    return JsonSerializer(registry).decode(*json().encode(Envelope(message))).message


REFUSED: list[tuple[Any, str]] = [
    (Order("5"), "$.user_id: expected int, got str"),  # type: ignore[arg-type]
    (Order(True), "$.user_id: expected int, got bool"),
    (Order(1.0), "$.user_id: expected int, got float"),  # type: ignore[arg-type]
    (Order(None), "$.user_id: expected int, got null"),  # type: ignore[arg-type]
    (Order(1, None), "$.note: expected str, got null"),  # type: ignore[arg-type]
    (Checkout([CardPayment(1, "x")]), "$.payments[0] is of type CardPayment, and would be of type Payment"),
    (Checkout([Payment(1), Same(1)]), "$.payments[1] is of type Same, and would be of type Payment"),
    (Checkout([], CardPayment(1, "x")), "$.first is of type CardPayment, and would be of type Payment"),
    (Checkout([], None, {"a": Same(1)}), "$.by_name (value 0) is of type Same, and would be of type Payment"),
    (Checkout([Payment("1")]), "$.payments[0].amount: expected int, got str"),  # type: ignore[arg-type]
    (Checkout([], None, {1: Payment(1)}), "$.by_name (key 0) is of type int, and would be of type str"),  # type: ignore[dict-item]
    (Unequal([CardPayment(1, "x")]), "$.payments[0] is of type CardPayment, and would be of type Payment"),
    (Vague([CardPayment(1, "x")]), "$.payments[0] is of type CardPayment, and would be of type Payment"),
    (Box(Order(1)), "$.content is of type Order, and would be of type dict"),
    (Box(uuid.UUID(int=1)), "$.content is of type UUID, and would be of type str"),
    (Box([Colour.RED]), "$.content[0] is of type Colour, and would be of type str"),
    (Box({1: 2}), "$.content (key 0) is of type int, and would be of type str"),
    (Box({1, 2}), "$.content is of type set, and would be of type list"),
    (Plain(whole="1"), "$.whole: expected int, got str"),  # type: ignore[arg-type]
    (Plain(raw="text!"), "$.raw: invalid base64 encoded string"),  # type: ignore[arg-type]
    (Plain(number=2**53 + 1), "$.number is of type int, and would be of type float"),
    (Plain(at=ODD), "$.at has an offset from UTC with seconds, for which JSON has no form, so take .astimezone(UTC)"),
    (Plain(at=date(2026, 1, 2)), "$.at: invalid RFC3339 encoded datetime"),  # type: ignore[arg-type]
    (Plain(number=float("nan")), "cannot be written as JSON: JSON has no nan and no inf."),
    (Box([{"a": float("inf")}]), "cannot be written as JSON: JSON has no nan and no inf."),
    (Box([Model.model_construct(number=float("-inf"))]), "cannot be written as JSON: "),
    (Limited(0), "$.positive: expected int >= 1"),
    (Limited(1, "abc"), "$.short: expected str of length <= 2"),
    (Chosen("red"), "$.colour is of type str, and would be of type Colour"),  # type: ignore[arg-type]
    (Chosen(letter="c"), "$.letter: invalid enum value 'c'"),  # type: ignore[arg-type]
    (Checked(many=["a"]), "$.many[0]: expected int, got str"),  # type: ignore[list-item]
    (Owner([Puppy("a", 3)]), "$.pets[0].type: invalid value 'Puppy'"),
    (Stamped(), "$.number, of type int, would have another value"),
    (Collected(pair=(1, 2)), "$.pair[1] is of type int, and would be of type Decimal"),  # type: ignore[arg-type]
    (Collected(hour=time(1, tzinfo=AMSTERDAM_IN_1930)), "$.hour has an offset from UTC with seconds, for which JSON"),
    (Collected(hour=time(1, tzinfo=ZoneInfo("Europe/Berlin"))), "$.hour, of type time, would have another value"),
    (Loose(anything=Decimal(1)), "$.anything is of type Decimal, and would be of type str"),
    (Model.model_construct(number="1"), "$.number: Input should be a valid integer"),
    (Model(number=1, others=[Child(number=2, more=3)]), "$.others[0] is of type Child, and would be of type Model"),
    (Moment(at=ODD), "$.at has an offset from UTC with seconds, for which JSON has no form"),
]


@pytest.mark.parametrize(("message", "problem"), REFUSED, ids=[f"{type(m).__name__}-{p}" for m, p in REFUSED])
def test_a_message_that_would_not_be_read_as_what_it_is_is_refused(message: Any, problem: str) -> None:
    """The error names the class, the field by its path, what it is and what would be read, and says what to do."""
    for _ in range(2):
        with pytest.raises(SerializationError) as caught:
            json().encode(Envelope(message))
        text = str(caught.value)
        assert text.startswith(f"{__name__}.{type(message).__qualname__} cannot be "), text
        assert problem in text
        assert "annotat" in text or text.endswith("Give it fields of plain types.")


def test_a_message_is_checked_also_after_a_good_one_of_its_class() -> None:
    """What is known of a class after its first message says nothing about the values of the next one."""
    serializer = json()
    for good, bad in [
        (Order(1), Order("5")),  # type: ignore[arg-type]
        (Plain(), Plain(at=ODD)),
        (Checkout([Payment(1)]), Checkout([CardPayment(1, "x")])),
        (Chosen(), Chosen(letter="c")),  # type: ignore[arg-type]
        (Owner([Cat("a"), Dog("b")]), Owner([Puppy("a", 3)])),
        (Box(1), Box(Order(1))),
        (Limited(1), Limited(0)),
        (Plain(), Plain(number=float("nan"))),
        (Checked(), Checked(many=["a"])),  # type: ignore[list-item]
        (Model(number=1), Model.model_construct(number="1")),
    ]:
        serializer.encode(Envelope(good))
        serializer.encode(Envelope(good))
        with pytest.raises(SerializationError):
            serializer.encode(Envelope(bad))


FITTING: list[Any] = [
    Plain(number=1),
    Plain(at=datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))),
    Plain(at=datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))),
    Plain(text=Word.YES, whole=Level.LOW),
    Loose((1, 2), OrderedDict(a=1), (1, [None, {"a": (True,)}])),
    Loose([1], defaultdict(int, {"b": 2}), Level.LOW),
    Collected((1, Decimal("NaN")), {-1, -2, 2**70}, frozenset({Point(1, 2)}), time(1, tzinfo=UTC), timedelta.max),
    Unequal([Payment(1)]),
    Checked(many=[1]),
    Checkout([Payment(1)], Payment(2), {"a": Payment(3)}),
    Model(number=1, others=[Model(number=2)]),
    Owner([Cat("a"), Dog("b")]),
    Loose((Level.LOW,), {}, [Word.YES]),
    Coloured(Colour.RED, [(Colour.BLUE, Word.YES)], (1, 2)),
]


@pytest.mark.parametrize("message", FITTING, ids=repr)
def test_what_fits_its_annotations_is_sent(message: Any) -> None:
    """A tuple is a Sequence, a member of an enumeration is its text, and equality may be the class's own affair."""
    assert type(message) is type(read(message))


def test_a_deeply_nested_message_is_sent() -> None:
    """Checking gives up at no depth at which writing and reading do not."""

    @dataclass
    class Nested:
        inner: Any

    content: list[Any] = []
    for _ in range(900):
        content = [content]
    assert Nested(content) == read(Nested(content))


# Any value of any type.


class Struct(msgspec.Struct):
    a: int
    b: str | None = None


offsets = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
zones = st.one_of(st.none(), st.just(UTC), offsets)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
Kind = tuple[Any, st.SearchStrategy[Any]]

HASHABLE: list[Kind] = [
    (int, st.integers()),
    (str, texts),
    (bool, st.booleans()),
    (date, st.dates()),
    (uuid.UUID, st.uuids()),
    (Colour, st.sampled_from(Colour)),
    (Literal["a", "b"], st.sampled_from(["a", "b"])),
]
ATOMS: list[Kind] = [
    *HASHABLE,
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (bytes, st.binary(max_size=5)),
    (datetime, st.datetimes(timezones=zones)),
    (time, st.times(timezones=st.sampled_from([None, UTC, timezone(timedelta(hours=-3, minutes=-30))]))),
    (timedelta, st.timedeltas()),
    (Decimal, st.decimals(allow_nan=False)),
    (Point, st.builds(Point, st.integers(), st.integers())),
    (Struct, st.builds(Struct, st.integers(), st.none() | texts)),
    (Order, st.builds(Order, st.integers(), texts)),
    (Cat | Dog, st.builds(Cat, texts) | st.builds(Dog, texts)),
    (int | str | bool | None, st.none() | st.integers() | texts | st.booleans()),
]


def nest(kinds: st.SearchStrategy[Kind]) -> st.SearchStrategy[Kind]:
    """Return types that hold others, with their values."""
    keys = st.sampled_from([kind for kind in HASHABLE if kind[0] is not bool])
    return st.one_of(
        kinds.map(lambda kind: (list[kind[0]], st.lists(kind[1], max_size=3))),  # type: ignore[name-defined]
        kinds.map(lambda kind: (kind[0] | None, st.none() | kind[1])),
        kinds.map(lambda kind: (tuple[kind[0], ...], st.lists(kind[1], max_size=3).map(tuple))),  # type: ignore[name-defined]
        st.tuples(kinds, kinds).map(lambda two: (tuple[two[0][0], two[1][0]], st.tuples(two[0][1], two[1][1]))),  # type: ignore[name-defined]
        st.sampled_from(HASHABLE).map(lambda kind: (set[kind[0]], st.sets(kind[1], max_size=3))),  # type: ignore[name-defined]
        st.sampled_from(HASHABLE).map(lambda kind: (frozenset[kind[0]], st.frozensets(kind[1], max_size=3))),  # type: ignore[name-defined]
        st.tuples(keys, kinds).map(
            lambda two: (dict[two[0][0], two[1][0]], st.dictionaries(two[0][1], two[1][1], max_size=3))  # type: ignore[name-defined]
        ),
        st.lists(kinds, min_size=1, max_size=3).map(made),
    )


def made(kinds: list[Kind]) -> Kind:
    """Return a dataclass with fields of these types, and what makes its objects."""
    cls = make_dataclass("Made", [(f"field_{number}", kind[0]) for number, kind in enumerate(kinds)])
    return cls, st.builds(cls, *(kind[1] for kind in kinds))


def listed(value: Any) -> Any:
    """Return a value with lists in place of tuples, for which they may stand."""
    if isinstance(value, list | tuple):
        return [listed(item) for item in value]
    return {key: listed(item) for key, item in value.items()} if isinstance(value, dict) else value


kinds = st.recursive(st.sampled_from(ATOMS), nest, max_leaves=6)


def shape(value: Any) -> Any:
    """Return the types in a value, down to its elements."""
    if isinstance(value, dict):
        return dict, [(shape(key), shape(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [shape(item) for item in value]
    if isinstance(value, set | frozenset):
        return type(value), sorted(str(shape(item)) for item in value)
    fields = getattr(value, "__dataclass_fields__", None)
    return type(value), [shape(getattr(value, name)) for name in fields or ()]


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(kinds, min_size=1, max_size=4).map(made), st.data())
def test_every_value_of_a_supported_type_is_sent_and_comes_back(kind: Kind, data: st.DataObject) -> None:
    """Whatever a dataclass is made of: what fits its annotations is not refused, and equals what is read."""
    type_, values = kind
    registry = TypeRegistry()
    try:
        registry.register(type_, "made")
    except ConfigurationError:
        return  # JSON cannot tell such a union apart.
    serializer = JsonSerializer(registry)
    for _ in range(3):
        message = data.draw(values)
        again = serializer.decode(*serializer.encode(Envelope(message))).message
        assert message == again
        assert shape(message) == shape(again)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(kinds, min_size=1, max_size=3), st.lists(kinds, min_size=1, max_size=3), st.data())
def test_no_value_of_another_type_is_read_as_something_else(
    annotated: list[Kind], held: list[Kind], data: st.DataObject
) -> None:
    """Whatever a field holds instead of what it is annotated with: it is refused, or equals what is read."""
    type_, fitting = made(annotated)
    registry = TypeRegistry()
    try:
        registry.register(type_, "made")
    except ConfigurationError:
        return
    serializer = JsonSerializer(registry)
    serializer.encode(Envelope(data.draw(fitting)))
    for number in range(len(annotated)):
        message = data.draw(fitting)
        wrong = data.draw(held[number % len(held)][1])
        setattr(message, f"field_{number}", wrong)
        try:
            body, headers = serializer.encode(Envelope(message))
        except SerializationError:
            continue
        again = getattr(serializer.decode(body, headers).message, f"field_{number}")
        assert listed(wrong) == listed(again)


# pydantic.


class Written(pydantic.BaseModel):
    user_id: int = pydantic.Field(serialization_alias="userId")


class Validated(pydantic.BaseModel):
    user_id: int = pydantic.Field(validation_alias="userId")


class Choosing(pydantic.BaseModel):
    user_id: int = pydantic.Field(validation_alias=pydantic.AliasChoices("uid", "userId"))


class Deep(pydantic.BaseModel):
    user_id: int = pydantic.Field(validation_alias=pydantic.AliasPath("user", 0))
    user: list[int] = []


class Swapped(pydantic.BaseModel):
    a: int = pydantic.Field(alias="b")
    b: int = pydantic.Field(alias="a")


class Generated(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(alias_generator=str.upper, serialize_by_alias=True, extra="forbid")
    user_id: int
    inner: Written


class Defaulted(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(alias_generator=str.upper)
    user_id: int = 0


@pydantic.dataclasses.dataclass
class Classic:
    user_id: int = pydantic.Field(alias="userId")


class Numbers(pydantic.RootModel[list[int]]):
    pass


class Boxed(pydantic.BaseModel, Generic[T]):
    content: T


class Tagged(pydantic.BaseModel):
    kind: Literal["tagged"] = "tagged"
    a: int


class Other(pydantic.BaseModel):
    kind: Literal["other"] = "other"
    a: int


class Either(pydantic.BaseModel):
    one: Tagged | Other = pydantic.Field(discriminator="kind")


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    a: int


class Private(pydantic.BaseModel):
    a: int
    _seen: int = pydantic.PrivateAttr(default_factory=itertools.count().__next__)

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> int:
        return 2 * self.a


class Encoded64(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    raw: bytes


@pytest.mark.parametrize(
    "message",
    [
        Written(user_id=1),
        Validated(userId=1),  # type: ignore[call-arg]
        Choosing(uid=1),  # type: ignore[call-arg]
        Deep(user=[7]),  # type: ignore[call-arg]
        Swapped(a=1, b=2),
        Generated(USER_ID=1, INNER=Written(user_id=2)),  # type: ignore[call-arg]
        Defaulted(USER_ID=1),  # type: ignore[call-arg]
        Classic(userId=1),  # type: ignore[call-arg]
        Numbers([1, 2]),
        Boxed[list[date]](content=[date(2026, 1, 2)]),
        Either(one=Other(a=1)),
        Open(a=1, b=[2]),  # type: ignore[call-arg]
        Encoded64(raw=b"\xff\xfe"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_model_comes_back_as_it_was(message: Any) -> None:
    """Whatever its fields are called outside: on a queue they go by their own names, on both sides."""
    assert message == read(message)
    assert type(message) is type(read(message))


def test_private_attributes_and_computed_fields_stay_behind() -> None:
    """They are no fields of a message, so they need not come back."""
    message = Private(a=1)
    assert (1, 2) == (read(message).a, read(message).twice)


class Money:
    """A type of a user's own, without equality."""

    def __init__(self, amount: int) -> None:
        self.amount = amount

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return pydantic_core.core_schema.no_info_plain_validator_function(
            cls, serialization=pydantic_core.core_schema.plain_serializer_function_ser_schema(cls.written)
        )

    def written(self) -> int:
        return self.amount


class Array(Money):
    """A type whose comparison is not true or false."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("The truth value of an array is ambiguous.")

    __hash__ = None  # type: ignore[assignment]


class Rounded(Money):
    def written(self) -> int:
        return self.amount // 10


class Priced(pydantic.BaseModel):
    price: Money | None = None
    prices: Array | None = None
    rounded: Rounded | None = None


def test_types_of_a_users_own_need_no_equality() -> None:
    """Without it their attributes are compared; what cannot be compared is taken for the same, if its class is."""
    assert 5 == read(Priced.model_construct(price=Money(5))).price.amount
    assert 5 == read(Priced.model_construct(prices=Array(5))).prices.amount
    with pytest.raises(SerializationError, match=r"\$\.rounded, of type Rounded, would have another value"):
        read(Priced.model_construct(rounded=Rounded(15)))


class Excluding(pydantic.BaseModel):
    user_id: int
    token: str = pydantic.Field("", exclude=True)


class Requiring(pydantic.BaseModel):
    token: str = pydantic.Field(exclude=True)


class Serializing(pydantic.BaseModel):
    at: datetime

    @pydantic.field_serializer("at")
    def day(self, at: datetime) -> str:
        return at.strftime("%d.%m.%Y")


class Rounding(pydantic.BaseModel):
    price: float

    @pydantic.field_serializer("price")
    def rounded(self, price: float) -> float:
        return round(price, 1)


class Whole(pydantic.BaseModel):
    a: int

    @pydantic.model_serializer
    def whole(self) -> int:
        return self.a


class InBase64(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(ser_json_bytes="base64")
    raw: bytes


class Lasting(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(ser_json_timedelta="float")
    length: timedelta


class InSeconds(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(ser_json_temporal="seconds")
    at: datetime


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (Excluding(user_id=1, token="t"), "$.token, of type str, would have another value"),
        (Requiring(token="t"), "$.token: Field required"),
        (Serializing(at=datetime(2026, 1, 2, tzinfo=UTC)), "$.at: Input should be a valid datetime"),
        (Rounding(price=0.25), "$.price, of type float, would have another value"),
        (Whole(a=1), "$: Input should be an object"),
        (InSeconds(at=datetime(2026, 1, 2, tzinfo=UTC)), "$.at: Input should be a valid datetime"),
        (Lasting(length=timedelta(1.5)), "$.length: Input should be a valid duration"),
        (InBase64(raw=b"abc"), "$.raw, of type bytes, would have another value"),
        (Private.model_construct(a="x"), "$.a: Input should be a valid integer"),
        (Boxed(content=Tagged(a=1)), "$.content is of type Tagged, and would be of type dict"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_model_that_writes_what_it_does_not_read_is_refused(message: Any, problem: str) -> None:
    """What a model leaves out or writes in its own way is found when it is dispatched, and named."""
    with pytest.raises(SerializationError) as caught:
        json().encode(Envelope(message))
    assert problem in str(caught.value)


def test_what_is_left_out_may_be_what_would_be_read_anyway() -> None:
    """An excluded field that has its default is no loss."""
    assert Excluding(user_id=1) == read(Excluding(user_id=1))


# Stamps.


class Tenant(Stamp):
    wire_name = "tests.verification.tenant"
    number: int
    payment: Payment | None = None


@pytest.mark.parametrize(
    ("stamp", "problem"),
    [
        (Tenant("5"), "$[0].number: expected int, got str"),  # type: ignore[arg-type]
        (Tenant(5, CardPayment(1, "x")), "$[0].payment is of type CardPayment, and would be of type Payment"),
    ],
    ids=["wrong-type", "subclass"],
)
def test_a_stamp_that_would_not_be_read_as_what_it_is_is_refused(stamp: Tenant, problem: str) -> None:
    """It would make the whole message unreadable, or lose its fields."""
    with pytest.raises(SerializationError) as caught:
        json().encode(Envelope.wrap(Order(1), stamp))
    assert f"The stamp {__name__}.Tenant cannot be sent" in str(caught.value)
    assert problem in str(caught.value)


# Transports.

EVERY_DSN = ["in-memory://", "in-memory://?serialize=false", "sync://", "sqlite:///{folder}/queue.db"]


def make_app(dsn: str, **options: Any) -> Postbus:
    app = Postbus(transports={"t": {"dsn": dsn, **options}}, routing={"*": "t"})

    @app.handler
    def handle(message: Checkout | Model | Order) -> None:
        pass

    return app


@pytest.mark.parametrize("dsn", EVERY_DSN)
@pytest.mark.parametrize("many", [False, True], ids=["dispatch", "dispatch_many"])
def test_every_transport_refuses_what_would_not_be_read(dsn: str, many: bool, tmp_path: Any) -> None:
    """Also those that write nothing down, so that tests with them find what would be lost in production."""
    with make_app(dsn.format(folder=tmp_path)) as app:
        send: Callable[[Any], Any] = (lambda message: app.dispatch_many([message])) if many else app.dispatch
        for bad in (Checkout([CardPayment(1, "x")]), Model.model_construct(number="1"), Order("5")):  # type: ignore[arg-type]
            with pytest.raises(SerializationError) as caught:
                send(bad)
            assert f"{type(bad).__qualname__} cannot be sent" in str(caught.value)
        send(Checkout([Payment(1)]))
        send(Model(number=1))


@pytest.mark.parametrize("dsn", EVERY_DSN)
def test_a_transport_may_leave_the_check_out(dsn: str, tmp_path: Any) -> None:
    """With ``verify = false`` on it, what it is given is written as it can be."""
    with make_app(dsn.format(folder=tmp_path), verify=False) as app:
        assert app.dispatch(Checkout([CardPayment(1, "x")])).has(stamps.Sent)
        assert app.dispatch(Order("5")).has(stamps.Sent)  # type: ignore[arg-type]


def test_verify_is_for_its_transport_alone() -> None:
    """Two transports of one serializer may differ in that, and still send on what the other received."""
    app = Postbus(
        transports={"a": {"dsn": "in-memory://", "verify": False}, "b": "in-memory://"}, routing={Order: ["a"]}
    )
    app.dispatch(Order("5"))  # type: ignore[arg-type]
    with pytest.raises(SerializationError):
        app.dispatch(Order("5"), stamps.TransportNames(["b"]))  # type: ignore[arg-type]


def test_verify_must_be_true_or_false() -> None:
    """Anything else is a mistake that names the key."""
    with pytest.raises(ConfigurationError, match=r"transports\.t\.verify must be true or false, got 'no'\."):
        Postbus(transports={"t": {"dsn": "in-memory://", "verify": "no"}})


# dispatch_many.


@pytest.mark.parametrize("dsn", ["in-memory://", "sync://", "sqlite:///{folder}/queue.db"])
def test_dispatch_many_tells_which_message_cannot_be_sent(dsn: str, tmp_path: Any) -> None:
    """Those before it are stored, across batches; neither it nor any behind it is, and the error says all that."""
    with make_app(dsn.format(folder=tmp_path)) as app:
        app.BATCH = 10
        taken: list[int] = []

        def orders() -> Any:
            for number in range(30):
                taken.append(number)
                yield Order(number) if number != 24 else Order("24")  # type: ignore[arg-type]

        with pytest.raises(SerializationError) as caught:
            app.dispatch_many(orders())

        assert 24 == caught.value.position
        assert list(range(24)) == list(caught.value.stored)
        assert list(range(25)) == taken
        text = str(caught.value)
        assert text.startswith(
            "The message at position 24 was not sent, nor was any behind it; those before it are. "
            f"{__name__}.Order cannot be sent"
        )
        assert "$.user_id: expected int, got str" in text


def test_a_message_for_two_transports_is_sent_to_both_or_neither() -> None:
    """If one of them cannot write it, the other does not get it; earlier ones are stored in both."""
    app = Postbus(
        transports={"loose": {"dsn": "in-memory://", "verify": False}, "strict": "in-memory://"},
        routing={"*": ["loose", "strict"]},
    )
    with pytest.raises(SerializationError) as caught:
        app.dispatch_many([Order(0), Order(1), Order("2"), Order(3)])  # type: ignore[arg-type]

    assert [0, 1] == list(caught.value.stored)
    for name in ("loose", "strict"):
        transport: Any = app.transport(name)
        assert [Order(0), Order(1)] == [envelope.message for envelope in transport.sent]


def test_one_message_for_two_transports_is_sent_to_both_or_neither() -> None:
    """`dispatch` that raises `SerializationError` has stored nothing."""
    app = Postbus(
        transports={"loose": {"dsn": "in-memory://", "verify": False}, "strict": "in-memory://"},
        routing={"*": ["loose", "strict"]},
    )
    with pytest.raises(SerializationError):
        app.dispatch(Order("2"))  # type: ignore[arg-type]
    sent = app.dispatch(Order(1))

    assert ["loose", "strict"] == [stamp.transport for stamp in sent.all(stamps.Sent)]
    for name in ("loose", "strict"):
        transport: Any = app.transport(name)
        assert [Order(1)] == [envelope.message for envelope in transport.sent]


def test_dispatch_many_sends_what_a_message_was_when_it_was_its_turn() -> None:
    """A generator that uses one object again and again sends each of its states."""
    app = make_app("in-memory://")

    def states() -> Any:
        order = Order(0)
        for order.user_id in range(3):
            yield order

    app.dispatch_many(states())
    transport: Any = app.transport("t")
    assert [0, 1, 2] == [envelope.message.user_id for envelope in transport.sent]
    app.worker(limits=Limits(messages=3)).run()


def test_a_class_is_not_kept_by_what_was_learnt_of_it() -> None:
    """What was found out about a message's class goes with it, and keeps neither it nor its module alive."""
    fleeting = make_dataclass("Fleeting", [("numbers", list[int])])
    app = Postbus(transports={"it": "in-memory://"}, routing={"*": "it"})
    app.dispatch(fleeting([1]))
    gone = weakref.ref(fleeting)

    del app, fleeting
    gc.collect()

    assert gone() is None
