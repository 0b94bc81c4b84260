"""An envelope: immutable, and looked into by exact type."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from postbus import ConfigurationError, Envelope, Postbus, Stamp, stamps


@dataclass(frozen=True)
class Ordered:
    id: int


@dataclass
class Draft:
    """A message that can change, and so has no hash."""

    text: str


class Colour(Stamp):
    name: str


class Shade(Colour):
    depth: int = 0


RED, BLUE, GREY = Colour("red"), Colour("blue"), Shade("grey", 3)


def test_wrap_puts_a_message_in_an_envelope() -> None:
    """A message is wrapped with the stamps that are given, in that order."""
    envelope = Envelope.wrap(Ordered(1), RED, GREY)
    assert (Ordered(1), (RED, GREY)) == (envelope.message, envelope.stamps)


def test_wrap_does_not_wrap_an_envelope_again() -> None:
    """An envelope keeps its message and stamps when it is wrapped; new stamps come last."""
    message = Ordered(1)
    envelope = Envelope.wrap(Envelope.wrap(message, RED), BLUE)
    assert message is envelope.message
    assert (RED, BLUE) == envelope.stamps


def test_wrap_takes_any_object() -> None:
    """None, a class and a number are messages like any other."""
    assert [None, Ordered, 5] == [Envelope.wrap(thing).message for thing in (None, Ordered, 5)]


@pytest.mark.parametrize("attribute", ["message", "stamps", "new"])
def test_an_envelope_cannot_be_changed(attribute: str) -> None:
    """Setting an attribute of an envelope raises, also one that it does not have."""
    envelope = Envelope.wrap(Ordered(1), RED)
    with pytest.raises(AttributeError):
        setattr(envelope, attribute, ())
    assert Envelope.wrap(Ordered(1), RED) == envelope


def test_with_leaves_the_original_as_it_was() -> None:
    """Putting on stamps returns another envelope, around the very same message."""
    original = Envelope.wrap(Draft("a"), RED)
    copy = original.with_(BLUE, RED)
    assert (RED,) == original.stamps
    assert (RED, BLUE, RED) == copy.stamps
    assert original.message is copy.message


def test_with_nothing_is_the_same_value() -> None:
    """Putting on no stamp changes nothing."""
    envelope = Envelope.wrap(Ordered(1), RED)
    assert envelope == envelope.with_()


def test_stamps_accumulate() -> None:
    """The same stamp twice is on the envelope twice."""
    assert [RED, RED] == Envelope.wrap(Ordered(1), RED).with_(RED).all(Colour)


def test_without_takes_off_several_types_at_once() -> None:
    """Every stamp of the given types goes, and the rest stays in its order."""
    envelope = Envelope.wrap(Ordered(1), RED, stamps.Delay(1), GREY, BLUE, stamps.Delay(2))
    assert (GREY,) == envelope.without(Colour, stamps.Delay).stamps
    assert (RED, stamps.Delay(1), GREY, BLUE, stamps.Delay(2)) == envelope.stamps


def test_without_a_type_that_is_not_there_changes_nothing() -> None:
    """Taking off what is not on the envelope is fine, and so is taking off nothing."""
    envelope = Envelope.wrap(Ordered(1), RED)
    assert [envelope, envelope] == [envelope.without(stamps.Delay), envelope.without()]


@pytest.mark.parametrize("type_", [Colour, Stamp])
def test_without_a_parent_leaves_its_children(type_: type[Stamp]) -> None:
    """A type stands for itself only, not for the types that are derived from it."""
    assert Envelope.wrap(Ordered(1), GREY).has(Shade)
    assert (GREY,) == Envelope.wrap(Ordered(1), GREY).without(type_).stamps


def test_last_returns_the_newest_of_exactly_that_type() -> None:
    """Neither an older stamp nor one of a derived type is returned."""
    envelope = Envelope.wrap(Ordered(1), RED, BLUE, GREY)
    assert (BLUE, GREY, None, None) == (
        envelope.last(Colour),
        envelope.last(Shade),
        envelope.last(stamps.Delay),
        envelope.last(Stamp),
    )


def test_all_returns_the_oldest_first() -> None:
    """All stamps of exactly one type come in the order in which they were put on."""
    envelope = Envelope.wrap(Ordered(1), BLUE, GREY, RED)
    assert ([BLUE, RED], [GREY], [], []) == (
        envelope.all(Colour),
        envelope.all(Shade),
        envelope.all(Stamp),
        envelope.all(stamps.Delay),
    )


def test_all_returns_a_list_of_the_callers_own() -> None:
    """What the caller does with the list does not reach the envelope."""
    envelope = Envelope.wrap(Ordered(1), RED)
    envelope.all(Colour).clear()
    assert [RED] == envelope.all(Colour)


def test_has_asks_for_exactly_that_type() -> None:
    """A stamp of a derived type does not count as one of its parent's."""
    assert [True, False, False] == [Envelope.wrap(Ordered(1), GREY).has(type_) for type_ in (Shade, Colour, Stamp)]


