"""Spans for messages: one where a message is dispatched, and one, linked to it, where it is handled."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from postbus import ConfigurationError, HandlerFailed, Limits, Postbus, never_blocks, stamps
from postbus.tracing import Trace


@dataclass(frozen=True)
class Order:
    number: int


@dataclass(frozen=True)
class Receipt:
    number: int


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def app(make_app: Callable[..., Postbus], exporter: InMemorySpanExporter) -> Postbus:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return make_app(
        transports={"mail": "in-memory://"},
        routing={Order: "orders", Receipt: "mail"},
        buses={"default": {"middleware": [Trace(provider)]}},
        retry={"max_retries": 1, "delay": 0},
    )


def spans(exporter: InMemorySpanExporter) -> dict[str, Any]:
    return {span.name: span for span in exporter.get_finished_spans()}


def test_handling_begins_a_trace_that_is_linked_to_the_sender(
    app: Postbus, exporter: InMemorySpanExporter, run: Any
) -> None:
    """What the handler sends belongs to the trace of the handling."""

    @app.handler
    def print_receipt(order: Order) -> None:
        app.dispatch(Receipt(order.number))

    envelope = app.dispatch(Order(1))
    run(app)
    found = spans(exporter)
    sent, handled, inner = found["send Order"], found["process Order"], found["send Receipt"]
    assert [sent.context.span_id] == [link.context.span_id for link in handled.links]
    assert (None, sent.context.trace_id != handled.context.trace_id) == (handled.parent, True)
    assert handled.context.span_id == inner.parent.span_id
    assert (SpanKind.PRODUCER, SpanKind.CONSUMER) == (sent.kind, handled.kind)
    message_id = envelope.last(stamps.MessageId)
    assert message_id is not None
    expected = {"messaging.system": "postbus", "messaging.destination.name": "orders"}
    for span in sent, handled:
        assert expected.items() <= dict(span.attributes).items()
        assert message_id.id == span.attributes["messaging.message.id"]


def test_spans_of_messages_that_are_handled_on_one_loop_keep_apart(
    make_app: Callable[..., Postbus], exporter: InMemorySpanExporter
) -> None:
    """Also where the middleware is marked, and a message has no thread: what a handler sends is in its own span."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = make_app(
        transports={"mail": "in-memory://"},
        routing={Order: "orders", Receipt: "mail"},
        buses={"default": {"middleware": [never_blocks(Trace(provider))]}},
    )
    both = asyncio.Barrier(2)

    @app.handler
    async def print_receipt(order: Order) -> None:
        await both.wait()
        await app.dispatch_async(Receipt(order.number))

    app.dispatch_many([Order(1), Order(2)])
    app.worker("orders", limits=Limits(messages=2), concurrency=2).run()
    found = exporter.get_finished_spans()
    handled = [span.context.span_id for span in found if span.name == "process Order"]
    assert 2 == len(handled)
    assert sorted(handled) == sorted(span.parent.span_id for span in found if span.name == "send Receipt")


def test_a_failure_is_in_the_span_and_its_retry_links_to_the_same_sender(
    app: Postbus, exporter: InMemorySpanExporter, run: Any
) -> None:
    """Each attempt is a span."""

    @app.handler
    def fail(order: Order) -> None:
        raise LookupError("not there")

    app.dispatch(Order(1))
    run(app)
    attempts = [span for span in exporter.get_finished_spans() if span.name == "process Order"]
    sent = spans(exporter)["send Order"].context.span_id
    assert [[sent], [sent]] == [[link.context.span_id for link in span.links] for span in attempts]
    assert [False, False] == [span.status.is_ok for span in attempts]
    assert ["postbus.errors.HandlerFailed"] == [event.attributes["exception.type"] for event in attempts[0].events]  # type: ignore[index]


def test_what_is_handled_at_once_is_in_one_span(app: Postbus, exporter: InMemorySpanExporter) -> None:
    """Also if it fails."""

    @app.handler
    def fail(order: Order) -> None:
        raise LookupError

    with pytest.raises(HandlerFailed):
        app.dispatch(Order(1), stamps.HERE)
    assert ["send Order"] == [span.name for span in exporter.get_finished_spans()]


def test_a_message_of_who_does_not_trace_has_no_link(app: Postbus, exporter: InMemorySpanExporter, run: Any) -> None:
    """It is handled in a span of its own."""
    app.handler(lambda order: None, handles=Order, name="nothing")
    Postbus(transports={"orders": app.transport("orders")}, routing={"*": "orders"}).dispatch(Order(1))
    run(app)
    assert [()] == [span.links for span in exporter.get_finished_spans()]


def test_a_bus_names_it() -> None:
    """Without a provider in the process, nothing is recorded, and all goes on."""
    app = Postbus(buses={"default": {"middleware": ["trace"]}}, config={})
    app.handler(lambda order: order.number, handles=Order, name="number")
    assert 7 == app.query(Order(7))


def test_without_opentelemetry_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any message is dispatched."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    app = Postbus(buses={"default": {"middleware": ["trace"]}}, config={})
    with pytest.raises(ConfigurationError, match=r'Install it: pip install "postbus\[opentelemetry\]"'):
        app.bus()
