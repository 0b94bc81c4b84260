"""The transports ``stomp://`` and ``stomps://``: messages wait in ActiveMQ, and come and go over STOMP 1.2.

Whoever starts Postbus imports this module, whatever transports he uses. So nothing of stomp.py is imported here; the
factory does that, when a transport is made.
"""

from __future__ import annotations

from msgspec.structs import replace

from postbus.dsn import Dsn
from postbus.hookspecs import RegisterTransport, hookimpl
from postbus.queue_transport import QueueTransport
from postbus.transport import Guarantees, TransportContext
from postbus_stomp import stamps
from postbus_stomp.options import LARGEST_MESSAGE, Settings, StompOptions

__all__ = ["GUARANTEES", "WITH_PRIORITIES", "StompOptions", "make_transport", "stamps"]

CONTRACT = 1

GUARANTEES = Guarantees(
    durable=True,
    ordering="fifo",
    groups=True,
    publish_batch=500,
    fetch_batch=100,
    largest_message=LARGEST_MESSAGE,
)
"""What is promised of ActiveMQ as it comes."""

WITH_PRIORITIES = replace(GUARANTEES, priority=True)
"""What is promised of a queue that ActiveMQ sorts by priority."""


@hookimpl
def register_transports(register: RegisterTransport) -> None:
    """Serve ``stomp://``, and ``stomps://`` for an encrypted connection."""
    for scheme in ("stomp", "stomps"):
        register(scheme, make_transport, options=StompOptions, guarantees=GUARANTEES)


def make_transport(dsn: Dsn, context: TransportContext) -> QueueTransport:
    """Return a transport on one queue; nothing is connected to before it is used."""
    from postbus_stomp.connection import StompConnection

    settings = Settings(dsn)
    promised = WITH_PRIORITIES if settings.options.prioritized else GUARANTEES
    context = replace(context, guarantees=replace(promised, largest_message=settings.options.max_frame_size))
    return QueueTransport(lambda: StompConnection(settings), context)
