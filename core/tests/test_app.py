"""The app as a user meets it: declaring, dispatching, querying, and what it says about mistakes."""

from __future__ import annotations

import asyncio
import contextvars
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from postbus import ConfigurationError, Envelope, HandlerFailed, Handlers, Limits, Postbus, PostbusError, stamps
from postbus.bus import Next
from postbus.dsn import Dsn
from postbus.errors import DsnError, NoHandler, NoRoute, UnknownScheme
from postbus.plugins import GROUP, Plugins
from postbus.serialization import JsonSerializer, TypeRegistry


@dataclass(frozen=True)
class Ping:
    value: int


@dataclass(frozen=True)
class Pong:
    value: int


def test_without_configuration_a_message_is_handled_at_once() -> None:
    """An app without transports calls the handler in the dispatching process."""
    app = Postbus(transports={})
    seen: list[int] = []

    @app.handler
    def handle(ping: Ping) -> None:
        seen.append(ping.value)

    envelope = app.dispatch(Ping(1))
    assert [1] == seen
    assert 1 == len(envelope.all(stamps.Handled))


def test_neither_route_nor_handler_says_how_to_fix_it() -> None:
    """A message that nobody takes is an error that names it and both remedies; a bus may allow it."""
    app = Postbus(buses={"strict": {}, "events": {"allow_no_handlers": True}}, default_bus="strict")
    with pytest.raises(NoHandler) as caught:
        app.dispatch(Ping(1))
    assert f"{__name__}.Ping has neither a route nor a handler on bus 'strict'." in str(caught.value)
    assert [] == app.dispatch(Ping(1), bus="events").all(stamps.Handled)


def test_a_bus_may_require_a_route() -> None:
    """With allow_no_senders=false a message without a route is refused, though it has a handler."""
    app = Postbus(buses={"default": {"allow_no_senders": False}})
    app.handler(handles=Ping)(lambda ping: None)
    with pytest.raises(NoRoute):
        app.dispatch(Ping(1))


def test_dispatch_many_stores_in_batches_and_returns_in_order() -> None:
    """Many messages go through the same chain, those with a route in one batch, the others handled on the way."""
    app = Postbus(transports={"a": "in-memory://", "b": "in-memory://"}, routing={Ping: ["a", "b"]})
    seen: list[int] = []

    @app.handler
    def handle(pong: Pong) -> None:
        seen.append(pong.value)

    messages = [Ping(1), Pong(2), Ping(3)]
    envelopes = app.dispatch_many(messages, stamps.Delay(5))
    assert messages == [envelope.message for envelope in envelopes]
    assert [2] == seen
    assert [["a", "b"], [], ["a", "b"]] == [[sent.transport for sent in e.all(stamps.Sent)] for e in envelopes]
    assert 3 == len({envelope.last(stamps.MessageId) for envelope in envelopes})
    transport: Any = app.transport("b")
    assert 2 == transport.connection.count().delayed


def test_dispatch_many_keeps_what_came_before_a_failure() -> None:
    """A message that fails on the way takes none of the earlier ones along."""
    app = Postbus(transports={"a": "in-memory://"}, routing={Ping: "a"})

    @app.handler
    def handle(pong: Pong) -> None:
        raise ValueError("no")

    with pytest.raises(HandlerFailed):
        app.dispatch_many([Ping(1), Pong(2), Ping(3)])
    transport: Any = app.transport("a")
    assert [Ping(1)] == [envelope.message for envelope in transport.sent]


def test_dispatch_async_keeps_the_context() -> None:
    """dispatch_async handles without blocking the loop, and the handler sees the caller's context variables."""
    app = Postbus(transports={})
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")
    seen: list[str] = []

    @app.handler
    async def handle(ping: Ping) -> None:
        await asyncio.sleep(0)
        seen.append(tenant.get())

    async def main() -> Envelope:
        tenant.set("acme")
        return await app.dispatch_async(Ping(1))

    envelope = asyncio.run(main())
    assert ["acme"] == seen
    assert envelope.has(stamps.Handled)


