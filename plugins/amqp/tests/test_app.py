"""An app on RabbitMQ: what its workers make of retries, burials and priorities."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import pytest

from postbus import Backoff, Envelope, Limits, Postbus
from postbus import stamps as core
from postbus_amqp import stamps

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True)
class Parcel:
    number: int


@pytest.fixture
def app(rabbitmq, name):
    """Give an app with two consumers, each with its own queue on one exchange, and a failure transport."""

    def transport(exchange, *queues, **arguments):
        described = {queue: {"arguments": {"x-expires": 600_000, **arguments}} for queue in queues}
        return {"dsn": f"{rabbitmq.dsn}/{exchange}", "options": {"exchange": {"flags": 18}, "queues": described}}

    quorum = {"x-queue-type": "quorum"}
    app = Postbus(
        transports={
            "parcels": transport(name, f"{name}-a", f"{name}-b", **quorum),
            "a": transport(name, f"{name}-a", **quorum),
            "b": transport(name, f"{name}-b", **quorum),
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


def test_many_messages_go_through_in_order(app):
    """Dispatched in batches, pushed ahead, acknowledged together: each comes once, and none overtakes another."""
    seen = []

    @app.handler(from_transport="a")
    def note(parcel: Parcel) -> None:
        seen.append(parcel.number)

    sent = app.dispatch_many([Parcel(number) for number in range(3000)])
    app.worker("a", limits=Limits(messages=3000)).run()

    assert list(range(3000)) == seen
    assert all(envelope.has(core.Sent) for envelope in sent)
    assert 0 == app.transport("a").connection.count().waiting
