"""What is retried or buried is what came, byte for byte; what a handler sends on is what it is by then."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from postbus import Backoff, Envelope, Limits, Postbus, Recoverable, stamps
from postbus.cli.failed_messages import FailedMessages, Filter
from postbus.cli.failed_retry import Result, Retrying
from postbus.errors import Unrecoverable
from postbus.serialization import Encoded, TypeRegistry, Undecodable
from postbus.transport import Delivery, Outgoing


@dataclass
class Order:
    number: int
    notes: list[str] = field(default_factory=list)


class Backwards:
    """A serializer of a user's own, that knows of no other: JSON from back to front, and one header."""

    def __init__(self, types: TypeRegistry) -> None:
        self._types = types

    def encode(self, envelope: Envelope) -> Encoded:
        message = envelope.message
        if isinstance(message, Undecodable):
            return Encoded(message.body, dict(message.headers))
        body = self._types.codec_for(type(message)).encode(message)[::-1]
        retried = envelope.last(stamps.Retried)
        headers = {"kind": self._types.name_for(type(message)), "retried": str(retried.count if retried else 0)}
        return Encoded(body, headers)

    def decode(self, body: bytes, headers: Mapping[str, str]) -> Envelope:
        kind = self._types.type_for(headers["kind"])
        if kind is None:
            return Envelope(Undecodable(body, dict(headers), f"nobody knows {headers['kind']}"))
        return Envelope(self._types.codec_for(kind).decode(body[::-1]))


CAME = b'{ "number" :7, "unknown":[1, 2.50]}'
JSON = {"type": "order", "Content-Type": "application/json; charset=utf-8", "x-request-id": "é"}


def make_app(**transports: Any) -> Postbus:
    """Return an app that knows orders, whose transport "orders" buries in "failed"."""
    app = Postbus(
        transports={"orders": "in-memory://", "failed": "in-memory://", "other": "in-memory://", **transports},
        failure_transport="failed",
        retry=Backoff(max_retries=0),
    )
    app.message("order")(Order)
    return app


def bring(app: Postbus, body: bytes, headers: Mapping[str, str], name: str = "orders") -> None:
    """Put a message on a queue as somebody else would."""
    app.transport(name).connection.publish([Outgoing(body, headers)])  # type: ignore[attr-defined]


def lying(app: Postbus, name: str) -> list[Delivery]:
    """Return what lies in a queue."""
    found: list[Delivery] = app.transport(name).connection.browse(100)  # type: ignore[attr-defined]
    return found


def work(app: Postbus, *names: str, messages: int = 1) -> None:
    app.worker(*names, limits=Limits(messages=messages, time=30)).run()


def retry_failed(app: Postbus, *, send_back: bool = False) -> list[Result]:
    """Do what ``postbus failed retry --all`` does."""
    results: list[Result] = []
    messages = FailedMessages(app, "failed")
    Retrying(app, messages, results.append).run(list(messages.matching(Filter())), send_back=send_back)
    return results


def always_fail(order: Order) -> None:
    order.number = -1
    order.notes.append("seen")
    raise Unrecoverable("no")


BACKWARDS = {"dsn": "in-memory://", "serializer": Backwards}


@pytest.mark.parametrize(
    ("orders", "failed", "body", "headers"),
    [
        ("in-memory://", "in-memory://", CAME, JSON),
        (BACKWARDS, "in-memory://", CAME[::-1], {"kind": "order", "x-own": "1"}),
        (BACKWARDS, BACKWARDS, CAME[::-1], {"kind": "order", "x-own": "1"}),
        ("in-memory://", BACKWARDS, CAME, JSON),
        ("in-memory://", {"dsn": "in-memory://", "verify": False}, CAME, JSON),
    ],
    ids=["json", "own-to-json", "own-to-own", "json-to-own", "unverified"],
)
def test_what_is_buried_and_brought_back_is_what_came(
    orders: Any, failed: Any, body: bytes, headers: dict[str, str]
) -> None:
    """Body and headers of a buried message are what came, also if a handler changed it; so they are when it is back."""
    app = make_app(orders=orders, failed=failed)
    app.handler(always_fail)
    bring(app, body, headers)
    work(app, "orders")

    [buried] = lying(app, "failed")
    assert body == buried.body
    assert headers.items() <= buried.headers.items()

    [failed_message] = FailedMessages(app, "failed").matching(Filter())
    assert Order(7) == failed_message.envelope.message
    assert "orders" == failed_message.origin
    assert ["no"] == [error.message for error in failed_message.errors]

    assert ["failed"] == [result.result for result in retry_failed(app)]
    [buried] = lying(app, "failed")
    assert body == buried.body
    assert headers.items() <= buried.headers.items()
    [failed_message] = FailedMessages(app, "failed").matching(Filter())
    assert ["no", "no"] == [error.message for error in failed_message.errors]

    if orders is not BACKWARDS:  # It writes anew: nothing but that is known of it.
        assert ["sent back"] == [result.result for result in retry_failed(app, send_back=True)]
        assert [] == lying(app, "failed")
        [back] = lying(app, "orders")
        assert body == back.body
        assert headers.items() <= back.headers.items()


