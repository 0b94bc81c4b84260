"""What a worker holds while a handler takes long: it is settled, kept, or given back in time."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace

from postbus import Envelope, Limits, Postbus, TransportError, stamps
from postbus.errors import ConnectionLost
from postbus.events import LeaseLost, LeasesExtended, MessageReleased, MessagesAcknowledged, TransportLost
from postbus.hookspecs import RegisterTransport, hookimpl
from postbus.plugins import Plugin, Plugins
from postbus.queue_transport import QueueTransport
from postbus.transport import Guarantees
from postbus.worker.controller import Controller
from postbus.worker.deliveries import Deliveries
from postbus.worker.fetching import WAIT
from postbus_in_memory.connection import InMemoryConnection
from postbus_in_memory.queue import Queue

PATIENCE = 30.0
"""Seconds after which something that must happen counts as never happening."""

LEASE = 1.0


@dataclass(frozen=True)
class Task:
    number: int


def make_app(lease: float = 3600.0, **transports: Any) -> Postbus:
    name = uuid4().hex
    return Postbus(
        transports={"tasks": f"in-memory://{name}?lease={lease}", "failed": "in-memory://", **transports},
        routing={Task: "tasks"},
        failure_transport="failed",
        retry={"max_retries": 0},
    )


def transport(app: Postbus, name: str = "tasks") -> Any:
    return app.transport(name)


def run(app: Postbus, messages: int, **options: Any) -> None:
    app.worker("tasks", limits=Limits(messages=messages), **options).run()


def rob(app: Postbus) -> list[Any]:
    """Let every lease run out at once, and fetch what that frees, as another worker would."""
    tasks = transport(app)
    with tasks.clock._changed:  # So that the controller does not come between.
        tasks.clock.move(2 * tasks.lease)
        return list(tasks.connection.fetch(10, 0))


def until(condition: Callable[[], object]) -> bool:
    """Wait until something is so, which nobody tells; say whether it came to be."""
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        threading.Event().wait(0.01)
    return bool(condition())


def compute(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


def sleep(seconds: float) -> None:
    threading.Event().wait(seconds)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sleeps", "computes", "awaits"])
def test_a_lease_is_kept_as_long_as_the_handler_runs(concurrency: int, kind: str) -> None:
    """A handler that takes ten times the lease, whatever it does, runs once, and nobody else gets its message."""
    app = make_app(LEASE)
    runs: list[int] = []

    if kind == "awaits":

        @app.handler
        async def wait(task: Task) -> None:
            runs.append(task.number)
            await asyncio.sleep(10 * LEASE)
    else:

        @app.handler
        def work(task: Task) -> None:
            runs.append(task.number)
            (sleep if kind == "sleeps" else compute)(10 * LEASE)

    app.dispatch(Task(1))
    over = threading.Event()
    others: list[Any] = []

    def steal() -> None:
        while not over.is_set():
            others.extend(transport(app).connection.fetch(1, 0.05))

    worker = threading.Thread(target=lambda: run(app, 1, concurrency=concurrency))
    worker.start()
    assert until(lambda: runs)
    thief = threading.Thread(target=steal)
    thief.start()
    worker.join(PATIENCE)
    over.set()
    thief.join(PATIENCE)

    assert ([1], []) == (runs, others)
    assert 0 == len(transport(app).connection.browse(1))


def test_what_was_fetched_with_a_slow_message_is_kept_too(concurrency: int) -> None:
    """Messages that wait for their turn keep their leases, though each handler is quick."""
    app = make_app(LEASE)
    handled: list[int] = []

    @app.handler
    def handle(task: Task) -> None:
        sleep(0.03)
        handled.append(task.number)

    app.dispatch_many(Task(n) for n in range(20))
    run(app, 20, concurrency=concurrency, fetch_size=20)

    assert sorted(handled) == list(range(20))
    assert {1} == {envelope.stamps[-1].count for envelope in transport(app).acknowledged}


@pytest.mark.parametrize("fails", [False, True])
def test_a_lost_lease_is_somebody_elses_message(
    concurrency: int, fails: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes of a message whose lease was lost is not settled: the other one has it, and a line says so."""
    app = make_app(LEASE)
    theirs: list[Any] = []

    @app.handler
    def lose(task: Task) -> None:
        theirs.extend(rob(app))
        sleep(2 * LEASE)
        if fails:
            raise ValueError("too late")

    app.dispatch(Task(1))
    run(app, 1, concurrency=concurrency)

    [delivery] = theirs
    connection = transport(app).connection
    assert "Lost the lease of Task" in caplog.text
    assert 1 == len(connection.browse(10))
    assert 0 == transport(app, "failed").connection.count().waiting
    connection.ack([delivery.tag])
    assert 0 == len(connection.browse(10))


