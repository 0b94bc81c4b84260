"""The worker on real brokers: many at once, slow handlers, leases, several brokers, and stopping."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from postbus import Envelope, Limits, Postbus, TransportError, stamps
from postbus.events import Event, TransportLost, TransportPaused
from postbus_amqp.stamps import AmqpReceived
from tests.brokers.redis import OwnRedis
from tests.brokers.server import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.once]

PATIENCE = 30.0
"""Seconds after which something that must happen counts as never happening."""

BROKERS = ["sqlite", "redis", "rabbitmq"]


@dataclass(frozen=True)
class Task:
    number: int


@dataclass(frozen=True)
class Other:
    number: int


@pytest.fixture
def dsn_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., str]:
    """Return the DSN of a queue of this test's own on a broker."""
    name = f"worker-{uuid4().hex[:8]}"

    def dsn_of(broker: str, lease: float | None = None) -> str:
        if broker == "sqlite":
            return f"sqlite:///{tmp_path}/{name}.db" + (f"?redeliver_timeout={int(lease)}" if lease else "")
        if broker == "redis":
            found = f"{request.getfixturevalue('redis_plain').dsn}/{name}"
            return found + (f"?redeliver_timeout={lease}&claim_interval=100" if lease else "")
        return f"{request.getfixturevalue('rabbitmq').dsn}/{name}"

    return dsn_of


@pytest.fixture
def make_app() -> Iterator[Callable[..., Postbus]]:
    apps: list[Postbus] = []

    def make_app(dsn: Any, **options: Any) -> Postbus:
        transports = {"tasks": dsn, "failed": "in-memory://", **options}
        routing: dict[Any, str] = {Task: "tasks", **({Other: "others"} if "others" in options else {})}
        app = Postbus(transports=transports, routing=routing, failure_transport="failed", retry={"max_retries": 0})
        apps.append(app)
        return app

    yield make_app
    for app in apps:
        app.close()