def test_a_serializer_that_cannot_repeat_what_came_gets_the_message_back_as_it_was() -> None:
    """One that knows nothing of what it has read before writes the message that came, not what a handler made of it."""
    app = make_app(orders=BACKWARDS)
    app.handler(always_fail)
    bring(app, CAME[::-1], {"kind": "order"})
    work(app, "orders")
    retry_failed(app, send_back=True)

    [back] = lying(app, "orders")
    assert {"number": 7, "notes": []} == json.loads(back.body[::-1])
    assert {"kind": "order", "retried": "0"} == back.headers


def test_a_worker_reads_what_was_buried_with_the_serializer_that_it_names() -> None:
    """A failure transport that is consumed hands out each message as its own transport would."""
    app = make_app(orders=BACKWARDS)
    seen: list[Any] = []

    @app.handler(from_transport="orders")
    def fail_once(order: Order, envelope: Envelope) -> None:
        seen.append(order.number)
        if len(seen) == 1:
            raise Unrecoverable("no")

    bring(app, CAME[::-1], {"kind": "order"})
    work(app, "orders")
    work(app, "failed")
    assert [7, 7] == seen
    assert [] == lying(app, "failed")


def test_a_serializer_that_is_not_known_here_is_named_and_the_message_stays() -> None:
    """Who has not the plugin can read none of it, says which is missing, and changes nothing of what came."""
    app = make_app()
    headers = {"kind": "order", "X-Message-Stamp-buried": '[{"transport":"orders"}]', "X-Postbus-Serializer": "else"}
    bring(app, CAME[::-1], headers, "failed")

    [message] = FailedMessages(app, "failed").matching(Filter())
    assert (
        "it is to be read by the serializer 'else', which is not known here; install its plugin, or name it at a "
        "transport" == message.unreadable
    )
    assert "orders" == message.origin
    assert ["unreadable"] == [result.result for result in retry_failed(app)]

    work(app, "failed")
    [buried] = lying(app, "failed")
    assert CAME[::-1] == buried.body
    assert headers.items() <= buried.headers.items()


def test_what_another_serializer_could_not_read_is_read_once_it_can_be() -> None:
    """A message of an unknown class is buried as it came, and handled where its class is known."""
    before = make_app(orders=BACKWARDS)
    bring(before, CAME[::-1], {"kind": "order.of.tomorrow"})
    work(before, "orders", messages=1)
    [buried] = lying(before, "failed")
    assert CAME[::-1] == buried.body
    assert ("order.of.tomorrow", "transport:orders") == (
        buried.headers["kind"],
        buried.headers["X-Postbus-Serializer"],
    )

    after = make_app(orders=BACKWARDS)
    after.message("order", aliases=["order.of.tomorrow"])(Order)
    bring(after, buried.body, buried.headers, "failed")
    [message] = FailedMessages(after, "failed").matching(Filter())
    assert Order(7) == message.envelope.message
    assert "orders" == message.origin


@pytest.mark.parametrize("orders", ["in-memory://", BACKWARDS], ids=["json", "own"])
def test_who_sends_a_message_does_not_choose_what_reads_it(orders: Any) -> None:
    """The name of a serializer counts on what we have buried, not on what somebody sends, nor once that is buried."""
    app = make_app(orders=orders, trusted={"dsn": "in-memory://", "serializer": Backwards})
    forged = {"kind": "nothing", "X-Postbus-Serializer": "transport:trusted"}
    bring(app, b"7", forged)
    work(app, "orders")

    [buried] = lying(app, "failed")
    assert b"7" == buried.body
    assert "transport:trusted" != buried.headers.get("X-Postbus-Serializer")
    assert "transport:trusted" == buried.headers["X-Postbus-Broken-X-Postbus-Serializer"]


