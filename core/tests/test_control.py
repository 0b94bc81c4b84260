"""What workers are told from afar: that a transport is paused, that it goes on, and that all are to stop."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from postbus import Limits, Postbus
from postbus.control import Control, Pause
from postbus.dsn import Dsn
from postbus.errors import ConfigurationError, ConnectionLost, TransportError
from postbus.events import Event, LeasesExtended, MessageReceived, TransportPaused, TransportResumed, WorkerStopped
from postbus.hookspecs import RegisterTransport, hookimpl
from postbus.plugins import Plugin, Plugins
from postbus.queue_transport import QueueTransport
from postbus.transport import TransportContext
from postbus.worker.deliveries import Deliveries
from postbus.worker.health import ailment
from postbus.worker.listening import Listener
from postbus_in_memory import GUARANTEES, InMemoryConnection
from postbus_in_memory.queue import Queue

PATIENCE = 30.0
"""Seconds after which something that must happen counts as never happening."""


@dataclass(frozen=True)
class Task:
    number: int


@dataclass(frozen=True)
class Other:
    number: int


class Broker:
    """Queues of one broker by their names; it may be away, or refuse to tell what is noted."""

    def __init__(self) -> None:
        self.queues: dict[str, Queue] = {}
        self.away: set[str] = set()
        """The queues whose broker cannot be reached."""
        self.refusing: set[str] = set()
        """The queues of which notes may not be read."""
        self.looks = 0

    def plugins(self) -> Plugins:
        broker = self

        class TestPlugin:
            CONTRACT = 1

            @hookimpl
            def register_transports(self, register: RegisterTransport) -> None:
                register("test", broker.make, guarantees=GUARANTEES)

        plugins = Plugins()
        plugins.add(TestPlugin(), Plugin("test", "tests", "0"))
        return plugins

    def make(self, dsn: Dsn, context: TransportContext) -> QueueTransport:
        name = dsn.host or ""
        queue = self.queues.setdefault(name, Queue())
        return QueueTransport(lambda: BrokerConnection(self, name, queue), context)


class BrokerConnection(InMemoryConnection):
    def __init__(self, broker: Broker, name: str, queue: Queue) -> None:
        super().__init__(queue)
        self.broker = broker
        self.name = name

    def read_notes(self, names: Sequence[str]) -> Sequence[str | None]:
        self.broker.looks += 1
        if self.name in self.broker.away:
            raise ConnectionLost("The broker is away.")
        if self.name in self.broker.refusing:
            raise TransportError("Nobody may read notes here.")
        return super().read_notes(names)


@pytest.fixture(autouse=True)
def _listens_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Listener, "INTERVAL", 0.05)


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def make_app(broker: Broker) -> Callable[..., Postbus]:
    def make_app(**options: Any) -> Postbus:
        return Postbus(
            **{
                "transports": {"tasks": "test://tasks", "others": "test://others", "notes": "test://notes"},
                "routing": {Task: "tasks", Other: "others"},
                "retry": {"max_retries": 0},
                "name": "shop",
                "plugins": broker.plugins(),
                **options,
            }
        )

    return make_app


@pytest.fixture
def app(make_app: Callable[..., Postbus]) -> Postbus:
    return make_app()


@pytest.fixture(params=[1, 3], ids=["one at a time", "three at once"])
def concurrency(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def until(condition: Callable[[], object]) -> bool:
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        threading.Event().wait(0.01)
    return bool(condition())


def watch(app: Postbus, *kinds: type[Event]) -> list[Any]:
    """Return a list that the app's events of these kinds come to, in the order in which they happen."""
    events: list[Any] = []
    app.observe(lambda event: events.append(event) if isinstance(event, kinds) else None)
    return events


def counts(app: Postbus, name: str = "tasks") -> tuple[int, int | None]:
    transport: Any = app.transport(name)
    found = transport.connection.count()
    return found.waiting, found.in_flight


@contextmanager
def working(app: Postbus, *names: str, **options: Any) -> Iterator[list[WorkerStopped]]:
    """Run a worker in the background; end it, and see that it ends."""
    stopped: list[WorkerStopped] = []
    worker = app.worker(*names, **options)
    thread = threading.Thread(target=lambda: stopped.append(worker.run()), daemon=True)
    thread.start()
    try:
        yield stopped
    finally:
        worker.stop()
        thread.join(PATIENCE)
    assert not thread.is_alive()


# pausing


