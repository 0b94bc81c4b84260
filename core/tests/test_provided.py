"""What handlers need beside their messages, and what is done around workers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from postbus import Envelope, Limits, Postbus
from postbus.errors import ConfigurationError, HandlerFailed, StartFailed

told: list[str] = []


@dataclass(frozen=True)
class Order:
    number: int


class Database:
    """What is made once."""


class Mailer:
    """What is made once, too."""


@pytest.fixture(autouse=True)
def _told() -> None:
    told.clear()


@pytest.fixture
def app() -> Postbus:
    return Postbus(transports={"orders": "in-memory://"}, routing={"*": "orders"})


def make_database() -> Iterator[Database]:
    told.append("open")
    yield Database()
    told.append("close")


def work(app: Postbus) -> None:
    app.worker(limits=Limits(idle=0, time=60)).run()


def test_a_handler_gets_what_is_provided(app: Postbus) -> None:
    """Each parameter that is annotated with the class gets the one object; made once, closed with the app."""
    given: list[object] = []
    app.provide(Database, make_database)

    @app.handler
    def handle(order: Order, database: Database) -> None:
        given.append(database)

    @app.handler
    def handle_too(order: Order, envelope: Envelope, *, database: Database) -> None:
        given.append(database)
        assert envelope.message == order

    app.dispatch_many([Order(1), Order(2)])
    assert not told
    work(app)

    assert isinstance(given[0], Database)
    assert 4 == len(given)
    assert 1 == len({id(one) for one in given})
    assert ["open"] == told
    app.close()
    app.close()
    assert ["open", "close"] == told


def test_it_is_made_at_first_use_without_a_worker() -> None:
    """Where messages are handled at once, too; and made anew after the app was closed."""
    app = Postbus()
    app.provide(Database, make_database)

    @app.handler
    def handle(order: Order, database: Database) -> None: ...

    with app:
        app.dispatch(Order(1))
        app.dispatch(Order(2))
    assert ["open", "close"] == told
    app.dispatch(Order(3))
    assert ["open", "close", "open"] == told


@contextmanager
def opened() -> Iterator[Database]:
    with contextmanager(make_database)() as database:
        yield database


class Maker:
    def make(self) -> Iterator[Database]:
        yield from make_database()


@pytest.mark.parametrize(
    "factory", [opened, Maker().make, partial(make_database)], ids=["context", "method", "partial"]
)
def test_what_closes(factory: Any) -> None:
    """A context manager, and a generator in whatever form, gives what it yields, and is closed."""
    app = Postbus()
    app.provide(Database, factory)

    @app.handler
    def handle(order: Order, database: Database) -> None:
        assert isinstance(database, Database)

    with app:
        app.dispatch(Order(1))
    assert ["open", "close"] == told


def test_async_factories_run_on_the_loop_of_the_handlers(app: Postbus) -> None:
    """What belongs to an event loop is made, used and closed on the same one."""
    loops: list[object] = []

    async def make_database() -> AsyncIterator[Database]:
        loops.append(asyncio.get_running_loop())
        yield Database()
        loops.append(asyncio.get_running_loop())

    async def make_mailer() -> Mailer:
        loops.append(asyncio.get_running_loop())
        return Mailer()

    app.provide(Database, make_database)
    app.provide(Mailer, make_mailer)

    @app.handler
    async def handle(order: Order, database: Database, mailer: Mailer) -> None:
        assert (Database, Mailer) == (type(database), type(mailer))
        loops.append(asyncio.get_running_loop())

    app.dispatch(Order(1))
    work(app)
    app.close()

    assert 4 == len(loops)
    assert 1 == len(set(loops))


def test_the_last_made_is_closed_first_and_an_error_keeps_no_other(
    app: Postbus, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be closed is logged."""

    def make_mailer() -> Iterator[Mailer]:
        yield Mailer()
        told.append("mailer")
        raise OSError("gone")

    app.provide(Database, make_database)
    app.provide(Mailer, make_mailer)

    @app.handler
    def handle(order: Order, database: Database, mailer: Mailer) -> None: ...

    work(app)
    app.close()

    assert ["open", "mailer", "close"] == told
    assert ["Closing Mailer failed."] == [record.getMessage() for record in caplog.records]


def test_a_forked_process_has_its_own(app: Postbus) -> None:
    """A child makes its own, and closes nothing of its parent's."""
    numbers: list[int] = []

    def make_pid() -> Iterator[Database]:
        database = Database()
        numbers.append(os.getpid())
        yield database
        told.append("closed")

    app = Postbus()
    app.provide(Database, make_pid)

    @app.handler
    def handle(order: Order, database: Database) -> None: ...

    app.dispatch(Order(1))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            app.dispatch(Order(2))
            is_own = numbers == [os.getppid(), os.getpid()]
            app.close()
            code = 0 if is_own and told == ["closed"] else 1
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)

    assert 0 == os.waitstatus_to_exitcode(status)
    assert [] == told


def test_a_child_closes_nothing_of_its_parents() -> None:
    """A process that was forked and has made nothing closes nothing."""
    app = Postbus()
    app.provide(Database, make_database)

    @app.handler
    def handle(order: Order, database: Database) -> None: ...

    app.dispatch(Order(1))
    child = os.fork()
    if child == 0:
        app.close()
        os._exit(len(told))
    _, status = os.waitpid(child, 0)

    assert 1 == os.waitstatus_to_exitcode(status)


