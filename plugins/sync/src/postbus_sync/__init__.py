"""The transport ``sync://``: a message that is sent to it is handled at once, by the app's own buses."""

from __future__ import annotations

from collections.abc import Sequence

from postbus import stamps
from postbus.dsn import Dsn, Options
from postbus.envelope import Envelope
from postbus.errors import MessageRefused
from postbus.hookspecs import RegisterTransport, hookimpl
from postbus.transport import Guarantees, Outgoing, TransportContext, unmet_requirement

__all__ = ["GUARANTEES", "SyncOptions", "SyncTransport", "make_transport"]

CONTRACT = 1

GUARANTEES = Guarantees(durable=False, shared=False, ordering="fifo", delay=False, redelivery_on_crash=False)


class SyncOptions(Options):
    """What ``sync://`` takes: nothing."""


@hookimpl
def register_transports(register: RegisterTransport) -> None:
    """Serve ``sync://``."""
    register("sync", make_transport, options=SyncOptions, guarantees=GUARANTEES)


def make_transport(dsn: Dsn, context: TransportContext) -> SyncTransport:
    """Return the transport; a DSN with options is refused."""
    SyncOptions.from_dsn(dsn)
    return SyncTransport(context)


class SyncTransport:
    """Dispatches what is sent to it as if it had just been received. It stores nothing, so a delay has no effect."""

    def __init__(self, context: TransportContext) -> None:
        self.name = context.name
        self._dispatch = context.dispatch
        self._guarantees = context.guarantees
        self._serializer = context.serializer
        self._verifies = context.verify

    def send(self, envelopes: Sequence[Envelope]) -> list[Envelope]:
        """Handle the envelopes one after the other; what a handler raises ends it and reaches the caller."""
        return self.store(envelopes, [self.encode(envelope) for envelope in envelopes])

    def encode(self, envelope: Envelope) -> Outgoing:
        """Write an envelope as other transports do, to refuse what they would; nothing comes of the bytes."""
        return Outgoing(*self._serializer.encode(envelope)) if self._verifies else Outgoing(b"", {})

    def store(self, envelopes: Sequence[Envelope], outgoing: Sequence[Outgoing]) -> list[Envelope]:
        """Handle envelopes that were written; there is nothing to store.

        Raises `MessageRefused`, before anything is handled, for a stamp that asks for what cannot be done here.
        """
        refused = {
            position: why
            for position, envelope in enumerate(envelopes)
            if (why := unmet_requirement(self.name, self._guarantees, envelope.stamps)) is not None
        }
        if refused:
            raise MessageRefused(refused)
        return [self._handle(envelope) for envelope in envelopes]

    def close(self) -> None:
        """There is nothing to let go of."""

    def _handle(self, envelope: Envelope) -> Envelope:
        handled = self._dispatch(envelope.with_(stamps.Received(self.name)))
        # It has come back to the one who sent it, for whom it was never received.
        return handled.without(stamps.Received).with_(stamps.Sent(self.name))
