"""A bus: the order of its middleware, what may be one, and what it does with what they return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import pytest

from postbus import Envelope, Stamp, stamps
from postbus.bus import MessageBus, Middleware, Next


@dataclass(frozen=True)
class Ping:
    value: int = 0


class Seen(Stamp):
    by: str


def plain(envelope: Envelope, call_next: Next) -> Envelope:
    return call_next(envelope.with_(Seen("it")))


def with_keyword(envelope: Envelope, call_next: Next, *, name: str = "it") -> Envelope:
    return call_next(envelope.with_(Seen(name)))


def with_default(envelope: Envelope, call_next: Next | None = None) -> Envelope:
    assert call_next is not None
    return call_next(envelope.with_(Seen("it")))


def with_third(envelope: Envelope, call_next: Next, name: str = "it") -> Envelope:
    return call_next(envelope.with_(Seen(name)))


def with_option(name: str, envelope: Envelope, call_next: Next) -> Envelope:
    return call_next(envelope.with_(Seen(name)))


class Callee:
    """Is middleware in every way in which an object can be."""

    def __call__(self, envelope: Envelope, call_next: Next) -> Envelope:
        return plain(envelope, call_next)

    def method(self, envelope: Envelope, call_next: Next) -> Envelope:
        return plain(envelope, call_next)

    @classmethod
    def class_method(cls, envelope: Envelope, call_next: Next) -> Envelope:
        return plain(envelope, call_next)

    @staticmethod
    def static_method(envelope: Envelope, call_next: Next) -> Envelope:
        return plain(envelope, call_next)


class Inherits(Callee):
    """Has its __call__ from a parent."""


class StaticCall:
    """Has a __call__ that needs no object."""

    @staticmethod
    def __call__(envelope: Envelope, call_next: Next) -> Envelope:
        return plain(envelope, call_next)


@wraps(plain)
def wrapped(*arguments: Any) -> Envelope:
    return plain(*arguments)


def recording(log: list[str], name: str) -> Middleware:
    def middleware(envelope: Envelope, call_next: Next) -> Envelope:
        log.append(f"before {name}")
        try:
            return call_next(envelope)
        finally:
            log.append(f"after {name}")

    return middleware


def test_an_empty_bus_returns_the_wrapped_message() -> None:
    """Without middleware the message comes back in an envelope, with the stamps that were given."""
    assert Envelope.wrap(Ping(), Seen("me")) == MessageBus("b", []).dispatch(Ping(), Seen("me"))


def test_an_envelope_is_not_wrapped_again() -> None:
    """An envelope is dispatched as it is, and the given stamps come after its own."""
    returned = MessageBus("b", []).dispatch(Envelope.wrap(Ping(), Seen("first")), Seen("second"))
    assert Envelope.wrap(Ping(), Seen("first"), Seen("second")) == returned


def test_the_first_in_the_list_is_the_outermost() -> None:
    """What stands first works first on the way in and last on the way out."""
    log: list[str] = []
    MessageBus("b", [recording(log, name) for name in "abc"]).dispatch(Ping())
    assert ["before a", "before b", "before c", "after c", "after b", "after a"] == log


def test_each_sees_what_the_one_before_passed_on() -> None:
    """Stamps that are put on before call_next are seen further in, those put on after it further out."""
    inner: list[Envelope] = []
    outer: list[Envelope] = []

    def first(envelope: Envelope, call_next: Next) -> Envelope:
        result = call_next(envelope.with_(Seen("going in")))
        outer.append(result)
        return result

    def second(envelope: Envelope, call_next: Next) -> Envelope:
        inner.append(envelope)
        return call_next(envelope).with_(Seen("coming out"))

    returned = MessageBus("b", [first, second]).dispatch(Ping())
    assert [[Seen("going in")]] == [list(envelope.stamps) for envelope in inner]
    assert [Seen("going in"), Seen("coming out")] == list(returned.stamps)
    assert [returned] == outer


def test_a_middleware_may_end_the_dispatch() -> None:
    """Who does not call the rest of the chain decides what comes back; the rest does not run."""
    log: list[str] = []

    def stop(envelope: Envelope, call_next: Next) -> Envelope:
        return envelope.with_(Seen("stopped"))

    bus = MessageBus("b", [recording(log, "outer"), stop, recording(log, "inner")])
    assert Envelope.wrap(Ping(), Seen("stopped")) == bus.dispatch(Ping())
    assert ["before outer", "after outer"] == log


def test_a_middleware_may_replace_the_message() -> None:
    """Another message in the same stamps goes on and comes back."""

    def double(envelope: Envelope, call_next: Next) -> Envelope:
        return call_next(Envelope(Ping(envelope.message.value * 2), envelope.stamps))

    assert Envelope.wrap(Ping(8), Seen("me")) == MessageBus("b", [double, double]).dispatch(Ping(2), Seen("me"))


def test_a_middleware_may_run_the_rest_twice() -> None:
    """The rest of the chain is a function like any other: calling it again runs it again."""
    log: list[str] = []

    def twice(envelope: Envelope, call_next: Next) -> Envelope:
        return call_next(call_next(envelope).with_(Seen("once")))

    returned = MessageBus("b", [twice, recording(log, "inner"), plain]).dispatch(Ping())
    assert ["before inner", "after inner"] * 2 == log
    assert (Seen("it"), Seen("once"), Seen("it")) == returned.stamps


def test_a_rest_that_was_kept_can_be_called_later() -> None:
    """What was parked goes on exactly behind the middleware that kept it, after the dispatch has ended."""
    kept: list[tuple[Envelope, Next]] = []
    log: list[str] = []

    def park(envelope: Envelope, call_next: Next) -> Envelope:
        kept.append((envelope, call_next))
        return envelope

    bus = MessageBus("b", [recording(log, "outer"), park, recording(log, "inner"), plain])
    assert () == bus.dispatch(Ping()).stamps
    (envelope, rest) = kept.pop()
    log.clear()
    assert (Seen("it"),) == rest(envelope).stamps
    assert ["before inner", "after inner"] == log


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_passes_through(error: type[BaseException]) -> None:
    """What a middleware raises reaches the caller as it is, past those outside of it."""
    log: list[str] = []
    raised = error("no")

    def fail(envelope: Envelope, call_next: Next) -> Envelope:
        raise raised

    bus = MessageBus("b", [recording(log, "outer"), fail])
    with pytest.raises(error) as caught:
        bus.dispatch(Ping())
    assert raised is caught.value
    assert ["before outer", "after outer"] == log
    with pytest.raises(error):  # and the bus can be used again
        bus.dispatch(Ping())


def test_a_middleware_may_answer_an_error() -> None:
    """Who catches what the rest raised decides what comes back."""

    def rescue(envelope: Envelope, call_next: Next) -> Envelope:
        try:
            return call_next(envelope)
        except ZeroDivisionError:
            return envelope.with_(Seen("rescued"))

    def fail(envelope: Envelope, call_next: Next) -> Envelope:
        raise ZeroDivisionError

    assert Envelope.wrap(Ping(), Seen("rescued")) == MessageBus("b", [rescue, fail]).dispatch(Ping())


def test_the_chain_is_frozen_at_construction() -> None:
    """Changing the list afterwards changes nothing, and what the bus shows of it cannot be changed."""
    middleware: list[Middleware] = [plain]
    bus = MessageBus("b", middleware)
    middleware.append(plain)
    middleware[0] = partial(with_option, "another")
    assert (plain,) == bus.middleware
    assert (Seen("it"),) == bus.dispatch(Ping()).stamps


@pytest.mark.parametrize(
    "middleware",
    [
        plain,
        lambda envelope, call_next: plain(envelope, call_next),
        wrapped,
        with_keyword,
        with_default,
        with_third,
        partial(with_option, "it"),
        partial(plain),
        Callee(),
        Inherits(),
        StaticCall(),
        Callee().method,
        Callee().class_method,
        Callee.class_method,
        Callee.static_method,
        Inherits().method,
        Callee().__call__,
    ],
    ids=[
        "function",
        "lambda",
        "decorated",
        "keyword",
        "default",
        "third",
        "partial-of-more",
        "partial",
        "object",
        "inherited-call",
        "static-call",
        "bound-method",
        "class-method-of-object",
        "class-method",
        "static-method",
        "inherited-method",
        "bound-call",
    ],
)
def test_every_callable_of_two_arguments_is_middleware(middleware: Callable[..., Envelope]) -> None:
    """It gets the envelope and the rest of the chain, wherever it stands in the list."""
    bus = MessageBus("b", [partial(with_option, "before"), middleware, partial(with_option, "after")])
    assert (Seen("before"), Seen("it"), Seen("after")) == bus.dispatch(Ping()).stamps


def test_one_middleware_may_stand_twice_in_a_chain_and_in_two_buses() -> None:
    """A middleware keeps no state of a chain, so it may be used as often as one likes."""
    one, two = MessageBus("one", [plain, plain]), MessageBus("two", [plain])
    assert (Seen("it"), Seen("it")) == one.dispatch(Ping()).stamps
    assert (Seen("it"),) == two.dispatch(Ping()).stamps


def test_a_dispatch_inside_a_dispatch_runs_the_whole_chain() -> None:
    """A middleware may dispatch on its own bus: both dispatches go through everything, inside one another."""
    log: list[str] = []

    def nested(envelope: Envelope, call_next: Next) -> Envelope:
        if not envelope.has(stamps.BusName):
            bus.dispatch(Ping(1), stamps.BusName("inner"))
        return call_next(envelope)

    bus = MessageBus("b", [recording(log, "outer"), nested])
    bus.dispatch(Ping(0))
    assert ["before outer", "before outer", "after outer", "after outer"] == log