def test_a_stamp_that_is_false_is_found() -> None:
    """A stamp whose fields are empty counts like any other."""
    envelope = Envelope.wrap(Ordered(1), stamps.TransportNames(()), stamps.Delay(0.0))
    assert stamps.TransportNames(()) == envelope.last(stamps.TransportNames)
    assert envelope.has(stamps.Delay)


def test_envelopes_are_equal_by_value() -> None:
    """Message, stamps and their order decide; envelopes of hashable things have a hash."""
    one = Envelope.wrap(Ordered(1), RED, BLUE)
    assert Envelope.wrap(Ordered(1), RED, BLUE) == one
    assert {one} == {one, Envelope.wrap(Ordered(1), RED, BLUE)}
    assert one != Envelope.wrap(Ordered(1), BLUE, RED)
    assert one != Envelope.wrap(Ordered(2), RED, BLUE)


def test_an_envelope_of_an_unhashable_message_works() -> None:
    """Nothing but a set or a dictionary needs an envelope to have a hash."""
    envelope = Envelope.wrap(Draft("a"), stamps.TransportNames(["a"])).with_(RED)
    assert Envelope.wrap(Draft("a"), stamps.TransportNames(["a"]), RED) == envelope
    with pytest.raises(TypeError, match="unhashable"):
        hash(envelope)


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (stamps.AfterCurrent, "AfterCurrent is a class, and a stamp is an object of one. Write AfterCurrent(...)."),
        (5, "5 is no stamp. Put on what is of a class in postbus.stamps, or of a subclass of Stamp."),
        (None, "None is no stamp. Put on what is of a class in postbus.stamps, or of a subclass of Stamp."),
        (Ordered, f"{Ordered!r} is no stamp. Put on what is of a class in postbus.stamps, or of a subclass of Stamp."),
    ],
)
def test_what_is_no_stamp_is_refused(thing: Any, said: str) -> None:
    """Wherever it is put on a message, or an envelope, the sentence is the same, and nothing is sent."""
    app = Postbus(transports={"a": "in-memory://"}, routing={Ordered: "a"})
    message, envelope = Ordered(1), Envelope.wrap(Ordered(1), RED)
    ways: list[Callable[[], object]] = [
        lambda: Envelope.wrap(message, thing),
        lambda: Envelope.wrap(envelope, thing),
        lambda: envelope.with_(BLUE, thing),
        lambda: app.dispatch(message, thing),
        lambda: app.dispatch(envelope, BLUE, thing),
        lambda: app.dispatch_many([message], thing),
        lambda: app.query(message, thing),
        lambda: asyncio.run(app.dispatch_async(message, thing)),
    ]
    for way in ways:
        with pytest.raises(ConfigurationError) as caught:
            way()
        assert said == str(caught.value)
    transport: Any = app.transport("a")
    assert [] == transport.sent