def test_what_nobody_provides_is_found_before_anything_is_handled(app: Postbus) -> None:
    """The app says so as soon as it is used, for each that is missing."""

    @app.handler
    def handle(order: Order, database: Database, mailer: Mailer) -> None: ...

    app.provide(Mailer, Mailer)
    with pytest.raises(ConfigurationError) as raised:
        app.worker()
    name = "tests.test_provided." if __name__.startswith("tests.") else f"{__name__}."
    assert [
        f"Nothing provides Database, which handler '{name}{handle.__qualname__}' needs as 'database'. Add "
        "app.provide(Database, ...) with a function that makes one."
    ] == list(raised.value.problems)


@pytest.mark.parametrize(
    ("type_", "factory", "problem"),
    [
        ("Database", make_database, "provide() takes a class and a function that makes one of it, got 'Database'."),
        (
            Database,
            lambda url: Database(),
            "<lambda>() cannot make Database, as it has parameters. Wrap it in a function without any.",
        ),
        (Database, 13, "13 makes no Database, as it cannot be called. Write lambda: 13."),
    ],
)
def test_what_cannot_be_provided(app: Postbus, type_: Any, factory: Any, problem: str) -> None:
    """What is no class, and what makes nothing, is refused where it is said."""
    with pytest.raises(ConfigurationError) as raised:
        app.provide(type_, factory)
    assert problem == str(raised.value)


def test_parameters_that_nothing_can_be_given_to(app: Postbus) -> None:
    """A parameter without a class is refused where the handler is added."""
    with pytest.raises(ConfigurationError, match="Nothing can be given to parameter 'number' of .*provide"):

        @app.handler
        def handle(order: Order, number: int) -> None: ...


def test_a_default_is_left_alone() -> None:
    """What has a default needs nothing, whatever is provided: it may be bound on purpose."""
    app = Postbus()
    app.provide(Database, make_database)
    own = Database()

    def handle(order: Order, database: Database) -> None:
        assert database is own

    app.handler(partial(handle, database=own))
    app.dispatch(Order(1))
    assert not told


def test_a_factory_that_fails_fails_the_message_that_is_handled_at_once() -> None:
    """Without a worker, what the factory raises is what the handler has raised, and it is tried anew next time."""
    app = Postbus()

    def make() -> Database:
        told.append("tried")
        raise OSError("no database")

    app.provide(Database, make)

    @app.handler
    def handle(order: Order, database: Database) -> None: ...

    for _ in range(2):
        with pytest.raises(HandlerFailed, match="OSError: no database"):
            app.dispatch(Order(1))
    assert ["tried", "tried"] == told


def test_a_worker_that_cannot_have_what_it_needs_does_not_begin(app: Postbus) -> None:
    """What a factory raises keeps the worker from starting, so that no message fails for it."""

    def make() -> Database:
        raise OSError("no database")

    app.provide(Database, make)

    @app.handler
    def handle(order: Order, database: Database) -> None: ...

    app.dispatch(Order(1))
    with pytest.raises(StartFailed) as raised:
        work(app)

    where = f"test_provided.py:{make.__code__.co_firstlineno + 1} in make"
    assert f"The worker does not start, because making Database failed: OSError: no database ({where})." == str(
        raised.value
    )
    assert 1 == app.transport("orders").connection.count().waiting  # type: ignore[attr-defined]


def test_hooks_run_around_each_worker(app: Postbus) -> None:
    """Start hooks run in order before anything is handled, stop hooks when all is settled, and async ones as well."""
    app.provide(Database, make_database)

    @app.on_start
    def begin() -> None:
        told.append("begin")

    @app.on_start
    async def begin_async() -> None:
        await asyncio.sleep(0)
        told.append("begin async")

    @app.handler
    def handle(order: Order, database: Database) -> None:
        told.append("handle")

    @app.on_stop
    async def end() -> None:
        told.append(f"{app.transport('orders').connection.count().in_flight} left")  # type: ignore[attr-defined]

    app.dispatch(Order(1))
    work(app)
    work(app)

    around = ["begin", "begin async"]
    assert ["open", *around, "handle", "0 left", *around, "0 left"] == told


def test_a_start_hook_that_fails_keeps_the_worker_from_beginning(app: Postbus) -> None:
    """Its error is one sentence, and those behind it do not run; neither do the stop hooks."""

    @app.on_start
    def begin() -> None:
        raise ValueError("not yet")

    @app.on_start
    def begin_too() -> None:
        told.append("begin")

    @app.on_stop
    def end() -> None:
        told.append("end")

    with pytest.raises(StartFailed, match=r"because .*begin\(\) failed: ValueError: not yet \(test_provided.py:"):
        work(app)
    assert not told


def test_a_stop_hook_that_fails_keeps_no_other(app: Postbus, caplog: pytest.LogCaptureFixture) -> None:
    """Its error is logged, and the worker has stopped as well as any other."""

    @app.on_stop
    def end() -> None:
        raise ValueError("too late")

    @app.on_stop
    def end_too() -> None:
        told.append("end")

    work(app)

    assert ["end"] == told
    assert "too late" in caplog.text


@pytest.mark.parametrize(
    ("hook", "problem"),
    [
        (lambda worker: None, "has parameters"),
        (make_database, "is a generator"),
        (Database, "A hook is a function"),
        (None, "A hook is a function"),
    ],
)
def test_what_cannot_be_a_hook(app: Postbus, hook: Any, problem: str) -> None:
    """What needs arguments, or does nothing when it is called, is refused where it is said."""
    for add in (app.on_start, app.on_stop):
        with pytest.raises(ConfigurationError, match=problem):
            add(hook)
