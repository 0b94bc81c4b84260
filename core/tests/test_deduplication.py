"""While a message of a key is under way, no other one of that key is sent; and none is lost for that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from postbus import (
    ConfigurationError,
    Envelope,
    HandlerFailed,
    Postbus,
    TransportError,
    Unrecoverable,
    deduplication,
    stamps,
)
from postbus.deduplication import Deduplicate, MemoryStore
from postbus.events import MessageHandled
from postbus.stamps import Deduplication, Duplicate
from postbus.testing import RecordingTransport
from tests.contract.deduplication_stores import StoreContract


@dataclass(frozen=True)
class Order:
    number: int


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


class Clock:
    """Stands in for the module `time`, where the store looks."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(deduplication, "time", clock)
    return clock


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def make_once(make_app: Callable[..., Postbus]) -> Callable[..., Postbus]:
    def make(store: MemoryStore, **transports: Any) -> Postbus:
        app = make_app(
            transports={"sync": "sync://", **transports},
            retry={"max_retries": 1, "delay": 60, "jitter": 0},
            buses={"default": {"middleware": [Deduplicate(store)]}},
        )
        app.message(stamps=lambda order: [Deduplication(f"order-{order.number}", 100)])(Order)
        return app

    return make


@pytest.fixture
def app(make_once: Callable[..., Postbus], store: MemoryStore) -> Postbus:
    return make_once(store)


def sent(app: Postbus) -> int:
    return len(app.transport("orders").sent)  # type: ignore[attr-defined]


def fail_with(app: Postbus, error: Callable[[], Exception]) -> None:
    @app.handler
    def fail(order: Order) -> None:
        raise error()


def test_a_duplicate_is_not_sent(app: Postbus) -> None:
    """It says so, and which message is under way instead."""
    first, second = app.dispatch(Order(1)), app.dispatch(Order(1))
    message_id = first.last(stamps.MessageId)
    assert message_id is not None
    assert (Duplicate(message_id.id), False) == (second.last(Duplicate), second.has(stamps.Sent))
    assert not app.dispatch(Order(2)).has(Duplicate)
    assert 2 == sent(app)


def test_the_key_is_free_when_the_message_is_handled(app: Postbus, run: Any) -> None:
    """In its handler it is not yet."""
    inside: list[bool] = []

    @app.handler
    def again(order: Order) -> None:
        inside.append(app.dispatch(order).has(Duplicate))

    app.dispatch(Order(1))
    run(app)
    assert ([True], False) == (inside, app.dispatch(Order(1)).has(Duplicate))


def test_the_key_is_held_while_a_message_is_retried(app: Postbus, clock: Clock, run: Any) -> None:
    """From each failure on for its time again, and for the delay; it is free when the message is buried."""
    fail_with(app, LookupError)
    app.dispatch(Order(1))
    clock.now += 99
    run(app)
    clock.now += 150
    assert app.dispatch(Order(1)).has(Duplicate)
    app.transport("orders").clock.move(61)  # type: ignore[attr-defined]
    run(app)
    assert 1 == len(app.transport("failed").sent)  # type: ignore[attr-defined]
    assert not app.dispatch(Order(1)).has(Duplicate)


def test_the_key_is_free_when_its_time_is_over(app: Postbus, clock: Clock) -> None:
    """However the message fares; a delay comes on top of it."""
    app.dispatch(Order(1))
    app.dispatch(Order(2), stamps.Delay(50))
    clock.now += 101
    assert not app.dispatch(Order(1)).has(Duplicate)
    assert app.dispatch(Order(2)).has(Duplicate)
    clock.now += 50
    assert not app.dispatch(Order(2)).has(Duplicate)


@pytest.mark.parametrize("error", [LookupError, Unrecoverable])
def test_what_comes_back_from_the_failure_transport_is_handled(app: Postbus, error: type[Exception], run: Any) -> None:
    """Also if another one of its key is under way by now; that one keeps the key."""
    errors: list[Exception] = [error(), error()]
    handled: list[Order] = []

    @app.handler
    def handle(order: Order) -> None:
        if errors:
            raise errors.pop()
        handled.append(order)

    app.dispatch(Order(1))
    run(app)
    app.transport("orders").clock.move(61)  # type: ignore[attr-defined]
    run(app)
    errors.clear()
    assert not app.dispatch(Order(1)).has(Duplicate)
    run(app, "failed")
    assert ([Order(1)], True) == (handled, app.dispatch(Order(1)).has(Duplicate))


def test_what_is_handled_at_once_frees_its_key(app: Postbus) -> None:
    """By a transport too, and also if it fails; in its handler it is held."""
    inside: list[bool] = []

    @app.handler
    def again(order: Order) -> None:
        inside.append(app.dispatch(order).has(Duplicate))
        if order.number == 13:
            raise LookupError

    for where in stamps.HERE, stamps.TransportNames(["sync"]):
        app.dispatch(Order(1), where)
        with pytest.raises(HandlerFailed):
            app.dispatch(Order(13), where)
    assert [True] * 4 == inside
    assert not app.dispatch(Order(1)).has(Duplicate)


