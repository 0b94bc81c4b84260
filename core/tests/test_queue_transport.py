"""What a transport makes of its connection: whatever that says about one message concerns this message alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace

from postbus import Envelope, stamps
from postbus.errors import ConnectionLost, MessageRefused
from postbus.queue_transport import QueueTransport
from postbus.serialization import JsonSerializer, TypeRegistry, Undecodable
from postbus.transport import Delivery, Guarantees, Outgoing, SupportsBrowse, SupportsCount, TransportContext, supports
from postbus_in_memory.connection import InMemoryConnection
from postbus_in_memory.queue import Queue

PROMISED = Guarantees(durable=False, longest_delay=60.0, largest_message=1000, publish_batch=2)


@dataclass(frozen=True)
class Note:
    text: str


class Choosy(InMemoryConnection):
    """Its broker takes no message with the text "no", stores all others, and counts what it was asked to store."""

    def __init__(self, queue: Queue, asked: list[int]) -> None:
        super().__init__(queue)
        self.asked = asked

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        self.asked.append(len(messages))
        refused = {n: "It says no." for n, message in enumerate(messages) if b'"no"' in message.body}
        ids = iter(super().publish([message for n, message in enumerate(messages) if n not in refused]))
        stored = {n: next(ids) for n in range(len(messages)) if n not in refused}
        if refused:
            raise MessageRefused(refused, stored=stored)
        return list(stored.values())


def transport_on(connect: Any, guarantees: Guarantees = PROMISED) -> QueueTransport:
    types = TypeRegistry()
    types.register(Note, "note")
    return QueueTransport(connect, TransportContext("notes", JsonSerializer(types), lambda it: it, guarantees))


def wrapped(*texts: str) -> list[Envelope]:
    return [Envelope.wrap(Note(text)) for text in texts]


def test_what_is_refused_is_named_and_all_else_is_stored() -> None:
    """The error has the positions in what was sent, over all batches, also of those behind the refused one."""
    queue = Queue()
    transport = transport_on(lambda: Choosy(queue, []))

    with pytest.raises(MessageRefused) as caught:
        transport.send(wrapped("a", "no", "b", "c", "no", "d"))

    assert {1: "It says no.", 4: "It says no."} == caught.value.refused
    assert {0: "1", 2: "2", 3: "3", 5: "4"} == caught.value.stored
    assert str(caught.value) == "It says no."
    assert ["a", "b", "c", "d"] == [envelope.message.text for envelope in transport.receive(10, 0)]


@pytest.mark.parametrize(
    ("envelope", "guarantees", "told"),
    [
        (Envelope.wrap(Note("x"), stamps.Delay(5)), replace(PROMISED, delay=False), "'notes' cannot delay a message"),
        (Envelope.wrap(Note("x" * 1000)), PROMISED, "'notes' takes messages of up to 1000 bytes"),
    ],
    ids=["delay", "size"],
)
def test_what_the_guarantees_rule_out_is_not_tried(envelope: Envelope, guarantees: Guarantees, told: str) -> None:
    """The broker is not asked for what the plugin has said that it cannot do; the neighbours are stored."""
    asked: list[int] = []
    transport = transport_on(lambda: Choosy(Queue(), asked), guarantees)

    with pytest.raises(MessageRefused, match=told) as caught:
        transport.send([*wrapped("before"), envelope, *wrapped("after")])

    assert [1] == list(caught.value.refused)
    assert [2] == asked


def test_a_refusal_on_the_second_connection_names_the_right_message() -> None:
    """After a lost connection only what is in doubt is sent again, and is still called by its own position."""

    class Breaking(Choosy):
        def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
            if not self.asked:
                self.asked.append(0)
                raise ConnectionLost("It went away.", stored={0: "x"})
            return super().publish(messages)

    queue, asked = Queue(), list[int]()
    transport = transport_on(lambda: Breaking(queue, asked), replace(PROMISED, publish_batch=10))

    with pytest.raises(MessageRefused) as caught:
        transport.send(wrapped("a", "b", "no"))

    assert [2] == list(caught.value.refused)
    assert {0: "x", 1: "1"} == caught.value.stored


def test_what_a_plugin_could_not_read_is_undecodable() -> None:
    """It comes with the reason and the bytes, as what no serializer can read does, and is settled like any other."""

    class Puzzled(InMemoryConnection):
        def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
            return [replace(delivery, problem="it is too odd") for delivery in super().fetch(limit, wait)]

    queue = Queue()
    transport = transport_on(lambda: Puzzled(queue))
    transport.send(wrapped("fine"))

    (received,) = transport.receive(1, 0)

    assert isinstance(received.message, Undecodable)
    assert ("it is too odd", b'{"text":"fine"}') == (received.message.reason, received.message.body)
    assert [] == transport.ack([received])
    assert not queue.messages


def test_a_delivery_tells_its_lease_and_its_group() -> None:
    """Whoever handles it sees for how long it is his, and what it must not overtake."""

    class Telling(InMemoryConnection):
        def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
            return [replace(delivery, lease=30.0, group="customer-13") for delivery in super().fetch(limit, wait)]

    queue = Queue()
    transport = transport_on(lambda: Telling(queue))
    transport.send(wrapped("a"))

    received = transport.receive(1, 0)[0].last(stamps.Received)

    assert received is not None
    assert (30.0, "customer-13") == (received.lease, received.group)


def test_what_could_not_be_settled_is_returned() -> None:
    """Of a batch, exactly the envelopes whose lease was lost come back, whichever way they were to be settled."""
    queue = Queue()
    transport = transport_on(lambda: InMemoryConnection(queue, lease=60.0))
    transport.send(wrapped("lost", "held"))
    (lost,) = transport.receive(1, 0)
    queue.clock.move(61)
    (again,) = transport.receive(1, 0)
    (held,) = transport.receive(1, 0)

    assert [lost] == transport.ack([lost, held])
    assert [lost] == transport.keepalive([lost, again])
    assert [] == transport.reject([again])


class Mute(InMemoryConnection):
    """Its broker hears everything, and its first answers to an ack are lost."""

    answers_lost = 0

    def ack(self, tags: Sequence[Any]) -> Sequence[Any]:
        lost = super().ack(tags)
        if Mute.answers_lost:
            Mute.answers_lost -= 1
            raise ConnectionLost("The answer was lost.")
        return lost


def test_what_may_have_been_settled_is_not_said_to_be_lost(caplog: pytest.LogCaptureFixture) -> None:
    """It is in doubt what became of a settlement whose answer was lost; whoever tries it later hears of no loss."""
    queue = Queue()
    transport = transport_on(lambda: Mute(queue, lease=60.0))
    transport.send(wrapped("lost", "heard"))
    (lost,) = transport.receive(1, 0)
    queue.clock.move(61)
    (heard,) = transport.receive(1, 0)
    Mute.answers_lost = 2  # So that the second try, on a fresh connection, tells nothing either.
    with pytest.raises(ConnectionLost):
        transport.ack([heard])

    assert [lost] == transport.ack([heard, lost])
    assert 1 == caplog.text.count("was lost while 1 messages were being settled")
    assert [heard] == transport.ack([heard])  # That was the doubt; now it is known.


def test_an_ability_may_depend_on_the_dsn() -> None:
    """A connection may lack what others of its class can do."""

    class Restrained(InMemoryConnection):
        @property
        def lacks(self) -> Collection[type]:
            return (SupportsBrowse,)

    connection = Restrained(Queue())

    assert not supports(connection, SupportsBrowse)
    assert supports(connection, SupportsCount)
    assert supports(InMemoryConnection(Queue()), SupportsBrowse)
