"""The worker on in-memory transports: what it settles, when it stops, and what it never loses."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from postbus import Envelope, Limits, Postbus, Recoverable, StopWorker, TransportError, Unrecoverable, stamps
from postbus.errors import ConnectionLost
from postbus.events import (
    Event,
    MessageBuried,
    MessageDropped,
    MessageFailed,
    MessageHandled,
    MessageReceived,
    MessageRetried,
    MessagesAcknowledged,
    TransportLost,
    TransportRestored,
    WorkerStarted,
    WorkerStopped,
    WorkerStopping,
)
from postbus.hookspecs import RegisterTransport, hookimpl
from postbus.limits import Stopping, resident_memory
from postbus.plugins import Plugin, Plugins
from postbus.queue_transport import QueueTransport
from postbus.transport import Delivery, Guarantees, Outgoing
from postbus.worker.fetching import FetchSize

PATIENCE = 30.0
"""Seconds after which something that must happen counts as never happening."""


@dataclass(frozen=True)
class OrderPlaced:
    order_id: int


@dataclass(frozen=True)
class Other:
    value: int


def make_app(**options: Any) -> Postbus:
    return Postbus(
        transports={"orders": "in-memory://", "failed": "in-memory://", **options.pop("transports", {})},
        routing={"*": "orders", **options.pop("routing", {})},
        failure_transport=options.pop("failure_transport", "failed"),
        retry=options.pop("retry", {"max_retries": 1, "delay": 10, "jitter": 0}),
        **options,
    )


@pytest.fixture
def app() -> Postbus:
    return make_app()


def run(app: Postbus, messages: int, *names: str) -> WorkerStopped:
    return app.worker(*names, limits=Limits(messages=messages)).run()


def transport(app: Postbus, name: str) -> Any:
    return app.transport(name)


def waiting(app: Postbus, name: str) -> int:
    return transport(app, name).connection.count().waiting


def test_a_message_is_handled_and_acknowledged(app: Postbus) -> None:
    """What was dispatched to a transport is handled by a worker, and gone from the transport then."""
    handled: list[int] = []

    @app.handler
    def handle(order: OrderPlaced) -> None:
        handled.append(order.order_id)

    app.dispatch(OrderPlaced(13))
    assert [] == handled
    stopped = run(app, 1)

    assert [13] == handled
    assert (1, 0) == (stopped.handled, stopped.failed)
    assert [OrderPlaced(13)] == [envelope.message for envelope in transport(app, "orders").acknowledged]
    assert 0 == len(transport(app, "orders").connection.browse(10))


def test_a_failed_message_is_retried_after_its_delay(app: Postbus) -> None:
    """A failure stores a copy with a delay and one more retry on its count, and settles the original."""
    attempts: list[int] = []

    @app.handler
    def handle(order: OrderPlaced) -> None:
        attempts.append(order.order_id)
        if len(attempts) == 1:
            raise ValueError("not yet")

    first = app.dispatch(OrderPlaced(13))
    run(app, 1)
    assert (0, 1) == (waiting(app, "orders"), transport(app, "orders").connection.count().delayed)

    transport(app, "orders").clock.move(10)
    run(app, 1)
    assert [13, 13] == attempts
    last = transport(app, "orders").acknowledged[-1]
    assert 1 == last.last(stamps.Retried).count
    assert first.last(stamps.MessageId) == last.last(stamps.MessageId)
    assert ["not yet"] == [details.message for details in last.all(stamps.ErrorDetails)]


def test_a_message_that_finally_failed_is_buried(app: Postbus) -> None:
    """After the last retry the message lies in the failure transport, with the reason and where it came from."""

    @app.handler
    def handle(order: OrderPlaced) -> None:
        raise ValueError("never")

    sent = app.dispatch(OrderPlaced(13))
    run(app, 1)
    transport(app, "orders").clock.move(10)
    run(app, 1)

    (buried,) = transport(app, "failed").receive(10, 0)
    assert OrderPlaced(13) == buried.message
    assert stamps.Buried("orders") == buried.last(stamps.Buried)
    assert sent.last(stamps.MessageId) == buried.last(stamps.MessageId)
    assert ["ValueError", "ValueError"] == [e.type.rpartition(".")[2] for e in buried.all(stamps.ErrorDetails)]
    assert "never" in (buried.all(stamps.ErrorDetails)[-1].traceback or "")
    assert buried.last(stamps.Retried) is None
    assert 0 == len(transport(app, "orders").connection.browse(10))


def test_a_retry_runs_only_the_handler_that_failed(app: Postbus) -> None:
    """A handler that succeeded is not run again when its neighbour is retried."""
    good: list[int] = []
    bad: list[int] = []

    @app.handler
    def succeed(order: OrderPlaced) -> None:
        good.append(order.order_id)

    @app.handler
    def fail_once(order: OrderPlaced) -> None:
        bad.append(order.order_id)
        if len(bad) == 1:
            raise ValueError("once")

    app.dispatch(OrderPlaced(13))
    run(app, 1)
    transport(app, "orders").clock.move(10)
    run(app, 1)

    assert [13] == good
    assert [13, 13] == bad


def test_unrecoverable_is_buried_at_once(app: Postbus) -> None:
    """An Unrecoverable error, also as the cause of another one, ends in the failure transport without a retry."""

    @app.handler
    def handle(order: OrderPlaced) -> None:
        try:
            raise Unrecoverable("gone")
        except Unrecoverable as error:
            raise ValueError("wrapped") from error

    app.dispatch(OrderPlaced(13))
    run(app, 1)
    assert 1 == waiting(app, "failed")


def test_recoverable_is_retried_however_often_it_failed(app: Postbus) -> None:
    """A Recoverable error is retried beyond the policy's limit, after the delay that it names."""
    attempts: list[int] = []

    @app.handler
    def handle(order: OrderPlaced) -> None:
        attempts.append(1)
        raise Recoverable("later", delay=500)

    app.dispatch(OrderPlaced(13))
    for _ in range(5):
        run(app, 1)
        assert 0 == waiting(app, "orders")
        transport(app, "orders").clock.move(499)
        assert 0 == waiting(app, "orders")
        transport(app, "orders").clock.move(1)
        assert 1 == waiting(app, "orders")
    assert 5 == len(attempts)


