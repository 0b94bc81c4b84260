"""The transport: one member of a group, whatever becomes of its connections."""

from __future__ import annotations

from postbus.queue_transport import QueueTransport
from postbus.transport import TransportContext
from postbus_kafka.connection import KafkaConnection
from postbus_kafka.forwarding import Forwarder
from postbus_kafka.membership import Membership
from postbus_kafka.options import Settings


class KafkaTransport(QueueTransport):
    """Sends to, and receives from, topics; its membership and its forwarder outlive every connection but the last."""

    def __init__(self, settings: Settings, context: TransportContext) -> None:
        # One for the transport, not for each of its connections: a broker that was away still knows who we are.
        membership = self._membership = Membership(settings, context.name)
        forwarder = self._forwarder = Forwarder(settings, context.name)
        super().__init__(lambda: KafkaConnection(settings, context.name, membership, forwarder), context)

    def close(self) -> None:
        super().close()
        # A connection that was lost has left them to the next one, and after this there is none.
        self._membership.close(leaves=True)
        self._forwarder.close()