def test_query_returns_the_result_of_the_one_handler() -> None:
    """A query is handled here, whatever its route, and gives what the handler returned, or raises what it raised."""
    app = Postbus(transports={"a": "in-memory://"}, routing={"*": "a"})

    @app.handler
    def answer(ping: Ping) -> int:
        if ping.value < 0:
            raise ValueError("negative")
        return ping.value * 2

    assert 42 == app.query(Ping(21))
    with pytest.raises(ValueError, match="negative"):
        app.query(Ping(-1))
    with pytest.raises(NoHandler):
        app.query(Pong(1))
    app.handler(handles=Ping, name="second")(lambda ping: None)
    with pytest.raises(PostbusError, match="2 handlers answered"):
        app.query(Ping(1))


def test_several_buses_have_their_own_handlers_and_middleware() -> None:
    """A handler bound to a bus and that bus's middleware see only its messages."""
    trace: list[str] = []

    def audit(envelope: Envelope, call_next: Next) -> Envelope:
        trace.append("audit")
        return call_next(envelope)

    app = Postbus(buses={"commands": {"middleware": [audit]}, "queries": {}}, default_bus="commands")
    app.handler(bus="commands", handles=Ping, name="c")(lambda ping: trace.append("command"))
    app.handler(bus="queries", handles=Ping, name="q")(lambda ping: trace.append("query"))
    app.dispatch(Ping(1))
    app.bus("queries").dispatch(Ping(1))
    assert ["audit", "command", "query"] == trace


def test_a_message_is_handled_on_the_bus_that_it_was_dispatched_on() -> None:
    """The worker takes a message through the bus of its dispatch, unless it is told another one."""
    app = Postbus(transports={"a": "in-memory://"}, routing={"*": "a"}, buses={"one": {}, "two": {}}, default_bus="one")
    seen: list[str] = []
    app.handler(bus="one", handles=Ping, name="1")(lambda ping: seen.append("one"))
    app.handler(bus="two", handles=Ping, name="2")(lambda ping: seen.append("two"))
    app.dispatch(Ping(1), bus="two")
    app.dispatch(Ping(1), bus="two")
    app.worker(limits=Limits(messages=1)).run()
    app.worker(limits=Limits(messages=1), bus="one").run()
    assert ["two", "one"] == seen


def test_a_message_class_names_its_own_transport() -> None:
    """@app.message(transport=...) routes, a route for the class wins over it, a wildcard does not."""
    app = Postbus(transports={"a": "in-memory://", "b": "in-memory://"}, routing={"*": "b"})

    @app.message("own.name", transport="a", aliases=["old.name"])
    @dataclass(frozen=True)
    class Own:
        value: int

    assert ["a"] == [sent.transport for sent in app.dispatch(Own(1)).all(stamps.Sent)]
    assert ["b"] == [sent.transport for sent in app.dispatch(Ping(1)).all(stamps.Sent)]
    assert [] == app.dispatch(Own(1), stamps.TransportNames(["b"])).all(stamps.Sent)[1:]
    assert Own is app.types.type_for("old.name")


def test_a_sync_transport_handles_through_the_same_bus() -> None:
    """sync:// handles at once, as if the message had come from that transport."""
    app = Postbus(transports={"now": "sync://"}, routing={"*": "now"})
    seen: list[int] = []
    app.handler(from_transport="now", handles=Ping)(lambda ping: seen.append(ping.value))
    envelope = app.dispatch(Ping(7))
    assert [7] == seen
    assert envelope.has(stamps.Handled)
    assert not envelope.has(stamps.Received)


def test_groups_of_handlers_are_included_by_object() -> None:
    """A module that must not import the app collects its handlers in a group, which the app includes."""
    group = Handlers()
    seen: list[int] = []

    @group.handler
    def handle(ping: Ping) -> None:
        seen.append(ping.value)

    Postbus(transports={}, handlers=[group]).dispatch(Ping(1))
    assert [1] == seen


