"""The plugin: what it registers, and what its README says of it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pydantic
import pytest

from postbus import Backoff, Envelope, Limits, Postbus, Stamp, stamps
from postbus.cli.failed_messages import FailedMessages, Filter
from postbus.cli.failed_retry import Result, Retrying
from postbus.errors import SerializationError
from postbus.queue_transport import QueueTransport
from postbus.transport import Outgoing, SupportsBrowse
from postbus_symfony.twins import REDELIVERY, TWINS, make_bus_twin

README = Path(__file__).parents[1] / "README.md"


@dataclass(frozen=True)
class Order:
    order_id: int


class Tenant(Stamp):
    wire_name = "App\\Stamp\\Tenant"
    id: int


@pytest.mark.parametrize(
    ("name", "field", "stamp"),
    [
        ("symfony", "order_id", "retryCount"),
        ("symfony-camel-case", "orderId", "retryCount"),
        ("symfony-snake-case", "order_id", "retry_count"),
    ],
)
def test_each_serializer_is_named_after_the_spelling(name: str, field: str, stamp: str) -> None:
    """A transport gets it by its name."""
    app = Postbus(transports={"shared": {"dsn": "in-memory://", "serializer": name}})
    transport: Any = app.transport("shared")
    body, headers = transport.serializer.encode(Envelope(Order(1), (stamps.Retried(1, datetime.now(UTC)),)))

    assert {field: 1} == json.loads(body)
    assert stamp in json.loads(headers[REDELIVERY.header])[0]


def test_the_readme_has_a_row_for_each_twin() -> None:
    """In the order of the code, each with both names."""
    block = re.search(r"<!-- stamps -->\n(.*?)<!-- end -->", README.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None

    rows = re.findall(r"^\| `stamps\.(\w+)` \| `(\w+)` \|", block[1], re.MULTILINE)
    twins = [*TWINS, make_bus_twin({"here": "there"})]
    assert [(twin.kind.__name__, twin.shape.__name__) for twin in twins] == rows


CAME = '{"order_id" :7,"later":[]}'
HEADERS = {
    "type": "App\\Message\\Order",
    "Content-Type": "application/json",
    "X-Message-Stamp-Symfony\\Component\\Messenger\\Stamp\\ValidationStamp": '[{"groups":["a"]}]',
    REDELIVERY.header: '[{"retryCount":1,"redeliveredAt":"2026-01-02T03:04:05+00:00"}]',
    "X-Message-Stamp-App\\Stamp\\Tenant": '[{"id":5}]',
    "x-request-id": "é",
}


@pytest.mark.parametrize(
    ("shared", "failed"),
    [("symfony", "json"), ("symfony-snake-case", "json"), ("symfony", "symfony-camel-case"), ("symfony", "symfony")],
)
def test_what_came_from_symfony_is_buried_and_brought_back_as_it_was(shared: str, failed: str) -> None:
    """Body and headers are in any failure transport what came, with fields and stamps that mean nothing here."""
    app = Postbus(
        transports={
            "shared": {"dsn": "in-memory://", "serializer": shared},
            "failed": {"dsn": "in-memory://", "serializer": failed},
        },
        failure_transport="failed",
        retry=Backoff(max_retries=0),
    )
    app.message(HEADERS["type"])(Order)

    @app.handler
    def fail(order: Order) -> None:
        raise ValueError("no")

    here, there = (cast(QueueTransport, app.transport(name)) for name in ("shared", "failed"))
    here.connection.publish([Outgoing(CAME.encode(), HEADERS)])
    app.worker("shared", limits=Limits(messages=1)).run()

    [buried] = cast(SupportsBrowse, there.connection).browse(9)
    assert CAME.encode() == buried.body
    stays = HEADERS.items() if shared != failed else HEADERS.items() - {(REDELIVERY.header, HEADERS[REDELIVERY.header])}
    assert stays <= buried.headers.items()
    assert (None if shared == failed else shared) == buried.headers.get("X-Postbus-Serializer")

    results: list[Result] = []
    messages = FailedMessages(app, "failed")
    Retrying(app, messages, results.append).run(list(messages.matching(Filter())))
    assert [("failed", "ValueError: no")] == [(result.result, result.error) for result in results]
    [message] = messages.matching(Filter())
    assert (Order(7), "shared", 2) == (message.envelope.message, message.origin, len(message.errors))

    results.clear()
    Retrying(app, messages, results.append).run([message], send_back=True)
    assert ["sent back"] == [result.result for result in results]
    [back] = cast(SupportsBrowse, here.connection).browse(9)
    assert CAME.encode() == back.body
    stays = HEADERS.items() - {(REDELIVERY.header, HEADERS[REDELIVERY.header])}  # Tried anew, so it counts anew.
    assert stays <= back.headers.items()
    assert "X-Postbus-Serializer" not in back.headers


def test_what_json_cannot_say_is_refused_for_symfony_too() -> None:
    """Renamed or not: a message, or a stamp, that would not be read as what it is is not sent."""
    for name in ("symfony", "symfony-camel-case", "symfony-snake-case"):
        app = Postbus(transports={"shared": {"dsn": "in-memory://", "serializer": name}}, routing={"*": "shared"})
        app.dispatch(Order(1))
        with pytest.raises(SerializationError, match=r"Order cannot be sent.*\$\.order_?[iI]d: expected int, got str"):
            app.dispatch(Order("1"))  # type: ignore[arg-type]
        with pytest.raises(SerializationError, match=r"Tenant cannot be sent.*\$\[0\]\.id: expected int, got str"):
            app.dispatch(Order(1), Tenant("5"))  # type: ignore[arg-type]


class Person(pydantic.BaseModel):
    first_name: str = pydantic.Field(alias="firstName")


class Unlike(pydantic.BaseModel):
    first_name: str = pydantic.Field(serialization_alias="firstName", validation_alias="name")


def test_a_model_is_spelt_by_its_aliases_which_must_be_the_same_both_ways() -> None:
    """They are what the fields are called at Symfony's; a model that reads others than it writes is refused."""
    app = Postbus(transports={"shared": {"dsn": "in-memory://", "serializer": "symfony"}}, routing={"*": "shared"})
    app.dispatch(Person(firstName="Ada"))
    shared: Any = app.transport("shared")
    [sent] = shared.connection.browse(9)
    assert {"firstName": "Ada"} == json.loads(sent.body)
    assert Person(firstName="Ada") == shared.sent[0].message
    with pytest.raises(SerializationError, match=r"\$\.name: Field required"):
        app.dispatch(Unlike(name="Ada"))  # type: ignore[call-arg]
