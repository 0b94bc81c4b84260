"""What the tests stand on: queues of their own, connections as the plugin makes them, and a look from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing
from typing import Any
from uuid import uuid4

import pytest

from postbus.dsn import Dsn
from postbus.queue_transport import QueueTransport
from postbus.serialization import JsonSerializer, TypeRegistry
from postbus.testing import workbench
from postbus.testing.subject import Note
from postbus.transport import TransportContext
from postbus_sqs import STANDARD
from postbus_sqs import make_transport as make
from postbus_sqs.connection import SqsConnection
from tests.brokers.sqs import Sqs


@pytest.fixture
def queue() -> str:
    """Return the name of a queue that no other test uses."""
    return f"test-{uuid4()}"


@pytest.fixture
def make_transport(queue: str) -> Iterator[Callable[..., QueueTransport]]:
    """Return what makes a transport on the test's own queue, on some server."""
    with ExitStack() as stack:

        def make_one(dsn: str, **options: object) -> QueueTransport:
            types = TypeRegistry()
            types.register(Note, "note")
            context = TransportContext("test", JsonSerializer(types), lambda envelope: envelope, STANDARD)
            # A busy machine is no lost connection.
            base = {"queue_name": queue, "region": "us-east-1", "sslmode": "disable", "read_timeout": 30}
            keys = {"access_key": "key", "secret_key": "secret"}
            parsed = Dsn.parse(dsn).with_options({**base, **keys, **options})
            return stack.enter_context(closing(make(parsed, context)))

        yield make_one


@pytest.fixture
def connect_to(make_transport: Callable[..., QueueTransport]) -> Callable[..., SqsConnection]:
    """Return what makes a connection, as another worker has one, to the test's own queue on some server."""

    def connect(dsn: str, **options: object) -> SqsConnection:
        connection = make_transport(dsn, **options).connection
        assert isinstance(connection, SqsConnection)
        return connection

    return connect


@pytest.fixture(params=["elasticmq", pytest.param("moto", marks=pytest.mark.once)])
def sqs(request: pytest.FixtureRequest) -> Sqs:
    """Return each of the doubles of SQS."""
    broker: Sqs = request.getfixturevalue(request.param)
    return broker


@pytest.fixture
def connect(sqs: Sqs, connect_to: Callable[..., SqsConnection]) -> Callable[..., SqsConnection]:
    """Return what makes a connection to the test's own queue."""
    return lambda **options: connect_to(sqs.dsn, **options)


@pytest.fixture
def client(sqs: Sqs) -> Iterator[Any]:
    """Return a client of boto3, as another program has one."""
    with closing(sqs.client()) as client:
        yield client


@pytest.fixture
def in_background() -> Callable[[Callable[[], Any]], Future[Any]]:
    """Return what does something in a thread."""
    return workbench.in_background
