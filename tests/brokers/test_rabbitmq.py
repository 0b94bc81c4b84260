"""Every variant of RabbitMQ answers at its DSN, and can be broken as its class says."""

from __future__ import annotations

import ssl
from collections.abc import Generator
from contextlib import contextmanager, suppress

import pika
import pika.exceptions
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.brokers.rabbitmq import OwnRabbitMQ, RabbitMQ, RabbitMQTls
from tests.brokers.server import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.once]


@contextmanager
def channel_to(dsn: str, context: ssl.SSLContext | None = None) -> Generator[BlockingChannel]:
    parameters = pika.URLParameters(dsn)
    if context is not None:
        parameters.ssl_options = pika.SSLOptions(context, "localhost")
    connection = pika.BlockingConnection(parameters)
    try:
        yield connection.channel()
    finally:
        with suppress(pika.exceptions.AMQPError):
            connection.close()


@pytest.mark.parametrize("variant", ["rabbitmq", "rabbitmq_vhost"])
def test_plain(request: pytest.FixtureRequest, variant: str) -> None:
    """A queue can be declared, and deleted from the management side."""
    broker: RabbitMQ = request.getfixturevalue(variant)
    with channel_to(broker.dsn) as channel:
        channel.queue_declare("queue")
        broker.delete_queue("queue")
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="no queue"):
            channel.queue_declare("queue", passive=True)


def test_a_virtual_host_is_apart(rabbitmq: RabbitMQ, rabbitmq_vhost: RabbitMQ) -> None:
    """The other virtual host does not know the first one's queues."""
    with channel_to(rabbitmq.dsn) as channel, channel_to(rabbitmq_vhost.dsn) as other:
        channel.queue_declare("apart", exclusive=True)
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="no queue"):
            other.queue_declare("apart", passive=True)


def test_tls(rabbitmq_tls: RabbitMQTls) -> None:
    """The server shows a certificate of our authority; a client may show one too."""
    files = rabbitmq_tls.certificates
    context = ssl.create_default_context(cafile=files.ca_file)
    with channel_to(rabbitmq_tls.dsn, context) as channel:
        assert channel.is_open
    context.load_cert_chain(files.certificate, files.key)
    with channel_to(rabbitmq_tls.dsn, context) as channel:
        assert channel.is_open


def test_connections_are_closed_by_force(own_rabbitmq: OwnRabbitMQ) -> None:
    """A connection that is closed from the management side ends with an error for its client."""
    with channel_to(own_rabbitmq.dsn) as channel:
        wait_until(lambda: bool(own_rabbitmq.close_connections()), "The server does not tell of the connection.")
        with pytest.raises(pika.exceptions.ConnectionClosedByBroker, match="CONNECTION_FORCED"):
            channel.connection.process_data_events(10)


def test_a_memory_alarm_blocks_publishers(own_rabbitmq: OwnRabbitMQ) -> None:
    """With the alarm on, a client is told to wait, and to go on when it is off."""
    with channel_to(own_rabbitmq.dsn) as channel:
        told: list[str] = []
        channel.connection.add_on_connection_blocked_callback(lambda *_: told.append("wait"))
        channel.connection.add_on_connection_unblocked_callback(lambda *_: told.append("go on"))
        own_rabbitmq.set_memory_alarm(True)
        channel.basic_publish("", "nowhere", b"")
        while told != ["wait"]:
            channel.connection.process_data_events(10)
        own_rabbitmq.set_memory_alarm(False)
        while told != ["wait", "go on"]:
            channel.connection.process_data_events(10)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_data_outlives_the_server(own_rabbitmq: OwnRabbitMQ, how: str) -> None:
    """Stopped or killed, and started again on the same port, it has what it confirmed."""
    queue = f"kept-{how}"
    with channel_to(own_rabbitmq.dsn) as channel:
        channel.confirm_delivery()
        channel.queue_declare(queue, durable=True)
        own_rabbitmq.sync()
        channel.basic_publish("", queue, b"kept", pika.BasicProperties(delivery_mode=2))
        getattr(own_rabbitmq, how)()
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            channel.connection.process_data_events(10)

    own_rabbitmq.start()

    with channel_to(own_rabbitmq.dsn) as channel:
        assert b"kept" == channel.basic_get(queue, auto_ack=True)[2]
