"""One message stops nobody: on real brokers, fifty others are handled while one cannot be kept as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from postbus import Envelope, Limits, Postbus, Recoverable, Unrecoverable, stamps
from postbus.events import MessageBuried, MessageRetried
from postbus.transport import Outgoing

pytestmark = [pytest.mark.slow, pytest.mark.once]

BROKERS = ["sqlite", "redis", "rabbitmq"]

OTHERS = 50


@dataclass(frozen=True)
class Task:
    number: int


@pytest.fixture
def dsn_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, str], str]:
    """Return the DSN of a queue of this test's own on a broker."""
    test = uuid4().hex[:8]

    def dsn_of(broker: str, queue: str) -> str:
        if broker == "sqlite":
            return f"sqlite:///{tmp_path}/{test}.db?queue_name={queue}"
        fixture = "redis_plain" if broker == "redis" else broker
        return f"{request.getfixturevalue(fixture).dsn}/{queue}-{test}"

    return dsn_of


class Stage:
    """An app, and the messages that it retried and buried."""

    def __init__(self, tasks: str, failed: str) -> None:
        self.app = Postbus(
            transports={"tasks": tasks, "failed": failed},
            routing={"*": "tasks"},
            failure_transport="failed",
            retry={"max_retries": 1, "delay": 300},
        )
        self.retried: list[MessageRetried] = []
        self.buried: list[MessageBuried] = []
        self.app.observe(self._note)

    def _note(self, event: object) -> None:
        if isinstance(event, MessageRetried):
            self.retried.append(event)
        elif isinstance(event, MessageBuried):
            self.buried.append(event)

    def fail(self, error: Callable[[], Exception], concurrency: int) -> None:
        """Handle a message that fails, between others that do not, each of which must be handled in the same run."""
        handled: list[int] = []

        @self.app.handler
        def handle(task: Task) -> None:
            if task.number == 13:
                raise error()
            handled.append(task.number)

        self.app.dispatch_many(Task(number) for number in range(OTHERS + 1))
        self.app.worker("tasks", concurrency=concurrency, limits=Limits(messages=OTHERS + 1)).run()
        assert sorted({*range(OTHERS + 1)} - {13}) == sorted(handled)

    def receive(self, name: str) -> list[Envelope]:
        transport: Any = self.app.transport(name)
        received: list[Envelope] = transport.receive(10, 10.0)
        transport.ack(received)
        return received


@pytest.fixture
def stage(dsn_of: Any) -> Iterator[Callable[..., Stage]]:
    made: list[Stage] = []

    def make(broker: str, failed: str | None = None) -> Stage:
        made.append(Stage(dsn_of(broker, "tasks"), dsn_of(failed or broker, "failed")))
        return made[-1]

    yield make
    for one in made:
        one.app.close()


def named(delay: Any) -> Recoverable:
    error = Recoverable("later")
    error.delay = delay
    return error


def nested() -> Exception:
    error: Exception = Unrecoverable("innermost")
    for _ in range(500):
        error = ExceptionGroup("group", [error])
    return error


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize(
    ("delay", "kept"),
    [(timedelta(seconds=5), 5), (timedelta(days=60), 60 * 86_400), (math.inf, 300), (math.nan, 300)],
    ids=["timedelta", "60 days", "inf", "nan"],
)
def test_whatever_delay_an_error_names(
    broker: str, delay: Any, kept: float, concurrency: int, stage: Callable[..., Stage]
) -> None:
    """A time is kept, however long, and for what is none the policy decides."""
    one = stage(broker)
    one.fail(lambda: named(delay), concurrency)
    [retried] = one.retried
    assert kept == pytest.approx(retried.delay, rel=0.11)
    assert [] == one.buried


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("error", [lambda: Unrecoverable("3 MB" * 750_000), nested], ids=["3 MB", "500 groups"])
def test_whatever_an_error_says(broker: str, error: Any, stage: Callable[..., Stage]) -> None:
    """It is buried with a text that its broker can take."""
    one = stage(broker)
    one.fail(error, 3)
    [buried] = one.receive("failed")
    assert Task(13) == buried.message
    assert all(len(details.message) <= 4096 for details in buried.all(stamps.ErrorDetails))


@pytest.mark.parametrize("broker", ["redis", "sqlite"])
def test_a_header_with_a_long_name_is_buried_on_rabbitmq(broker: str, stage: Callable[..., Stage]) -> None:
    """AMQP has no form for a name of 300 bytes; the message is kept all the same, and nobody waits for it."""
    one = stage(broker, "rabbitmq")
    tasks: Any = one.app.transport("tasks")
    body, headers = tasks.serializer.encode(Envelope(Task(13)))
    tasks.connection.publish([Outgoing(body[:-1], headers | {"n" * 300: "value"})])
    one.app.handler(lambda task: None, handles=Task)
    one.app.dispatch_many(Task(number) for number in range(OTHERS))
    stopped = one.app.worker("tasks", limits=Limits(messages=OTHERS + 1)).run()
    assert (OTHERS, 1) == (stopped.handled, stopped.failed)
    [buried] = one.receive("failed")
    assert body[:-1] == buried.message.body
    assert "value" == buried.message.headers["n" * 300]


def test_a_user_who_may_not_make_delay_queues(rabbitmq: Any, dsn_of: Any, stage: Callable[..., Stage]) -> None:
    """What cannot be delayed stays with its broker, and nobody waits for it."""
    stage("rabbitmq").app.transport("tasks").connection.setup()  # type: ignore[attr-defined]
    user = f"user-{uuid4().hex[:8]}"
    rabbitmq.manage("PUT", f"users/{user}", {"password": "secret", "tags": ""})
    rabbitmq.manage("PUT", f"permissions/%2f/{user}", {"configure": "", "write": ".*", "read": ".*"})
    tasks = dsn_of("rabbitmq", "tasks")
    one = Stage(f"{tasks.replace('guest:guest', f'{user}:secret')}?auto_setup=false", "in-memory://")
    one.fail(lambda: ValueError("no"), 3)
    one.app.close()
    other = stage("rabbitmq")
    other.app.handler(lambda task: None, handles=Task)
    assert [Task(13)] == [envelope.message for envelope in other.receive("tasks")]


def test_a_delay_that_rabbitmq_cannot_keep_is_carried(stage: Callable[..., Stage]) -> None:
    """What is to wait for longer than a delay queue can is stored all the same, and says until when."""
    one = stage("rabbitmq")
    one.app.dispatch(Task(1), stamps.Delay(60 * 86_400))
    one.app.dispatch(Task(2), stamps.NotBefore(datetime.now(UTC) + timedelta(days=60)))
    handled: list[int] = []

    @one.app.handler
    def handle(task: Task) -> None:
        handled.append(task.number)

    one.app.dispatch(Task(3))
    one.app.worker("tasks", limits=Limits(messages=1)).run()
    assert [3] == handled
