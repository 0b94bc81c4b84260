"""`Transaction`: what handlers write, and the end of their message, are one step."""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DBAPIError

from postbus import Limits, Postbus
from postbus.errors import HandlerFailed, PostbusError, TransportError
from postbus.stamps import AfterCurrent
from postbus.testing.subject import Note
from postbus_sql import stamps
from postbus_sql.transaction import Transaction
from tests.brokers.broker import Brokers
from tests.brokers.server import wait_until

DATABASES = [
    "file",
    pytest.param("postgresql", marks=pytest.mark.slow),
    pytest.param("mariadb", marks=pytest.mark.slow),
]


def until(condition: Callable[[], bool]) -> None:
    """Return when something is so."""
    wait_until(condition, "It has not come to that.", 60)


class Stage:
    """An app with one queue in a database, and a table beside it."""

    def __init__(self, dsn: str, url: str, queue: str) -> None:
        self.engine = create_engine(url)
        if self.engine.dialect.name == "sqlite":
            # Waiting for a busy disk at each commit takes minutes, and only a power failure would show it.
            event.listen(self.engine, "connect", lambda driver, _: driver.execute("PRAGMA synchronous = normal"))
        self.queue = queue
        self.table = f"effects_{uuid4().hex[:12]}"
        with self.engine.begin() as connection:
            connection.execute(text(f"CREATE TABLE {self.table} (what varchar(100) NOT NULL)"))
        self.transaction = Transaction(self.engine)
        self.app = Postbus(
            transports={"notes": {"dsn": dsn, "retry": {"delay": 0.0}}, "failed": f"{dsn}&queue_name=failed"},
            failure_transport="failed",
            routing={Note: "notes"},
            buses={"default": {"middleware": [self.transaction]}},
        )

    def note(self, what: str) -> None:
        """Write into the table, as a handler does."""
        self.transaction.session.execute(text(f"INSERT INTO {self.table} VALUES (:what)"), {"what": what})

    def noted(self) -> list[str]:
        """Return what was written."""
        with self.engine.connect() as connection:
            return sorted(connection.execute(text(f"SELECT what FROM {self.table}")).scalars())

    def left(self) -> tuple[int, int | None, int | None]:
        """Return how many messages wait, are delayed and in flight."""
        counts = self.app.transport("notes").connection.count()
        return counts.waiting, counts.delayed, counts.in_flight

    def buried(self) -> list[str]:
        """Return what is in the failure transport."""
        failed = self.app.transport("failed").connection.browse(1000)
        return [msgspec.json.decode(one.body, type=Note).text for one in failed]

    def let_leases_run_out(self) -> None:
        """Let so much time go by; a server may still be claiming for somebody dead, and that lasts for seconds."""
        run_out = f"UPDATE {self.queue} SET delivered_at = '2000-01-01 00:00:00' WHERE delivered_at IS NOT NULL"
        with self.engine.begin() as connection:
            connection.execute(text(run_out))

    def work(self, messages: int = 1) -> None:
        """Let a worker handle some."""
        self.app.worker("notes", limits=Limits(messages=messages)).run()


@pytest.fixture(params=DATABASES)
def stage(request: pytest.FixtureRequest, tmp_path: Path, brokers: Brokers) -> Iterator[Stage]:
    """Give a stage on each database."""
    if request.param == "file":
        file, queue = f"sqlite:///{tmp_path}/app.db", "messenger_messages"
        stage = Stage(f"{file}?synchronous=normal&redeliver_timeout=5", file, queue)
    else:
        dsn = brokers[request.param].dsn
        driver = {"postgresql": "postgresql+psycopg", "mariadb": "mysql+pymysql"}[request.param]
        queue = f"test_{uuid4().hex[:12]}"
        options = f"table_name={queue}&redeliver_timeout=5"
        stage = Stage(f"{dsn}?{options}", dsn.replace(dsn.partition(":")[0], driver, 1), queue)
    yield stage
    stage.app.close()
    stage.engine.dispose()


def test_what_a_handler_writes_is_there_once_its_message_has_gone(stage: Stage) -> None:
    """Both are one commit, and the worker's own acknowledgement finds nothing to do."""

    @stage.app.handler
    def write(note: Note) -> None:
        stage.note(note.text)

    stage.app.dispatch(Note("written"))
    stage.work()

    assert (["written"], (0, 0, 0)) == (stage.noted(), stage.left())


def test_a_failure_undoes_what_all_handlers_wrote_and_all_run_again(stage: Stage) -> None:
    """A handler that had succeeded is run again, because its work was undone with that of the other."""
    attempts: list[str] = []

    @stage.app.handler
    def write(note: Note) -> None:
        attempts.append("write")
        stage.note(note.text)

    @stage.app.handler
    def fail_once(note: Note) -> None:
        attempts.append("fail")
        if attempts.count("fail") == 1:
            raise ValueError("once")

    stage.app.dispatch(Note("written"))
    stage.work(2)

    assert (["written"], (0, 0, 0)) == (stage.noted(), stage.left())
    assert ["write", "fail"] * 2 == attempts