@pytest.mark.parametrize("delay", [math.nan, math.inf, -math.inf, -5, timedelta(seconds=0)])
def test_a_wrong_delay_stops_nobody(app: Postbus, delay: Any) -> None:
    """A handler that names no possible delay is retried as others are, and what waits behind it is handled."""
    handled: list[int] = []

    @app.handler
    def handle(order: OrderPlaced) -> None:
        if order.order_id == 13:
            raise Recoverable("later", delay=delay)
        handled.append(order.order_id)

    app.dispatch_many(OrderPlaced(number) for number in (13, 1, 2))
    stopped = run(app, 3)
    assert (2, 1, [1, 2]) == (stopped.handled, stopped.failed, handled)
    transport(app, "orders").clock.move(3600)
    assert 1 == waiting(app, "orders")


def test_of_several_failures_one_that_may_succeed_decides(app: Postbus) -> None:
    """A message is retried unless all its handlers failed for good."""

    @app.handler
    def hopeless(order: OrderPlaced) -> None:
        raise Unrecoverable("never")

    @app.handler
    def hopeful(order: OrderPlaced) -> None:
        raise ValueError("perhaps")

    app.dispatch(OrderPlaced(13))
    run(app, 1)
    assert 1 == transport(app, "orders").connection.count().delayed