def test_a_lost_lease_is_noticed_before_the_ack_even_if_nobody_looked(caplog: pytest.LogCaptureFixture) -> None:
    """After a standstill of the whole process, the first thing done is not to acknowledge what may be another's."""
    app = make_app(LEASE)
    deliveries = Deliveries("tasks", transport(app))
    app.dispatch(Task(1))
    since = time.monotonic()
    deliveries.take_in(transport(app).receive(1, 0), since)
    [delivery] = rob(app)
    assert until(lambda: time.monotonic() > since + LEASE)
    deliveries.done.append(deliveries.waiting.popleft())

    deliveries.settle()

    assert "Lost the lease of Task" in caplog.text
    assert [] == transport(app).acknowledged
    assert [] == list(transport(app).connection.keepalive([delivery.tag]))


def test_what_waits_and_is_lost_is_not_begun() -> None:
    """A message that somebody else has meanwhile is not handled here as well."""
    app = make_app(LEASE)
    handled: list[int] = []
    theirs: list[Any] = []

    @app.handler
    def handle(task: Task) -> None:
        handled.append(task.number)
        if task.number == 0:
            theirs.extend(rob(app))
            sleep(2 * LEASE)

    app.dispatch_many(Task(n) for n in range(3))
    app.worker("tasks", limits=Limits(time=LEASE), fetch_size=3).run()

    assert [0] == handled
    assert 3 == len(theirs)


def test_what_is_done_is_settled_while_a_slow_handler_runs(concurrency: int) -> None:
    """Messages that were handled before a slow one in the same batch are settled while it runs."""
    app = make_app()
    seen: list[bool] = []

    @app.handler
    def handle(task: Task) -> None:
        if task.number == 4:
            seen.append(until(lambda: 4 == len(transport(app).acknowledged)))

    app.dispatch_many(Task(n) for n in range(5))
    run(app, 5, fetch_size=5, concurrency=concurrency)
    assert [True] == seen


@pytest.mark.parametrize("fetch_size", [None, 10])
def test_what_waits_behind_a_slow_handler_goes_to_other_workers(concurrency: int, fetch_size: int | None) -> None:
    """Messages that were fetched ahead are given back, uncounted, while the slow ones run."""
    app = make_app()
    elsewhere: list[Any] = []
    slow = threading.Barrier(concurrency)

    @app.handler
    def handle(task: Task) -> None:
        if task.number >= 0:
            slow.wait(PATIENCE)
            while len(elsewhere) < 9 and task.number == 0:
                elsewhere.extend(transport(app).connection.fetch(10, PATIENCE))
            slow.wait(PATIENCE)

    # The quick ones teach it to fetch many.
    app.dispatch_many([*(Task(-1) for _ in range(600)), *(Task(n) for n in range(9 + concurrency))])
    run(app, 600 + concurrency, fetch_size=fetch_size, concurrency=concurrency)

    assert {1} == {delivery.count for delivery in elsewhere}


def test_a_worker_that_gave_back_fetches_one_by_one_again() -> None:
    """After a batch that was given back the next is small, also if its size was fixed: nothing goes round and round."""
    app = make_app()
    sizes: list[int] = []
    receive = transport(app).receive
    transport(app).receive = lambda limit, *rest: sizes.append(limit) or receive(limit, *rest)

    @app.handler
    def handle(task: Task) -> None:
        if task.number == 0:
            assert until(lambda: 1 == transport(app).connection.count().in_flight)

    app.dispatch_many(Task(n) for n in range(20))
    run(app, 20, fetch_size=8)
    assert [8, 1, 2, 4, 8] == sizes[:5]


