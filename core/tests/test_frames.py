"""How much of ours stands in the traceback of a handler, and between dispatching and a plugin."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

import pytest

from postbus import Envelope, Limits, Postbus
from postbus.bus import Middleware, Next
from postbus.transport import Outgoing
from postbus_in_memory.connection import InMemoryConnection


@dataclass(frozen=True)
class Order:
    number: int = 13


def pass_on(envelope: Envelope, call_next: Next) -> Envelope:
    return call_next(envelope)


class PassOn:
    """The same as an object."""

    def __call__(self, envelope: Envelope, call_next: Next) -> Envelope:
        return call_next(envelope)


def own_frames() -> list[str]:
    """Return the frames of the core above the caller, up to the first of who uses it, the innermost first."""
    names: list[str] = []
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        module = str(frame.f_globals["__name__"])
        if module.startswith("postbus."):
            names.append(f"{module}.{frame.f_code.co_name}")
        frame = frame.f_back
    return names


def in_hand(app: Postbus) -> list[str]:
    """Return what stands above a handler that a worker has called, from its run on."""
    seen: list[list[str]] = []

    def handle(order: Order) -> None:
        seen.append(own_frames())

    app.handler(handle)
    app.dispatch(Order())
    app.worker("orders", limits=Limits(messages=1)).run()
    return seen.pop()


def make_app(*middleware: Middleware) -> Postbus:
    return Postbus(
        transports={"orders": "in-memory://"},
        routing={"*": "orders"},
        buses={"default": {"middleware": [*middleware]}},
    )


def test_few_frames_lie_between_a_worker_and_a_handler() -> None:
    """From the run of a worker to the handler there are ten at most, five of which take a message through its bus."""
    frames = in_hand(make_app())
    assert len(frames) <= 10, frames
    assert ["handle", "send", "begin", "dispatch", "handle"] == [frame.rpartition(".")[2] for frame in frames[:5]]


def test_few_frames_lie_between_dispatching_and_a_handler() -> None:
    """A message that is handled at once has five above it."""
    seen: list[list[str]] = []
    app = Postbus(config={})

    @app.handler
    def handle(order: Order) -> None:
        seen.append(own_frames())

    app.dispatch(Order())
    [frames] = seen
    assert len(frames) <= 5, frames


def test_few_frames_lie_between_dispatching_and_a_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the call of dispatch to what a plugin publishes with there are eight at most."""
    seen: list[list[str]] = []
    publish = InMemoryConnection.publish

    def look(connection: InMemoryConnection, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        seen.append(own_frames())
        return publish(connection, messages)

    monkeypatch.setattr(InMemoryConnection, "publish", look)
    with make_app() as app:
        app.dispatch(Order())
        app.dispatch_many([Order()])
    assert all(len(frames) <= 8 for frames in seen), seen
    assert 2 == len(seen)


@pytest.mark.parametrize("middleware", [pass_on, PassOn(), PassOn().__call__], ids=["function", "object", "method"])
def test_middleware_costs_its_own_frame_alone(middleware: Middleware) -> None:
    """However many of the user's stand in a bus, there is nothing of ours for them."""
    assert in_hand(make_app()) == in_hand(make_app(middleware, middleware))