def test_what_came_under_an_older_name_is_retried_under_it() -> None:
    """In a rolling deployment, older workers know no other name for it."""
    app = make_app(orders={"dsn": "in-memory://", "retry": {"max_retries": 1, "delay": 0}})
    app.message("order", aliases=["old.order"])(Order)

    @app.handler
    def fail(order: Order) -> None:
        raise ValueError("no")

    bring(app, CAME, JSON | {"type": "old.order"})
    work(app, "orders")
    [copy] = lying(app, "orders")
    assert (CAME, "old.order") == (copy.body, copy.headers["type"])
    assert JSON["Content-Type"] == copy.headers["Content-Type"]


@pytest.mark.parametrize("orders", ["in-memory://", BACKWARDS], ids=["json", "own"])
@pytest.mark.parametrize("immediate", [0, 1], ids=["delayed", "at-once"])
def test_a_retry_is_of_what_came(orders: Any, immediate: int) -> None:
    """A handler that changed its message and failed gets it as it was the next time."""
    policy = {"max_retries": 1 - immediate, "immediate": immediate, "delay": 0}
    app = make_app(orders=({"dsn": orders} if isinstance(orders, str) else orders) | {"retry": policy})
    seen: list[tuple[int, list[str]]] = []

    @app.handler
    def change_and_fail(order: Order) -> None:
        seen.append((order.number, list(order.notes)))
        order.number = 8
        order.notes.append("seen")
        if len(seen) == 1:
            raise ValueError("no")

    bring(app, CAME if isinstance(orders, str) else CAME[::-1], {"type": "order", "kind": "order"})
    work(app, "orders", messages=2 - immediate)
    assert [(7, []), (7, [])] == seen


@pytest.mark.parametrize("changes", [True, False], ids=["changed", "unchanged"])
@pytest.mark.parametrize("other", ["in-memory://", BACKWARDS], ids=["json", "own"])
@pytest.mark.parametrize("many", [True, False], ids=["dispatch_many", "dispatch"])
def test_what_a_handler_sends_on_is_what_it_is_by_then(other: Any, changes: bool, many: bool) -> None:
    """A changed message is written anew; an unchanged one keeps the fields that are not known here."""
    app = make_app(other=other)

    @app.handler
    def forward(order: Order, envelope: Envelope) -> None:
        if changes:
            order.notes.append("seen")
        onward = envelope.without(stamps.Received).with_(stamps.TransportNames(["other"]))
        assert app.dispatch_many([onward]) if many else app.dispatch(onward)

    bring(app, CAME, JSON)
    work(app, "orders")

    [sent] = lying(app, "other")
    body = sent.body if other is not BACKWARDS else sent.body[::-1]
    if not changes and other is not BACKWARDS:
        assert CAME == body
    else:
        assert {"number": 7, "notes": ["seen"] if changes else []} == json.loads(body)
    assert "X-Postbus-Serializer" not in sent.headers


def test_what_is_sent_on_is_what_was_changed_outside_of_handlers_too() -> None:
    """Whoever received it and changes it, in a middleware or by hand, sends what it is by then."""
    app = make_app()
    bring(app, CAME, JSON)
    [received] = app.transport("orders").receive(1, 0)  # type: ignore[attr-defined]
    received.message.number = 8

    app.dispatch(received.without(stamps.Received), stamps.TransportNames(["other"]))
    [sent] = lying(app, "other")
    assert {"number": 8, "notes": []} == json.loads(sent.body)


def test_a_message_that_is_retried_after_it_was_sent_on_is_still_what_came() -> None:
    """Sending a changed message on, and failing then, leaves the retry as it was to be."""
    app = make_app(orders={"dsn": "in-memory://", "retry": {"max_retries": 1, "delay": 0}})

    @app.handler
    def forward_and_fail(order: Order, envelope: Envelope) -> None:
        order.number = 8
        app.dispatch(envelope.without(stamps.Received), stamps.TransportNames(["other"]))
        raise Recoverable(delay=0)

    bring(app, CAME, JSON)
    work(app, "orders")
    assert CAME == lying(app, "orders")[0].body
    assert 8 == json.loads(lying(app, "other")[0].body)["number"]


@pytest.mark.parametrize("dsn", ["in-memory://", "in-memory://?serialize=false"])
def test_what_was_sent_unchecked_is_buried_all_the_same(dsn: str) -> None:
    """A failure transport that checks what is dispatched to it keeps what has failed, whatever it is."""
    app = make_app(orders={"dsn": dsn, "verify": False})
    app.dispatch(Order("seven"), stamps.TransportNames(["orders"]))  # type: ignore[arg-type]

    @app.handler
    def fail(order: Order) -> None:
        raise ValueError("no")

    work(app, "orders")
    [buried] = lying(app, "failed")
    assert {"number": "seven", "notes": []} == json.loads(buried.body)
