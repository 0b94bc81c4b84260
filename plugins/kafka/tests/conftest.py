"""What the tests stand on: topics of their own, connections as the plugin makes them, and a look from outside."""

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
from postbus.transport import TransportContext
from postbus_kafka import GUARANTEES
from postbus_kafka import make_transport as make
from postbus_kafka.connection import KafkaConnection
from tests.brokers.kafka import Kafka

QUICK: dict[str, object] = {
    "session_timeout": "20",
    "heartbeat_interval": "0.1",
    "metadata_interval": "2",
    "commit_interval": "0.1",
    "delays": ["0.5", "5"],
    "timeout": "20",
}
"""Options by which the members of a group hear of each other soon, there are few topics, and a machine may be busy.

Whoever is to be taken for dead has a shorter session; of those that are not, a busy machine may not hear for seconds.
"""


@pytest.fixture
def topic() -> str:
    """Return the name of a topic that no other test uses."""
    return f"test-{uuid4()}"


@pytest.fixture
def make_transport(topic: str) -> Iterator[Callable[..., QueueTransport]]:
    """Return what makes a transport on the test's own topic, as another worker has one."""
    with ExitStack() as stack:

        def make_one(dsn: str, **options: object) -> QueueTransport:
            context = TransportContext("test", JsonSerializer(TypeRegistry()), lambda envelope: envelope, GUARANTEES)
            parsed = Dsn.parse(f"{dsn}/{topic}").with_options({**QUICK, **options})
            return stack.enter_context(closing(make(parsed, context)))

        yield make_one


@pytest.fixture
def connect_to(make_transport: Callable[..., QueueTransport]) -> Callable[..., KafkaConnection]:
    """Return what makes a connection to the test's own topic on some broker."""

    def connect(dsn: str, **options: object) -> KafkaConnection:
        connection = make_transport(dsn, **options).connection
        assert isinstance(connection, KafkaConnection)
        return connection

    return connect


@pytest.fixture
def connect(kafka_plain: Kafka, connect_to: Callable[..., KafkaConnection]) -> Callable[..., KafkaConnection]:
    """Return what makes a connection to the test's own topic."""
    return lambda **options: connect_to(kafka_plain.dsn, **options)


@pytest.fixture
def in_background() -> Callable[[Callable[[], Any]], Future[Any]]:
    """Return what does something in a thread."""
    return workbench.in_background
