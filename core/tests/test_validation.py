"""What is wrong with a message is found, by field, whatever its class is made with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import attrs
import msgspec
import pydantic
import pytest

from postbus import Envelope, Postbus
from postbus.errors import Invalid
from postbus.validation import Validate


class Model(pydantic.BaseModel):
    total: Annotated[int, pydantic.Field(gt=0)]
    customer: str = pydantic.Field("ada", alias="who")


class Outer(pydantic.BaseModel):
    inner: Model


class Record(msgspec.Struct):
    total: Annotated[int, msgspec.Meta(gt=0)]


@attrs.frozen
class Attributes:
    total: int = attrs.field(validator=attrs.validators.gt(0))


@dataclass(frozen=True)
class Order:
    total: int
    customer: str = "ada"


@dataclass(frozen=True)
class Local:
    """Has a field that JSON has no form for, and is handled where it is dispatched."""

    total: object


def check_total(order: Order) -> dict[str, str] | None:
    return {"total": "is below 0", "customer": "is poor"} if order.total < 0 else None


def check_customer(order: Order) -> None:
    if not order.customer:
        raise ValueError("nobody ordered it")


@pytest.fixture
def make_strict(make_app: Callable[..., Postbus]) -> Callable[..., Postbus]:
    def make(*middleware: Any) -> Postbus:
        chosen = middleware or [Validate(check_total, check_customer)]
        app = make_app(routing={}, buses={"default": {"middleware": chosen}})
        app.handler(lambda message: seen.append(message), handles="*", name="see")
        return app

    seen.clear()
    return make


seen: list[Any] = []


def attributes(total: Any) -> Attributes:
    made = Attributes(1)
    object.__setattr__(made, "total", total)
    return made


@pytest.mark.parametrize("middleware", [(), ("validate",)], ids=["object", "name"])
@pytest.mark.parametrize(
    ("message", "problems"),
    [
        (Order("12"), {"total": "expected int, got str"}),  # type: ignore[arg-type]
        (Record(0), {"total": "expected int >= 1"}),
        (Model.model_construct(total=0, customer="ada"), {"total": "Input should be greater than 0"}),
        (
            Outer.model_construct(inner=Model.model_construct(total=-1, customer=3)),
            {"inner.total": "Input should be greater than 0", "inner.customer": "Input should be a valid string"},
        ),
        (attributes(0), {"total": "'total' must be > 0: 0"}),
    ],
    ids=["dataclass", "struct", "model", "models", "attrs"],
)
def test_what_is_wrong_is_named_by_its_field(
    make_strict: Callable[..., Postbus], message: object, problems: dict[str, str], middleware: tuple[Any, ...]
) -> None:
    """And no handler sees the message."""
    with pytest.raises(Invalid) as invalid:
        make_strict(*middleware).dispatch(message)
    assert problems == invalid.value.problems
    assert f"{type(message).__qualname__} is not valid: {next(iter(problems))}: " in str(invalid.value)
    assert [] == seen


def test_what_is_valid_goes_on(make_strict: Callable[..., Postbus]) -> None:
    """Each as it is."""
    app = make_strict()
    messages = [Order(1), Record(1), Model(total=1, who="eve"), Outer(inner=Model(total=1)), attributes(1), Local(app)]
    app.dispatch_many(messages)
    assert messages == seen


def test_checks_are_for_the_messages_that_they_are_annotated_with(make_strict: Callable[..., Postbus]) -> None:
    """They return what is wrong, or raise; all of it is told."""
    app = make_strict()
    with pytest.raises(Invalid) as invalid:
        app.dispatch(Order(-1, ""))
    names = ["total", "customer", f"{__name__}.check_customer"]
    assert names == list(invalid.value.problems)
    assert "nobody ordered it" in str(invalid.value)
    app.dispatch(Record(5))


def test_what_is_received_and_not_valid_is_buried_at_once(make_strict: Callable[..., Postbus], run: Any) -> None:
    """Another try would find the same."""
    app = make_strict()
    sender = Postbus(transports={"orders": app.transport("orders")}, routing={"*": "orders"})
    sender.dispatch(Order(-1))
    app.types.register(Order)
    run(app)
    [buried] = app.transport("failed").sent  # type: ignore[attr-defined]
    assert isinstance(buried, Envelope)
    assert (Order(-1), []) == (buried.message, seen)