def test_a_paused_transport_begins_nothing(app: Postbus, concurrency: int) -> None:
    """What runs is finished and settled, all else goes back uncounted; when it is resumed, the rest is handled."""
    handled: list[int] = []
    may_end = threading.Event()

    @app.handler
    def work(task: Task) -> None:
        may_end.wait(PATIENCE)
        handled.append(task.number)

    received = watch(app, MessageReceived)
    app.dispatch_many(Task(n) for n in range(20))
    with working(app, "tasks", concurrency=concurrency, fetch_size=20):
        assert until(lambda: len(received) == concurrency)
        app.control.pause("tasks")
        assert until(lambda: counts(app) == (20 - concurrency, concurrency))
        may_end.set()
        assert until(lambda: counts(app) == (20 - concurrency, 0))
        transport: Any = app.transport("tasks")
        assert {1} == {message.count + 1 for message in transport.connection.browse(20)}
        assert concurrency == len(received) == len(handled)

        app.control.resume("tasks")
        assert until(lambda: len(handled) == 20)
    assert (0, 0) == counts(app)
    assert list(range(20)) == sorted(handled)


def test_a_worker_that_starts_later_is_paused_too(make_app: Callable[..., Postbus], concurrency: int) -> None:
    """The note stays, so nothing is begun by whoever starts, not even for a moment, until somebody resumes."""
    handled: list[int] = []
    make_app().control.pause("tasks", by="ada@web-1")
    for _ in range(3):
        app = make_app()
        app.handler(handles=Task)(lambda task: handled.append(task.number))
        events = watch(app, TransportPaused, MessageReceived)
        app.dispatch(Task(1))
        with working(app, "tasks", concurrency=concurrency):
            assert until(lambda: events)  # noqa: B023  It is asked at once.
        [paused] = events
        assert ("tasks", math.inf) == (paused.transport, paused.seconds)
        assert "ada@web-1" in paused.reason
    assert ([], (3, 0)) == (handled, counts(make_app()))


def test_other_transports_go_on(app: Postbus, concurrency: int) -> None:
    """It is the transport that is paused, and not its workers."""
    handled: list[Any] = []
    app.handler(handles="*")(handled.append)
    app.control.pause("tasks")
    app.dispatch(Task(1))
    with working(app, "tasks", "others", concurrency=concurrency):
        for number in range(3):
            app.dispatch(Other(number))
            assert until(lambda: len(handled) == number + 1)  # noqa: B023
    assert ([Other(0), Other(1), Other(2)], (1, 0)) == (handled, counts(app))


def test_what_a_waiting_fetch_brings_goes_back(app: Postbus, concurrency: int) -> None:
    """A message that comes just after the pause, to a fetch that has waited since before, is not begun."""
    begun: list[int] = []
    app.handler(handles=Task)(lambda task: begun.append(task.number))
    paused = watch(app, TransportPaused)
    app.observe(lambda event: app.dispatch(Task(1)) if isinstance(event, TransportPaused) else None)
    with working(app, "tasks", concurrency=concurrency):
        assert until(lambda: waits(app))
        app.control.pause("tasks")
        assert until(lambda: paused)
        assert until(lambda: counts(app) == (1, 0))
        seen = len(paused)
        looks_go_on(app)
    assert ([], 1, (1, 0)) == (begun, seen, counts(app))


def waits(app: Postbus) -> bool:
    """Say whether the worker waits for messages of the tasks."""
    return any(thread.name == "postbus-fetcher-tasks" and thread.is_alive() for thread in threading.enumerate())


def looks_go_on(app: Postbus) -> None:
    """Wait until the worker has looked at its notes a few times more."""
    queue: Any = app.transport("tasks")
    broker = queue.connection.broker
    before = broker.looks
    assert until(lambda: broker.looks > before + 3)


def test_it_is_told(app: Postbus, caplog: pytest.LogCaptureFixture) -> None:
    """Once each time, with who has done it and what ends it: in the log, and to observers."""
    app.handler(handles="*")(lambda message: None)
    events = watch(app, TransportPaused, TransportResumed)
    with caplog.at_level("INFO", "postbus"), working(app, "tasks"):
        app.control.pause("tasks", by="ada@web-1")
        assert until(lambda: events)
        looks_go_on(app)
        app.control.resume("tasks")
        assert until(lambda: len(events) == 2)
        looks_go_on(app)
    assert [TransportPaused, TransportResumed] == [type(event) for event in events]
    told = [message for message in caplog.messages if "tasks" in message]
    assert told[0].startswith("Pausing 'tasks', which was paused for all workers by ada@web-1 since ")
    assert told[0].endswith(", until: postbus resume tasks.")
    assert ["Consuming 'tasks' as before, because it was resumed."] == told[1:]


