"""What is stored in place of a message that failed, and how it gets there."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from postbus import HandlerFailed, Limits, Postbus, stamps
from postbus.errors import ConnectionLost, NotDecoded, Unrecoverable
from postbus.failures import MOST_ERRORS
from postbus.hookspecs import RegisterTransport, hookimpl
from postbus.plugins import Plugin, Plugins
from postbus.queue_transport import QueueTransport
from postbus.transport import Delivery, Guarantees, Outgoing


@dataclass(frozen=True)
class OrderPlaced:
    order_id: int


@dataclass(frozen=True)
class Task:
    number: int


def test_a_message_does_not_grow_with_its_failures() -> None:
    """However many handlers fail, and however often, a message carries the first error and the newest ones."""
    app = Postbus(
        transports={"orders": "in-memory://"},
        routing={"*": "orders"},
        retry={"max_retries": 99, "delay": 1, "jitter": 0},
    )

    def failing(number: int) -> Any:
        def handle(order: OrderPlaced) -> None:
            raise ValueError(f"handler {number}")

        return handle

    for number in range(12):
        app.handler(name=str(number))(failing(number))
    orders: Any = app.transport("orders")
    app.dispatch(OrderPlaced(1))
    for attempt in range(3):
        app.worker(limits=Limits(messages=1)).run()
        orders.clock.move(2.0 ** (attempt + 1))

    (copy,) = orders.receive(1, 0)
    errors = [details.message for details in copy.all(stamps.ErrorDetails)]
    assert ["handler 0", *(f"handler {number}" for number in range(3, 12))] == errors
    assert MOST_ERRORS == len(errors)


class LosesTheFirstReplace:
    """A connection to a broker that goes away when the first copy is to take its original's place."""

    opened = 0

    def __init__(self, replaced: list[Outgoing]) -> None:
        type(self).opened += 1
        self.replaced = replaced
        self.is_first = type(self).opened == 1

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        raise AssertionError("Nothing is published where a copy can take the place of its original.")

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        return [Delivery(b"?", {}, "tag")]

    def replace(self, tag: Any, message: Outgoing) -> str | None:
        if self.is_first:
            raise ConnectionLost("The broker is away.")
        self.replaced.append(message)
        return "copy"

    def ack(self, tags: Sequence[Any]) -> None: ...

    reject = release = ack

    def close(self) -> None: ...


def test_a_connection_lost_while_replacing_is_replaced_itself() -> None:
    """A copy that is to take its original's place is tried once more on a fresh connection, as all else is."""
    replaced: list[Outgoing] = []

    class Flaky:
        CONTRACT = 1

        @hookimpl
        def register_transports(self, register: RegisterTransport) -> None:
            register(
                "flaky",
                lambda dsn, context: QueueTransport(lambda: LosesTheFirstReplace(replaced), context),
                guarantees=Guarantees(durable=True),
            )

    plugins = Plugins()
    plugins.add(Flaky(), Plugin("flaky", "tests", "0"))
    app = Postbus(transports={"failed": "flaky://"}, failure_transport="failed", plugins=plugins)
    transport: Any = app.transport("failed")
    (envelope,) = transport.receive(1, 0)
    app.failures.handle(envelope, NotDecoded("no"))

    assert [b"?"] == [message.body for message in replaced]
    assert 2 == LosesTheFirstReplace.opened


def test_an_error_with_half_a_character_is_buried_all_the_same() -> None:
    """The text of an error may hold what UTF-8 has no form for, such as part of a file's name."""
    app = Postbus(
        transports={"orders": "in-memory://", "failed": "in-memory://"},
        routing={"*": "orders"},
        failure_transport="failed",
    )

    @app.handler
    def read_file(order: OrderPlaced) -> None:
        raise Unrecoverable("cannot read 'caf\udce9.txt'")

    app.dispatch(OrderPlaced(13))
    app.worker("orders", limits=Limits(messages=1)).run()

    transport: Any = app.transport("failed")
    (buried,) = transport.receive(1, 0)
    assert ["cannot read 'caf\\udce9.txt'"] == [error.message for error in buried.all(stamps.ErrorDetails)]


def test_a_message_that_failed_is_let_go_of_at_once() -> None:
    """Nothing waits for the garbage collector: many large messages that fail would fill the memory until it comes."""
    app = Postbus()

    @app.handler
    def fail(task: Task) -> None:
        raise ValueError("no")

    def dispatch() -> weakref.ref[Task]:
        task = Task(1)
        with contextlib.suppress(HandlerFailed):
            app.dispatch(task)
        return weakref.ref(task)

    gc.collect()
    gc.disable()
    try:
        assert dispatch()() is None
    finally:
        gc.enable()
