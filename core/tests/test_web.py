"""Postbus in a web application: on an event loop, and in one process started and stopped more than once."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass

import pytest

from postbus import ConfigurationError, Limits, Postbus
from postbus.errors import TransportError


@dataclass(frozen=True)
class Ping:
    value: int = 0


def make_app(failed: str = "in-memory://") -> tuple[Postbus, list[int]]:
    app = Postbus(
        transports={"pings": "in-memory://", "failed": failed},
        routing={Ping: "pings"},
        failure_transport="failed",
    )
    seen: list[int] = []

    @app.handler
    def see(ping: Ping) -> None:
        seen.append(ping.value)

    return app, seen


def test_a_dispatch_that_holds_up_an_event_loop_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """With the place that is to be changed, and what to write there; it is sent all the same."""
    app, _ = make_app()

    async def endpoint() -> int:
        app.dispatch(Ping(1))
        app.dispatch(Ping(2))
        return inspect.currentframe().f_lineno  # type: ignore[union-attr]

    line = asyncio.run(endpoint()) - 2
    assert [
        f"app.dispatch() was called on an event loop (test_web.py:{line} in endpoint), which does nothing else until "
        "it returns. Write: await app.dispatch_async(...)."
    ] == [record.getMessage() for record in caplog.records]
    assert 2 == len(app.transport("pings").sent)  # type: ignore[attr-defined]


def test_many_dispatched_on_an_event_loop(caplog: pytest.LogCaptureFixture) -> None:
    """There is no second door for many, but a thread."""
    app, _ = make_app()

    async def endpoint() -> None:
        app.dispatch_many([Ping(1), Ping(2)])

    asyncio.run(endpoint())
    assert caplog.messages[0].endswith("Write: await asyncio.to_thread(app.dispatch_many, ...).")


def test_nothing_is_said_where_no_event_loop_waits(caplog: pytest.LogCaptureFixture) -> None:
    """Not of a thread, and not of what is awaited: neither of the doors that are meant."""
    app, _ = make_app()

    async def endpoint() -> None:
        await app.dispatch_async(Ping(1))
        await asyncio.to_thread(app.dispatch, Ping(2))
        await asyncio.to_thread(app.dispatch_many, [Ping(3)])

    asyncio.run(endpoint())
    app.dispatch(Ping(4))
    assert [] == caplog.messages


def test_an_app_that_was_closed_can_be_entered_again() -> None:
    """As the tests of a web application start and stop it, each time with queues of their own in memory."""
    app, seen = make_app()
    for value in (1, 2):
        with app:
            app.dispatch(Ping(value))
            assert [Ping(value)] == [envelope.message for envelope in app.transport("pings").sent]  # type: ignore[attr-defined]
            app.worker(limits=Limits(idle=0)).run()
    assert [1, 2] == seen


def test_an_app_that_was_closed_says_how_it_is_used_again() -> None:
    """A dispatch after the end is an error, with both remedies."""
    app, _ = make_app()
    app.dispatch(Ping(1))
    app.close()
    with pytest.raises(TransportError) as caught:
        app.dispatch(Ping(2))
    assert "Transport 'pings' is closed. Use it before app.close(), or enter the app again: with app." == str(
        caught.value
    )


def test_entering_an_app_that_is_open_changes_nothing() -> None:
    """Its transports are those that they were, with what is in them."""
    app, _ = make_app()
    app.dispatch(Ping(1))
    transport = app.transport("pings")
    with app:
        assert transport is app.transport("pings")


@pytest.mark.parametrize(
    ("failed", "options"),
    {
        "sqlite:///shop.db": {},
        "sqlite:///shop.db?queue_name=a": {"queue_name": "a"},
        "in-memory://orders": {},
    }.items(),
)
def test_a_failure_transport_in_the_place_of_another(failed: str, options: dict[str, object]) -> None:
    """What failed for good would come out of it as if it had just been sent, fail, be buried, and so on for ever."""
    orders = {"dsn": failed.partition("?")[0], "options": options}
    with pytest.raises(ConfigurationError) as caught:
        Postbus(transports={"orders": orders, "failed": failed}, failure_transport="failed")
    assert (
        f"'failed' is the failure transport of 'orders', and in the same place: {failed}. What failed for good would "
        "be handled again and again. Name another queue in one of the two." == str(caught.value)
    )


@pytest.mark.parametrize("dsn", ["in-memory://", "sqlite://"])
def test_transports_in_memory_may_have_the_same_dsn(dsn: str) -> None:
    """Each has a queue of its own then."""
    Postbus(transports={"orders": dsn, "failed": dsn}, failure_transport="failed").close()


def test_a_transport_that_is_nobodys_failure_transport_may_be_named_twice() -> None:
    """As one that is sent to under one name, and consumed under another."""
    Postbus(transports={"orders": "sqlite:///shop.db", "urgent": "sqlite:///shop.db"}, routing={}).close()
