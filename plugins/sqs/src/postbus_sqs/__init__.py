"""The transport for Amazon SQS: ``sqs://``, and ``https://`` for the URL of a queue."""

from __future__ import annotations

from msgspec.structs import replace

from postbus.dsn import Dsn
from postbus.hookspecs import RegisterTransport, hookimpl
from postbus.queue_transport import QueueTransport
from postbus.transport import Guarantees, TransportContext
from postbus_sqs import stamps
from postbus_sqs.limits import LARGEST, LONGEST_DELAY, LONGEST_LEASE
from postbus_sqs.options import SqsOptions

__all__ = ["FIFO", "STANDARD", "SqsOptions", "make_transport", "stamps"]

CONTRACT = 1

STANDARD = Guarantees(
    durable=True,
    longest_delay=LONGEST_DELAY,
    lease=True,
    delivery_count=True,
    release="counted",
    publish_batch=100,
    fetch_batch=100,
    largest_message=LARGEST,
)
"""What a transport on a standard queue promises."""

FIFO = replace(STANDARD, groups=True, longest_delay=LONGEST_LEASE)
"""What a transport on a FIFO queue promises: a delay there costs one of the deliveries that a redrive policy counts."""


@hookimpl
def register_transports(register: RegisterTransport) -> None:
    """Serve SQS, and whatever speaks its protocol."""
    for scheme in ("sqs", "https"):
        register(scheme, make_transport, options=SqsOptions, guarantees=STANDARD)


def make_transport(dsn: Dsn, context: TransportContext) -> QueueTransport:
    """Return a transport on one queue."""
    from postbus_sqs.connection import SqsConnection
    from postbus_sqs.options import address_of
    from postbus_sqs.publishing import Doubts

    options = SqsOptions.from_dsn(dsn)
    address = address_of(dsn, options)
    doubts = Doubts()
    context = replace(context, guarantees=FIFO if options.is_fifo else STANDARD)
    return QueueTransport(lambda: SqsConnection(address, options, doubts), context)