def in_background(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def join(thread: threading.Thread) -> None:
    thread.join(PATIENCE)
    assert not thread.is_alive()


def is_empty(app: Postbus) -> bool:
    """Look from a connection of its own, so that RabbitMQ gives up nothing that another one has."""
    transport: Any = app.transport("tasks")
    return not transport.receive(1, 0.2)


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("concurrency", [1, 4])
def test_until_empty(broker: str, concurrency: int, dsn_of: Any, make_app: Any) -> None:
    """A worker with an idle limit of 0 ends once all is handled, also what handlers dispatch; delays are not over."""
    dsn = dsn_of(broker)
    app = make_app(dsn)
    handled: list[int] = []

    @app.handler
    def handle(task: Task) -> None:
        handled.append(task.number)
        if task.number < 20:
            app.dispatch(Task(task.number + 20))

    app.dispatch_many(Task(number) for number in range(20))
    app.dispatch(Task(99), stamps.Delay(3600))
    stopped = app.worker("tasks", concurrency=concurrency, limits=Limits(idle=0, time=PATIENCE)).run()

    assert "there was nothing to do" == stopped.reason
    assert list(range(40)) == sorted(handled)
    assert is_empty(make_app(dsn))


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_many_at_once(broker: str, kind: str, dsn_of: Any, make_app: Any) -> None:
    """Thousands of messages are each handled once, many at a time, from a receiver's thread, settled by another."""
    dsn = dsn_of(broker)
    app, other = make_app(dsn), make_app(dsn)
    handled: Counter[int] = Counter()
    if kind == "def":

        @app.handler
        def handle(task: Task) -> None:
            time.sleep(0.001)
            handled[task.number] += 1
    else:

        @app.handler
        async def handle_async(task: Task) -> None:
            await asyncio.sleep(0.001)
            handled[task.number] += 1

    app.dispatch_many(Task(n) for n in range(3000))
    stopped = app.worker("tasks", concurrency=50, limits=Limits(messages=3000)).run()
    app.close()

    assert (3000, 0) == (stopped.handled, stopped.failed)
    assert Counter(range(3000)) == handled
    assert is_empty(other)


@pytest.mark.parametrize("broker", ["sqlite", "redis"])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_lease_is_kept(broker: str, concurrency: int, dsn_of: Any, make_app: Any) -> None:
    """While a handler takes several times the lease, another worker on the same queue does not get its message."""
    dsn = dsn_of(broker, lease=1)
    app, other = make_app(dsn), make_app(dsn)
    begun: list[int] = []
    over, taken = threading.Event(), threading.Event()

    @app.handler
    def wait(task: Task) -> None:
        begun.append(task.number)
        over.wait(PATIENCE)

    other.handler(handles=Task)(lambda task: taken.set())
    app.dispatch(Task(1))
    first = app.worker("tasks", concurrency=concurrency, limits=Limits(messages=1))
    working = in_background(first.run)
    wait_until(lambda: begun, "the handler runs")
    second = other.worker("tasks")
    stealing = in_background(second.run)
    assert not taken.wait(5)
    over.set()
    join(working)
    second.stop()
    join(stealing)
    assert [1] == begun
    assert is_empty(other)


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("concurrency", [1, 3])
def test_what_waits_behind_slow_handlers_is_for_others(
    broker: str, concurrency: int, dsn_of: Any, make_app: Any
) -> None:
    """What was fetched ahead is handled by another worker while the slow ones run; what was done is settled."""
    dsn = dsn_of(broker)
    app, other = make_app(dsn), make_app(dsn)
    slow: list[int] = []
    here: list[int] = []
    there: list[int] = []
    over = threading.Event()

    @app.handler
    def handle(task: Task) -> None:
        if task.number >= 100:
            slow.append(task.number)
            over.wait(PATIENCE)
        here.append(task.number)

    other.handler(handles=Task)(lambda task: there.append(task.number))
    app.dispatch_many([*(Task(n) for n in range(3)), *(Task(100 + n) for n in range(concurrency))])
    worker = app.worker("tasks", concurrency=concurrency, fetch_size=20)
    working = in_background(worker.run)
    wait_until(lambda: len(slow) == concurrency, "the slow ones run")
    app.dispatch_many(Task(n) for n in range(10, 20))
    second = other.worker("tasks", limits=Limits(messages=10))
    join(in_background(second.run))
    assert list(range(10, 20)) == sorted(there)
    over.set()
    worker.stop()
    join(working)
    assert {0, 1, 2} <= set(here)
    assert len(here) == 3 + concurrency
    assert is_empty(other)


def test_several_brokers_at_once(dsn_of: Any, make_app: Any) -> None:
    """A worker that waits on Redis, RabbitMQ and SQLite handles what arrives on any of them, and stops at once."""
    names = {"redis": dsn_of("redis"), "rabbit": dsn_of("rabbitmq"), "sql": dsn_of("sqlite")}
    app = Postbus(transports=names, routing={Task: list(names)})
    heard: Counter[str] = Counter()

    @app.observe
    def note(event: Any) -> None:
        if type(event).__name__ == "MessageHandled":
            heard[event.transport] += 1

    app.handler(handles=Task)(lambda task: None)
    worker = app.worker(*names)
    working = in_background(worker.run)
    for number in range(1, 11):
        app.dispatch(Task(number))
        wait_until(lambda number=number: Counter(dict.fromkeys(names, number)) == heard, "all three have come")
    worker.stop()
    join(working)
    app.close()


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("concurrency", [1, 3])
def test_stopping_gives_back(broker: str, concurrency: int, dsn_of: Any, make_app: Any) -> None:
    """At a signal, all that was fetched and not begun is there for others while a handler finishes."""
    dsn = dsn_of(broker)
    app, other = make_app(dsn), make_app(dsn)
    begun = threading.Barrier(concurrency)
    handled: list[int] = []
    there: list[int] = []

    @app.handler
    def handle(task: Task) -> None:
        begun.wait(PATIENCE)
        if task.number == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            wait_until(lambda: len(there) >= 20 - concurrency, "another worker has handled the rest")
        begun.wait(PATIENCE)
        handled.append(task.number)

    other.handler(handles=Task)(lambda task: there.append(task.number))
    app.dispatch_many(Task(n) for n in range(20))
    second = other.worker("tasks")
    taking: list[threading.Thread] = []

    @app.observe
    def begin_elsewhere(event: Any) -> None:
        # Once, whatever runs at the same time: two threads in one worker would be two in `fetch`.
        if type(event).__name__ == "MessageReceived" and event.envelope.message == Task(0):
            taking.append(in_background(second.run))

    stopped = app.worker("tasks", concurrency=concurrency, fetch_size=20, grace=None).run()
    second.stop()
    join(taking[0])
    assert "it got SIGTERM" == stopped.reason
    assert list(range(20)) == sorted([*handled, *there])
    assert is_empty(other)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_flooded_queue_does_not_starve_another(concurrency: int, rabbitmq: Any, make_app: Any) -> None:
    """By turns, a queue of a transport gets its share, however much waits in the one before it."""
    name = f"worker-{uuid4().hex[:8]}"
    app = make_app(f"{rabbitmq.dsn}/{name}?queues[{name}-high][flags]=2&queues[{name}-low][flags]=2")
    connection: Any = app.transport("tasks").connection
    connection.setup()
    handled: list[tuple[str, int]] = []

    @app.handler
    def handle(task: Task, envelope: Envelope) -> None:
        queue = envelope.last(AmqpReceived)
        assert queue is not None
        time.sleep(0.005)  # Else the broker is the slower one, and what has come of either queue is taken.
        handled.append((queue.queue, task.number))

    app.dispatch_many(Task(n) for n in range(400))
    options = {"strategy": "weighted", "weights": {f"{name}-high": 3}, "fetch_size": 5, "concurrency": concurrency}
    queues = [f"{name}-high", f"{name}-low"]
    app.worker("tasks", queues=queues, limits=Limits(messages=200), **options).run()
    share = Counter(queue for queue, _ in handled)
    assert 25 <= share[f"{name}-low"] <= 100


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_message_that_kills_is_buried_on_a_quorum_queue(concurrency: int, rabbitmq: Any, make_app: Any) -> None:
    """Where giving back counts as a delivery, it is found out at the 21st, and tried at each before."""
    name = f"worker-{uuid4().hex[:8]}"
    dsn = f"{rabbitmq.dsn}/{name}?queues[{name}][arguments][x-queue-type]=quorum"
    app = make_app(dsn)
    app.dispatch(Task(13))
    for _ in range(20):
        dying = make_app(dsn)
        assert 1 == len(dying.transport("tasks").receive(1, PATIENCE))
        dying.close()  # What its connection had comes again, counted, as after the death of a worker.
    handled: list[int] = []
    app.handler(handles=Task)(lambda task: handled.append(task.number))
    stopped = app.worker("tasks", concurrency=concurrency, limits=Limits(messages=1)).run()
    assert ([], 0, 1) == (handled, stopped.handled, stopped.failed)
    [buried] = app.transport("failed").receive(1, 0)
    assert "20 workers died, or lost it" in buried.all(stamps.ErrorDetails)[-1].message


@pytest.mark.parametrize("variant", ["own_redis", "own_rabbitmq"])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_broker_that_restarts(variant: str, concurrency: int, request: pytest.FixtureRequest, make_app: Any) -> None:
    """A worker goes on when its broker is back, whether it was idle or busy, and loses nothing."""
    broker = request.getfixturevalue(variant)
    app = make_app(f"{broker.dsn}/worker-{uuid4().hex[:8]}")
    handled: Counter[int] = Counter()

    @app.handler
    def handle(task: Task) -> None:
        time.sleep(0.002)
        handled[task.number] += 1

    app.dispatch_many(Task(n) for n in range(300))
    worker = app.worker("tasks", concurrency=concurrency)
    working = in_background(worker.run)
    wait_until(lambda: len(handled) > 50, "it has begun")
    broker.restart()
    wait_until(lambda: len(handled) == 300, "all are handled")
    broker.restart()
    app.dispatch_many(Task(n) for n in range(300, 310))
    wait_until(lambda: len(handled) == 310, "it still hears")
    worker.stop()
    join(working)
    assert set(range(310)) == set(handled)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_what_was_handled_while_the_broker_went_away(
    concurrency: int, own_redis: OwnRedis, make_app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is settled when the broker is back, and so handled once."""
    app = make_app(f"{own_redis.dsn}/worker-{uuid4().hex[:8]}")
    handled: list[int] = []
    begun, away, lost = threading.Event(), threading.Event(), threading.Event()
    app.observe(lambda event: lost.set() if isinstance(event, TransportLost) else None)

    @app.handler
    def handle(task: Task) -> None:
        begun.set()
        assert away.wait(PATIENCE)
        handled.append(task.number)

    app.dispatch(Task(1))
    worker = app.worker("tasks", concurrency=concurrency)
    working = in_background(worker.run)
    assert begun.wait(PATIENCE)
    own_redis.stop()
    away.set()
    wait_until(lambda: handled and lost.is_set(), "it has noticed")
    own_redis.start()
    tasks = app.transport("tasks")
    wait_until(lambda: tasks.call(lambda connection: connection.count().in_flight) == 0, "nothing is in flight")
    worker.stop()
    join(working)
    assert [1] == handled
    assert "come again" not in caplog.text


def test_a_rate_that_several_workers_share(dsn_of: Any, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """With a store that all of them reach, no more are handled by all together than may be."""
    store = request.getfixturevalue("redis_plain").dsn
    transport = {"dsn": dsn_of("sqlite"), "rate_limit": "7/hour", "rate_limit_store": store}
    apps = [Postbus(transports={"tasks": transport}, routing={Task: "tasks"}, name=tmp_path.name) for _ in range(3)]
    handled: list[int] = []
    for app in apps:
        app.handler(handles=Task)(lambda task: handled.append(task.number))
    apps[0].dispatch_many(Task(n) for n in range(50))
    working = [in_background(app.worker("tasks", limits=Limits(time=1)).run) for app in apps]
    for thread in working:
        join(thread)
    for app in apps:
        app.close()
    assert 7 == len(handled)


QUICK = {"own_redis": "?timeout=0.5&read_timeout=0.5", "own_rabbitmq": "?heartbeat=1&connect_timeout=1&rpc_timeout=1"}
"""Options by which a broker that says nothing is given up soon."""


@pytest.mark.parametrize("variant", list(QUICK))
@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_broker_that_is_not_there_yet(
    variant: str, concurrency: int, request: pytest.FixtureRequest, make_app: Any
) -> None:
    """A worker that is started before its broker waits for it, and says so once."""
    broker = request.getfixturevalue(variant)
    app = make_app(f"{broker.dsn}/worker-{uuid4().hex[:8]}")
    told: list[str] = []
    app.observe(lambda event: told.append(type(event).__name__))
    handled = threading.Event()
    app.handler(handles=Task)(lambda task: handled.set())
    broker.stop()
    worker = app.worker("tasks", concurrency=concurrency)
    working = in_background(worker.run)
    wait_until(lambda: "TransportLost" in told, "it has noticed")
    time.sleep(1)  # For a second line, which there must not be.
    broker.start()
    wait_until(lambda: "TransportRestored" in told, "it has reached the broker")
    app.dispatch(Task(1))
    assert handled.wait(PATIENCE)
    worker.stop()
    join(working)
    assert 1 == told.count("TransportLost")


@pytest.mark.parametrize("variant", list(QUICK))
@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("state", ["idle", "busy"])
def test_a_network_that_swallows_everything(
    variant: str, concurrency: int, state: str, request: pytest.FixtureRequest, make_app: Any
) -> None:
    """A connection that is dead and does not say so is found out; after that everything is handled."""
    broker = request.getfixturevalue(variant)
    name = f"worker-{uuid4().hex[:8]}"
    with broker.partition() as network:
        app, sender = make_app(f"{network.dsn}/{name}{QUICK[variant]}"), make_app(f"{broker.dsn}/{name}")
        lost = threading.Event()
        app.observe(lambda event: lost.set() if type(event).__name__ == "TransportLost" else None)
        handled: Counter[int] = Counter()

        @app.handler
        def handle(task: Task) -> None:
            handled[task.number] += 1
            if task.number == 1 and handled[1] == 1 and state == "busy":
                network.black_hole()

        worker = app.worker("tasks", concurrency=concurrency)
        working = in_background(worker.run)
        sender.dispatch_many([Task(1), Task(2)])
        wait_until(lambda: handled[1], "it has begun")
        if state == "idle":
            wait_until(lambda: handled[2], "all are handled")
            network.black_hole()
        assert lost.wait(PATIENCE)
        network.heal()
        sender.dispatch(Task(3))
        wait_until(lambda: handled.keys() >= {1, 2, 3}, "it hears again")
        worker.stop()
        join(working)


@pytest.mark.parametrize("variant", list(QUICK))
@pytest.mark.parametrize("concurrency", [1, 3])
def test_an_outage_that_is_too_long(
    variant: str, concurrency: int, request: pytest.FixtureRequest, make_app: Any
) -> None:
    """With ``max_outage`` a worker gives up, also on a network that swallows everything."""
    broker = request.getfixturevalue(variant)
    with broker.partition() as network:
        app = make_app(f"{network.dsn}/worker-{uuid4().hex[:8]}{QUICK[variant]}")
        app.handler(handles=Task)(lambda task: None)
        app.dispatch(Task(1))
        worker = app.worker("tasks", concurrency=concurrency, max_outage=1)
        errors: list[Exception] = []

        def run() -> None:
            try:
                worker.run()
            except TransportError as error:
                errors.append(error)

        working = in_background(run)
        wait_until(lambda: network.connections > 0, "it is connected")
        network.black_hole()
        join(working)
        assert "could not be reached for 1 s" in str(errors[0])


# a kill switch


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("broker", BROKERS)
def test_what_is_paused_is_with_its_broker(
    broker: str, concurrency: int, dsn_of: Callable[..., str], make_app: Callable[..., Postbus]
) -> None:
    """Another worker gets all that was not begun, as if it had never been fetched, while the first one pauses."""
    dsn = dsn_of(broker)
    failing, other = make_app({"dsn": dsn, "kill_switch": {"min_messages": 5, "pause": PATIENCE}}), make_app(dsn)
    paused = threading.Event()
    failed: list[int] = []
    handled: list[int] = []

    @failing.observe
    def observe(event: Event) -> None:
        if isinstance(event, TransportPaused):
            paused.set()

    @failing.handler(handles=Task)
    def fail(task: Task) -> None:
        failed.append(task.number)
        raise ValueError("The database is away.")

    other.handler(handles=Task)(lambda task: handled.append(task.number))
    failing.dispatch_many(Task(number) for number in range(100))
    first = failing.worker("tasks", concurrency=concurrency, fetch_size=50)
    thread = in_background(first.run)
    assert paused.wait(PATIENCE)
    second = other.worker("tasks", limits=Limits(time=PATIENCE))

    def stop() -> None:
        wait_until(lambda: len(handled) + len(failed) >= 100, "They were not all handled.", PATIENCE)
        second.stop()

    stopping = in_background(stop)
    second.run()
    first.stop()
    join(thread)
    join(stopping)
    assert 5 <= len(failed) <= 5 + concurrency
    assert list(range(100)) == sorted(handled + failed)
    assert len(failed) == failing.transport("failed").connection.count().waiting  # type: ignore[attr-defined]
