"""One message stops nobody: what is done with one of which no copy is taken as it is, while others are handled."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from postbus import Envelope, Limits, Postbus, Recoverable, TransportError, Unrecoverable, stamps
from postbus.errors import LONGEST_TEXT, LONGEST_TRACEBACK, ConnectionLost, MessageRefused, qualified_name
from postbus.events import Event, LeaseLost, MessageBuried, MessagePostponed, MessageReceived, MessageRetried
from postbus.failures import UNKNOWN_TYPE, Failures
from postbus.hookspecs import RegisterTransport, hookimpl
from postbus.plugins import Plugin, Plugins
from postbus.queue_transport import QueueTransport
from postbus.serialization import Undecodable
from postbus.transport import Outgoing
from postbus.worker.deliveries import Deliveries
from postbus_in_memory import GUARANTEES, InMemoryConnection
from postbus_in_memory.queue import Queue

PATIENCE = 60.0
"""Seconds after which something that must happen counts as never happening."""

OTHERS = 50

Refuse = Callable[[Outgoing], None]
"""Raises what a broker raises that does not take a message."""


@dataclass(frozen=True)
class Task:
    number: int


class Picky(InMemoryConnection):
    """A connection to a broker that does not take everything."""

    def __init__(self, queue: Queue, refuse: Refuse) -> None:
        super().__init__(queue)
        self._refuse = refuse

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        for message in messages:
            self._refuse(message)
        return super().publish(messages)

    def replace(self, tag: int, message: Outgoing) -> str | None:
        self._refuse(message)
        return super().replace(tag, message)


class Brokers:
    """A plugin whose transports refuse what a test says, each with guarantees of its own."""

    CONTRACT = 1

    def __init__(self, refusals: dict[str, Refuse]) -> None:
        self.refusals = refusals
        self.queues: dict[str, Queue] = {}

    @hookimpl
    def register_transports(self, register: RegisterTransport) -> None:
        register("picky", self.make, guarantees=GUARANTEES)
        register("undelayed", self.make, guarantees=replace(GUARANTEES, delay=False))
        register("impatient", self.make, guarantees=replace(GUARANTEES, longest_delay=900.0))

    def make(self, dsn: Any, context: Any) -> QueueTransport:
        queue = self.queues.setdefault(context.name, Queue())

        def refuse(message: Outgoing) -> None:
            self.refusals.get(context.name, take)(message)

        return QueueTransport(lambda: Picky(queue, refuse), context)


def take(message: Outgoing) -> None: ...


class Stage:
    """An app with a transport of tasks and a failure transport, and what happens in it."""

    def __init__(self, *, tasks: str = "picky://", failed: str | None = "picky://", **options: Any) -> None:
        self.brokers = Brokers({})
        plugins = Plugins()
        plugins.add(self.brokers, Plugin("brokers", "tests", "0"))
        transports = {"tasks": tasks} | ({"failed": failed} if failed is not None else {})
        self.app = Postbus(
            transports=transports,
            routing={"*": "tasks"},
            failure_transport="failed" if failed is not None else None,
            retry=options.pop("retry", {"max_retries": 3, "delay": 10, "jitter": 0}),
            plugins=plugins,
            **options,
        )
        self.events: list[Event] = []
        self.app.observe(self.events.append)

    def refuse(self, name: str, refuse: Refuse) -> None:
        self.brokers.refusals[name] = refuse

    def transport(self, name: str) -> Any:
        return self.app.transport(name)

    def move(self, seconds: float) -> None:
        for queue in self.brokers.queues.values():
            queue.clock.move(seconds)

    def run(self, messages: int, concurrency: int = 1, *names: str) -> None:
        self.app.worker(*(names or ("tasks",)), concurrency=concurrency, limits=Limits(messages=messages)).run()

    def fail(self, error: Callable[[], BaseException], concurrency: int = 1, *, attempts: int = 1) -> None:
        """Handle a message that fails, between others that do not, each of which must be handled in the same run."""
        handled: list[int] = []

        @self.app.handler
        def handle(task: Task) -> None:
            if task.number == 13:
                raise error()
            handled.append(task.number)

        self.app.dispatch_many(Task(number) for number in range(OTHERS + 1))
        self.run(OTHERS + attempts, concurrency)
        assert sorted({*range(OTHERS + 1)} - {13}) == sorted(handled)

    def held(self, name: str) -> list[Envelope]:
        """Return all that a transport has, delayed or not."""
        transport = self.transport(name)
        return [transport.decode(delivery) for delivery in transport.connection.browse(100)]

    def delays(self, name: str = "tasks") -> list[float]:
        """Return in how many seconds what a transport has is to be delivered."""
        queue = self.brokers.queues[name]
        return [round(message.available_at - queue.clock.now(), 0) for message in queue.messages.values()]

    def told(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture(params=[1, 3], ids=["sequential", "concurrent"])
def concurrency(request: pytest.FixtureRequest) -> int:
    return request.param


# what an error says of the delay


class Bare(Recoverable):
    def __init__(self) -> None:
        Exception.__init__(self, "later")


class Lazy(Bare):
    delay = timedelta(seconds=5)  # type: ignore[assignment]


class Broken(Recoverable):
    @property
    def delay(self) -> float:  # type: ignore[override]
        raise ZeroDivisionError("no delay")

    @delay.setter
    def delay(self, value: object) -> None: ...


class Sentence(Bare):
    delay = "soon"  # type: ignore[assignment]


def with_delay(delay: Any) -> Recoverable:
    error = Recoverable("later")
    error.delay = delay
    return error


@pytest.mark.parametrize(
    ("error", "delay"),
    [
        (lambda: with_delay(timedelta(seconds=5)), 5),
        (lambda: with_delay(-7), 0),
        (lambda: with_delay(timedelta(days=60)), 60 * 86_400),
        (lambda: with_delay(10**400), 10),
        (lambda: with_delay(math.inf), 10),
        (lambda: with_delay(math.nan), 10),
        (Lazy, 5),
        (Broken, 10),
        (Sentence, 10),
    ],
    ids=["timedelta", "negative", "60 days", "10**400", "inf", "nan", "of the class", "raises", "text"],
)
def test_whatever_delay_an_error_names(error: Callable[[], Recoverable], delay: float, concurrency: int) -> None:
    """It is kept if it is a time; else the retry policy decides. Neither stops other messages."""
    stage = Stage()
    stage.fail(error, concurrency)
    assert [delay] == stage.delays()
    assert [] == stage.held("failed")


class Angry:
    def next_delay(self, envelope: Envelope, error: Exception) -> float | None:
        raise KeyError("policy")


class Wordy:
    def next_delay(self, envelope: Envelope, error: Exception) -> Any:
        return "in a while"


class Endless:
    def next_delay(self, envelope: Envelope, error: Exception) -> float | None:
        return math.inf


class Polite:
    def next_delay(self, envelope: Envelope, error: Exception) -> Any:
        return timedelta(seconds=1)


@pytest.mark.parametrize("policy", [Angry(), Wordy(), Endless(), Polite()], ids=lambda one: type(one).__name__)
def test_whatever_a_retry_policy_does(policy: Any, concurrency: int, caplog: pytest.LogCaptureFixture) -> None:
    """The default policy stands in for one that raises, or returns what is no time."""
    stage = Stage(retry=policy)
    stage.fail(lambda: ValueError("no"), concurrency)
    assert [1] == stage.delays()
    assert isinstance(policy, Polite) is ("The retry policy of 'tasks' failed" not in caplog.text)


def test_without_delays_a_retry_comes_at_once(concurrency: int, caplog: pytest.LogCaptureFixture) -> None:
    """A transport that cannot delay a message gets the copy without; that is said once."""
    stage = Stage(tasks="undelayed://", retry={"max_retries": 2, "delay": 10})
    stage.fail(lambda: ValueError("no"), concurrency, attempts=3)
    assert [Task(13)] == [envelope.message for envelope in stage.held("failed")]
    assert 3 == len(stage.told(MessageBuried) + stage.told(MessageRetried))
    assert 1 == caplog.text.count("because it cannot delay any")


def test_a_dispatch_that_cannot_be_delayed_is_refused() -> None:
    """Where nothing has been stored yet, whoever asks for the delay is told."""
    stage = Stage(tasks="undelayed://")
    with pytest.raises(MessageRefused, match="'tasks' cannot delay a message"):
        stage.app.dispatch(Task(1), stamps.Delay(1))


# what a broker refuses


def no_delays(message: Outgoing) -> None:
    if message.delay:
        raise MessageRefused({0: "The user may not make delay queues."})


def no_long_names(message: Outgoing) -> None:
    if any(len(name.encode()) > 255 for name in message.headers):
        raise MessageRefused({0: "A header has a name of more than 255 bytes."})


def only_utf8(message: Outgoing) -> None:
    for name, value in message.headers.items():
        (name + value).encode()


def only_small(message: Outgoing) -> None:
    if sum(map(len, [*message.headers, *message.headers.values()])) > 1500:
        raise MessageRefused({0: "The message is too large."})


def nothing(message: Outgoing) -> None:
    raise MessageRefused({0: "No."})


def no_copies(message: Outgoing) -> None:
    if "X-Message-Stamp-retried" in message.headers or "X-Message-Stamp-buried" in message.headers:
        raise MessageRefused({0: "No copies."})


def test_a_delay_that_is_refused_is_left_out(concurrency: int, caplog: pytest.LogCaptureFixture) -> None:
    """A broker that turns out to take no delayed messages gets the copy without a delay, counted."""
    stage = Stage()
    stage.refuse("tasks", no_delays)
    stage.fail(lambda: ValueError("no"), concurrency)
    [copy] = stage.held("tasks")
    assert [0] == stage.delays()
    assert 1 == copy.last(stamps.Retried).count  # type: ignore[union-attr]
    assert (
        "without its delay, because it cannot be stored otherwise: The user may not make delay queues." in caplog.text
    )


def test_what_its_errors_say_is_given_up_before_the_message(concurrency: int, caplog: pytest.LogCaptureFixture) -> None:
    """A copy that is too large loses most of what is ours; its body, and which error it was, stay."""
    stage = Stage()
    stage.refuse("tasks", only_small)
    stage.refuse("failed", only_small)
    stage.fail(lambda: Unrecoverable("long" * 1000), concurrency)
    [buried] = stage.held("failed")
    assert Task(13) == buried.message
    [details] = buried.all(stamps.ErrorDetails)
    assert ("postbus.errors.Unrecoverable", None) == (details.type, details.traceback)
    assert details.message.startswith("longlong")
    assert "without most of what its errors say" in caplog.text


@pytest.mark.parametrize(
    ("name", "refuse", "comes_back_as"),
    [("n" * 300, no_long_names, "n" * 300), ("n\udcff", only_utf8, "n\\udcff")],
    ids=["300 bytes", "no UTF-8"],
)
def test_a_header_that_the_failure_transport_has_no_form_for(
    name: str, refuse: Refuse, comes_back_as: str, concurrency: int
) -> None:
    """The message is buried as body and headers alone, and read as before."""
    stage = Stage()
    stage.refuse("failed", refuse)
    stage.app.handler(lambda task: None, handles=Task)
    headers = stage.transport("tasks").serializer.encode(Envelope(Task(13))).headers
    stage.transport("tasks").connection.publish([Outgoing(b"{", headers | {name: "value"})])
    stage.app.dispatch_many(Task(number) for number in range(OTHERS))
    stage.run(OTHERS + 1, concurrency)
    assert [] == stage.held("tasks")
    [buried] = stage.held("failed")
    assert isinstance(buried.message, Undecodable)
    assert b"{" == buried.message.body
    assert "value" == buried.message.headers[comes_back_as]
    assert headers["type"] == buried.message.headers["type"]
    assert stamps.Buried("tasks") == buried.last(stamps.Buried)


def test_what_is_buried_alone_can_be_retried(concurrency: int) -> None:
    """What was kept as body and headers alone is handled when it is tried again."""
    stage = Stage()
    stage.refuse("failed", no_long_names)
    handled: list[int] = []
    is_broken = True

    @stage.app.handler
    def handle(task: Task) -> None:
        if is_broken:
            raise Unrecoverable("never")
        handled.append(task.number)

    body, headers = stage.transport("tasks").serializer.encode(Envelope(Task(13)))
    stage.transport("tasks").connection.publish([Outgoing(body, headers | {"n" * 300: "value"})])
    stage.run(1, concurrency)
    is_broken = False
    stage.run(1, concurrency, "failed")
    assert [13] == handled


def test_what_is_stored_nowhere_comes_again_later_each_time(concurrency: int) -> None:
    """A message that the failure transport does not take in any form goes back to where it came from, with a delay."""
    stage = Stage()
    stage.refuse("failed", nothing)
    stage.fail(lambda: Unrecoverable("never"), concurrency)
    delays = stage.delays()
    for _ in range(3):
        stage.move(10)
        stage.run(1, concurrency)
        delays += stage.delays()
    assert [1, 2, 4, 8] == delays
    assert [Task(13)] == [envelope.message for envelope in stage.held("tasks")]


@pytest.mark.parametrize("error", [TransportError("The store is full."), ConnectionLost("It is away.")], ids=repr)
def test_a_failure_transport_that_takes_nothing_stops_nobody(error: TransportError, concurrency: int) -> None:
    """What fails waits with its broker, and is buried when the failure transport is well again."""
    stage = Stage()

    def refuse(message: Outgoing) -> None:
        raise error

    stage.refuse("failed", refuse)
    stage.fail(lambda: Unrecoverable("never"), concurrency)
    assert [Task(13)] == [envelope.message for envelope in stage.held("tasks")]
    stage.refuse("failed", take)
    stage.move(10)
    stage.run(1, concurrency)
    assert [] == stage.held("tasks")
    assert [Task(13)] == [envelope.message for envelope in stage.held("failed")]


def test_a_transport_that_is_lost_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every message that fails has to find out that the failure transport cannot be reached."""
    monkeypatch.setattr(Failures, "FIRST_PAUSE", 3600.0)
    monkeypatch.setattr(Failures, "LONGEST_PAUSE", 3600.0)
    stage = Stage()
    tries: list[Outgoing] = []

    def be_away(message: Outgoing) -> None:
        tries.append(message)
        raise ConnectionLost("It is away.")

    stage.refuse("failed", be_away)

    @stage.app.handler
    def fail(task: Task) -> None:
        raise Unrecoverable("never")

    stage.app.dispatch_many(Task(number) for number in range(20))
    stage.run(20)
    assert 2 == len(tries)  # On the connection, and on a fresh one.
    assert 20 == len(stage.held("tasks"))