def test_handlers_are_included_by_dotted_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration names modules and groups, which are imported at the first use, not before."""
    (tmp_path / "postbus_test_handlers.py").write_text(
        "from dataclasses import dataclass\nfrom postbus import Handlers\n\n"
        "group = Handlers()\nseen = []\n\n"
        "@dataclass(frozen=True)\nclass Note:\n    text: str\n\n"
        "@group.handler\ndef handle(note: Note) -> None:\n    seen.append(note.text)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    app = Postbus(transports={}, handlers=["postbus_test_handlers:group"])
    import sys

    assert "postbus_test_handlers" not in sys.modules
    app.load_handlers()
    module: Any = sys.modules["postbus_test_handlers"]
    app.dispatch(module.Note("hello"))
    assert ["hello"] == module.seen


@pytest.mark.usefixtures("no_broker")
def test_every_mistake_in_the_transports_is_reported_at_once() -> None:
    """A bad option, an unknown scheme and a bad DSN are all named by their keys in one error."""
    with pytest.raises(ConfigurationError) as caught:
        Postbus(
            transports={
                "a": "in-memory://?serialise=true",
                "b": "amqp://guest:topsecret1@localhost",
                "c": "not a dsn",
                "d": {"dsn": "in-memory://", "options": {"lease": "soon"}},
                "e": {"dsn": "in-memory://", "serializer": "yaml"},
            }
        )
    problems = caught.value.problems
    assert ["a", "b", "c", "d", "e"] == [problem.split(":")[0].removeprefix("transports.") for problem in problems]
    assert "Did you mean 'serialize'?" in problems[0]
    assert "No plugin serves amqp://. Install it: pip install postbus-amqp" in problems[1]
    assert "topsecret1" not in str(caught.value)


def test_the_hint_for_a_scheme_that_nothing_serves() -> None:
    """The error is exactly what to install; a misspelt scheme gets the nearest one; an unknown one what is there."""
    plugins = Plugins(plugin for plugin in entry_points(group=GROUP) if plugin.name in ("in-memory", "sync"))

    for dsn, expected in {
        "amqp://localhost": "No plugin serves amqp://. Install it: pip install postbus-amqp",
        "amqps://localhost": "No plugin serves amqps://. Install it: pip install postbus-amqp",
        "redis://localhost": "No plugin serves redis://. Install it: pip install postbus-redis",
        "in-memry://": "No plugin serves in-memry://. Did you mean in-memory://?",
        "foo://x": (
            "No plugin serves foo://. Take one that is served here (in-memory://, sync://), or install a plugin for it "
            "that you trust."
        ),
    }.items():
        with pytest.raises(UnknownScheme) as caught:
            plugins.scheme_for(Dsn.parse(dsn))
        assert expected == str(caught.value)


def test_an_unknown_name_is_a_clear_error() -> None:
    """Unknown transports, buses and consumers without a queue are refused by name."""
    app = Postbus(transports={"now": "sync://"})
    with pytest.raises(ConfigurationError, match="no transport .later"):
        app.worker("later")
    with pytest.raises(ConfigurationError, match="nothing to consume"):
        app.worker("now")
    with pytest.raises(ConfigurationError, match="There is no bus 'x'"):
        app.dispatch(Ping(1), bus="x")
    with pytest.raises(ConfigurationError, match="for the bus 'x', which is not configured"):
        app.handler(bus="x", handles=Ping)(lambda ping: None)
    with pytest.raises(DsnError):
        app.plugins.make_transport("", {}, None)  # type: ignore[arg-type]


def test_a_serializer_may_be_made_for_the_app() -> None:
    """Code may give what makes a serializer; it gets the app's types, and transports that share it share the result."""
    made: list[JsonSerializer] = []

    def make_serializer(types: TypeRegistry) -> JsonSerializer:
        made.append(JsonSerializer(types))
        return made[-1]

    app = Postbus(
        transports={name: {"dsn": "in-memory://", "serializer": make_serializer} for name in ("orders", "failed")},
        routing={"*": "orders"},
    )

    @app.message("note")
    @dataclass(frozen=True)
    class Note:
        text: str

    app.dispatch(Note("hello"))

    orders: Any = app.transport("orders")
    assert [Note("hello")] == [envelope.message for envelope in orders.receive(1, 0)]
    assert 1 == len(made)