def test_without_failure_transport_the_message_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A message that nobody wants to keep is logged whole, at CRITICAL, before it is dropped."""
    app = Postbus(transports={"orders": "in-memory://"}, routing={"*": "orders"}, retry={"max_retries": 0})

    @app.handler
    def handle(order: OrderPlaced) -> None:
        raise ValueError("never")

    app.dispatch(OrderPlaced(4711))
    with caplog.at_level(logging.CRITICAL, "postbus"):
        run(app, 1)
    (record,) = caplog.records
    assert "order_id" in record.getMessage()
    assert "4711" in record.getMessage()
    assert [OrderPlaced(4711)] == [envelope.message for envelope in transport(app, "orders").rejected]


def test_an_undecodable_message_is_buried_as_it_came(app: Postbus) -> None:
    """Bytes that nobody can read end, unchanged, in the failure transport, and the worker goes on."""
    handled: list[int] = []

    @app.handler
    def handle(order: OrderPlaced) -> None:
        handled.append(order.order_id)

    broken = Outgoing(b'{"order_id": "x"}', {"type": f"{__name__}.OrderPlaced", "X-Foreign": "kept"})
    transport(app, "orders").connection.publish([broken])
    app.dispatch(OrderPlaced(1))
    run(app, 2)

    assert [1] == handled
    (buried,) = transport(app, "failed").connection.browse(10)
    assert broken.body == buried.body
    assert "kept" == buried.headers["X-Foreign"]
    envelope = transport(app, "failed").decode(buried)
    assert "$.order_id: expected int, got str" == envelope.last(stamps.ErrorDetails).message


def test_a_message_from_the_failure_transport_is_not_an_endless_loop(app: Postbus) -> None:
    """Consuming the failure transport keeps what fails again there, and leaves it alone for a while."""

    @app.handler
    def handle(order: OrderPlaced) -> None:
        raise Unrecoverable("never")

    app.dispatch(OrderPlaced(13))
    run(app, 1)
    run(app, 1, "failed")
    counts = transport(app, "failed").connection.count()
    assert (0, 1) == (counts.waiting, counts.delayed)
    (envelope,) = [transport(app, "failed").decode(d) for d in transport(app, "failed").connection.browse(10)]
    assert stamps.Buried("orders") == envelope.last(stamps.Buried)


def test_handlers_of_the_origin_handle_what_comes_from_the_failure_transport(app: Postbus) -> None:
    """A buried message is handled by the handlers of the transport where it failed first."""
    fail = True
    handled: list[int] = []

    @app.handler(from_transport="orders")
    def handle(order: OrderPlaced) -> None:
        if fail:
            raise Unrecoverable("now")
        handled.append(order.order_id)

    app.dispatch(OrderPlaced(13))
    run(app, 1)
    fail = False
    run(app, 1, "failed")
    assert [13] == handled


class Refusing:
    """A transport that takes nothing, as long as it is told so."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.refusing = True
        self.tried = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def send(self, envelopes: list[Envelope]) -> list[Envelope]:
        self.tried.set()
        if self.refusing:
            raise TransportError("The store is full.")
        return self.inner.send(envelopes)


def test_what_cannot_be_buried_stays_with_its_broker(caplog: pytest.LogCaptureFixture) -> None:
    """While the failure transport is down, the original is neither settled nor lost."""
    inner = make_app()
    refusing = Refusing(inner.transport("failed"))
    app = make_app(transports={"failed": refusing})

    @app.handler
    def handle(order: OrderPlaced) -> None:
        raise Unrecoverable("never")

    app.dispatch(OrderPlaced(13))
    worker = app.worker()
    thread = threading.Thread(target=worker.run)
    thread.start()
    assert refusing.tried.wait(10)
    worker.stop()
    thread.join(10)
    assert not thread.is_alive()
    counts = transport(app, "orders").connection.count()
    assert (0, 1, 0) == (counts.waiting, counts.delayed, counts.in_flight)
    assert 0 == waiting(inner, "failed")
    assert "The store is full." in caplog.text

    refusing.refusing = False
    transport(app, "orders").clock.move(1.0)
    run(app, 1)
    assert (0, 1) == (waiting(app, "orders"), waiting(inner, "failed"))


