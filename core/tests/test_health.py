"""Whether a worker turns, and who is told."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from postbus import Envelope, Limits, Postbus, TransportError
from postbus.errors import ConnectionLost
from postbus.events import LeasesExtended, MessageFailed, TransportLost
from postbus.hookspecs import RegisterTransport, hookimpl
from postbus.plugins import Plugin, Plugins
from postbus.queue_transport import QueueTransport
from postbus.transport import Guarantees
from postbus.worker.deliveries import Deliveries
from postbus.worker.health import Health, ailment

GUARANTEES = Guarantees(durable=True)

PATIENCE = 30.0
"""Seconds after which something that must happen counts as never happening."""


@dataclass(frozen=True)
class Task:
    number: int


class Broker:
    """A broker that is up, down, answers nothing, or breaks whenever it was reached."""

    def __init__(self) -> None:
        self.up = True
        self.hanging = False
        self.breaks = False
        self.fetches = 0
        self.over = threading.Event()
        self.fetched = threading.Event()

    def fetch(self, limit: int, wait: float) -> list[Any]:
        self.fetches += 1
        if not self.up or (self.breaks and self.fetches % 2 == 0):
            raise ConnectionLost("The broker is away.")
        self.fetched.set()
        self.over.wait(PATIENCE if self.hanging else min(wait, 0.05))
        return []

    def publish(self, messages: Any) -> list[None]:
        return [None] * len(messages)

    def ack(self, tags: Any) -> None: ...

    reject = release = ack

    def close(self) -> None:
        self.over.set()


@pytest.fixture
def broker() -> Any:
    broker = Broker()
    yield broker
    broker.over.set()


@pytest.fixture
def app(broker: Broker) -> Postbus:
    class TestPlugin:
        CONTRACT = 1

        @hookimpl
        def register_transports(self, register: RegisterTransport) -> None:
            register("test", lambda dsn, context: QueueTransport(lambda: broker, context), guarantees=GUARANTEES)

    plugins = Plugins()
    plugins.add(TestPlugin(), Plugin("test", "tests", "0"))
    return Postbus(transports={"tasks": "test://"}, plugins=plugins)


def until(condition: Callable[[], object]) -> bool:
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        threading.Event().wait(0.01)
    return bool(condition())


def test_a_broker_that_stays_away_ends_the_worker(app: Postbus, broker: Broker, concurrency: int) -> None:
    """After the longest outage that is allowed, `run` raises, and says which transport and how long."""
    broker.up = False
    with pytest.raises(TransportError) as caught:
        app.worker(max_outage=0.5, concurrency=concurrency).run()
    assert (
        "Transport 'tasks' could not be reached for 0.5 s. Look whether its broker runs, or allow for a longer outage."
        == str(caught.value)
    )


def test_a_broker_that_comes_back_in_time_does_not(app: Postbus, broker: Broker, concurrency: int) -> None:
    """An outage ends when the broker answers; the next one begins anew."""
    broker.up = False
    worker = app.worker(max_outage=PATIENCE, concurrency=concurrency)
    working = threading.Thread(target=worker.run)
    working.start()
    transport: Any = app.transport("tasks")
    assert until(lambda: transport.lost_since)
    broker.up = True
    assert until(lambda: transport.lost_since is None)
    worker.stop()
    working.join(PATIENCE)
    assert not working.is_alive()


@pytest.mark.slow
def test_a_connection_that_is_lost_again_and_again_is_told(
    app: Postbus, broker: Broker, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A broker that can be reached for a moment each time is away all the same: one line and the health file say so."""
    file = tmp_path / "health"
    broker.breaks = True
    worker = app.worker(health_file=file)
    working = threading.Thread(target=worker.run)
    working.start()
    try:
        assert until(lambda: "has not reached 'tasks' for" in (ailment(file, max_age=2.0) or ""))
    finally:
        worker.stop()
        working.join(PATIENCE)
    assert not working.is_alive()
    lines = [record.getMessage() for record in caplog.records]
    assert 1 == sum("3 times running at once after reconnecting" in line for line in lines)


