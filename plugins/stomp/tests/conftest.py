"""Connections to a queue of ActiveMQ that is new for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from uuid import uuid4

import pytest

from postbus.dsn import Dsn
from postbus_stomp.connection import StompConnection
from postbus_stomp.options import Settings
from tests.brokers.broker import Broker

Connect = Callable[..., StompConnection]


@pytest.fixture
def queue(activemq: Broker) -> str:
    """Return the DSN of the queue."""
    return f"{activemq.dsn}/test-{uuid4()}"


@pytest.fixture
def connect(queue: str) -> Iterator[Connect]:
    """Give what connects to it, or to that of another DSN, with these options."""
    with ExitStack() as stack:

        def connected(dsn: str = queue, **options: object) -> StompConnection:
            return stack.enter_context(closing(StompConnection(Settings(Dsn.parse(dsn).with_options(options)))))

        yield connected
