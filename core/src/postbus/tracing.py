"""`Trace`, a middleware: spans of OpenTelemetry for messages, linked across transports."""

from __future__ import annotations

from collections.abc import Mapping

try:
    from opentelemetry import propagate
    from opentelemetry import trace as opentelemetry
except ModuleNotFoundError:
    raise ImportError(
        'Trace needs the API of OpenTelemetry. Install it: pip install "postbus[opentelemetry]"'
    ) from None

from postbus import stamps
from postbus.bus import Next
from postbus.envelope import Envelope
from postbus.stamps import Stamp


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

    def __init__(self, provider: opentelemetry.TracerProvider | None = None) -> None:
        """Without a provider, the global one is taken."""
        self._tracer = opentelemetry.get_tracer("postbus", tracer_provider=provider)

    def __call__(self, envelope: Envelope, call_next: Next) -> Envelope:
        """Go on in a span."""
        received = envelope.last(stamps.Received)
        if received is None:
            return self._send(envelope, call_next)
        name = f"process {type(envelope.message).__name__}"
        kind = opentelemetry.SpanKind.CONSUMER
        attributes = _attributes(envelope, "process") | {"messaging.destination.name": received.transport}
        if received.count is not None:
            attributes["messaging.postbus.delivery_count"] = received.count
        came = envelope.last(TraceContext)
        sender = opentelemetry.get_current_span(propagate.extract(came.carrier if came else {})).get_span_context()
        links = [opentelemetry.Link(sender)] if sender.is_valid else []
        with self._tracer.start_as_current_span(name, kind=kind, attributes=attributes, links=links):
            return call_next(envelope)

    def _send(self, envelope: Envelope, call_next: Next) -> Envelope:
        name = f"send {type(envelope.message).__name__}"
        kind = opentelemetry.SpanKind.PRODUCER
        with self._tracer.start_as_current_span(name, kind=kind, attributes=_attributes(envelope, "send")) as span:
            carrier: dict[str, str] = {}
            propagate.inject(carrier)
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


trace = Trace()
"""The one that ``middleware = ["trace"]`` names: with the global provider."""
