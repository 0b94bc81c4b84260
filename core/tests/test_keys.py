"""What a message belongs to: by stamp, by its class, or nothing; once, when it is dispatched."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from enum import Enum, IntEnum
from functools import cached_property
from typing import Any
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from msgspec.structs import replace

import postbus_in_memory
from postbus import ConfigurationError, Limits, Postbus, stamps
from postbus.envelope import Envelope
from postbus.errors import SerializationError
from postbus.failures import as_it_came
from postbus.hookspecs import RegisterTransport, hookimpl
from postbus.plugins import Plugin, Plugins
from postbus.queue_transport import QueueTransport
from postbus.transport import Delivery, Guarantees, Outgoing
from postbus.worker.deliveries import Deliveries
from postbus.worker.trials import Channel, _as_delivery
from postbus_in_memory.connection import InMemoryConnection
from postbus_in_memory.queue import Message, Queue

NO_KEY = "A key is a text, a whole number, a UUID, a date or a member of an enumeration"


class Colour(Enum):
    RED = "red"


class Size(str, Enum):  # noqa: UP042
    LARGE = "large"


class Floor(IntEnum):
    GROUND = 0


@dataclass(frozen=True)
class Order:
    order_id: Any
    customer: str | None = None


@dataclass
class Changing:
    number: int
    other: int = 0


class Broker:
    """A queue with groups: what is in none belongs to nothing, or to what another program said."""

    CONTRACT = 1

    def __init__(self) -> None:
        self.queue = Queue()
        self.published: list[Outgoing] = []
        self.theirs: str | None = None
        """The group of messages without a key, as another program sent them."""

    @hookimpl
    def register_transports(self, register: RegisterTransport) -> None:
        register(
            "grouped",
            lambda dsn, context: QueueTransport(lambda: GroupedConnection(self), context),
            guarantees=Guarantees(durable=True, ordering="fifo", groups=True, lease=True),
        )

    def app(self, **options: Any) -> Postbus:
        plugins = Plugins()
        plugins.add(self, Plugin("grouped", "tests", "0"))
        plugins.add(postbus_in_memory, Plugin("in-memory", "tests", "0"))
        return Postbus(
            transports={"orders": "grouped://", "failed": "in-memory://"},
            routing={"*": "orders"},
            plugins=plugins,
            failure_transport="failed",
            **options,
        )

    @property
    def groups(self) -> list[str | None]:
        """The groups of all that was published."""
        return [message.group for message in self.published]


class GroupedConnection(InMemoryConnection):
    def __init__(self, broker: Broker) -> None:
        super().__init__(broker.queue)
        self._broker = broker

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        self._broker.published += messages
        return super().publish(messages)

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        messages: dict[str, Message] = self._queue.messages
        contents = {id: message.content for id, message in list(messages.items())}
        return [
            replace(delivery, group=contents[delivery.id or ""].group or self._broker.theirs)
            for delivery in super().fetch(limit, wait)
        ]


def fail(order: object) -> None:
    raise ValueError("no")


@pytest.fixture
def broker() -> Broker:
    return Broker()


# by stamp


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("acme", "acme"),
        ("", ""),
        (13, "13"),
        (-1, "-1"),
        (UUID(int=13), "00000000-0000-0000-0000-00000000000d"),
        (date(2026, 1, 2), "2026-01-02"),
        (Colour.RED, "red"),
        (Size.LARGE, "large"),
        (Floor.GROUND, "0"),
        (type("Name", (str,), {})("Ada"), "Ada"),
        (None, None),
    ],
)
def test_a_key_is_text(value: Any, key: str | None) -> None:
    """What is no text is what JSON writes of it, so that it is the same wherever it is read."""
    stamp = stamps.Key(value)
    assert key == stamp.value
    assert type(stamp.value) in (str, type(None))
    assert [stamp] == msgspec.json.decode(msgspec.json.encode([stamp]), type=list[stamps.Key])


@pytest.mark.parametrize("value", [True, 1.0, [1], {"a": 1}, ("a",), object(), Order(1)])
def test_what_is_no_key(value: Any) -> None:
    """What could be written in several ways, or not at all, is refused in a sentence."""
    with pytest.raises(ConfigurationError, match=f"^{NO_KEY}, and this is of type "):
        stamps.Key(value)


def test_a_stamp_gives_the_key(broker: Broker) -> None:
    """A plugin finds it as the group of what it publishes, the newest of several; without one there is none."""
    app = broker.app()
    app.dispatch(Order(1), stamps.Key("a"))
    app.dispatch(Order(1), stamps.Key("a"), stamps.Key("b"))
    app.dispatch(Order(1))
    app.dispatch_many([Order(1), Order(2)], stamps.Key(5))
    assert ["a", "b", None, "5", "5"] == broker.groups


# by class


def test_a_field_gives_the_key(broker: Broker) -> None:
    """The class names the field; a stamp has precedence, also one that says that there is none."""
    app = broker.app()
    app.message(key="order_id")(Order)
    app.dispatch(Order("a"))
    app.dispatch(Order("a"), stamps.Key("b"))
    app.dispatch(Order("a"), stamps.Key(None))
    app.dispatch(Order(None))
    app.dispatch_many([Order(1), Order(2), Order(1)])
    assert ["a", "b", None, None, "1", "2", "1"] == broker.groups


def test_a_property_gives_the_key(broker: Broker) -> None:
    """A key of several fields is a property, cached or not."""
    app = broker.app()

    @app.message(key="place")
    @dataclass
    class Moved:
        house: int
        floor: int

        @property
        def place(self) -> str:
            return f"{self.house}/{self.floor}"

    @app.message(key="place")
    @dataclass
    class Left:
        house: int

        @cached_property
        def place(self) -> str:
            return f"{self.house}/*"

    app.dispatch(Moved(1, 2))
    app.dispatch(Left(1))
    assert ["1/2", "1/*"] == broker.groups


@attrs.frozen
class Attrs:
    number: int


class Struct(msgspec.Struct):
    number: int


class Model(pydantic.BaseModel):
    number: int = pydantic.Field(alias="Number")


@pytest.mark.parametrize("make", [Attrs, Struct, lambda number: Model(Number=number)])
def test_any_class_of_messages(broker: Broker, make: Callable[[int], Any]) -> None:
    """A field goes by its own name, in classes of any library."""
    app = broker.app()
    message = make(13)
    app.message(key="number")(type(message))
    app.dispatch(message)
    assert ["13"] == broker.groups
    with pytest.raises(ConfigurationError, match="has no field 'Number' that could be its key"):
        app.message(key="Number")(type(message))


def test_a_derived_class_has_the_key_of_its_base(broker: Broker) -> None:
    """Unless it names its own; also if it was registered without one, or never, and if the base is named later."""
    app = broker.app()

    @dataclass
    class Base:
        tenant: str

    @dataclass
    class Unregistered(Base):
        pass

    @app.message("registered")
    @dataclass
    class Registered(Base):
        pass

    @app.message(key="number")
    @dataclass
    class Own(Base):
        number: int

    app.dispatch(Unregistered("acme"))
    app.message(key="tenant")(Base)
    for message in (Base("acme"), Unregistered("acme"), Registered("acme"), Own("acme", 13)):
        app.dispatch(message)
    assert [None, "acme", "acme", "acme", "13"] == broker.groups


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (
            "order_di",
            "has no field 'order_di' that could be its key. Did you mean 'order_id'? Fields: order_id, customer.",
        ),
        ("", "has no field '' that could be its key. Fields: order_id, customer."),
        ("__init__", "has no field '__init__' that could be its key. Fields: order_id, customer."),
        (13, "is 13, which is no name of a field. For a key that is made of several fields, name a property."),
    ],
)
def test_a_key_that_is_no_field(broker: Broker, key: Any, problem: str) -> None:
    """It is said when the class is registered, with the nearest name."""
    with pytest.raises(ConfigurationError) as refused:
        broker.app().message(key=key)(Order)
    assert str(refused.value).endswith(problem)
    assert "Order" in str(refused.value)


def test_a_value_that_is_no_key(broker: Broker) -> None:
    """The message is refused, and said to be so; those before it are stored."""
    app = broker.app()
    app.message(key="order_id")(Order)
    with pytest.raises(SerializationError, match=rf"Order cannot be sent, because 'order_id' is no key: {NO_KEY}"):
        app.dispatch(Order([1]))
    with pytest.raises(SerializationError) as refused:
        app.dispatch_many([Order(1), Order(2.5), Order(3)])
    assert (1, [0]) == (refused.value.position, list(refused.value.stored))
    assert ["1"] == broker.groups


def test_a_property_that_raises(broker: Broker) -> None:
    """It is a failure of this message, and says what it was."""
    app = broker.app()

    @app.message(key="broken")
    @dataclass
    class Broken:
        @property
        def broken(self) -> str:
            raise LookupError("nothing there")

    with pytest.raises(SerializationError, match="'broken' is no key: LookupError: nothing there"):
        app.dispatch(Broken())


def test_what_is_handled_here_needs_no_key() -> None:
    """A key is for brokers, so none is looked for where a message is handled at once."""
    app = Postbus(config={})
    app.message(key="order_id")(Order)

    @app.handler
    def handle(order: Order, envelope: Envelope) -> bool:
        return envelope.has(stamps.Key)

    assert app.query(Order([1])) is False


def test_a_broker_without_groups() -> None:
    """It takes the message all the same; the key travels along, and orders nothing."""
    app = Postbus(transports={"orders": "in-memory://"}, routing={"*": "orders"})
    app.message(key="order_id")(Order)
    seen: list[stamps.Key | None] = []

    @app.handler
    def handle(order: Order, envelope: Envelope) -> None:
        seen.append(envelope.last(stamps.Key))

    app.dispatch(Order("a"))
    app.worker(limits=Limits(messages=1)).run()
    assert [stamps.Key("a")] == seen


# the same for every copy


def test_a_retry_has_the_same_key(broker: Broker) -> None:
    """Whatever a handler has done to the message, and whatever its class names by then."""
    app = broker.app(retry={"max_retries": 1, "delay": 0})
    app.message(key="number")(Changing)
    handled: list[str | None] = []

    @app.handler
    def handle(message: Changing, envelope: Envelope) -> None:
        received = envelope.last(stamps.Received)
        handled.append(received.group if received is not None else None)
        app.message(key="other")(Changing)
        message.number = 99
        raise ValueError("no")

    app.dispatch(Changing(13))
    app.worker("orders", limits=Limits(messages=2)).run()
    assert ["13", "13"] == handled == broker.groups


@pytest.mark.parametrize("theirs", [None, "theirs"])
def test_what_others_sent_stays_in_its_group(broker: Broker, theirs: str | None) -> None:
    """A message without our key keeps the group that its broker had it in: retried, buried, and sent back."""
    broker.theirs = theirs
    app = broker.app(retry={"max_retries": 1, "delay": 0})
    app.handler(fail, handles=Order)

    app.dispatch(Order(1))
    broker.theirs = theirs
    app.worker("orders", limits=Limits(messages=2)).run()
    assert [None, theirs] == broker.groups

    failed = app.transport("failed")
    assert isinstance(failed, QueueTransport)
    [buried] = failed.receive(1, 0)
    app.transport("orders").send([as_it_came(buried).without(stamps.Buried)])
    assert [None, theirs, theirs] == broker.groups


def test_no_key_stays_none(broker: Broker) -> None:
    """What was sent with a stamp that says so belongs to nothing, in each copy."""
    app = broker.app(retry={"max_retries": 1, "delay": 0})
    app.message(key="order_id")(Order)
    broker.theirs = "default"
    app.handler(fail, handles=Order)

    app.dispatch(Order(1), stamps.Key(None))
    app.worker("orders", limits=Limits(messages=2)).run()
    assert [None, None] == broker.groups


def test_what_cannot_be_decoded_keeps_its_key(broker: Broker) -> None:
    """A message of an unknown type comes again in its group, and so does one whose name is an alias by now."""
    app = broker.app()
    app.message("order", key="order_id")(Order)
    app.dispatch(Order(1))
    stranger = broker.app()
    stranger.handler(lambda order: None, handles=Changing, name="handle")
    stranger.worker("orders", limits=Limits(messages=1)).run()
    assert ["1", "1"] == broker.groups

    renamed = broker.app(retry={"delay": 0})
    renamed.message("order.placed", aliases=["order"], key="customer")(Order)
    renamed.handler(fail, handles=Order, name="fail")
    app.dispatch(Order(2, "Ada"))
    renamed.worker("orders", limits=Limits(messages=1)).run()
    assert ["2", "2"] == broker.groups[2:]


def test_what_is_sent_on_keeps_its_key(broker: Broker) -> None:
    """A message that came, and that a handler dispatches anew, belongs to what it belonged to."""
    app = broker.app()
    app.message(key="order_id")(Order)

    @app.handler
    def handle(order: Order, envelope: Envelope) -> None:
        if order.customer is None:
            app.dispatch(Envelope(Order(2, "Ada"), envelope.without(stamps.Received).stamps))

    app.dispatch(Order(1))
    app.worker("orders", limits=Limits(messages=2)).run()
    assert ["1", "1"] == broker.groups


def test_a_process_of_its_own_is_told_the_group(broker: Broker) -> None:
    """What workers may have died of, and another program sent, is retried in its group from wherever it is handled."""
    broker.theirs = "theirs"
    app = broker.app()
    app.dispatch(Order(1))
    transport = app.transport("orders")
    assert isinstance(transport, QueueTransport)
    [envelope] = transport.receive(1, 0)
    here, there = map(Channel, socket.socketpair())

    here.send(_as_delivery(Deliveries("orders", transport), envelope))
    delivery = there.receive()

    here.close()
    there.close()
    assert isinstance(delivery, Delivery)
    assert "theirs" == delivery.group
