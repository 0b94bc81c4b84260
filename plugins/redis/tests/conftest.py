"""What the tests stand on: streams of their own, connections as the plugin makes them, and a look from outside."""

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
from postbus_redis import GUARANTEES
from postbus_redis import make_transport as make
from postbus_redis.connection import RedisConnection
from tests.brokers.redis import Redis


@pytest.fixture
def stream() -> str:
    """Return the name of a stream that no other test uses."""
    return f"test-{uuid4()}"


@pytest.fixture
def make_transport(stream: str) -> Iterator[Callable[..., QueueTransport]]:
    """Return what makes a transport on the test's own stream."""
    with ExitStack() as stack:

        def make_one(dsn: str, **options: object) -> QueueTransport:
            context = TransportContext("test", JsonSerializer(TypeRegistry()), lambda envelope: envelope, GUARANTEES)
            parsed = Dsn.parse(dsn).with_options({"stream": stream, **options})
            return stack.enter_context(closing(make(parsed, context)))

        yield make_one


@pytest.fixture
def connect_to(make_transport: Callable[..., QueueTransport]) -> Callable[..., RedisConnection]:
    """Return what makes a connection, as another worker has one, to the test's own stream on some server."""

    def connect(dsn: str, **options: object) -> RedisConnection:
        connection = make_transport(dsn, **options).connection
        assert isinstance(connection, RedisConnection)
        return connection

    return connect


@pytest.fixture
def connect(redis_plain: Redis, connect_to: Callable[..., RedisConnection]) -> Callable[..., RedisConnection]:
    """Return what makes a connection to the test's own stream."""
    return lambda **options: connect_to(redis_plain.dsn, **options)


@pytest.fixture
def client(redis_plain: Redis) -> Iterator[Any]:
    """Return a client of redis-py, as another program has one."""
    with redis_plain.client() as client:
        yield client


@pytest.fixture
def in_background() -> Callable[[Callable[[], Any]], Future[Any]]:
    """Return what does something in a thread."""
    return workbench.in_background
