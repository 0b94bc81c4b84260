"""`Trace`, a middleware: spans of OpenTelemetry for messages, linked across transports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from postbus import stamps
from postbus.bus import Next
from postbus.envelope import Envelope
from postbus.errors import ConfigurationError
from postbus.stamps import Stamp

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider


class TraceContext(Stamp):
    """The span in which a message was dispatched, as its sender's propagator writes it (W3C Trace Context)."""

    wire_name = "trace-context"
    carrier: Mapping[str, str]


class Trace:
    """Makes a span for each message that is dispatched, and one for each that a worker handles.

    A message may be handled long after what sent it is over, and many for one request; so the second span begins a
    trace of its own, with a *link* to the first. A retry links to the same one. The names are those of OpenTelemetry's
    conventions for messaging. An error that comes out is recorded in the span.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        """Without a provider, the global one is taken."""
        try:
            from opentelemetry import propagate, trace  # noqa: PLC0415  Only who traces has it.
        except ModuleNotFoundError:
            raise ConfigurationError(
                'Trace needs the API of OpenTelemetry. Install it: pip install "postbus[opentelemetry]"'
            ) from None
        self._propagate, self._trace = propagate, trace
        self._tracer = trace.get_tracer("postbus", tracer_provider=provider)

    def __call__(self, envelope: Envelope, call_next: Next) -> Envelope:
        """Go on in a span."""
        received = envelope.last(stamps.Received)
        if received is None:
            return self._send(envelope, call_next)
        name = f"process {type(envelope.message).__name__}"
        kind = self._trace.SpanKind.CONSUMER
        attributes = _attributes(envelope, "process") | {"messaging.destination.name": received.transport}
        if received.count is not None:
            attributes["messaging.postbus.delivery_count"] = received.count
        came = envelope.last(TraceContext)
        context = self._propagate.extract(came.carrier if came else {})
        sender = self._trace.get_current_span(context).get_span_context()
        links = [self._trace.Link(sender)] if sender.is_valid else []
        with self._tracer.start_as_current_span(name, kind=kind, attributes=attributes, links=links):
            return call_next(envelope)

    def _send(self, envelope: Envelope, call_next: Next) -> Envelope:
        name = f"send {type(envelope.message).__name__}"
        kind = self._trace.SpanKind.PRODUCER
        with self._tracer.start_as_current_span(name, kind=kind, attributes=_attributes(envelope, "send")) as span:
            carrier: dict[str, str] = {}
            self._propagate.inject(carrier)
            # One that is sent on has left another span before.
            result = call_next(envelope.without(TraceContext).with_(TraceContext(carrier)))
            sent = [stamp.transport for stamp in result.all(stamps.Sent)]
            if sent:
                span.set_attribute("messaging.destination.name", ", ".join(sent))
            return result


def _attributes(envelope: Envelope, operation: str) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {"messaging.system": "postbus", "messaging.operation.type": operation}
    for stamp in envelope.stamps:
        if isinstance(stamp, stamps.MessageId):
            attributes["messaging.message.id"] = stamp.id
        elif isinstance(stamp, stamps.Correlation):
            attributes["messaging.message.conversation_id"] = stamp.id
    return attributes
