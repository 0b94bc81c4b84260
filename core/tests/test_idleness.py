"""A worker that stops when it has nothing to do."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from postbus import Limits, Postbus, stamps
from postbus.errors import ConfigurationError, ConnectionLost
from postbus.hookspecs import RegisterTransport, hookimpl
from postbus.plugins import Plugin, Plugins
from postbus.queue_transport import QueueTransport
from postbus.transport import Counts, Delivery, Guarantees, Outgoing

PATIENCE = 60.0
"""Seconds after which a worker that must end counts as never ending."""

UNTIL_EMPTY = Limits(idle=0, time=PATIENCE)


@dataclass(frozen=True)
class Order:
    number: int


@dataclass(frozen=True)
class Mail:
    number: int


@pytest.fixture
def handled() -> list[Any]:
    return []


@pytest.fixture
def app(handled: list[Any]) -> Postbus:
    """Return an app in which each order has a mail sent, which is dispatched to another transport."""
    app = Postbus(
        transports={"mails": "in-memory://", "orders": "in-memory://"},
        routing={Order: "orders", Mail: "mails"},
        retry={"delay": 3600},
    )

    @app.handler
    def handle(order: Order) -> None:
        handled.append(order)
        if order.number < 0:
            raise ValueError("negative")
        app.dispatch(Mail(order.number))

    @app.handler
    def send(mail: Mail) -> None:
        handled.append(mail)

    return app


@pytest.mark.parametrize("concurrency", [1, 3])
def test_until_all_transports_are_empty(app: Postbus, handled: list[Any], concurrency: int) -> None:
    """All transports of the worker must have nothing at the same time, whichever of them a handler dispatches to."""
    for number in range(5):
        app.dispatch(Order(number))
    stopped = app.worker("mails", "orders", concurrency=concurrency, limits=UNTIL_EMPTY).run()

    assert ("there was nothing to do", 10, 0) == (stopped.reason, stopped.handled, stopped.failed)
    assert {*map(Order, range(5)), *map(Mail, range(5))} == set(handled)


def test_a_worker_of_one_transport_leaves_the_others(app: Postbus, handled: list[Any]) -> None:
    """What handlers dispatch to a transport that is not consumed stays there."""
    app.dispatch(Order(1))
    app.worker("orders", limits=UNTIL_EMPTY).run()

    assert [Order(1)] == handled
    assert 1 == app.transport("mails").connection.count().waiting  # type: ignore[attr-defined]


def test_with_nothing_at_all(app: Postbus) -> None:
    """A worker that has never anything to do ends as well."""
    assert 0 == app.worker(limits=UNTIL_EMPTY).run().handled


def test_a_delay_is_not_waited_for(app: Postbus, handled: list[Any]) -> None:
    """A message that is delayed, or is retried after a delay, stays on its transport for another worker."""
    app.dispatch(Order(7), stamps.Delay(3600))
    app.dispatch(Order(-1))
    stopped = app.worker("orders", limits=UNTIL_EMPTY).run()

    assert [Order(-1)] == handled
    assert 1 == stopped.failed
    assert 2 == app.transport("orders").connection.count().delayed  # type: ignore[attr-defined]


def test_what_comes_before_the_limit_is_handled(app: Postbus, handled: list[Any]) -> None:
    """With a limit of some seconds, a message that comes within them is handled, and they begin anew."""
    app.dispatch(Order(1), stamps.Delay(0.7))
    stopped = app.worker(limits=Limits(idle=1.5, time=PATIENCE)).run()

    assert "there was nothing to do for 1.5 s" == stopped.reason
    assert [Order(1), Mail(1)] == handled


def test_a_message_that_another_worker_has_is_not_waited_for(app: Postbus) -> None:
    """What somebody else has in hand is theirs."""
    app.dispatch(Order(1))
    orders: Any = app.transport("orders")
    assert orders.receive(1, 0)

    assert 0 == app.worker("orders", limits=UNTIL_EMPTY).run().handled


class Reluctant:
    """A connection that is lost a few times, then takes its time, and has one message all the while."""

    lost = 3
    slow = 2

    def __init__(self, state: dict[str, int]) -> None:
        self.state = state

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        self.state["fetched"] += 1
        if self.state["fetched"] <= self.lost:
            raise ConnectionLost("The broker is away.")
        if self.state["fetched"] <= self.lost + self.slow or self.state["handed out"]:
            threading.Event().wait(wait)
            return []
        self.state["handed out"] = 1
        return [Delivery(b'{"number": 1}', {"type": "order"}, "tag")]

    def count(self) -> Counts:
        return Counts(waiting=1 - self.state["handed out"])

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        raise AssertionError

    def ack(self, tags: Sequence[Any]) -> Sequence[Any]:
        return ()

    def reject(self, tags: Sequence[Any]) -> Sequence[Any]:
        return ()

    def release(self, tags: Sequence[Any]) -> Sequence[Any]:
        return ()

    def close(self) -> None: ...


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_broker_that_cannot_be_asked_is_not_empty(concurrency: int) -> None:
    """One that is away, or is slow to say what it has, has whatever it counts."""
    state = {"fetched": 0, "handed out": 0}

    class ReluctantPlugin:
        CONTRACT = 1

        @hookimpl
        def register_transports(self, register: RegisterTransport) -> None:
            register(
                "reluctant",
                lambda dsn, context: QueueTransport(lambda: Reluctant(state), context),
                guarantees=Guarantees(durable=False, ordering="none"),
            )

    plugins = Plugins()
    plugins.add(ReluctantPlugin(), Plugin("reluctant", "tests", "0"))
    app = Postbus(transports={"orders": "reluctant://"}, plugins=plugins)
    handled: list[Order] = []
    app.message("order")(Order)

    @app.handler
    def handle(order: Order) -> None:
        handled.append(order)

    app.worker("orders", concurrency=concurrency, limits=UNTIL_EMPTY).run()

    assert [Order(1)] == handled


def test_a_limit_below_zero() -> None:
    """An idle limit is 0 or more."""
    with pytest.raises(ConfigurationError, match="Limit 'idle' must be at least 0, got -1."):
        Limits(idle=-1)
