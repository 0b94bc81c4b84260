"""What handlers need beside their messages, and what is done around workers."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from postbus import Envelope, Limits, Postbus, Stamp, Unrecoverable, stamps
from postbus.bus import Next
from postbus.errors import ConfigurationError, HandlerFailed, StartFailed

told: list[str] = []

PATIENCE = 30.0
"""Seconds after which something that must happen counts as never happening."""


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


# what is reset


class Session:
    """Remembers what it is told until it is reset."""

    def __init__(self) -> None:
        self.orders: list[int] = []

    def reset(self) -> None:
        told.append(f"reset {self.orders}")
        self.orders.clear()


class AsyncSession(Session):
    """The same, on the event loop."""

    async def reset(self) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().reset()


@pytest.mark.parametrize("session_type", [Session, AsyncSession])
def test_what_can_be_reset_is_so_after_each_message(app: Postbus, session_type: type[Session]) -> None:
    """Also after one that failed; the handlers of one message share it, and a worker of one at a time makes one."""
    made: set[int] = set()
    app.provide(session_type, session_type)

    def handle(order: Order, session: Any) -> None:
        made.add(id(session))
        session.orders.append(order.number)

    def fail(order: Order, session: Any) -> None:
        session.orders.append(-order.number)
        if order.number == 2:
            raise ValueError

    for function in (handle, fail):
        function.__annotations__["session"] = session_type
        app.handler(function)
    app.dispatch_many([Order(1), Order(2), Order(3)])
    work(app)
    assert ["reset [1, -1]", "reset [2, -2]", "reset [3, -3]"] == told
    assert 1 == len(made)


@pytest.mark.parametrize("is_async", [False, True])
def test_what_can_be_reset_is_had_by_one_message_at_a_time(app: Postbus, is_async: bool) -> None:
    """Several messages at once have one each, so that none is reset under another's hands."""
    seen: list[list[int]] = []
    barrier = threading.Barrier(4)
    meeting = Meeting(4)
    app.provide(Session, Session)

    def handle(order: Order, session: Session) -> None:
        session.orders.append(order.number)
        barrier.wait(PATIENCE)
        seen.append([*session.orders])

    async def handle_async(order: Order, session: Session) -> None:
        session.orders.append(order.number)
        await meeting.wait()
        seen.append([*session.orders])

    app.handler(handle_async if is_async else handle)
    app.dispatch_many(Order(n) for n in range(8))
    app.worker(limits=Limits(messages=8), concurrency=4).run()
    assert [[n] for n in range(8)] == sorted(seen)
    assert sorted(f"reset [{n}]" for n in range(8)) == sorted(told)


class Meeting:
    """Lets coroutines wait until there are so many."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        self._waiting.append(asyncio.get_running_loop().create_future())
        mine = self._waiting[-1]
        if len(self._waiting) == self._number:
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                one.set_result(None)
        await asyncio.wait_for(mine, PATIENCE)


def test_what_a_batch_has_is_reset_after_it(app: Postbus) -> None:
    """Once, when all of its messages have been handled."""
    app.provide(Session, Session)

    @app.handler(batch=3)
    def handle(orders: list[Order], session: Session) -> None:
        session.orders += [order.number for order in orders]

    app.dispatch_many(Order(n) for n in range(6))
    app.worker(limits=Limits(messages=6)).run()
    assert ["reset [0, 1, 2]", "reset [3, 4, 5]"] == told


def test_nothing_is_reset_where_that_is_not_wanted(app: Postbus) -> None:
    """Nor where messages are handled as they are dispatched, in a process that has its own ideas of when."""
    app.provide(Session, Session)

    @app.handler
    def handle(order: Order, session: Session) -> None: ...

    app.dispatch(Order(1), stamps.HERE)
    app.dispatch(Order(2))
    app.worker(limits=Limits(idle=0, time=60), reset=False).run()
    assert [] == told


class Broken(Session):
    """Cannot be reset."""

    def reset(self) -> None:
        raise ValueError("no")


def test_what_cannot_be_reset_is_made_anew(app: Postbus, caplog: pytest.LogCaptureFixture) -> None:
    """It is closed, and no message has failed for it."""
    app.provide(Broken, make_broken)

    @app.handler
    def handle(order: Order, session: Broken) -> None:
        assert not session.orders
        session.orders.append(order.number)

    app.dispatch_many([Order(1), Order(2)])
    stopped = app.worker(limits=Limits(messages=2)).run()
    assert (2, 0) == (stopped.handled, stopped.failed)
    assert ["open", "close", "open", "close"] == told
    assert "Resetting Broken failed, so it is closed, and made anew." in caplog.text


def make_broken() -> Iterator[Broken]:
    told.append("open")
    yield Broken()
    told.append("close")


class Variable:
    """What is reset in another sense."""

    def reset(self, token: object) -> None:
        raise AssertionError


def test_a_reset_that_takes_arguments_is_another_one(app: Postbus, caplog: pytest.LogCaptureFixture) -> None:
    """Such as that of a context variable: there is one object, as of everything else."""
    app.provide(Variable, Variable)

    @app.handler
    def handle(order: Order, variable: Variable) -> None: ...

    app.dispatch(Order(1))
    work(app)
    assert not caplog.text


# stamps, and arguments of a middleware


class Tenant(Stamp):
    """Whose message it is."""

    wire_name = "tenant-of-provided"
    name: str


def test_a_handler_gets_the_stamps_of_its_message(app: Postbus) -> None:
    """Each parameter that is annotated with one; None, or its default, where the message has none."""
    given: list[object] = []

    @app.handler
    def handle(
        order: Order,
        tenant: Tenant,
        retried: stamps.Retried | None,
        sent: stamps.Delay = stamps.Delay(5),  # noqa: B008
        *,
        received: stamps.Received,
    ) -> None:
        given.extend([tenant, retried, sent, received.transport])

    app.dispatch(Order(1), Tenant("a"), Tenant("b"))
    work(app)
    assert [Tenant("b"), None, stamps.Delay(5), "orders"] == given


def test_a_message_without_a_stamp_that_is_needed_fails() -> None:
    """Trying it again would not bring the stamp."""
    app = Postbus()

    @app.handler
    def handle(order: Order, tenant: Tenant) -> None: ...

    with pytest.raises(HandlerFailed, match="has no stamp Tenant, which handler .* needs as 'tenant'") as caught:
        app.dispatch(Order(1))
    assert isinstance(caught.value.__cause__, Unrecoverable)


def test_a_middleware_gives_arguments() -> None:
    """A handler gets those that it has parameters for, in place of their defaults; the last stamp counts."""
    given: list[object] = []

    def identify(envelope: Envelope, call_next: Next) -> Envelope:
        first = stamps.HandlerArguments({"user": "nobody", "unknown": 1})
        return call_next(envelope.with_(first, stamps.HandlerArguments({"user": "ann", "database": 3, "more": 4})))

    app = Postbus(buses={"default": {"middleware": [identify]}})
    app.provide(Database, Database)

    @app.handler
    def handle(order: Order, user: str = "none", *, unknown: int = 0) -> None:
        given.append((user, unknown))

    @app.handler
    def handle_too(order: Order, database: Database, **others: object) -> None:
        given.append((database, others))

    @app.handler
    def handle_alone(order: Order) -> None:
        given.append(order)

    app.dispatch(Order(1))
    assert [("ann", 0), (3, {"user": "ann", "more": 4}), Order(1)] == given
