"""An app on RabbitMQ: what its workers make of retries, burials and priorities."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import pika
import pytest

from postbus import Backoff, Envelope, Limits, Postbus
from postbus import stamps as core
from postbus_amqp import stamps
from tests.brokers.server import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.once]


@dataclass(frozen=True, slots=True)
class Parcel:
    number: int


class Notebook:
    """What came, as a handler notes it."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.again: set[int] = set()

    def take(self, parcel: Parcel, envelope: Envelope) -> None:
        """Note a parcel."""
        self.seen.append(parcel.number)
        if envelope.last(stamps.AmqpReceived).redelivered:
            self.again.add(parcel.number)

    def assert_in_order(self, number: int, kind: str) -> None:
        """Assert that each came once, in order; but a quorum queue may put what it is given back elsewhere."""
        assert [*range(number)] == sorted(self.seen)
        if kind == "quorum":
            self.seen = [one for one in self.seen if one not in self.again]
        assert sorted(self.seen) == self.seen


@pytest.fixture
def kind():
    """Give the type of the queues."""
    return "quorum"


@pytest.fixture
def app(rabbitmq, name, kind):
    """Give an app with two consumers, each with its own queue on one exchange, and a failure transport."""

    def transport(exchange, *queues, **arguments):
        described = {queue: {"arguments": {"x-expires": 600_000, **arguments}} for queue in queues}
        return {"dsn": f"{rabbitmq.dsn}/{exchange}", "options": {"exchange": {"flags": 18}, "queues": described}}

    typed = {"x-queue-type": kind}
    app = Postbus(
        transports={
            "parcels": transport(name, f"{name}-a", f"{name}-b", **typed),
            "a": transport(name, f"{name}-a", **typed),
            "b": transport(name, f"{name}-b", **typed),
            "failed": transport(f"{name}-failed", f"{name}-failed"),
        },
        routing={Parcel: "parcels"},
        failure_transport="failed",
        retry=Backoff(max_retries=2, delay=0.1),
    )
    with closing(app):
        yield app


def test_one_consumer_fails_alone_until_its_message_is_buried(app):
    """Its neighbour has handled the message, once; the failure transport has it, and it can be handled from there."""
    seen = []
    is_mended = False

    @app.handler(from_transport="a")
    def fail(parcel: Parcel, envelope: Envelope) -> None:
        received = envelope.last(stamps.AmqpReceived)
        seen.append((received.queue.rpartition("-")[2], len(envelope.all(stamps.AmqpReceived))))
        if not is_mended:
            raise ValueError("lost in the post")

    @app.handler(from_transport="b")
    def succeed(parcel: Parcel) -> None:
        seen.append(parcel)

    app.dispatch(Parcel(1))
    app.worker("b", limits=Limits(messages=1)).run()
    app.worker("a", limits=Limits(failures=3)).run()

    assert [Parcel(1), *[("a", 1)] * 3] == seen
    assert [0, 0, 1] == [app.transport(one).connection.count().waiting for one in ("a", "b", "failed")]

    is_mended = True
    app.worker("failed", limits=Limits(messages=1)).run()
    assert ("failed", 1) == seen[-1]
    assert 0 == app.transport("failed").connection.count().waiting


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_many_messages_go_through_in_order(app, kind):
    """Dispatched in batches, pushed ahead, acknowledged together: each comes once, and none overtakes another."""
    note = Notebook()
    app.handler(note.take, from_transport="a")

    sent = app.dispatch_many([Parcel(number) for number in range(3000)])
    app.worker("a", limits=Limits(messages=3000)).run()

    note.assert_in_order(3000, kind)
    assert all(envelope.has(core.Sent) for envelope in sent)
    assert 0 == app.transport("a").connection.count().waiting


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_order_survives_a_message_that_takes_long(app, kind, rabbitmq, name):
    """What was sent ahead is given back meanwhile, and comes again."""
    note = Notebook()

    @app.handler(from_transport="a")
    def handle(parcel: Parcel, envelope: Envelope) -> None:
        note.take(parcel, envelope)
        if parcel == Parcel(1000):
            before = waiting()
            wait_until(lambda: waiting() > before or waiting() == 1999, "Nothing is given back.")

    def waiting():
        return channel.queue_declare(f"{name}-a", passive=True).method.message_count

    with closing(pika.BlockingConnection(pika.URLParameters(rabbitmq.dsn))) as somebody:
        channel = somebody.channel()
        app.dispatch_many([Parcel(number) for number in range(3000)])
        app.worker("a", limits=Limits(messages=3000)).run()

    note.assert_in_order(3000, kind)