def test_strict_priority(app: Postbus) -> None:
    """The first transport's messages are handled before those of the second, and one that arrives is the next."""
    app = make_app(transports={"urgent": "in-memory://"}, routing={Other: "urgent"})
    order: list[Any] = []

    @app.handler
    def handle_order(message: OrderPlaced) -> None:
        order.append(message)
        if message.order_id % 100 == 1:
            app.dispatch(Other(message.order_id))
            [urgent] = [holding for holding in worker._all_deliveries if holding.name == "urgent"]
            end = time.monotonic() + PATIENCE
            while not urgent.waiting and time.monotonic() < end:
                threading.Event().wait(0.001)

    @app.handler
    def handle_other(message: Other) -> None:
        order.append(message)

    others = [Other(-n) for n in range(50)]
    orders = [OrderPlaced(n) for n in range(1, 501)]
    app.dispatch_many([*orders, *others])
    worker = app.worker("urgent", "orders", limits=Limits(messages=555))
    worker.run()
    expected: list[Any] = [*others, *orders]
    for number in range(1, 501, 100):
        expected.insert(expected.index(OrderPlaced(number)) + 1, Other(number))
    assert expected == order


def test_a_message_reaches_an_idle_worker_of_several_transports(app: Postbus) -> None:
    """A worker that waits on several transports handles what arrives on any of them."""
    app = make_app(transports={"second": "in-memory://"}, routing={Other: "second"})
    arrived = threading.Event()

    @app.handler
    def handle(message: Other) -> None:
        arrived.set()

    worker = app.worker("orders", "second")
    thread = threading.Thread(target=worker.run)
    thread.start()
    app.dispatch(Other(1))
    assert arrived.wait(10)
    worker.stop()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_stops_after_the_message_in_hand(app: Postbus, number: signal.Signals) -> None:
    """A signal lets the running handler finish; what was fetched ahead is given back, uncounted."""
    handled: list[int] = []

    @app.handler
    def handle(order: OrderPlaced) -> None:
        if order.order_id == 2:
            os.kill(os.getpid(), number)
        handled.append(order.order_id)

    app.dispatch_many(OrderPlaced(n) for n in range(10))
    before = signal.getsignal(number)
    stopped = app.worker(fetch_size=10).run()

    assert [0, 1, 2] == handled
    assert f"it got {number.name}" == stopped.reason
    assert (7, 0) == (waiting(app, "orders"), transport(app, "orders").connection.count().in_flight)
    assert [1] * 7 == [delivery.count for delivery in transport(app, "orders").connection.fetch(10, 0)]
    assert before == signal.getsignal(number)


def test_a_second_signal_interrupts_the_handler(app: Postbus) -> None:
    """A second signal stops at once; the interrupted message is given back and comes again."""
    handled: list[int] = []

    @app.handler
    def handle(order: OrderPlaced) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        handled.append(order.order_id)

    app.dispatch(OrderPlaced(1))
    with pytest.raises(KeyboardInterrupt):
        app.worker().run()
    assert [] == handled
    assert 1 == waiting(app, "orders")