def test_a_connection_that_holds_is_told_no_more(
    app: Postbus, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """What was lost again and again is no longer away once it has held for a while."""
    transport: Any = app.transport("tasks")
    transport.first_pause, transport.steady = 0.01, 1.0
    broker.breaks = True
    assert until(lambda: transport.receive(1, 0.01) or "times running" in caplog.text)
    assert transport.away_since is not None
    broker.breaks = False
    assert until(lambda: transport.receive(1, 0.01) or transport.away_since is None)


def test_an_outage_that_another_thread_finds_lasts(app: Postbus, broker: Broker) -> None:
    """A fetch that ends because its connection is closed, as another thread has lost the broker, has not reached it."""
    broker.hanging = True
    transport: Any = app.transport("tasks")
    received: list[Any] = []
    events: list[type[Any]] = []
    app.observe(lambda event: events.append(type(event)))
    receiving = threading.Thread(target=lambda: received.append(transport.receive(1, PATIENCE)))
    receiving.start()
    assert broker.fetched.wait(PATIENCE)

    def lose(connection: Any) -> None:
        raise ConnectionLost("The broker is away.")

    with pytest.raises(ConnectionLost):
        transport.call(lose)
    receiving.join(PATIENCE)
    assert [[]] == received
    assert [TransportLost] == events


def test_a_worker_that_holds_nothing_extends_no_lease(concurrency: int) -> None:
    """The broker is not asked about no messages, for which a worker would have to wait while it is away."""
    app = Postbus(transports={"tasks": "in-memory://"}, routing={Task: "tasks"})
    events: list[Any] = []
    app.observe(events.append)
    app.worker(concurrency=concurrency, limits=Limits(time=0.5)).run()
    assert not [event for event in events if isinstance(event, LeasesExtended)]


@pytest.mark.slow
def test_a_fetch_that_hangs_is_an_outage(app: Postbus, broker: Broker) -> None:
    """With receivers in threads of their own, also a fetch that never returns is found out."""
    broker.hanging = True
    with pytest.raises(TransportError, match="could not be reached"):
        app.worker(max_outage=0.5, concurrency=2).run()


def test_a_worker_that_turns_is_well(app: Postbus, broker: Broker, concurrency: int, tmp_path: Path) -> None:
    """While a worker is idle its file says that it has just fetched; in the end it is gone."""
    file = tmp_path / "health"
    worker = app.worker(health_file=file, concurrency=concurrency)
    working = threading.Thread(target=worker.run)
    working.start()
    assert until(file.exists)
    assert ailment(file, PATIENCE) is None
    first = file.read_bytes()
    assert until(lambda: file.read_bytes() != first)
    worker.stop()
    working.join(PATIENCE)
    assert [] == list(tmp_path.iterdir())


def test_a_worker_that_hangs_is_not(app: Postbus, broker: Broker, concurrency: int, tmp_path: Path) -> None:
    """When a fetch hangs, the file says since when nothing was fetched, though the process lives."""
    file = tmp_path / "health"
    broker.hanging = True
    worker = app.worker(health_file=file, concurrency=concurrency)
    working = threading.Thread(target=worker.run)
    working.start()
    assert until(lambda: file.exists() and "has not fetched for" in (ailment(file, 0.5) or ""))
    broker.over.set()
    worker.stop()
    working.join(PATIENCE)


@pytest.mark.slow
def test_a_worker_without_its_broker_is_not(app: Postbus, broker: Broker, tmp_path: Path) -> None:
    """An outage is in the file as well, by the name of the transport."""
    file = tmp_path / "health"
    broker.up = False
    worker = app.worker(health_file=file)
    working = threading.Thread(target=worker.run)
    working.start()
    assert until(lambda: file.exists() and "has not reached 'tasks' for" in (ailment(file, 1.0) or ""))
    worker.stop()
    working.join(PATIENCE)


def test_a_slow_handler_is_no_ailment(concurrency: int, tmp_path: Path) -> None:
    """A worker that handles one message for long cannot fetch, and is well."""
    app = Postbus(transports={"tasks": "in-memory://"}, routing={Task: "tasks"})
    file = tmp_path / "health"
    seen: list[bytes] = []

    @app.handler
    def handle(task: Task) -> None:
        first = file.read_bytes()
        assert until(lambda: file.read_bytes() != first)
        seen.append(file.read_bytes())

    app.dispatch(Task(1))
    app.worker(health_file=file, concurrency=concurrency, limits=Limits(messages=1)).run()
    assert b'"in_hand":1' in seen[0]


def test_a_worker_with_what_nobody_takes_is_alive_and_can_be_stopped(
    concurrency: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a message rests that is stored nowhere: signs of life go on, and `stop-workers` gives it back."""

    def take_nothing(original: Envelope, copy: Envelope) -> bool:
        raise TransportError("The store is full.")

    monkeypatch.setenv("POSTBUS_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(Deliveries, "FIRST_REST", 3600.0)
    monkeypatch.setattr(Deliveries, "LONGEST_REST", 3600.0)
    app = Postbus(transports={"tasks": "in-memory://"}, routing={Task: "tasks"})
    tasks: Any = app.transport("tasks")
    tasks.replace = take_nothing
    failures: list[MessageFailed] = []
    app.observe(lambda event: failures.append(event) if isinstance(event, MessageFailed) else None)

    @app.handler
    def fail(task: Task) -> None:
        raise ValueError("never")

    app.dispatch(Task(1))
    file = tmp_path / "health"
    working = threading.Thread(target=app.worker("tasks", health_file=file, concurrency=concurrency).run)
    working.start()
    assert until(lambda: failures)
    first = file.read_bytes()
    assert until(lambda: file.read_bytes() != first)
    assert 1 == tasks.connection.count().in_flight
    app.stop_signal().send()
    working.join(PATIENCE)
    assert not working.is_alive()
    assert 1 == len(failures)
    assert 1 == tasks.connection.count().waiting


def test_a_file_that_cannot_be_written_hurts_nobody(app: Postbus, tmp_path: Path, caplog: Any) -> None:
    """A wrong path is said, and messages are handled all the same."""
    app.worker(health_file=tmp_path / "nowhere" / "health", limits=Limits(time=0.01)).run()
    assert "Cannot write the health file" in caplog.text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory. Does the worker run with --health-file?"),
        (b"{", "is no health"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path: Path, content: bytes | None, problem: str) -> None:
    """A file that is not there, or not ours, is said to be so."""
    file = tmp_path / "health"
    if content is not None:
        file.write_bytes(content)
    assert problem in (ailment(file, 1.0) or "")


def test_systemd_is_told(app: Postbus, concurrency: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service is ready, alive, and stopping, in this order, as sd_notify(3) has it."""
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        worker = app.worker(concurrency=concurrency)
        working = threading.Thread(target=worker.run)
        working.start()
        assert [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"] == [systemd.recv(100) for _ in range(3)]
        worker.stop()
        working.join(PATIENCE)
        told = systemd.recv(100)
        while told == b"WATCHDOG=1":
            told = systemd.recv(100)
        assert told == b"STOPPING=1"


# One message at a time, nothing runs any more when a limit is reached.
@pytest.mark.parametrize(("why", "concurrency"), [("told", 1), ("told", 3), ("limit", 3)])
def test_systemd_is_told_when_stopping_begins(
    why: str, concurrency: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """STOPPING=1 is sent while handlers still run, which may be for as long as the grace; and only once."""
    app = Postbus(transports={"tasks": "in-memory://"}, routing={Task: "tasks"})
    begun, go_on = threading.Event(), threading.Event()
    address = tmp_path / "notify"

    @app.handler
    def handle(task: Task) -> None:
        if task.number == 1:
            begun.set()
            assert go_on.wait(PATIENCE)
        elif why == "limit":
            raise ValueError("never")

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        worker = app.worker(concurrency=concurrency, limits=Limits(failures=1))
        app.dispatch(Task(1))
        working = threading.Thread(target=worker.run)
        working.start()
        try:
            assert begun.wait(PATIENCE)
            if why == "limit":
                app.dispatch(Task(2))
            else:
                worker.stop()
            end = time.monotonic() + PATIENCE
            while systemd.recv(100) != b"STOPPING=1":
                assert time.monotonic() < end, "It still gives signs of life only."
            assert working.is_alive()
        finally:
            go_on.set()
            working.join(PATIENCE)
        systemd.setblocking(False)
        rest: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                rest.append(systemd.recv(100))
        assert b"STOPPING=1" not in rest


@pytest.mark.slow
def test_systemd_hears_nothing_of_a_worker_that_hangs(
    app: Postbus, broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a fetch hangs there is no sign of life, so that the watchdog bites."""
    broker.hanging = True
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        worker = app.worker(concurrency=2)
        working = threading.Thread(target=worker.run)
        working.start()
        systemd.settimeout(3 * Health.INTERVAL)
        told = [systemd.recv(100)]
        with contextlib.suppress(TimeoutError):
            while len(told) < 20:
                told.append(systemd.recv(100))
        assert len(told) < 20
        broker.over.set()
        worker.stop()
        working.join(PATIENCE)


def test_an_abstract_socket_too(monkeypatch: pytest.MonkeyPatch, app: Postbus) -> None:
    """An address with an @ is in Linux's abstract namespace."""
    name = f"postbus-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}")
        systemd.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        app.worker(limits=Limits(time=0.01)).run()
        assert b"READY=1" == systemd.recv(100)
