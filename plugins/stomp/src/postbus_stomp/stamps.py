"""The stamps of this plugin; written qualified, like those of the core (``stamps.StompMessage``)."""

from __future__ import annotations

from postbus.stamps import Stamp


class StompMessage(Stamp, gc=False):
    """How this message lies on ActiveMQ, where that is not as usual: what JMS calls its headers.

    It travels, so that a retry, and what comes back from a failure transport, is as urgent as before, and goes by the
    same names. The time at which it expires does not come back: what has been delivered expires no more.
    """

    wire_name = "stomp-message"
    priority: int | None = None
    """0 to 9; 4 is usual. ActiveMQ heeds it in queues with the policy ``prioritizedMessages``."""
    expiration: float | None = None
    """Seconds after which ActiveMQ takes it out of the queue, and puts it into its own ``ActiveMQ.DLQ``."""
    correlation_id: str | None = None
    reply_to: str | None = None


class StompReceived(Stamp, gc=False):
    """Where this message came from, and what its sender said about it."""

    destination: str
    redelivered: bool = False
    """Whether it was delivered before; ActiveMQ does not tell over STOMP how often."""
    priority: int | None = None
    timestamp: int | None = None
    """When it was sent, in milliseconds since 1970."""
    correlation_id: str | None = None
    reply_to: str | None = None
