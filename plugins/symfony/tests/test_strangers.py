"""What a stranger can write into Symfony's stamps, and that it comes to nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from postbus import Postbus, stamps
from postbus.limits import Limits
from postbus.serialization import Undecodable
from postbus.transport import Delivery, Outgoing
from postbus_symfony.twins import OWN, PREFIX

MANY = 100_000


@dataclass(frozen=True)
class Order:
    number: int


@pytest.fixture
def handled() -> list[str]:
    return []


@pytest.fixture
def app(handled: list[str]) -> Postbus:
    """Return an app in which everything fails, and which notes the handlers that were run."""
    transports = {name: {"dsn": "in-memory://", "serializer": "symfony"} for name in ("orders", "mails", "failed")}
    app = Postbus(transports=transports, failure_transport="failed", retry={"max_retries": 2, "delay": 0.001})
    app.message("App\\Order")(Order)

    def handle(name: str) -> None:
        def fail(order: Order) -> None:
            handled.append(name)
            raise ValueError(name)

        app.handler(fail, name=name, from_transport=name)

    for name in transports:
        handle(name)
    return app


def put(app: Postbus, **headers: object) -> Any:
    """Put a message into the queue of orders, with these stamps of Symfony's; return the transport."""
    transport: Any = app.transport("orders")
    written = {PREFIX + name: json.dumps(stamps) for name, stamps in headers.items()}
    transport.connection.publish([Outgoing(b'{"number":1}', {"type": "App\\Order", **written})])
    return transport


@pytest.mark.parametrize("count", [-(10**9), -1])
def test_a_negative_count_is_none(app: Postbus, handled: list[str], count: int) -> None:
    """A message that says so is retried no more often than others, each time after its delay."""
    put(app, RedeliveryStamp=[{"retryCount": count, "redeliveredAt": "2026-11-24T12:00:00+00:00"}])
    app.worker("orders", limits=Limits(messages=3)).run()

    assert ["orders"] * 3 == handled
    [buried] = app.transport("failed").receive(1, 0)  # type: ignore[attr-defined]
    assert stamps.Buried("orders") == buried.last(stamps.Buried)


@pytest.mark.parametrize("count", [10**18, 10**30, 5000])
def test_a_huge_count_is_a_number_to_calculate_with(count: int) -> None:
    """Whatever a policy does with it, it is none that cannot be calculated with, or written."""
    transport = put(Postbus(transports={"orders": {"dsn": "in-memory://", "serializer": "symfony"}}))
    header = json.dumps([{"retryCount": count, "redeliveredAt": "0001-01-01T00:00:00+14:00"}])
    delivery = Delivery(b"{}", {"type": "App\\Order", PREFIX + "RedeliveryStamp": header}, None)
    retried = transport.decode(delivery).last(stamps.Retried)

    assert min(count, stamps.MOST_RETRIES) == retried.count
    assert datetime(1, 1, 1, tzinfo=UTC) == retried.at


@pytest.mark.parametrize("form", [PREFIX + "SentToFailureTransportStamp", OWN + "buried", "X-Message-Stamp-buried"])
def test_a_forged_burial_is_no_way_to_other_handlers(app: Postbus, handled: list[str], form: str) -> None:
    """In none of the forms in which it can be written; and it is buried as what came from where it came."""
    transport = put(app)
    transport.connection.purge()
    key = "originalReceiverName" if form.startswith(PREFIX) else "transport"
    headers = {"type": "App\\Order", form: json.dumps([{key: "mails"}])}
    transport.connection.publish([Outgoing(b'{"number":1}', headers)])
    app.worker("orders", limits=Limits(messages=3)).run()

    assert ["orders"] * 3 == handled
    [buried] = app.transport("failed").receive(1, 0)  # type: ignore[attr-defined]
    assert [stamps.Buried("orders")] == buried.all(stamps.Buried)


@pytest.mark.parametrize("delay", [-(10**18), 10**400, -(10**400)])
def test_a_delay_that_is_over_delays_nothing(app: Postbus, handled: list[str], delay: int) -> None:
    """How long a message has waited, or claims to have, is its past; one beyond all numbers makes it unreadable."""
    put(app, DelayStamp=[{"delay": delay}], RedeliveryStamp=[{"retryCount": 2, "redeliveredAt": None}])
    app.worker("orders", limits=Limits(messages=1)).run()

    [buried] = app.transport("failed").receive(1, 0)  # type: ignore[attr-defined]
    assert handled == ([] if isinstance(buried.message, Undecodable) else ["orders"])
    assert buried.has(stamps.Buried)


def test_any_number_of_errors_can_be_read(app: Postbus) -> None:
    """A hundred thousand of them, and as many details that belong to none, hold nobody up for minutes."""
    errors = [{"exceptionClass": f"E{n}", "exceptionCode": 0, "exceptionMessage": "x"} for n in range(MANY)]
    details = [{"type": f"D{n}", "message": "x", "at": "2026-11-24T12:00:00Z"} for n in range(MANY)]
    headers = {PREFIX + "ErrorDetailsStamp": json.dumps(errors), OWN + "error": json.dumps(details)}
    transport = put(app)
    envelope = transport.decode(Delivery(b'{"number":1}', {"type": "App\\Order", **headers}, None))

    assert MANY == len(envelope.all(stamps.ErrorDetails))
    sent_on = transport.encode(envelope).headers[PREFIX + "ErrorDetailsStamp"]
    assert errors == json.loads(sent_on)
