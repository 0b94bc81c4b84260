"""Signed and encrypted messages: nothing is decoded that was not written with a key."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
from cryptography.fernet import Fernet

from postbus import ConfigurationError, Envelope, Limits, Postbus, Stamp, Unrecoverable, stamps
from postbus.sealing import ENCRYPTED, SIGNATURE, SIGNED, encrypted, signed
from postbus.serialization import SERIALIZER, JsonSerializer, TypeRegistry, Undecodable
from postbus.transport import Outgoing

OLD, NEW = "o" * 32, "n" * 32
FERNET, OTHER = Fernet.generate_key(), Fernet.generate_key()

SEALS = pytest.mark.parametrize("seal", [signed({"old": OLD}), encrypted({"old": FERNET})], ids=["signed", "encrypted"])


class Note(Stamp):
    wire_name = "test-sealing-note"
    text: str


@dataclass(frozen=True)
class Order:
    number: int


@dataclass(frozen=True)
class Refund:
    number: int


@pytest.fixture
def types() -> TypeRegistry:
    types = TypeRegistry()
    types.register(Order, "order")
    return types


@pytest.fixture
def make_sealed(make_app: Callable[..., Postbus]) -> Callable[..., Any]:
    def make(serializer: Any, failed: Any = "json") -> Postbus:
        app = make_app(
            transports={
                "orders": {"dsn": "in-memory://", "serializer": serializer},
                "failed": {"dsn": "in-memory://", "serializer": failed},
            },
            retry={"max_retries": 1, "delay": 0},
        )
        app.message("order")(Order)
        return app

    return make


def reason(envelope: Envelope) -> str:
    assert isinstance(envelope.message, Undecodable)
    return envelope.message.reason


@SEALS
def test_what_is_sealed_is_read(types: TypeRegistry, seal: Any) -> None:
    """With its stamps, and with headers that mean nothing here."""
    serializer = seal(types)
    envelope = Envelope.wrap(Order(13), Note("é"), stamps.UnknownHeaders({"X-Other": "yes"}))
    body, headers = serializer.encode(envelope)
    again = serializer.decode(body, headers)
    assert (Order(13), Note("é")) == (again.message, again.last(Note))
    assert stamps.UnknownHeaders({"X-Other": "yes"}) == again.last(stamps.UnknownHeaders)
    assert "order" == headers["type"]
    assert all(value.isascii() for value in headers.values())


def test_what_is_encrypted_is_hidden(types: TypeRegistry) -> None:
    """The body, and the stamps; the name of the type is not."""
    body, headers = encrypted({"old": FERNET})(types).encode(Envelope.wrap(Order(131313), Note("secret")))
    assert {"type", "Content-Type", ENCRYPTED} == headers.keys()
    assert (False, False) == (b"131313" in body, "secret" in str(headers))


@SEALS
@pytest.mark.parametrize("what", ["body", "header", "added", "moved", "missing"])
def test_what_was_changed_is_not_read(types: TypeRegistry, seal: Any, what: str) -> None:
    """Neither the body nor a header; one that was added to it counts for nothing."""
    serializer = seal(types)
    body, headers = serializer.encode(Envelope.wrap(Order(13), Note("a")))
    closed = SIGNED if SIGNED in headers else None
    if what == "body":
        body = body.replace(b"13", b"14") if closed else body[:-4] + b"AAA="
    elif what == "header":
        headers[closed or ENCRYPTED] = headers[closed or ENCRYPTED].replace("a", "b") + "x"
    elif what == "added":
        headers[Note.header or ""] = '[{"text":"b"}]'
        headers["type"] = "other"
        again = serializer.decode(body, headers)
        assert (Order(13), [Note("a")]) == (again.message, again.all(Note))
        return
    elif what == "moved":
        body = body + b" " if closed else b"A" + body
    else:
        headers = {"type": "order"}
    assert reason(serializer.decode(body, headers)).startswith(
        (
            "its signature",
            "it was not encrypted",
            "it is not",
            "it is encrypted with the key 'oldx', which is not known",
        )
    )


def test_nothing_is_decoded_before_it_is_opened(types: TypeRegistry) -> None:
    """The serializer inside does not even see it."""

    class Seeing(JsonSerializer):
        def decode(self, body: bytes, headers: Any) -> Envelope:
            raise AssertionError

    serializer = signed({"old": OLD}, Seeing)(types)
    for headers in {}, {SIGNATURE: "old:00", SIGNED: "{}"}, {SIGNATURE: "é", SIGNED: "\ud800"}, {SIGNATURE: ":"}:
        assert isinstance(serializer.decode(b"{}", headers).message, Undecodable)
    serializer = encrypted({"old": FERNET}, Seeing)(types)
    for headers in {}, {ENCRYPTED: "old"}, {ENCRYPTED: "é"}:
        assert isinstance(serializer.decode(b"{\xff}", headers).message, Undecodable)


@pytest.mark.parametrize(
    ("seal", "old", "new"), [(signed, OLD, NEW), (encrypted, FERNET, OTHER)], ids=["signed", "encrypted"]
)
def test_keys_are_rotated(types: TypeRegistry, seal: Any, old: Any, new: Any) -> None:
    """The first seals, and all open; one that is not there is named."""
    before, between = seal({"old": old})(types), seal({"old": old, "new": new})(types)
    after, at_last = seal({"new": new, "old": old})(types), seal({"new": new})(types)
    first, second = before.encode(Envelope(Order(1))), after.encode(Envelope(Order(2)))
    assert [Order(1)] * 3 == [one.decode(*first).message for one in (before, between, after)]
    assert [Order(2)] * 3 == [one.decode(*second).message for one in (between, after, at_last)]
    assert "with the key 'old', which is not known here" in reason(at_last.decode(*first))
    assert reason(seal({"old": new})(types).decode(*first)).startswith(("its signature", "it was not encrypted"))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: signed({"old": "short"}), "The key 'old' has 5 bytes, and one for signatures has 32"),
        (lambda: signed({}), "There is no key"),
        (lambda: signed({"": OLD}), "is no name of a key"),
        (lambda: encrypted({"old": "short"}), "The key 'old' is none of Fernet"),
    ],
)
def test_a_wrong_key_is_refused_without_being_shown(make: Any, match: str) -> None:
    """When the serializer is made."""
    with pytest.raises(ConfigurationError, match=match):
        make()


@SEALS
@pytest.mark.parametrize("failed", ["json", "same", "other"])
def test_what_fails_is_retried_and_buried_and_comes_back(make_sealed: Any, seal: Any, failed: str) -> None:
    """Whatever the failure transport's own serializer is."""
    failures = {"json": "json", "same": seal, "other": signed({"third": "t" * 32})}
    app = make_sealed(seal, failures[failed])
    errors: list[Exception] = [Unrecoverable(), LookupError()]
    seen: list[tuple[Order, Note | None]] = []

    @app.handler
    def handle(order: Order, envelope: Envelope) -> None:
        if errors:
            raise errors.pop()
        seen.append((order, envelope.last(Note)))

    app.dispatch(Order(13), Note("a"))
    app.worker("orders", limits=Limits(messages=2)).run()
    [buried] = app.transport("failed").receive(9, 0)
    assert (Order(13), stamps.Buried("orders")) == (buried.message, buried.last(stamps.Buried))
    app.transport("failed").release([buried])
    app.worker("failed", limits=Limits(messages=1)).run()
    assert [(Order(13), Note("a"))] == seen


