"""What the tests stand on: tubes of their own, connections as the plugin makes them, and a look from outside."""

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
from postbus_beanstalkd import GUARANTEES
from postbus_beanstalkd import make_transport as make
from postbus_beanstalkd.connection import BeanstalkdConnection
from tests.brokers.beanstalkd import Beanstalkd


@pytest.fixture
def tube() -> str:
    """Return the name of a tube that no other test uses."""
    return f"test-{uuid4()}"


@pytest.fixture
def make_transport(tube: str) -> Iterator[Callable[..., QueueTransport]]:
    """Return what makes a transport on the test's own tube."""
    with ExitStack() as stack:

        def make_one(dsn: str, **options: object) -> QueueTransport:
            context = TransportContext("test", JsonSerializer(TypeRegistry()), lambda envelope: envelope, GUARANTEES)
            parsed = Dsn.parse(dsn).with_options({"tube_name": tube, **options})
            return stack.enter_context(closing(make(parsed, context)))

        yield make_one


@pytest.fixture
def connect_to(make_transport: Callable[..., QueueTransport]) -> Callable[..., BeanstalkdConnection]:
    """Return what makes a connection, as another worker has one, to the test's own tube on some server."""

    def connect(dsn: str, **options: object) -> BeanstalkdConnection:
        connection = make_transport(dsn, **options).connection
        assert isinstance(connection, BeanstalkdConnection)
        return connection

    return connect


@pytest.fixture
def connect(beanstalkd: Beanstalkd, connect_to: Callable[..., BeanstalkdConnection]) -> Any:
    """Return what makes a connection to the test's own tube."""
    return lambda **options: connect_to(beanstalkd.dsn, **options)


@pytest.fixture
def client(beanstalkd: Beanstalkd, tube: str) -> Iterator[Any]:
    """Return a client of greenstalk on the test's own tube, as another program has one."""
    with beanstalkd.client() as client:
        client.use(tube)
        client.watch(tube)
        client.ignore("default")
        yield client


@pytest.fixture
def in_background() -> Callable[[Callable[[], Any]], Future[Any]]:
    """Return what does something in a thread."""
    return workbench.in_background
