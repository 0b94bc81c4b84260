"""Checking what is sent.

A message is written by the serializer for JSON, which checks that it will be read as what it is; beside it, the same
with `verify = false`.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pydantic

from benchmarks import machine
from benchmarks.groups import Prepared
from benchmarks.measuring import Figure, seconds_for_each
from benchmarks.messages import MESSAGE
from postbus import Envelope, stamps
from postbus.middleware import new_id
from postbus.serialization import JsonSerializer, TypeRegistry

COUNT = 20_000


@dataclass(frozen=True, slots=True)
class Signup:
    """Ten plain fields."""

    number: int
    name: str
    email: str
    at: datetime
    is_new: bool
    credit: float
    invited_by: str | None = None
    street: str | None = None
    city: str | None = None
    born: datetime | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """What is in a cart."""

    name: str
    price: Decimal
    number: int = 1


@dataclass(frozen=True, slots=True)
class Cart:
    """Classes and collections, all plain."""

    customer: str
    items: list[Item]
    notes: dict[str, str]


@dataclass(frozen=True, slots=True)
class Refund:
    """A class with code of its own, so that each message is read back."""

    order_id: int
    customer: str

    def __post_init__(self) -> None:
        if self.order_id < 0:
            raise ValueError("an order has a number")


class Payment(pydantic.BaseModel):
    """A model, so that each message is read back."""

    order_id: int
    customer: str


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

MESSAGES: list[tuple[str, Any, float | None]] = [
    ("two plain fields", MESSAGE, 0.5e-6),
    ("ten plain fields", Signup(1, "Ada", "ada@example.org", NOW, True, 0.5, None, "Street", "Town", NOW), 0.5e-6),
    ("plain classes in a list", Cart("Ada", [Item("a", Decimal(1)), Item("b", Decimal(2))], {"a": "b"}), None),
    ("read back: a __post_init__", Refund(13, "Ada Lovelace"), 3e-6),
    ("read back: a pydantic model", Payment(order_id=13, customer="Ada Lovelace"), 3e-6),
]


@contextmanager
def figures() -> Generator[Prepared]:
    """Measure on one core."""
    registry = TypeRegistry()
    checking, unchecked = JsonSerializer(registry), JsonSerializer(registry.unverified())
    with machine.pinned(machine.CORES[-1]):
        yield (
            {"Libraries": machine.versions("postbus", "msgspec", "pydantic")},
            [_figure(name, message, target, checking, unchecked) for name, message, target in MESSAGES],
        )


def _figure(
    name: str, message: Any, target: float | None, checking: JsonSerializer, unchecked: JsonSerializer
) -> Figure:
    id = new_id()
    stamped = Envelope.wrap(message, stamps.BusName("default"), stamps.MessageId(id), stamps.Correlation(id))
    envelopes = [stamped] * COUNT
    return Figure(
        name=f"{name}\nraw: verify = false",
        ours=lambda: seconds_for_each(envelopes, checking.encode),
        raw=lambda: seconds_for_each(envelopes, unchecked.encode),
        comparison="difference",
        target=target,
    )