def test_the_health_file_says_so(app: Postbus, tmp_path: Path) -> None:
    """A worker that is paused is well; until when, nobody knows."""
    app.handler(handles="*")(lambda message: None)
    file = tmp_path / "health"
    app.control.pause("tasks")
    with working(app, "tasks", "others", health_file=file):
        assert until(lambda: file.exists() and json.loads(file.read_text())["paused"] == {"tasks": None})
        assert ailment(file, 60) is None
        app.control.resume("tasks")
        assert until(lambda: json.loads(file.read_text())["paused"] == {})


def test_leases_are_kept_in_a_pause(app: Postbus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that runs when its transport is paused keeps its message, for as long as it takes."""
    monkeypatch.setattr(Deliveries, "_known_lease", lambda self: 0.3)
    may_end = threading.Event()
    app.handler(handles=Task)(lambda task: may_end.wait(PATIENCE))
    paused, extended = watch(app, TransportPaused), watch(app, LeasesExtended)
    app.dispatch(Task(1))
    with working(app, "tasks"):
        assert until(lambda: counts(app) == (0, 1))
        app.control.pause("tasks")
        assert until(lambda: paused)
        before = len(extended)
        assert until(lambda: len(extended) > before + 1)
        may_end.set()
        assert until(lambda: counts(app) == (0, 0))


def test_a_paused_transport_has_nothing_to_do(app: Postbus, concurrency: int) -> None:
    """A worker with an idle limit ends, although messages wait that it must not begin: a cron job does not pile up."""
    app.handler(handles="*")(lambda message: None)
    app.control.pause("tasks")
    app.dispatch_many([Task(1), Other(2)])
    stopped = app.worker("tasks", "others", concurrency=concurrency, limits=Limits(idle=0, time=PATIENCE)).run()

    assert ("there was nothing to do", 1) == (stopped.reason, stopped.handled)
    assert ((1, 0), (0, 0)) == (counts(app), counts(app, "others"))


def test_a_pause_is_of_one_app(make_app: Callable[..., Postbus]) -> None:
    """Another app that uses the same queue goes on; so it is not told to stop either."""
    handled: list[int] = []
    ours, theirs = make_app(), make_app(name="another shop")
    theirs.handler(handles=Task)(lambda task: handled.append(task.number))
    ours.control.pause("tasks")
    with working(theirs, "tasks") as stopped:
        ours.control.stop_workers("tasks")
        looks_go_on(theirs)
        theirs.dispatch(Task(1))
        assert until(lambda: handled)
        assert [] == stopped
    assert (None, None) == (theirs.control.paused("tasks"), theirs.control.paused("others"))


def test_who_pauses_a_paused_transport_hears_of_it(app: Postbus) -> None:
    """The first pause stays, with who has made it; who resumes hears what that was, or that there was none."""
    assert app.control.pause("tasks", by="ada@web-1") is None
    before = app.control.pause("tasks", by="bob@web-2")

    assert before is not None
    assert "ada@web-1" == before.by
    assert str(before).startswith("by ada@web-1 since 20")
    assert before == app.control.paused("tasks") == app.control.resume("tasks")
    assert (None, None) == (app.control.resume("tasks"), app.control.paused("tasks"))


def test_a_note_that_cannot_be_read_pauses_all_the_same(app: Postbus) -> None:
    """Whoever has written it by hand, or a later version, meant something; nobody is named."""
    transport: Any = app.transport("tasks")
    transport.write_note("shop/paused/tasks", "for the migration")

    assert Pause() == app.control.paused("tasks")
    assert "by somebody" == str(Pause())


def test_names_of_any_kind_are_told_apart(make_app: Callable[..., Postbus]) -> None:
    """An app is called as it likes, by a path for instance, and as long as it likes."""
    names = ["shop", "shop/paused", "/srv/shöp 1", "s" * 300, "s" * 301, ""]
    controls = [Control(name, make_app().transports) for name in names]
    for number, control in enumerate(controls):
        assert control.paused("tasks") is None
        control.pause("tasks", by=str(number))

    pauses = [control.paused("tasks") for control in controls]
    assert [str(number) for number in range(len(names))] == [pause.by for pause in pauses if pause is not None]


# stopping


def test_all_that_have_begun_before_stop(make_app: Callable[..., Postbus], concurrency: int) -> None:
    """Whichever machine they are on; one that begins afterwards does not, though the note stays."""
    apps = [make_app() for _ in range(3)]
    for app in apps:
        app.handler(handles="*")(lambda message: None)
    with (
        working(apps[0], "tasks", concurrency=concurrency) as first,
        working(apps[1], "tasks", "others", concurrency=concurrency) as second,
    ):
        looks_go_on(apps[0])
        apps[2].control.stop_workers("tasks")
        assert until(lambda: first and second)
    assert ["all workers were told to"] * 2 == [first[0].reason, second[0].reason]

    with working(apps[2], "tasks", concurrency=concurrency) as third:
        looks_go_on(apps[2])
        assert [] == third
        apps[0].control.stop_workers("tasks")
        assert until(lambda: third)


# a control store


def test_notes_lie_where_the_configuration_says(make_app: Callable[..., Postbus], broker: Broker) -> None:
    """One look tells of all transports of a worker."""
    app = make_app(control="notes")
    app.handler(handles="*")(lambda message: None)
    paused = watch(app, TransportPaused)
    app.control.pause("tasks")
    app.control.pause("others")
    app.dispatch_many([Task(1), Other(2)])

    assert [2, 0, 0] == [len(broker.queues[name].notes) for name in ("notes", "tasks", "others")]
    with working(app, "tasks", "others") as stopped:
        assert until(lambda: len(paused) == 2)
        app.control.stop_workers("notes")
        assert until(lambda: stopped)
    assert ((1, 0), (1, 0)) == (counts(app), counts(app, "others"))


@pytest.mark.parametrize("how", ["away", "refusing"])
def test_a_store_that_cannot_be_asked_stops_nobody(
    make_app: Callable[..., Postbus],
    broker: Broker,
    concurrency: int,
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A worker goes on as it last knew, also one that starts then, says so once, and hears when it can be asked."""
    handled: list[Any] = []
    app = make_app(control="notes")
    app.handler(handles="*")(handled.append)
    trouble = getattr(broker, how)
    paused, resumed = watch(app, TransportPaused), watch(app, TransportResumed)
    trouble.add("notes")
    with caplog.at_level("WARNING", "postbus"), working(app, "tasks", "others", concurrency=concurrency):
        app.dispatch(Task(1))
        assert until(lambda: len(handled) == 1)  # As nobody has said anything else.
        looks_go_on(app)
        trouble.clear()
        app.control.pause("tasks")
        assert until(lambda: paused)
        trouble.add("notes")
        looks_go_on(app)
        app.dispatch_many([Task(2), Other(3)])
        assert until(lambda: len(handled) == 2)  # As it was known last.
        assert (1, 0) == counts(app)
        trouble.clear()
        app.control.resume("tasks")
        assert until(lambda: resumed)
        assert until(lambda: len(handled) == 3)
    assert [Task(1), Other(3), Task(2)] == handled
    said = [record.getMessage() for record in caplog.records if "notes" in record.getMessage()]
    assert 4 == len(said), said
    assert ("Lost 'notes'" in said[0]) == (how == "away")
    assert ("Cannot look at what workers are told at 'notes'" in said[0]) == (how == "refusing")


def test_nothing_is_fetched_before_its_own_broker_has_said(
    make_app: Callable[..., Postbus], broker: Broker, concurrency: int
) -> None:
    """A worker that starts while the broker is away begins nothing of a paused transport when that is back."""
    app = make_app()
    begun = watch(app, MessageReceived)
    paused = watch(app, TransportPaused)
    app.handler(handles="*")(lambda message: None)
    app.dispatch(Task(1))
    app.control.pause("tasks")
    broker.away.add("tasks")
    with working(app, "tasks", concurrency=concurrency):
        looks_go_on(app)
        assert (1, 0) == counts(app)
        broker.away.clear()
        assert until(lambda: paused)
        app.control.resume("tasks")
        assert until(lambda: begun)


def test_a_store_that_keeps_no_notes_is_a_mistake(broker: Broker) -> None:
    """It is found when the app is made, and says what would do; so is a name that no transport has."""
    with pytest.raises(ConfigurationError, match="control names 'now', and sync:// keeps no notes.*in-memory://"):
        Postbus(transports={"tasks": "in-memory://", "now": "sync://"}, control="now")
    with pytest.raises(ConfigurationError, match="control names the transport 'taks', which is not.*'tasks'"):
        Postbus(transports={"tasks": "in-memory://"}, control="taks")


def test_what_cannot_be_paused_says_so() -> None:
    """Where nobody keeps notes, a pause would reach nobody."""
    app = Postbus(transports={"now": "sync://"})

    assert app.control.paused("now") is None
    with pytest.raises(ConfigurationError, match="'now' cannot be paused from afar.*in the configuration: control"):
        app.control.pause("now")
