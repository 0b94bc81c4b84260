"""Bodies: fields that have other names there, and what PHP writes as an empty list."""

from __future__ import annotations

import enum
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypedDict

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postbus import Envelope
from postbus.errors import SerializationError
from postbus.serialization import TypeRegistry, Undecodable
from postbus_symfony.serializer import SymfonySerializer, camel_case

types = TypeRegistry()
plain = SymfonySerializer(types)
camel = SymfonySerializer(types, rename=camel_case)


class Colour(enum.Enum):
    DARK_RED = "dark_red"


@dataclass(frozen=True)
class StreetAddress:
    street_name: str
    house_no: int | None = None


class Cash(msgspec.Struct, frozen=True, tag_field="kind_of_pay", tag="cash"):
    amount_given: Decimal


class Card(msgspec.Struct, frozen=True, tag_field="kind_of_pay", tag="card"):
    card_holder: StreetAddress


@attrs.frozen
class OrderLine:
    unit_price: float
    sub_lines: list[OrderLine] = attrs.field(factory=list)


class Extra(TypedDict):
    gift_wrap: bool


@dataclass(frozen=True)
class OrderPlaced:
    order_id: int
    placed_at: datetime
    order_lines: list[OrderLine] = field(default_factory=list)
    by_name: dict[str, StreetAddress] = field(default_factory=dict)
    free_form: dict[str, Any] = field(default_factory=dict)
    paid_by: Cash | Card | None = None
    first_last: tuple[StreetAddress, int] | None = None
    main_colour: Colour = Colour.DARK_RED
    any_thing: Any = None
    some_extra: Extra | None = None


class Model(pydantic.BaseModel):
    user_name: str
    home_address: StreetAddress | None = None
    sub_models: list[Model] = []
    by_name: dict[str, Model] = {}
    free_form: dict[str, Any] = {}
    with_alias: int = pydantic.Field(0, alias="given_alias")


@dataclass(frozen=True)
class CacheCleared:
    pass


for kind in (OrderPlaced, OrderLine, Model, CacheCleared, Cash):
    types.register(kind, f"App\\{kind.__name__}")

ORDER = OrderPlaced(
    order_id=13,
    placed_at=datetime(2026, 11, 24, 12, tzinfo=UTC),
    order_lines=[OrderLine(1.5, [OrderLine(0.25)])],
    by_name={"bill_to": StreetAddress("Main_Street", 5)},
    free_form={"some_key": {"other_key": [{"third_key": 1}]}},
    paid_by=Card(StreetAddress("x")),
    first_last=(StreetAddress("y"), 2),
    any_thing={"as_is": True},
    some_extra={"gift_wrap": True},
)


def body_of(message: Any, serializer: SymfonySerializer = camel) -> Any:
    return json.loads(serializer.encode(Envelope(message)).body)


def read(kind: type, body: object, serializer: SymfonySerializer = camel) -> Any:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return serializer.decode(text, {"type": f"App\\{kind.__name__}"}).message


def test_fields_are_renamed_at_any_depth_and_keys_are_not() -> None:
    """Fields of messages, and of what they hold, are in camel case; keys of dicts are the user's data."""
    assert {
        "orderId": 13,
        "placedAt": "2026-11-24T12:00:00Z",
        "orderLines": [{"unitPrice": 1.5, "subLines": [{"unitPrice": 0.25, "subLines": []}]}],
        "byName": {"bill_to": {"streetName": "Main_Street", "houseNo": 5}},
        "freeForm": {"some_key": {"other_key": [{"third_key": 1}]}},
        "paidBy": {"kindOfPay": "card", "cardHolder": {"streetName": "x", "houseNo": None}},
        "firstLast": [{"streetName": "y", "houseNo": None}, 2],
        "mainColour": "dark_red",
        "anyThing": {"as_is": True},
        "someExtra": {"giftWrap": True},
    } == body_of(ORDER)


def test_a_renamed_message_comes_back() -> None:
    """What was written can be read."""
    assert ORDER == read(OrderPlaced, body_of(ORDER))


def test_a_model_is_renamed_too() -> None:
    """A pydantic model is treated like a dataclass; an alias of its own is what is renamed."""
    model = Model(
        user_name="a",
        home_address=StreetAddress("x"),
        sub_models=[Model(user_name="b", given_alias=1)],
        by_name={"the_key": Model(user_name="c")},
        free_form={"as_is": 1},
    )
    body = body_of(model)

    assert {"streetName": "x", "houseNo": None} == body["homeAddress"]
    assert ("b", 1) == (body["subModels"][0]["userName"], body["subModels"][0]["givenAlias"])
    assert ["the_key"] == list(body["byName"])
    assert {"as_is": 1} == body["freeForm"]
    assert model == read(Model, body)


def test_without_a_policy_names_are_as_they_are() -> None:
    """Then the other side uses the names from here, or a name converter of its own."""
    assert "order_id" in body_of(ORDER, plain)
    assert ORDER == read(OrderPlaced, body_of(ORDER, plain), plain)


def test_any_policy_will_do() -> None:
    """It is a function from a name here to one there."""
    assert {"AMOUNT_GIVEN": "1.50", "KIND_OF_PAY": "cash"} == body_of(
        Cash(Decimal("1.50")), SymfonySerializer(types, rename=str.upper)
    )


def test_values_pass_through_as_they_were_written() -> None:
    """A number with more digits than a float has keeps them, and so does one beyond 64 bits."""
    body = b'{"kindOfPay": "cash", "amountGiven": 0.1234567890123456789012345}'

    assert Cash(Decimal("0.1234567890123456789012345")) == read(Cash, body)
    assert [12345678901234567890123] == list(
        read(Model, b'{"userName":"a","freeForm":{"n":12345678901234567890123}}').free_form.values()
    )