@SEALS
@pytest.mark.parametrize("failed", ["json", "same"])
def test_what_cannot_be_read_is_buried_and_read_once_it_can(make_sealed: Any, seal: Any, failed: str, run: Any) -> None:
    """Its reason and where it failed are kept beside it."""
    app = make_sealed(seal, seal if failed == "same" else "json")
    elsewhere = TypeRegistry()
    elsewhere.register(Refund)
    sent = seal(elsewhere).encode(Envelope.wrap(Refund(1), Note("a")))
    app.transport("orders").connection.publish([Outgoing(*sent)])
    app.handler(lambda order: None, handles=Order, name="nothing")
    for _ in range(4):
        run(app)
        app.transport("orders").clock.move(600)
    [buried] = app.transport("failed").receive(9, 0)
    assert "no message is registered as" in reason(buried)
    assert stamps.Buried("orders") == buried.last(stamps.Buried)
    app.transport("failed").release([buried])

    seen: list[Any] = []

    @app.handler
    def handle(refund: Refund, envelope: Envelope) -> None:
        seen.append((refund, envelope.last(Note)))

    app.worker("failed", limits=Limits(messages=1)).run()
    assert [(Refund(1), Note("a"))] == seen


@SEALS
def test_who_has_no_key_reaches_no_handler(make_sealed: Any, seal: Any, run: Any) -> None:
    """By no header, and through no transport: what they write is buried, with the reason."""
    app = make_sealed(seal, seal)
    seen: list[Order] = []
    app.handler(lambda order: seen.append(order), handles=Order, name="see")
    plain = JsonSerializer(app.types).encode(Envelope.wrap(Order(13), stamps.Buried("orders")))
    for transport in "orders", "failed":
        for more in {}, {SERIALIZER: "json"}, {SERIALIZER: "transport:orders"}:
            app.transport(transport).connection.publish([Outgoing(plain.body, plain.headers | more)])
    run(app)
    assert 6 == app.transport("failed").connection.count().waiting
    app.worker("failed", limits=Limits(messages=6)).run()
    assert [] == seen
    found = [app.transport("failed").decode(one) for one in app.transport("failed").connection.browse(99)]
    assert 6 == len(found)
    assert all(isinstance(envelope.message, Undecodable) and envelope.has(stamps.ErrorDetails) for envelope in found)


def test_a_transport_names_its_serializer(make_sealed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As module and attribute, in a file too; each transport its own."""
    module = ModuleType("shop_sealing")
    module.sign = signed({"old": OLD})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop_sealing", module)
    app = make_sealed("shop_sealing:sign")
    app.dispatch(Order(1))
    [delivery] = app.transport("orders").connection.fetch(9, 0)
    assert json.loads(delivery.headers[SIGNED])["type"] == "order"
    with pytest.raises(
        ConfigurationError, match="There is no serializer 'jsn'. Write 'module:attribute', or one of: json"
    ):
        make_sealed("jsn")
    with pytest.raises(ConfigurationError, match="shop_sealing"):
        make_sealed("shop_sealing:sgn")
