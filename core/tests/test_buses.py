"""What a bus is made of: yours by object, by name and by plugin, and the built-in ones, unless they are off."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from postbus import ConfigurationError, Envelope, Postbus, stamps
from postbus.bus import Next
from postbus.events import Event, MessageSent


@dataclass(frozen=True)
class Order:
    number: int = 13


def names(app: Postbus, bus: str | None = None) -> list[str]:
    return [getattr(step, "__qualname__", type(step).__qualname__) for step in app.bus(bus).middleware]


def pass_on(envelope: Envelope, call_next: Next) -> Envelope:
    return call_next(envelope)


def test_the_built_in_ones_stand_around_yours() -> None:
    """Unless a bus is told otherwise; then it has what is named, in that order."""
    app = Postbus(
        transports={"orders": "in-memory://"},
        routing={"*": "orders"},
        buses={
            "default": {"middleware": ["validate", pass_on]},
            "local": {"default_middleware": False, "middleware": ["begin_message", pass_on, "handle_message"]},
            "empty": {"default_middleware": False},
        },
        default_bus="default",
    )
    assert ["BeginMessage", "Validate", "pass_on", "SendMessage", "HandleMessage"] == names(app)
    assert (["BeginMessage", "pass_on", "HandleMessage"], []) == (names(app, "local"), names(app, "empty"))
    app.handler(lambda order: order.number, handles=Order, name="number")
    assert [stamps.Result("number", 13)] == app.dispatch(Order(), bus="local").all(stamps.Result)
    assert [1, 0] == [
        len(envelope.all(stamps.Handled))
        for bus in ("local", "empty")
        for envelope in app.dispatch_many([Order()], bus=bus)
    ]
    assert Envelope(Order()) == app.dispatch(Order(), bus="empty")


def test_a_built_in_one_is_named_only_where_they_are_off() -> None:
    """Else it would be there twice."""
    app = Postbus(buses={"default": {"middleware": ["send_message"]}}, config={})
    with pytest.raises(
        ConfigurationError, match="names 'send_message', which no plugin brings.*or one of: trace, valid"
    ):
        app.dispatch(Order())


def test_a_middleware_that_observes_is_told_of_events() -> None:
    """Once, on however many buses it stands."""

    class Counting:
        sent = 0

        def __call__(self, envelope: Envelope, call_next: Next) -> Envelope:
            return call_next(envelope)

        def observe(self, event: Event) -> None:
            self.sent += isinstance(event, MessageSent)

    counting = Counting()
    app = Postbus(
        transports={"orders": "in-memory://"},
        routing={"*": "orders"},
        buses={"default": {"middleware": [counting]}, "other": {"middleware": [counting]}},
        default_bus="default",
    )
    app.dispatch(Order())
    assert 1 == counting.sent