def test_a_name_from_here_is_read_as_well() -> None:
    """So that what was sent before the policy was chosen can still be handled."""
    assert ORDER == read(OrderPlaced, body_of(ORDER, plain), camel)


def test_unknown_fields_are_ignored() -> None:
    """As without a policy."""
    assert OrderLine(1.0) == read(OrderLine, {"unitPrice": 1, "newField": {"x": []}})


@pytest.mark.parametrize("serializer", [plain, camel])
def test_an_empty_array_of_phps_may_be_an_object(serializer: SymfonySerializer) -> None:
    """PHP writes an empty map, and a message without properties, as a list."""
    case: Callable[[str], str] = camel_case if serializer is camel else str
    body = {case("order_id"): 1, case("placed_at"): "2026-11-24T12:00:00+00:00"}
    body |= {case("by_name"): [], case("free_form"): [], case("order_lines"): []}

    assert CacheCleared() == read(CacheCleared, [], serializer)
    assert OrderPlaced(1, datetime(2026, 11, 24, 12, tzinfo=UTC)) == read(OrderPlaced, body, serializer)
    assert Model(user_name="a") == read(Model, {case("user_name"): "a", case("by_name"): []}, serializer)


@pytest.mark.parametrize("serializer", [plain, camel])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "Input data was truncated"),
        (b"[1]", "$: expected object, got array"),
        (b"{", "Input data was truncated"),
        (b'"x"', "$: expected object, got str"),
        (b'{"unitPrice":"x","unit_price":"x"}', "$.unit_price: expected float, got str"),
    ],
)
def test_what_is_wrong_is_said_as_ever(serializer: SymfonySerializer, body: bytes, expected: str) -> None:
    """The reason names the path, by the names from here."""
    message = read(OrderLine, body, serializer)

    assert isinstance(message, Undecodable)
    assert (body, expected) == (message.body, message.reason)


def test_two_fields_that_would_have_one_name_are_refused() -> None:
    """Nobody could tell which is which; the error names both."""

    @dataclass
    class Twice:
        user_id: int
        userId: int  # noqa: N815

    with pytest.raises(SerializationError, match="'user_id' and 'userId' would both be called 'userId' there"):
        camel.encode(Envelope(Twice(1, 2)))
    assert {"user_id": 1, "userId": 2} == body_of(Twice(1, 2), plain)


def test_a_model_without_schema_cannot_be_renamed() -> None:
    """The error says so; without a policy it is sent and read."""

    class Odd(pydantic.BaseModel):
        some_key: Any = pydantic.Field(default=None)
        odd_one: Callable[[], int] | None = pydantic.Field(default=None, exclude=True)

    types.register(Odd, "App\\Odd")
    with pytest.raises(SerializationError, match="has no JSON schema, so its fields cannot be renamed"):
        camel.encode(Envelope(Odd(some_key=1)))
    assert Odd(some_key=1) == read(Odd, {"some_key": 1}, plain)
    assert isinstance(read(Odd, [], plain), Undecodable)


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("user_id", "userId"),
        ("user", "user"),
        ("userId", "userId"),
        ("_user_id", "_userId"),
        ("line_1", "line1"),
        ("from_", "from"),
        ("HTTP_status", "HTTPStatus"),
        ("a__b", "aB"),
        ("_", "_"),
    ],
)
def test_camel_case(here: str, there: str) -> None:
    """As Symfony's own converter of names has it, seen from the other side."""
    assert there == camel_case(here)


numbers = itertools.count()
names = st.text("abc_", min_size=1).filter(lambda name: name.strip("_") != "")


@st.composite
def any_message(draw: st.DrawFn) -> Any:
    """Return a message of a class that was made up, with classes, lists and dicts of classes inside."""

    def make(depth: int) -> tuple[type, st.SearchStrategy[Any]]:
        fields = draw(st.lists(names, unique_by=lambda name: camel_case("x" + name), max_size=4))
        kinds: list[tuple[str, Any, st.SearchStrategy[Any]]] = []
        for name in fields:
            kind: Any = int
            values: st.SearchStrategy[Any] = st.integers(-(2**63), 2**63 - 1)
            if depth and draw(st.booleans()):
                kind, values = make(depth - 1)
            form = draw(st.sampled_from(["plain", "list", "dict", "optional", "any"]))
            if form == "list":
                kind, values = list[kind], st.lists(values, max_size=2)
            elif form == "dict":
                kind, values = dict[str, kind], st.dictionaries(names, values, max_size=2)
            elif form == "optional":
                kind, values = kind | None, st.none() | values
            elif form == "any":
                kind, values = dict[str, Any], st.dictionaries(names, st.dictionaries(names, st.integers(0, 9)))
            kinds.append(("x" + name, kind, values))
        cls = msgspec.defstruct(f"Made{next(numbers)}", [(name, kind) for name, kind, _ in kinds], frozen=True)
        return cls, st.builds(cls, **{name: values for name, _, values in kinds})

    _, values = make(2)
    return draw(values)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(any_message())
def test_any_message_comes_back(message: Any) -> None:
    """Whatever a message is made of: renamed there and back it is the same, and its dicts have their keys."""
    types = TypeRegistry()
    types.register(type(message), "App\\Made")
    serializer = SymfonySerializer(types, rename=camel_case)
    body, headers = serializer.encode(Envelope(message))

    assert message == serializer.decode(body, headers).message