def test_while_nobody_takes_a_copy_others_are_handled(concurrency: int, caplog: pytest.LogCaptureFixture) -> None:
    """Neither its own transport nor the failure transport takes one: the worker keeps it, and gives it back later."""
    stage = Stage()
    stage.refuse("tasks", no_copies)
    stage.refuse("failed", no_copies)
    stage.fail(lambda: ValueError("no"), concurrency)
    assert [Task(13)] == [envelope.message for envelope in stage.held("tasks")]
    assert [0] == stage.delays()
    assert "back to its broker in 1 s, because what is to become of it cannot be stored" in caplog.text


def test_what_rests_is_in_nobodys_way(concurrency: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a message rests that nobody takes, what comes behind it is handled, and it does not come again."""
    monkeypatch.setattr(Deliveries, "FIRST_REST", 3600.0)
    monkeypatch.setattr(Deliveries, "LONGEST_REST", 3600.0)
    stage = Stage(failed=None)
    stage.refuse("tasks", no_copies)
    handled = threading.Event()
    seen: list[int] = []

    @stage.app.handler
    def handle(task: Task) -> None:
        seen.append(task.number)
        if len(seen) > OTHERS:
            handled.set()
        if task.number == 0:
            raise ValueError("no")

    stage.app.dispatch(Task(0))
    worker = stage.app.worker("tasks", concurrency=concurrency)
    working = threading.Thread(target=worker.run, daemon=True)
    working.start()
    for number in range(1, OTHERS + 1):
        stage.app.dispatch(Task(number))
    assert handled.wait(PATIENCE)
    worker.stop()
    working.join(PATIENCE)
    assert not working.is_alive()
    assert [*range(OTHERS + 1)] == sorted(seen)
    assert [Task(0)] == [envelope.message for envelope in stage.held("tasks")]


def test_what_rested_is_given_back(concurrency: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its rest it comes again, and is dealt with when that is possible."""
    monkeypatch.setattr(Deliveries, "FIRST_REST", 0.05)
    stage = Stage()
    stage.refuse("tasks", no_copies)
    stage.refuse("failed", no_copies)
    seen: list[int] = []

    @stage.app.handler
    def handle(task: Task) -> None:
        seen.append(task.number)
        if len(seen) == 3:
            stage.refuse("failed", take)
        raise Unrecoverable("never")

    stage.app.dispatch(Task(13))
    stage.run(3, concurrency)
    assert [13, 13, 13] == seen
    assert [] == stage.held("tasks")
    assert [Task(13)] == [envelope.message for envelope in stage.held("failed")]


# what an error does when it is looked at


class Mute(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError("no text")

    __repr__ = __str__


class Exiting(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class Masked(Exception):
    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise ZeroDivisionError("no class")


class Hollow(ExceptionGroup[Exception]):
    @property
    def exceptions(self) -> Any:
        raise ZeroDivisionError("nothing inside")


def nested() -> Exception:
    error: Exception = ValueError("innermost")
    for _ in range(500):
        error = ExceptionGroup("group", [error])
    return error


def circular() -> Exception:
    error, cause = ValueError("error"), KeyError("cause")
    error.__cause__, cause.__cause__ = cause, error
    error.__context__, cause.__context__ = cause, error
    return error


def long_chain() -> Exception:
    error = ValueError("first")
    for _ in range(5000):
        following = ValueError("next")
        following.__cause__ = error
        error = following
    return error


@pytest.mark.parametrize(
    "error",
    [
        Mute,
        Exiting,
        Masked,
        lambda: Hollow("group", [ValueError()]),
        nested,
        circular,
        long_chain,
        lambda: ValueError(10**1_000_000),
        lambda: ValueError("3 MB" * 750_000),
        lambda: ValueError("caf\udce9"),
        lambda: Unrecoverable("3 MB" * 750_000),
    ],
    ids=[
        "text",
        "exit",
        "class",
        "inside",
        "groups",
        "circle",
        "chain",
        "digits",
        "3 MB",
        "half",
        "3 MB unrecoverable",
    ],
)
def test_whatever_an_error_does_when_it_is_looked_at(error: Callable[[], Exception], concurrency: int) -> None:
    """Its message fails as any other, other messages are handled, and what is kept of it is short."""
    stage = Stage(retry={"max_retries": 1, "delay": 10})
    stage.fail(error, concurrency)
    stage.move(11)
    if not stage.held("failed"):
        stage.run(1, concurrency)
    [buried] = stage.held("failed")
    assert Task(13) == buried.message
    kind = type(error())
    for details in buried.all(stamps.ErrorDetails):
        assert kind in (Masked, Hollow) or qualified_name(kind) == details.type
        assert len(details.message.encode()) <= LONGEST_TEXT
        assert len((details.traceback or "").encode()) <= LONGEST_TRACEBACK


def test_an_observer_that_wants_to_exit_ends_nothing(concurrency: int) -> None:
    """Whatever an observer raises about a message, that one fails or not as before, and others are handled."""
    stage = Stage()

    @stage.app.observe
    def leave(event: object) -> None:
        raise SystemExit(3)

    stage.fail(lambda: Unrecoverable("never"), concurrency)
    assert [Task(13)] == [envelope.message for envelope in stage.held("failed")]


# who has the original


def test_a_lease_that_was_lost_is_no_failure_of_storing(concurrency: int) -> None:
    """Then the message is somebody else's: no copy is stored anywhere, and nothing is settled."""
    stage = Stage()

    @stage.app.handler
    def rob(task: Task) -> None:
        queue = stage.brokers.queues["tasks"]
        stage.transport("tasks").connection.release(list(queue.in_flight))
        raise ValueError("no")

    stage.app.dispatch(Task(13))
    stage.run(1, concurrency)
    assert 1 == len(stage.told(LeaseLost))
    assert [Task(13)] == [envelope.message for envelope in stage.held("tasks")]
    assert [] == stage.held("failed")
    assert [] == stage.told(MessageRetried)


def test_a_copy_that_is_stored_is_stored_once(concurrency: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the original cannot be acknowledged just then, that is owed, and no other copy is made."""
    stage = Stage()
    ack, calls = InMemoryConnection.ack, list[int]()

    def ack_later(connection: InMemoryConnection, tags: Sequence[int]) -> Sequence[int]:
        calls.append(len(tags))
        if len(calls) <= 2:
            raise ConnectionLost("It is away.")
        return ack(connection, tags)

    monkeypatch.setattr(InMemoryConnection, "ack", ack_later)

    @stage.app.handler
    def fail(task: Task) -> None:
        raise Unrecoverable("never")

    stage.app.dispatch(Task(13))
    stage.run(1, concurrency)
    assert [] == stage.held("tasks")
    assert [Task(13)] == [envelope.message for envelope in stage.held("failed")]


def test_what_is_dropped_is_logged_though_it_cannot_be_written(concurrency: int, caplog: Any) -> None:
    """The log is the last to see it, so it says what it can, and goes on."""
    stage = Stage(failed=None, retry={"max_retries": 0})

    class Strange(stamps.Stamp):
        wire_name = "strange"
        value: Any

    def spoil(envelope: Envelope) -> None:
        raise ZeroDivisionError("cannot be written")

    stage.transport("tasks").serializer.encode = spoil
    body = b'{"number": 13}'
    headers = {"type": f"{Task.__module__}.{Task.__qualname__}"}
    stage.app.handler(lambda task: 1 / 0, handles=Task)
    stage.transport("tasks").connection.publish([Outgoing(body, headers)])
    stage.run(1, concurrency)
    [dropped] = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert "(it cannot be written: cannot be written) b'{\"number\": 13}'" in dropped.getMessage()
    assert [] == stage.held("tasks")


# what waits for longer than its broker can


def test_a_delay_that_the_broker_cannot_keep_is_carried(concurrency: int) -> None:
    """The message is stored with the longest delay there is; a worker that gets it too early sends it on."""
    stage = Stage(tasks="impatient://")
    handled: list[int] = []
    stage.app.handler(lambda task: handled.append(task.number), handles=Task)
    sent = stage.app.dispatch(Task(13), stamps.Delay(1000))
    assert [900] == stage.delays()
    [waiting] = stage.held("tasks")
    not_before = waiting.last(stamps.NotBefore)
    assert not_before is not None
    assert abs(not_before.at - datetime.now(UTC) - timedelta(seconds=1000)) < timedelta(seconds=PATIENCE)

    stage.move(901)
    worker = stage.app.worker("tasks", concurrency=concurrency)
    stage.app.observe(lambda event: worker.stop() if isinstance(event, MessagePostponed) else None)
    worker.run()
    assert [] == handled
    assert [] == stage.told(MessageReceived)
    [postponed] = stage.told(MessagePostponed)
    assert 900 < postponed.delay <= 1000  # The clock of the queue was moved, not that of the machine.
    [waiting] = stage.held("tasks")
    assert None is waiting.last(stamps.Retried)
    assert sent.last(stamps.MessageId) == waiting.last(stamps.MessageId)


def test_a_retry_is_carried_as_well(concurrency: int) -> None:
    """It is counted once, however often it is sent on."""
    stage = Stage(tasks="impatient://")
    stage.fail(lambda: with_delay(timedelta(days=60)), concurrency)
    assert [900] == stage.delays()
    [waiting] = stage.held("tasks")
    assert 1 == waiting.last(stamps.Retried).count  # type: ignore[union-attr]


def test_what_has_waited_is_handled(concurrency: int) -> None:
    """Once its time has come, the message is handled as any other."""
    stage = Stage(tasks="impatient://")
    handled: list[int] = []
    stage.app.handler(lambda task: handled.append(task.number), handles=Task)
    stage.app.dispatch(Task(13), stamps.NotBefore(datetime(2020, 1, 1, tzinfo=UTC)))
    stage.run(1, concurrency)
    assert [13] == handled


@pytest.mark.parametrize("tasks", ["picky://", "impatient://"])
@pytest.mark.parametrize("delay", [101 * 365 * 86400.0, 1e20, 1e300])
def test_a_delay_beyond_all_calendars_is_refused(tasks: str, delay: float) -> None:
    """Whoever dispatches it is told in a sentence."""
    stage = Stage(tasks=tasks)
    with pytest.raises(MessageRefused, match="'tasks' can delay a message for 100 years, not for"):
        stage.app.dispatch(Task(1), stamps.Delay(delay))
    stage.app.dispatch(Task(1), stamps.Delay(99 * 365 * 86400.0))


# what another worker may know


def test_a_message_of_an_unknown_type_comes_again_before_it_is_buried(concurrency: int) -> None:
    """While workers are replaced, the next one may know it; after a few times it is buried as it came."""
    stage = Stage()
    stage.transport("tasks").connection.publish([Outgoing(b'{"n": 1}', {"type": "news.Thing"})])
    for delay in (10, 60, 360):
        stage.run(1, concurrency)
        assert [] == stage.held("failed")
        assert [pytest.approx(delay, rel=UNKNOWN_TYPE.jitter + 0.05)] == stage.delays()
        stage.move(delay * 1.2)
    stage.run(1, concurrency)
    [buried] = stage.held("failed")
    assert isinstance(buried.message, Undecodable)
    assert (b'{"n": 1}', "news.Thing") == (buried.message.body, buried.message.headers["type"])


def test_a_message_that_the_next_worker_knows_is_handled(concurrency: int) -> None:
    """Nothing of it is lost by then."""
    stage = Stage()
    stage.transport("tasks").connection.publish([Outgoing(b'{"number": 13}', {"type": "news.Task"})])
    stage.run(1, concurrency)
    handled: list[int] = []
    stage.app.message("news.Task")(Task)
    stage.app.handler(lambda task: handled.append(task.number), handles=Task)
    stage.move(20)
    stage.run(1, concurrency)
    assert [13] == handled
