"""The Kafka transport: ``kafka://`` and, encrypted, ``kafkas://``."""

from __future__ import annotations

from msgspec.structs import replace

from postbus.dsn import Dsn
from postbus.hookspecs import RegisterTransport, hookimpl
from postbus.queue_transport import QueueTransport
from postbus.transport import Guarantees, TransportContext
from postbus_kafka import stamps
from postbus_kafka.options import KafkaOptions, Settings

__all__ = ["GUARANTEES", "KEPT", "KafkaOptions", "guarantees_for", "make_transport", "stamps"]

CONTRACT = 1

GUARANTEES = Guarantees(
    durable=True,
    groups=True,
    delivery_count=True,
    release="own",
    largest_message=1_000_000,
)
"""What a transport on topics promises that a group of consumers reads."""

KEPT = replace(GUARANTEES, groups=False, delivery_count=False, delay=False)
"""What a failure transport promises (``mode=store``), whose messages lie on a compacted topic."""


@hookimpl
def register_transports(register: RegisterTransport) -> None:
    """Serve ``kafka://``, and ``kafkas://`` for an encrypted connection."""
    for scheme in ("kafka", "kafkas"):
        register(scheme, make_transport, options=KafkaOptions, guarantees=GUARANTEES)


def make_transport(dsn: Dsn, context: TransportContext) -> QueueTransport:
    """Return a transport on a topic."""
    settings = Settings(dsn)
    context = replace(context, guarantees=guarantees_for(settings))
    if settings.options.mode == "store":
        from postbus_kafka.failed_topic import FailedConnection

        return QueueTransport(lambda: FailedConnection(settings, context.name), context)

    from postbus_kafka.transport import KafkaTransport

    return KafkaTransport(settings, context)


def guarantees_for(settings: Settings) -> Guarantees:
    """Return what a transport with these options promises."""
    options = settings.options
    promised = KEPT if options.mode == "store" else replace(GUARANTEES, groups=options.order != "none")
    return replace(promised, largest_message=options.largest_message)
