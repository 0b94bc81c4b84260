"""The AMQP transport: ``amqp://`` and ``amqps://``, for RabbitMQ and other brokers of AMQP 0-9-1."""

from __future__ import annotations

from msgspec.structs import replace

from postbus.dsn import Dsn
from postbus.hookspecs import RegisterTransport, hookimpl
from postbus.queue_transport import QueueTransport
from postbus.transport import Guarantees, TransportContext
from postbus_amqp import stamps
from postbus_amqp.options import LARGEST_MESSAGE, AmqpOptions, Settings

__all__ = ["CLASSIC", "QUORUM", "WITH_PRIORITIES", "AmqpOptions", "make_transport", "stamps"]

CONTRACT = 1

CLASSIC = Guarantees(
    durable=True,
    ordering="fifo",
    longest_delay=40 * 86_400.0,
    largest_message=LARGEST_MESSAGE,
)
"""What a transport on classic queues promises."""

WITH_PRIORITIES = replace(CLASSIC, priority=True)
"""What a transport promises whose queues all have the argument ``x-max-priority``."""

QUORUM = replace(CLASSIC, delivery_count=True, release="counted")
"""What a transport on quorum queues promises: these count how often they have delivered a message."""


@hookimpl
def register_transports(register: RegisterTransport) -> None:
    """Serve ``amqp://``, and ``amqps://`` for an encrypted connection."""
    for scheme in ("amqp", "amqps"):
        register(scheme, make_transport, options=AmqpOptions, guarantees=CLASSIC)


def make_transport(dsn: Dsn, context: TransportContext) -> QueueTransport:
    """Return a transport on one exchange and its queues."""
    from postbus_amqp.connection import AmqpConnection

    settings = Settings(dsn)
    context = replace(context, guarantees=guarantees_for(settings))
    return QueueTransport(lambda: AmqpConnection(settings, context.name), context)


def guarantees_for(settings: Settings) -> Guarantees:
    """Return what a transport with these queues promises."""
    if settings.has_quorum_queues:
        return QUORUM
    return WITH_PRIORITIES if settings.has_priorities else CLASSIC