def test_limits_stop_the_worker(app: Postbus) -> None:
    """Each limit stops the worker, with its reason, and takes no message more than it says."""

    @app.handler
    def handle(order: OrderPlaced) -> None:
        if order.order_id < 0:
            raise ValueError("negative")

    app.dispatch_many(OrderPlaced(n) for n in range(20))
    assert "it has handled 5 messages" == run(app, 5).reason
    assert 15 == waiting(app, "orders")
    assert "it has run for" in app.worker(limits=Limits(time=0.01)).run().reason
    assert "MiB of memory" in app.worker(limits=Limits(memory=1)).run().reason
    transport(app, "orders").reset()
    app.dispatch_many([OrderPlaced(-1), OrderPlaced(1), OrderPlaced(-2), OrderPlaced(2)])
    assert "2 messages have failed" == app.worker(limits=Limits(failures=2)).run().reason
    assert 1 == waiting(app, "orders")


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_limit_of_memory_holds_where_everything_fails(
    app: Postbus, concurrency: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who deals with a failure asks whether the worker stops; that it does is no secret of his."""
    monkeypatch.setattr(Stopping, "LOOK", 0.2)
    kept: list[bytes] = []

    @app.handler
    def handle(order: OrderPlaced) -> None:
        kept.append(b"x" * 2**26)
        threading.Event().wait(1.5 * Stopping.LOOK)
        raise ValueError("It fails when the worker is to be looked at.")

    app.dispatch_many(OrderPlaced(n) for n in range(3))
    limits = Limits(memory=resident_memory() + 2**25, time=PATIENCE)
    stopped = app.worker(limits=limits, concurrency=concurrency).run()
    assert concurrency >= stopped.failed
    assert stopped.outgrown


@pytest.mark.parametrize("concurrency", [1, 2])
def test_who_grows_after_another_limit_needs_no_replacement(
    app: Postbus, concurrency: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker stops for is what it has stopped for, whatever becomes of its memory meanwhile."""
    monkeypatch.setattr(Stopping, "LOOK", 0.05)
    kept: list[bytes] = []
    events: list[Event] = []
    app.observe(events.append)
    worker = app.worker(concurrency=concurrency, limits=Limits(memory=resident_memory() + 2**25))

    @app.handler
    def handle(order: OrderPlaced) -> None:
        worker.stop("enough")
        if concurrency > 1:
            while not any(isinstance(event, WorkerStopping) for event in events):
                threading.Event().wait(0.01)
        kept.append(b"x" * 2**26)
        threading.Event().wait(4 * Stopping.LOOK)

    app.dispatch(OrderPlaced(1))
    stopped = worker.run()
    assert ("enough", 1, False) == (stopped.reason, stopped.handled, stopped.outgrown)


def test_stop_workers_from_another_app(app: Postbus, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop signal reaches every running worker of the same name, and none that starts later."""
    monkeypatch.setenv("POSTBUS_STATE_DIR", str(tmp_path))
    started = threading.Event()
    app.observe(lambda event: started.set() if isinstance(event, WorkerStarted) else None)
    reasons: list[str] = []
    thread = threading.Thread(target=lambda: reasons.append(app.worker().run().reason))
    thread.start()
    assert started.wait(10)
    make_app().stop_signal().send()
    thread.join(10)
    assert ["all workers were told to"] == reasons

    app.dispatch(Other(1))
    app.handler(handles=Other)(lambda message: None)
    assert 1 == run(app, 1).handled


def test_stop_worker_from_a_handler(app: Postbus) -> None:
    """StopWorker stops the worker; the message has failed as usual."""

    @app.handler
    def handle(order: OrderPlaced) -> None:
        raise StopWorker("the disk is full")

    app.dispatch_many([OrderPlaced(1), OrderPlaced(2)])
    stopped = app.worker().run()
    assert "a handler asked for it: the disk is full" == stopped.reason
    assert (1, 1) == (waiting(app, "orders"), transport(app, "orders").connection.count().delayed)


def test_events_tell_the_whole_story(app: Postbus) -> None:
    """Observers see what happens to a message, in order; one that raises disturbs nothing."""
    events: list[Event] = []
    app.observe(events.append)

    @app.observe
    def broken(event: Event) -> None:
        raise RuntimeError("observer")

    @app.handler
    def handle(order: OrderPlaced) -> None:
        if order.order_id == 2:
            raise ValueError("two")

    app.dispatch_many([OrderPlaced(1), OrderPlaced(2)])
    del events[:]
    run(app, 2)
    transport(app, "orders").clock.move(10)
    run(app, 1)
    seen = [type(event) for event in events]
    assert [
        WorkerStarted,
        MessageReceived,
        MessageHandled,
        MessagesAcknowledged,
        MessageReceived,
        MessageFailed,
        MessageRetried,
        WorkerStopping,
        WorkerStopped,
        WorkerStarted,
        MessageReceived,
        MessageFailed,
        MessageBuried,
        WorkerStopping,
        WorkerStopped,
    ] == [kind for kind in seen if kind.__name__ != "MessageSent"]
    assert MessageDropped not in seen


def test_who_observes_after_the_worker_was_made_hears_it(app: Postbus) -> None:
    """An observer may be added until the worker runs, and later."""
    app.handler(handles=OrderPlaced)(lambda message: None)
    app.dispatch(OrderPlaced(1))
    worker = app.worker(limits=Limits(messages=1))
    events: list[Event] = []
    app.observe(events.append)
    worker.run()
    assert MessageHandled in [type(event) for event in events]


class Flaky:
    """A connection to a broker that goes away and comes back when told to."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        broker.opened += 1
        broker.check()

    def publish(self, messages: Any) -> list[str | None]:
        self.broker.check()
        self.broker.messages += messages
        return [None] * len(messages)

    def fetch(self, limit: int, wait: float) -> list[Delivery]:
        self.broker.check()
        taken, self.broker.messages = self.broker.messages[:limit], self.broker.messages[limit:]
        if not taken:
            self.broker.idle.set()
            self.broker.changed.wait(wait)
        return [Delivery(m.body, m.headers, tag) for tag, m in enumerate(taken)]

    def ack(self, tags: Any) -> None:
        self.broker.check()

    reject = release = ack

    def close(self) -> None:
        pass


class Broker:
    def __init__(self) -> None:
        self.messages: list[Outgoing] = []
        self.opened = 0
        self.up = True
        self.idle = threading.Event()
        self.changed = threading.Event()

    def check(self) -> None:
        if not self.up:
            raise ConnectionLost("The broker is away.")


class FlakyPlugin:
    CONTRACT = 1

    def __init__(self, broker: Broker) -> None:
        self.broker = broker

    @hookimpl
    def register_transports(self, register: RegisterTransport) -> None:
        register(
            "flaky",
            lambda dsn, context: QueueTransport(lambda: Flaky(self.broker), context),
            guarantees=Guarantees(durable=True),
        )


def test_a_broker_that_is_only_sent_to_is_found_again() -> None:
    """A program that only dispatches hears of each outage, and of its end."""
    broker = Broker()
    events: list[Event] = []
    plugins = Plugins()
    plugins.add(FlakyPlugin(broker), Plugin("flaky", "tests", "0"))
    app = Postbus(transports={"orders": "flaky://"}, routing={"*": "orders"}, plugins=plugins)
    app.observe(events.append)
    for _ in range(2):
        app.dispatch(OrderPlaced(1))
        broker.up = False
        with pytest.raises(TransportError):
            app.dispatch(OrderPlaced(2))
        broker.up = True
        app.dispatch(OrderPlaced(3))
    journey = [type(event) for event in events if isinstance(event, TransportLost | TransportRestored)]
    assert [TransportLost, TransportRestored] * 2 == journey


def test_a_broker_that_goes_away_is_said_once_and_found_again(caplog: pytest.LogCaptureFixture) -> None:
    """A worker outlives its broker: one line when it is lost, one when it is back, and messages go on."""
    broker = Broker()
    events: list[Event] = []
    plugins = Plugins()
    plugins.add(FlakyPlugin(broker), Plugin("flaky", "tests", "0"))
    app = Postbus(transports={"orders": "flaky://"}, routing={"*": "orders"}, plugins=plugins)
    lost, restored, handled = threading.Event(), threading.Event(), threading.Event()

    @app.observe
    def note(event: Event) -> None:
        events.append(event)
        if isinstance(event, TransportLost):
            lost.set()
        if isinstance(event, TransportRestored):
            restored.set()

    app.handler(handles=OrderPlaced)(lambda message: handled.set())
    worker = app.worker()
    thread = threading.Thread(target=worker.run)
    with caplog.at_level(logging.INFO, "postbus"):
        thread.start()
        assert broker.idle.wait(10)
        broker.up = False
        broker.changed.set()
        assert lost.wait(10)
        broker.up = True
        assert restored.wait(10)
        app.dispatch(OrderPlaced(1))
        assert handled.wait(10)
        worker.stop()
        thread.join(10)
    assert 1 == len([event for event in events if isinstance(event, TransportLost)])
    assert 1 == caplog.text.count("Lost 'orders'")
    assert ["WARNING"] == [record.levelname for record in caplog.records if "Reached 'orders' again" in record.message]


def test_the_fetch_size_follows_the_handlers() -> None:
    """Fast handlers get big batches, slow ones single messages; a given size stays."""
    size = FetchSize()
    sizes = []
    for _ in range(12):
        sizes.append(size.limit)
        size.learn(size.limit, size.limit * 0.000_01)
    assert [1, 2, 4, 8] == sizes[:4]
    assert 500 == sizes[-1]
    size.learn(500, 500.0)
    assert 1 == size.limit

    fixed = FetchSize(7)
    fixed.learn(7, 700.0)
    assert 7 == fixed.limit