def test_what_is_dispatched_in_the_transaction_is_a_part_of_it(stage: Stage) -> None:
    """A message that a handler sends with the session is there only if the handler's own one has succeeded."""

    @stage.app.handler
    def follow(note: Note) -> None:
        if note.text.startswith("first"):
            stage.app.dispatch(Note(f"after {note.text}"), stamps.Transaction(stage.transaction.session))
            stage.note(note.text)
            if note.text == "first, in vain" and len(failures) < 1:
                failures.append(note.text)
                raise ValueError("once")
        else:
            stage.note(note.text)

    failures: list[str] = []
    stage.app.dispatch(Note("first, in vain"))
    stage.work(3)

    assert ["after first, in vain", "first, in vain"] == stage.noted()
    assert (0, 0, 0) == stage.left()


def test_what_is_sent_only_afterwards_keeps_the_message_until_then(stage: Stage) -> None:
    """It exists nowhere else yet: if it cannot be sent, the message is there to be handled again."""
    attempts: list[str] = []

    @stage.app.handler
    def follow(note: Note) -> None:
        attempts.append(note.text)
        stage.note(note.text)
        if note.text == "first":
            # A connection is no transaction, so this one is refused once it is sent.
            refused = [stamps.Transaction(None)] if len(attempts) == 1 else []  # type: ignore[arg-type]
            stage.app.dispatch(Note("after"), AfterCurrent(), *refused)

    stage.app.dispatch(Note("first"))
    stage.work(3)

    assert ["first", "first", "after"] == attempts
    assert (0, 0, 0) == stage.left()


def test_a_message_that_is_somebody_elses_by_now_leaves_nothing(stage: Stage) -> None:
    """A worker whose lease was lost while it handled rolls back: the other one writes."""
    connection = stage.app.transport("notes").connection

    @stage.app.handler
    def lose(note: Note) -> None:
        stage.note("too late")
        if stage.engine.dialect.name == "sqlite":  # It has one writer, which is this one now.
            stage.transaction.session.rollback()
        [shown] = connection.browse(1)
        connection.remove([shown.id])

    stage.app.dispatch(Note("lost"))
    stage.work()

    assert [] == [what for what in stage.noted() if stage.engine.dialect.name != "sqlite"]


def test_a_message_that_is_handled_at_once_has_a_transaction_too(stage: Stage) -> None:
    """Where nothing was received there is nothing to acknowledge; a failure undoes all the same."""
    app = Postbus(buses={"default": {"middleware": [stage.transaction]}})

    @app.handler
    def write(note: Note) -> None:
        stage.note(note.text)
        if note.text == "bad":
            raise ValueError(note.text)

    app.dispatch(Note("good"))
    with pytest.raises(HandlerFailed, match="bad"):
        app.dispatch(Note("bad"))

    assert ["good"] == stage.noted()


def test_outside_of_a_handler_there_is_no_session(stage: Stage) -> None:
    """The error says where to use it."""
    with pytest.raises(PostbusError, match="no message is being handled. Use it in a handler"):
        assert stage.transaction.session


@pytest.mark.broker
@pytest.mark.slow
def test_an_error_that_was_swallowed_is_not_committed(brokers: Brokers) -> None:
    """PostgreSQL would roll back at the commit, and say nothing; so the message fails instead."""
    engine = create_engine(brokers["postgresql"].dsn.replace("postgresql:", "postgresql+psycopg:", 1))
    transaction = Transaction(engine)
    app = Postbus(buses={"default": {"middleware": [transaction]}})

    @app.handler
    def swallow(note: Note) -> None:
        with suppress(DBAPIError):  # What somebody does who means well.
            transaction.session.execute(text("SELECT 1 / 0"))

    with pytest.raises(TransportError, match="its error was swallowed"):
        app.dispatch(Note("lost"))
    engine.dispose()


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system does not fork.")
def test_killed_workers_write_each_message_once(stage: Stage) -> None:
    """Wherever a worker dies, what its handler wrote and the end of the message are both there, or neither.

    A message that several died with is buried, as nobody knows that it is innocent; then nothing of it was written.
    """
    number = 200
    chance = random.Random(1)
    stage.app.dispatch_many([Note(f"{n:04}") for n in range(number)])

    @stage.app.handler
    def write(note: Note) -> None:
        stage.note(note.text)
        time.sleep(0.002)

    def ended() -> list[str]:
        return sorted(stage.noted() + stage.buried())

    for more in [*(chance.randint(1, 20) for _ in range(12)), number]:
        goal = min(len(ended()) + more, number)
        with killed_worker(stage):
            until(lambda goal=goal: len(ended()) >= goal)
        stage.let_leases_run_out()

    assert [f"{n:04}" for n in range(number)] == ended()
    assert (0, 0, 0) == stage.left()


@contextmanager
def killed_worker(stage: Stage) -> Iterator[None]:
    """Let a process work until this ends, and kill it then."""
    stage.engine.dispose()  # A process must not inherit a connection to SQLite.
    child = os.fork()
    if child == 0:
        signal.alarm(120)  # It must not outlive the test, whatever happens to that.
        try:
            stage.app.worker("notes").run()
        except BaseException:
            traceback.print_exc()  # This is the child, which must end here whatever happens.
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
