"""What the tests stand on: transports and connections as the plugin makes them, with names of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, closing, suppress
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from uuid import uuid4

import pytest

from postbus.dsn import Dsn
from postbus.queue_transport import QueueTransport
from postbus.serialization import JsonSerializer, TypeRegistry
from postbus.testing import workbench
from postbus.transport import Delivery, TransportContext
from postbus_amqp import CLASSIC
from postbus_amqp import make_transport as make_amqp_transport
from postbus_amqp.connection import AmqpConnection
from tests.brokers.rabbitmq import RabbitMQ

PATIENCE = 10.0
DURABLE_AND_AUTO_DELETE = 18

# What a run leaves behind goes by itself: a queue after ten minutes, and the exchange with its last queue. Delay queues
# do not: see `sweep`.
LEFT_BEHIND = {"x-expires": 600_000}


@pytest.fixture
def name() -> str:
    """Give a name that nobody else has."""
    return f"test-{uuid4()}"


@pytest.fixture
def sweep() -> Callable[[RabbitMQ, str], None]:
    """Return what deletes the delay queues of an exchange, and what is like them, from a broker that outlives us."""

    def delete(broker: RabbitMQ, exchange: str) -> None:
        for kind in ("queues", "exchanges") if broker.given else ():
            for one in broker.manage("GET", f"{kind}/{quote(broker.vhost, safe='')}"):
                if one["name"].startswith(f"delay_{exchange}"):
                    with suppress(HTTPError):  # It may have gone with its queue.
                        broker.manage("DELETE", f"{kind}/{quote(broker.vhost, safe='')}/{quote(one['name'], safe='')}")

    return delete


@pytest.fixture
def make_transport(
    request: pytest.FixtureRequest, name: str, sweep: Callable[[RabbitMQ, str], None]
) -> Iterator[Callable[..., QueueTransport]]:
    """Return what makes a transport on the test's own exchange and queue, or on those that are described."""
    with ExitStack() as stack:
        if "rabbitmq" in request.fixturenames:
            stack.callback(sweep, request.getfixturevalue("rabbitmq"), name)

        def make(
            base: str | None = None,
            *,
            exchange: Mapping[str, Any] | None = None,
            queues: Mapping[str, Mapping[str, Any]] | None = None,
            **options: object,
        ) -> QueueTransport:
            broker: RabbitMQ = request.getfixturevalue("rabbitmq") if base is None else None
            given = {name: {}} if queues is None else queues
            expiring = {
                queue: {**described, "arguments": {**LEFT_BEHIND, **described.get("arguments", {})}}
                for queue, described in given.items()
            }
            own = {"exchange": {"flags": DURABLE_AND_AUTO_DELETE, **(exchange or {})}, "queues": expiring, **options}
            dsn = Dsn.parse(f"{base or broker.dsn}/{name}").with_options(own)
            context = TransportContext("test", JsonSerializer(TypeRegistry()), lambda envelope: envelope, CLASSIC)
            return stack.enter_context(closing(make_amqp_transport(dsn, context)))

        yield make


@pytest.fixture
def connect(make_transport: Callable[..., QueueTransport]) -> Callable[..., AmqpConnection]:
    """Return what makes a connection, with the arguments of `make_transport`."""

    def make(*arguments: Any, **options: Any) -> AmqpConnection:
        connection = make_transport(*arguments, **options).connection
        assert isinstance(connection, AmqpConnection)
        return connection

    return make


@pytest.fixture
def take() -> Callable[..., list[Delivery]]:
    """Return what fetches until there are so many deliveries, from all queues or from one, and acks them."""

    def fetch(connection: AmqpConnection, number: int = 1, queue: str | None = None) -> list[Delivery]:
        end = time.monotonic() + PATIENCE
        deliveries: list[Delivery] = []
        while len(deliveries) < number and (left := end - time.monotonic()) > 0:
            limit = number - len(deliveries)
            deliveries += (
                connection.fetch(limit, left) if queue is None else connection.fetch_from([queue], limit, left)
            )
        assert number == len(deliveries)
        connection.ack([delivery.tag for delivery in deliveries])
        return deliveries

    return fetch


@pytest.fixture
def in_background() -> Callable[[Callable[[], Any]], Future[Any]]:
    """Return what does something in a thread."""
    return workbench.in_background