def test_the_controller_sleeps_while_nothing_is_in_hand(concurrency: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without messages nobody looks more often than a broker is asked: an idle worker costs nothing."""
    app = make_app()
    naps: list[float] = []
    take_in = Controller._take_in
    monkeypatch.setattr(Controller, "_take_in", lambda one, patience: naps.append(patience) or take_in(one, patience))

    @app.handler
    def handle(task: Task) -> None:
        assert until(lambda: naps[-1] < WAIT)

    worker = app.worker("tasks", concurrency=concurrency)
    working = threading.Thread(target=worker.run)
    working.start()
    app.dispatch(Task(1))
    assert until(lambda: 1 == len(transport(app).acknowledged))
    assert until(lambda: naps[-1] >= WAIT)
    worker.stop()
    working.join(PATIENCE)


@pytest.mark.slow
def test_a_broker_that_is_away_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    """If leases cannot be extended now, that is said, and tried again before they run out."""
    app = make_app(LEASE)
    tasks = transport(app)
    keepalive = tasks.keepalive
    failures = iter([TransportError("The broker is away.")])

    def flaky(envelopes: Any) -> Any:
        for error in failures:
            raise error
        return keepalive(envelopes)

    tasks.keepalive = flaky
    app.handler(handles=Task)(lambda task: sleep(5 * LEASE))
    app.dispatch(Task(1))
    with caplog.at_level(logging.WARNING, "postbus"):
        run(app, 1)
    assert 1 == caplog.text.count("Could not extend the leases of 1 messages of 'tasks': The broker is away.")
    assert 1 == len(tasks.acknowledged)


class Broker:
    """A queue that can be reached, or not, and the plugin that brings it."""

    CONTRACT = 1
    lease = 3600.0

    def __init__(self) -> None:
        self.queue = Queue()
        self.is_up = True
        self.loses_answers = 0

    @hookimpl
    def register_transports(self, register: RegisterTransport) -> None:
        register(
            "breakable",
            lambda dsn, context: QueueTransport(lambda: BreakableConnection(self), context),
            guarantees=Guarantees(durable=True),
        )

    def app(self) -> Postbus:
        plugins = Plugins()
        plugins.add(self, Plugin("breakable", "tests", "0"))
        return Postbus(transports={"tasks": "breakable://"}, routing={Task: "tasks"}, plugins=plugins)


class BreakableConnection(InMemoryConnection):
    """Every delivery can be settled by a later connection."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        super().__init__(broker.queue, lease=broker.lease)

    @property
    def _queue(self) -> Queue:
        if not self.broker.is_up:
            raise ConnectionLost("The broker is away.")
        return self.broker.queue

    @_queue.setter
    def _queue(self, queue: Queue) -> None:
        assert queue is self._queue

    def close(self) -> None:
        self._closed = True

    def ack(self, tags: Any) -> Any:
        lost = super().ack(tags)
        if self.broker.loses_answers:
            self.broker.loses_answers -= 1
            raise ConnectionLost("The answer was lost.")
        return lost


@pytest.mark.parametrize("is_back", ["while idle", "while busy"])
def test_what_was_handled_while_the_broker_went_away_is_settled_when_it_is_back(
    concurrency: int, is_back: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message does not come again where it can be settled later."""
    monkeypatch.setattr(Deliveries, "SETTLE_AGAIN_AFTER", 0.1)
    broker = Broker()
    app = broker.app()
    handled: list[int] = []
    lost = threading.Event()
    app.observe(lambda event: lost.set() if isinstance(event, TransportLost) else None)

    @app.handler
    def handle(task: Task) -> None:
        if task.number == 0:
            broker.is_up = False
        else:
            assert lost.wait(PATIENCE)
            broker.is_up = True
            assert until(lambda: broker.queue.acknowledged)
        handled.append(task.number)

    number = 2 if is_back == "while busy" else 1
    app.dispatch_many(Task(n) for n in range(number))
    worker = app.worker("tasks", concurrency=concurrency, fetch_size=2)
    working = threading.Thread(target=worker.run)
    working.start()
    assert lost.wait(PATIENCE)
    broker.is_up = True
    assert until(lambda: number == len(broker.queue.acknowledged))
    worker.stop()
    working.join(PATIENCE)

    assert list(range(number)) == handled
    assert "come again" not in caplog.text


@pytest.mark.parametrize("end", ["the worker ends", "somebody else may have it"])
def test_what_cannot_be_settled_is_not_kept_for_ever(end: str, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that ends, or whose lease is over, says that the message comes again."""
    broker = Broker()
    app = broker.app()
    app.dispatch(Task(1))
    tasks = transport(app)
    deliveries = Deliveries("tasks", tasks)
    deliveries.take_in(tasks.receive(1, 0), time.monotonic())
    deliveries.done.append(deliveries.waiting.popleft())
    broker.is_up = False

    deliveries.settle()
    assert ("come again" in caplog.text, len(deliveries)) == (False, 1)
    if end == "somebody else may have it":
        deliveries._leased_at -= 2 * broker.lease  # As if that time had passed.
        deliveries._settle_again_at = 0.0
    deliveries.settle(last=end == "the worker ends")
    assert ("come again" in caplog.text, len(deliveries)) == (True, 0)


def test_what_was_given_back_in_an_outage_is_so_when_the_broker_is_back(caplog: pytest.LogCaptureFixture) -> None:
    """It does not lie there until its time is over: others get it, in the order in which it was given back."""
    broker = Broker()
    app = broker.app()
    told: list[Any] = []
    app.observe(told.append)
    app.dispatch_many(Task(n) for n in range(52))
    tasks = transport(app)
    deliveries = Deliveries("tasks", tasks, app.observers)
    deliveries.take_in(tasks.receive(50, 0), time.monotonic())
    broker.is_up = False
    deliveries.release_waiting()
    assert "Could not give" not in caplog.text
    assert [] == [event for event in told if isinstance(event, MessageReleased)]

    broker.is_up = True
    assert 2 == len(tasks.receive(2, 0))  # Whoever fetches finds out that it is back.
    deliveries.settle()
    assert 50 == tasks.connection.count().waiting
    assert list(range(50)) == [event.envelope.message.number for event in told if isinstance(event, MessageReleased)]
    assert [1] * 50 == [delivery.count for delivery in tasks.connection.fetch(50, 0)]


def test_a_worker_gives_back_later_what_it_could_not(concurrency: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a handler takes long and the broker is away, what waits behind it goes to others as soon as it is back."""
    monkeypatch.setattr(Deliveries, "SETTLE_AGAIN_AFTER", 0.1)
    monkeypatch.setattr(Deliveries, "TOO_LONG", 0.1)
    broker = Broker()
    app = broker.app()
    handled: list[int] = []
    lost = threading.Event()
    app.observe(lambda event: lost.set() if isinstance(event, TransportLost) else None)

    @app.handler
    def handle(task: Task) -> None:
        if task.number < concurrency:
            broker.is_up = False
            assert lost.wait(PATIENCE)
            threading.Event().wait(0.5)  # What waits behind it is given back meanwhile, and nothing tells when.
            broker.is_up = True
            assert until(lambda: broker.queue.messages and len(broker.queue.in_flight) <= concurrency)
        handled.append(task.number)

    app.dispatch_many(Task(n) for n in range(20))
    run(app, 20, concurrency=concurrency, fetch_size=20)
    assert set(range(20)) == set(handled)


def test_what_was_handled_and_not_settled_is_said_once(concurrency: int, caplog: pytest.LogCaptureFixture) -> None:
    """A broker that took a message back, of which no lease told, delivers it again, and the log says so."""
    app = make_app()
    told: list[Any] = []
    app.observe(told.append)
    taken_back: list[int] = []

    @app.handler
    def handle(task: Task, envelope: Envelope) -> None:
        if task.number == 1 and not taken_back:
            taken_back.append(task.number)
            transport(app).connection.release([envelope.stamps[-1].tag])

    app.dispatch_many([Task(1), Task(2)])
    run(app, 3, concurrency=concurrency)
    assert 1 == caplog.text.count("was handled, but not settled, so it comes again")
    [lost] = [event for event in told if isinstance(event, LeaseLost)]
    assert (Task(1), "tasks") == (lost.envelope.message, lost.transport)
    assert 2 == sum(event.number for event in told if isinstance(event, MessagesAcknowledged))


def test_what_was_settled_twice_is_not_said_to_be_lost(caplog: pytest.LogCaptureFixture) -> None:
    """When the answer to an ack is lost, the broker does not know the messages at the second try: it may be done."""
    broker = Broker()
    app = broker.app()
    told: list[Any] = []
    app.observe(told.append)
    app.handler(handles=Task)(lambda task: setattr(broker, "loses_answers", 1))
    app.dispatch(Task(1))
    run(app, 1)
    assert {} == broker.queue.messages
    assert "those that the broker had not heard of yet come again" in caplog.text
    assert "so it comes again" not in caplog.text
    assert [] == [event for event in told if isinstance(event, LeaseLost)]


def test_an_error_in_settling_ends_no_worker(concurrency: int, caplog: pytest.LogCaptureFixture) -> None:
    """What a plugin trips over with one message is logged, and the others are handled."""
    app = make_app(LEASE)
    tasks = transport(app)
    ack = tasks.ack

    def trip(envelopes: Any) -> Any:
        if any(envelope.message.number == 1 for envelope in envelopes):
            raise ValueError("odd tag")
        return ack(envelopes)

    tasks.ack = trip
    handled: list[int] = []
    app.handler(handles=Task)(lambda task: handled.append(task.number))
    app.dispatch_many(Task(n) for n in range(1, 6))
    run(app, 5, concurrency=concurrency, fetch_size=1)
    assert {1, 2, 3, 4, 5} == set(handled)
    assert "they come again: ValueError: odd tag" in caplog.text


def test_a_broker_is_asked_to_wait_no_longer_than_it_can(concurrency: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one fetch can wait for a short time only, or not at all, it is not asked for more."""
    app = make_app()
    tasks = transport(app)
    tasks.guarantees = replace(tasks.guarantees, longest_wait=0.1)
    waits: list[float] = []
    fetch = tasks.connection.fetch

    def take_note(limit: int, wait: float) -> Any:
        waits.append(wait)
        return fetch(limit, wait)

    monkeypatch.setattr(tasks.connection, "fetch", take_note)
    handled: list[int] = []
    app.handler(handles=Task)(lambda task: handled.append(task.number))
    late = threading.Timer(0.5, lambda: app.dispatch(Task(1)))
    late.start()
    run(app, 1, concurrency=concurrency)
    late.join()
    assert [1] == handled
    assert {0.1} == {*waits} - {0.0}


def test_an_error_in_fetching_ends_no_worker(
    concurrency: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin that trips over what it fetches is connected anew, and other transports of the worker go on."""
    app = make_app(others="in-memory://")

    def trip(limit: int, wait: float) -> Any:
        raise ValueError("year 60000 is out of range")

    monkeypatch.setattr(transport(app).connection, "fetch", trip)
    handled: list[int] = []
    app.handler(handles=Task)(lambda task: handled.append(task.number))
    app.dispatch(Task(1))
    app.dispatch(Task(2), stamps.TransportNames(["others"]))
    app.worker("tasks", "others", limits=Limits(messages=2), concurrency=concurrency).run()
    assert {1, 2} == set(handled)
    assert "Fetching from 'tasks' failed." in caplog.text
    assert "Lost 'tasks': ValueError: year 60000 is out of range. Reconnecting." in caplog.text


def test_what_a_worker_lost_before_it_began_it_is_no_death() -> None:
    """A live worker that gets a message back which it had never begun has not died of it."""
    app = make_app(LEASE)
    app.dispatch(Task(1))
    tasks = transport(app)
    deliveries = Deliveries("tasks", tasks)
    for _ in range(5):
        deliveries.take_in(tasks.receive(1, 0), time.monotonic())
        tasks.clock.move(2 * LEASE)
        assert 1 == tasks.connection.count().waiting
        deliveries._note_lost(list(deliveries.waiting))
        assert deliveries.has_lost(deliveries.waiting.popleft(), begun=False)
    deliveries.take_in(tasks.receive(1, 0), time.monotonic())
    [envelope] = deliveries.waiting
    assert 6 == envelope.stamps[-1].count
    assert (False, None) == (deliveries.suspects.has_last_chance(envelope), deliveries.suspects.deaths(envelope))

    # While it is in hand, and while others have it, it counts.
    for count in (7, 8):
        deliveries.waiting.clear()
        tasks.clock.move(2 * LEASE)
        deliveries.take_in(tasks.receive(1, 0), time.monotonic())
        [envelope] = deliveries.waiting
        assert (count == 8, None) == (
            deliveries.suspects.has_last_chance(envelope),
            deliveries.suspects.deaths(envelope),
        )


def test_what_is_in_hand_twice_is_no_death() -> None:
    """After three lost connections, messages that a worker still holds come to it again and again: nobody died."""
    app = make_app(LEASE)
    app.dispatch(Task(1))
    tasks = transport(app)
    deliveries = Deliveries("tasks", tasks)
    for _ in range(4):
        deliveries.take_in(tasks.receive(1, 0), time.monotonic())
        tasks.clock.move(2 * LEASE)
    assert [1, 2, 3, 4] == [envelope.stamps[-1].count for envelope in deliveries.waiting]
    assert [None] * 4 == [deliveries.suspects.deaths(envelope) for envelope in deliveries.waiting]


def test_a_delivery_may_have_a_lease_of_its_own() -> None:
    """It is extended at a third of its own time, also behind one that has longer; afterwards, as the others are."""
    app = make_app()
    told: list[Any] = []
    app.observe(told.append)
    app.dispatch_many(Task(n) for n in range(2))
    tasks = transport(app)
    deliveries = Deliveries("tasks", tasks, app.observers)
    long, short = tasks.receive(2, 0)
    short = Envelope(short.message, (*short.stamps[:-1], replace(short.stamps[-1], lease=30.0)))
    now = time.monotonic()
    deliveries.take_in([long], now)
    deliveries.take_in([short], now)
    for seconds, times in [(9, 0), (11, 1), (20, 1), (22, 2)]:
        deliveries.extend_leases(now + seconds)
        assert [LeasesExtended("tasks", 2)] * times == told[2:]
    deliveries.waiting.pop()
    for seconds, times in [(33, 1), (100, 1), (1000, 1), (1300, 2)]:
        deliveries.extend_leases(now + seconds)
        assert [LeasesExtended("tasks", 1)] * times == told[4:]


def test_a_lease_that_could_not_be_asked_for_is_kept_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the broker is away just when a message has come, the length of the lease is asked for again."""
    app = make_app(LEASE)
    told: list[Any] = []
    app.observe(told.append)
    app.dispatch(Task(1))
    tasks = transport(app)
    deliveries = Deliveries("tasks", tasks, app.observers)
    since = time.monotonic()
    received = tasks.receive(1, 0)
    with monkeypatch.context() as patch:

        def away(self: Any) -> float:
            raise TransportError("The broker is away.")

        patch.setattr(type(tasks), "lease", property(away))
        deliveries.take_in(received, since)
        deliveries.extend_leases(since + 1)
    deliveries.extend_leases(since + 2)
    assert [LeasesExtended("tasks", 1)] == [event for event in told if isinstance(event, LeasesExtended)]


@pytest.mark.slow
def test_observers_hear_what_is_kept(concurrency: int) -> None:
    """Leases that are extended or lost, and messages that are given back, are told, with their transport."""
    app = make_app(LEASE)
    told: list[Any] = []
    app.observe(told.append)

    @app.handler
    def handle(task: Task) -> None:
        if task.number == 0:
            sleep(2 * LEASE)
            rob(app)
            sleep(2 * LEASE)

    app.dispatch(Task(0))
    run(app, 1, concurrency=concurrency)
    assert LeasesExtended("tasks", 1) in told
    [lost] = [event for event in told if isinstance(event, LeaseLost)]
    assert (Task(0), "tasks") == (lost.envelope.message, lost.transport)
    assert [] == [event for event in told if isinstance(event, MessagesAcknowledged)]


@pytest.mark.slow
def test_an_observer_that_wants_to_exit_ends_no_keeping() -> None:
    """`sys.exit()` in an observer would end the thread that it is called in, and nothing else would be told."""
    app = make_app(LEASE)
    extended: list[LeasesExtended] = []

    @app.observe
    def leave(event: object) -> None:
        if isinstance(event, LeasesExtended):
            extended.append(event)
            raise SystemExit(1)

    @app.handler
    def handle(task: Task) -> None:
        until(lambda: 2 <= len(extended))

    app.dispatch(Task(0))
    run(app, 1)
    assert 2 <= len(extended)
