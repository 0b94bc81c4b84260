"""Stamps that a class declares, and stamps that everything dispatched in a handler inherits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from postbus import ConfigurationError, Envelope, HandlerFailed, Postbus, Stamp, stamps


class Tenant(Stamp):
    wire_name = "test-default-stamps-tenant"
    propagates = True
    name: str


class Locale(Stamp):
    """Travels with its message, and no further."""

    wire_name = "test-default-stamps-locale"
    name: str


class Draft(Stamp):
    """Stays in the process, and goes on there."""

    propagates = True


@dataclass(frozen=True)
class Order:
    number: int


@dataclass(frozen=True)
class LargeOrder(Order):
    pass


@dataclass(frozen=True)
class Receipt:
    number: int


@dataclass(frozen=True)
class Letter:
    number: int


@pytest.fixture
def app(make_app: Callable[..., Postbus]) -> Postbus:
    return make_app(transports={"mail": "in-memory://"}, routing={Order: "orders", Receipt: "mail"})


def sent(app: Postbus, transport: str = "orders") -> Envelope:
    found: Envelope = app.transport(transport).sent[-1]  # type: ignore[attr-defined]
    return found


# --- declared by a class ---------------------------------------------------------------------------


def test_a_class_declares_what_it_is_dispatched_with(app: Postbus) -> None:
    """Each message of it gets the stamps, and so do those of derived classes, in batches too."""
    app.message(stamps=[stamps.Delay(60), Locale("nl")])(Order)
    app.dispatch(Order(1))
    assert (60.0, "nl") == (sent(app).last(stamps.Delay).seconds, sent(app).last(Locale).name)  # type: ignore[union-attr]
    app.dispatch_many([LargeOrder(2)])
    assert sent(app).has(Locale)


def test_a_dispatch_has_precedence(app: Postbus) -> None:
    """What it brings takes the place of the default of that type, and of no other."""
    app.message(stamps=[stamps.Delay(60), Locale("nl")])(Order)
    app.dispatch(Order(1), Locale("de"))
    assert [Locale("de")] == sent(app).all(Locale)
    assert sent(app).has(stamps.Delay)


def test_a_derived_class_may_declare_its_own(app: Postbus) -> None:
    """They take the place of those of its ancestor, and an empty list of all of them."""
    app.message(stamps=[Locale("nl")])(Order)
    app.dispatch(LargeOrder(1))
    assert sent(app).has(Locale)
    app.message(stamps=[])(LargeOrder)
    app.dispatch(LargeOrder(1))
    assert not sent(app).has(Locale)


def test_the_stamps_may_be_those_of_one_message(app: Postbus) -> None:
    """A function is given the message."""
    app.message(stamps=lambda order: [stamps.Delay(order.number)])(Order)
    app.dispatch(Order(7))
    assert stamps.Delay(7) == sent(app).last(stamps.Delay)


def test_what_comes_from_a_transport_gets_none(app: Postbus, run: Any) -> None:
    """It has what it was sent with; so a retry does not wait again for the delay of its class."""
    seen: list[Envelope] = []

    @app.handler
    def see(order: Order, envelope: Envelope) -> None:
        seen.append(envelope)

    app.dispatch(Order(1))
    app.message(stamps=[Locale("nl")])(Order)
    run(app)
    assert [False] == [envelope.has(Locale) for envelope in seen]


def test_a_default_says_where_a_message_goes(app: Postbus) -> None:
    """The names of transports are a stamp like others; `query` handles here all the same."""
    app.message(stamps=[stamps.TransportNames(["mail"])])(Order)
    app.handler(lambda order: order.number, handles=Order, name="number")
    app.dispatch(Order(1))
    assert Order(1) == sent(app, "mail").message
    assert 5 == app.query(Order(5))


def test_a_default_may_wait_for_the_current_message(app: Postbus) -> None:
    """One that fails takes along what waits for it."""
    app.message(stamps=[stamps.AfterCurrent()])(Receipt)

    @app.handler
    def place(letter: Letter) -> None:
        app.dispatch(Receipt(letter.number))
        if letter.number == 13:
            raise LookupError

    app.dispatch(Letter(1))
    with pytest.raises(HandlerFailed):
        app.dispatch(Letter(13))
    assert [Receipt(1)] == [envelope.message for envelope in app.transport("mail").sent]  # type: ignore[attr-defined]


def test_what_is_no_stamp_is_refused_where_it_is_declared(app: Postbus) -> None:
    """A class without parentheses, or a single one without a list."""
    with pytest.raises(ConfigurationError, match="AfterCurrent is a class, and a stamp is an object of one"):
        app.message(stamps=[stamps.AfterCurrent])(Order)  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="The stamps of .*Order are Delay.*, which is no list"):
        app.message(stamps=stamps.Delay(3))(Order)  # type: ignore[call-overload]


def test_a_function_that_fails_is_told(app: Postbus) -> None:
    """The caller of dispatch is told which class it is about."""
    app.message(stamps=lambda order: [stamps.Delay(order.nothing)])(Order)
    with pytest.raises(ConfigurationError, match="Order cannot be dispatched, because its default stamps fail: Attr"):
        app.dispatch(Order(1))


# --- propagated ------------------------------------------------------------------------------------


def test_what_a_handler_dispatches_inherits_stamps_that_propagate(app: Postbus, run: Any) -> None:
    """At any depth, through transports, and only those that say so."""

    @app.handler
    def print_receipt(order: Order) -> None:
        app.dispatch(Letter(order.number))

    @app.handler
    def write(letter: Letter) -> None:
        app.dispatch_many([Receipt(letter.number)])

    app.dispatch(Order(1), Tenant("north"), Locale("nl"))
    run(app)
    assert [Tenant("north")] == sent(app, "mail").all(Tenant)
    assert not sent(app, "mail").has(Locale)


def test_what_brings_its_own_does_not_inherit(app: Postbus) -> None:
    """And what it dispatches inherits that in turn; nothing is left over for the next message."""

    @app.handler
    def write(letter: Letter) -> None:
        app.dispatch(Receipt(letter.number), *([Tenant("south")] if letter.number == 2 else []))

    app.dispatch(Letter(2), Tenant("north"))
    assert [Tenant("south")] == sent(app, "mail").all(Tenant)
    app.dispatch(Letter(1))
    assert not sent(app, "mail").has(Tenant)


def test_an_inherited_stamp_has_precedence_over_a_default(app: Postbus) -> None:
    """The conversation knows better than the class."""
    app.message(stamps=[Tenant("nobody"), Locale("nl")])(Receipt)
    app.handler(lambda letter: app.dispatch(Receipt(letter.number)), handles=Letter, name="write")
    app.dispatch(Letter(1), Tenant("north"))
    assert [Tenant("north")] == sent(app, "mail").all(Tenant)
    assert sent(app, "mail").has(Locale)


def test_a_default_propagates_too(app: Postbus) -> None:
    """A class that belongs to a tenant says so once."""
    app.message(stamps=[Tenant("north")])(Letter)
    app.handler(lambda letter: app.dispatch(Receipt(letter.number)), handles=Letter, name="write")
    app.dispatch(Letter(1))
    assert [Tenant("north")] == sent(app, "mail").all(Tenant)


def test_what_waits_for_the_current_message_inherits_as_well(app: Postbus) -> None:
    """It is dispatched in the handler, and only goes later."""
    app.handler(
        lambda letter: app.dispatch(Receipt(letter.number), stamps.AfterCurrent()), handles=Letter, name="write"
    )
    app.dispatch(Letter(1), Tenant("north"))
    assert [Tenant("north")] == sent(app, "mail").all(Tenant)


def test_a_stamp_that_does_not_travel_propagates_in_its_process(app: Postbus, run: Any) -> None:
    """What is handled at once has it, what comes from a broker not."""
    seen: list[bool] = []

    @app.handler
    def print_receipt(order: Order) -> None:
        app.dispatch(Letter(order.number))

    @app.handler
    def write(letter: Letter, envelope: Envelope) -> None:
        seen.append(envelope.has(Draft))

    app.dispatch(Order(1), stamps.HERE, Draft())
    app.dispatch(Order(1), Draft())
    run(app)
    assert [True, False] == seen