def test_duplicates_in_one_batch_are_not_sent(app: Postbus) -> None:
    """The first of each key is."""
    envelopes = app.dispatch_many([Order(1), Order(1), Order(2)])
    assert ([False, True, False], 2) == ([envelope.has(Duplicate) for envelope in envelopes], sent(app))
    assert app.dispatch(Order(2)).has(Duplicate)


class Broken(RecordingTransport):
    """Loses its broker."""

    is_broken = True

    def send(self, envelopes: Any) -> list[Envelope]:
        if self.is_broken:
            raise TransportError("The broker is away.")
        return super().send(envelopes)


@pytest.mark.parametrize("many", [False, True], ids=["dispatch", "dispatch_many"])
def test_a_message_that_could_not_be_sent_is_no_reason_not_to_send_it(
    make_once: Callable[..., Postbus], store: MemoryStore, many: bool
) -> None:
    """Who tries again is not told that it is under way."""
    broken = Broken()
    app = make_once(store, orders=broken)

    def send() -> Envelope:
        return app.dispatch_many([Order(1)])[0] if many else app.dispatch(Order(1))

    with pytest.raises(TransportError):
        send()
    broken.is_broken = False
    assert not send().has(Duplicate)
    assert [Order(1)] == broken.messages


def test_a_process_that_dies_before_it_has_sent_keeps_nobody_from_sending(
    app: Postbus, clock: Clock, store: MemoryStore
) -> None:
    """Another one waits for a while, whether it was sent, and then sends its own."""
    assert store.acquire("order-1", "sending:other", 10) is None
    assert not app.dispatch(Order(1)).has(Duplicate)
    assert (1, True) == (sent(app), clock.now >= 1010)


def test_who_sends_at_the_same_time_waits_for_the_other(make_once: Callable[..., Postbus], store: MemoryStore) -> None:
    """And is then told that it is a duplicate: of many, one is sent."""
    inside, go_on = threading.Event(), threading.Event()

    class Slow(RecordingTransport):
        def send(self, envelopes: Any) -> list[Envelope]:
            inside.set()
            go_on.wait(10)
            return super().send(envelopes)

    slow = Slow()
    app = make_once(store, orders=slow)
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(app.dispatch(Order(1)).has(Duplicate))) for _ in range(4)]
    threads[0].start()
    inside.wait(10)
    for thread in threads[1:]:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert ([False, True, True, True], [Order(1)]) == (sorted(results), slow.messages)


def test_a_message_that_is_handled_before_its_sender_knows_frees_its_key(
    make_once: Callable[..., Postbus], store: MemoryStore
) -> None:
    """Its sender does not take it again."""

    class Fast(RecordingTransport):
        def send(self, envelopes: Any) -> list[Envelope]:
            result = super().send(envelopes)
            [envelope] = result
            worker.handle(envelope.without(stamps.Sent).with_(stamps.Received("orders")))
            worker.observers.notify(MessageHandled(envelope, "orders", 0.0))
            return result

    worker = make_once(store)
    worker.handler(lambda order: None, handles=Order, name="nothing")
    app = make_once(store, orders=Fast())
    assert [False, False] == [app.dispatch(Order(1)).has(Duplicate) for _ in range(2)]


def test_a_store_that_is_away_keeps_nothing_from_being_handled(make_once: Callable[..., Postbus], run: Any) -> None:
    """It is said; who sends is told by an error."""

    class Away(MemoryStore):
        is_away = False

        def acquire(self, key: str, owner: str, ttl: float) -> str | None:
            if self.is_away:
                raise ConnectionError
            return super().acquire(key, owner, ttl)

    away = Away()
    app = make_once(away)
    app.handler(lambda order: None, handles=Order, name="nothing")
    app.dispatch(Order(1))
    away.is_away = True
    run(app)
    assert 1 == len(app.transport("orders").acknowledged)  # type: ignore[attr-defined]
    with pytest.raises(ConnectionError):
        app.dispatch(Order(2))


def test_a_message_without_the_stamp_is_none_of_its_business(app: Postbus) -> None:
    """However often it is sent."""

    @dataclass(frozen=True)
    class Other:
        number: int

    app.handler(lambda other: None, handles=Other, name="nothing")
    assert [False, False] == [app.dispatch(Other(1), stamps.HERE).has(Duplicate) for _ in range(2)]


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), "1"])
def test_a_time_that_is_none_is_refused(ttl: Any) -> None:
    """It is in seconds, or a timedelta."""
    with pytest.raises(ConfigurationError, match="stamps.Deduplication must be given a time"):
        Deduplication("key", ttl)
    assert 60.0 == Deduplication("key", timedelta(minutes=1)).ttl
