"""What handlers return: what can be awaited is awaited, what cannot has failed; nothing is acknowledged unhandled."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from postbus import ConfigurationError, Envelope, Handlers, Limits, Postbus, PostbusError
from postbus.bus import MessageBus, Next
from postbus.errors import TimeLimitExceeded
from postbus.retry import Backoff

PATIENCE = 30.0
"""Seconds after which something that must happen counts as never happening."""


@dataclass(frozen=True)
class Task:
    number: int = 1


class Compiled(Coroutine[Any, Any, Any]):
    """A coroutine as Cython makes it: of a class of its own, and registered as what it is."""

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()

    def send(self, value: Any) -> Any:
        return self._inner.send(value)

    def throw(self, *error: Any) -> Any:
        return self._inner.throw(*error)

    def close(self) -> None:
        self._inner.close()


class Lazy:
    """What can be awaited, and is nothing else."""

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()


class Work:
    """The work of a handler, in every form in which one may return it, and what has come of it."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.pool = ThreadPoolExecutor(1)

    async def do(self, task: Task) -> int:
        await asyncio.sleep(0.001)
        return self.do_now(task)

    def do_now(self, task: Task) -> int:
        time.sleep(0.001)  # So that it is not over before anybody can tell whether it was waited for.
        self.done.append(task.number)
        return task.number

    def coroutine(self, task: Task) -> Any:
        return self.do(task)

    def compiled(self, task: Task) -> Any:
        return Compiled(self.do(task))

    def lazy(self, task: Task) -> Any:
        return Lazy(self.do(task))

    def lazy_twice(self, task: Task) -> Any:
        async def give() -> Any:
            return Lazy(self.do(task))

        return Lazy(give())

    def of_a_generator(self, task: Task) -> Any:
        @types.coroutine
        def work() -> Generator[Any, Any, int]:
            return (yield from self.do(task).__await__())

        return work()

    def submitted(self, task: Task) -> Any:
        return self.pool.submit(self.do_now, task)

    def submitted_coroutine(self, task: Task) -> Any:
        return self.pool.submit(self.do, task)

    def done_future(self, task: Task) -> Any:
        future: Future[int] = Future()
        future.set_result(self.do_now(task))
        return future

    async def without_await(self, task: Task) -> Any:
        return self.do(task)

    async def as_task(self, task: Task) -> Any:
        return asyncio.create_task(self.do(task))

    async def gathered(self, task: Task) -> Any:
        return asyncio.ensure_future(self._first(task))

    async def _first(self, task: Task) -> int:
        (first,) = await asyncio.gather(self.do(task))
        return first

    @property
    def partial(self) -> Callable[..., Any]:
        def handle(how: Callable[[Task], Any], task: Task) -> Any:
            return how(task)

        return functools.partial(handle, self.do)

    @property
    def decorated(self) -> Callable[..., Any]:
        return quietly(self.do)


def quietly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate as many do: with a def that returns what the function returns, be it async or not."""

    @functools.wraps(function)
    def wrapper(task: Task) -> Any:
        return function(task)

    return wrapper


WAYS = [
    "coroutine",
    "compiled",
    "lazy",
    "lazy_twice",
    "of_a_generator",
    "submitted",
    "submitted_coroutine",
    "done_future",
    "without_await",
    "as_task",
    "gathered",
    "partial",
    "decorated",
]


@pytest.mark.parametrize("time_limit", [None, PATIENCE], ids=["", "timed"])
@pytest.mark.parametrize("way", WAYS)
def test_what_can_be_awaited_is_awaited(way: str, time_limit: float | None) -> None:
    """When a handler is over, so is what it returned, and its result is what came of that."""
    work = Work()
    group = Handlers()
    group.handler(handles=Task, name=way, time_limit=time_limit)(getattr(work, way))
    (handler,) = group
    assert 7 == handler.handle(Envelope.wrap(Task(7)))
    assert [7] == work.done


def first_half(task: Task) -> Iterator[int]:
    yield task.number


async def first_half_async(task: Task) -> AsyncIterator[int]:
    yield task.number


async def give_first_half(task: Task) -> Any:
    return first_half(task)


class Halves:
    """A callable whose generator nobody sees from outside."""

    def __call__(self, task: Task) -> Any:
        return first_half_async(task)


def give_expression(task: Task) -> Any:
    return (number for number in [task.number])


@pytest.mark.parametrize(
    "target",
    [
        quietly(first_half),
        quietly(first_half_async),
        functools.partial(quietly(first_half)),
        lambda task: first_half_async(task),
        give_first_half,
        give_expression,
        Halves(),
    ],
    ids=["wrapped", "wrapped async", "partial", "lambda", "async def", "expression", "object"],
)
def test_a_generator_behind_a_decorator_has_failed(target: Callable[..., Any]) -> None:
    """Nobody runs it, so its message has not been handled; the error names the handler and says what to do."""
    group = Handlers()
    group.handler(handles=Task, name="half")(target)
    (handler,) = group
    with pytest.raises(PostbusError) as caught:
        handler.handle(Envelope.wrap(Task()))
    assert (
        "Handler 'half' returned a generator, of which nothing has run. Replace yield, or return a list."
        == str(caught.value)
    )  # fmt: skip


def test_what_is_no_promise_is_a_result() -> None:
    """Values of any other kind are returned as they are, classes that make something to await among them."""
    group = Handlers()
    results: list[Any] = [0, "", [], {}, object(), Lazy, Task(), iter([1]), map(str, [1]), Work.do]
    group.handler(handles=Task)(lambda task: results[task.number])
    (handler,) = group
    for number, result in enumerate(results):
        assert result is handler.handle(Envelope.wrap(Task(number)))


def test_a_future_of_another_loop_has_failed() -> None:
    """That loop is not ours to run, and may well be waiting for the handler itself; so that is said at once."""
    group = Handlers()
    elsewhere = asyncio.new_event_loop()
    group.handler(handles=Task, name="elsewhere")(lambda task: elsewhere.create_future())
    (handler,) = group
    with pytest.raises(PostbusError, match="Handler 'elsewhere' returned a future of another event loop"):
        handler.handle(Envelope.wrap(Task()))
    elsewhere.close()


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("way", ["lazy", "compiled", "submitted", "submitted_coroutine", "without_await"])
def test_a_worker_acknowledges_nothing_that_has_not_run(way: str, concurrency: int) -> None:
    """While what a handler returned is under way, its message is still in hand."""
    app = Postbus(transports={"tasks": "in-memory://"}, routing={Task: "tasks"})
    transport: Any = app.transport("tasks")
    work = Work()
    in_hand: list[int] = []

    def note(task: Task) -> int:
        in_hand.append(transport.connection.count().in_flight)
        return task.number

    work.do_now = note  # type: ignore[method-assign]
    app.handler(handles=Task, name=way)(getattr(work, way))
    app.dispatch(Task())
    app.worker("tasks", limits=Limits(messages=1), concurrency=concurrency).run()
    assert [1] == in_hand
    assert 0 == transport.connection.count().in_flight


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_worker_buries_what_returns_a_generator(concurrency: int) -> None:
    """It is a failure like others."""
    app = Postbus(
        transports={"tasks": "in-memory://", "failed": "in-memory://"},
        routing={Task: "tasks"},
        failure_transport="failed",
        retry=Backoff(max_retries=0),
    )
    app.handler(handles=Task)(quietly(first_half))
    app.dispatch(Task())
    stopped = app.worker("tasks", limits=Limits(messages=1), concurrency=concurrency).run()
    failed: Any = app.transport("failed")
    assert (0, 1) == (stopped.handled, stopped.failed)
    assert [Task()] == [envelope.message for envelope in failed.sent]


@pytest.mark.parametrize("way", ["submitted", "lazy"])
def test_what_is_awaited_fails_with_what_it_raises(way: str) -> None:
    """The very error comes out."""
    work = Work()
    error = ValueError("no")

    def fail(task: Task) -> int:
        raise error

    work.do_now = fail  # type: ignore[method-assign]
    group = Handlers()
    group.handler(handles=Task)(getattr(work, way))
    (handler,) = group
    with pytest.raises(ValueError, match="no") as caught:
        handler.handle(Envelope.wrap(Task()))
    assert error is caught.value


def test_a_time_limit_holds_for_what_is_awaited() -> None:
    """A future that does not end is cancelled when its time is over, and its message has failed."""
    group = Handlers()
    futures: list[Future[None]] = []

    @group.handler(time_limit=0.05)
    def handle(task: Task) -> Any:
        futures.append(Future())
        return futures[0]

    (handler,) = group
    with pytest.raises(TimeLimitExceeded, match="was cancelled"):
        handler.handle(Envelope.wrap(Task()))
    assert futures[0].cancelled()


def test_the_thread_of_a_handler_waits_for_its_pool() -> None:
    """A handler that gives its work to a pool and returns the future is over when that is."""
    group = Handlers()
    begun, may_end = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:

        def work() -> str:
            begun.set()
            assert may_end.wait(PATIENCE)
            return "done"

        group.handler(handles=Task)(lambda task: pool.submit(work))
        (handler,) = group
        results: list[Any] = []
        caller = threading.Thread(target=lambda: results.append(handler.handle(Envelope.wrap(Task()))))
        caller.start()
        assert begun.wait(PATIENCE)
        assert caller.is_alive()
        may_end.set()
        caller.join(PATIENCE)
    assert ["done"] == results


async def async_middleware(envelope: Envelope, call_next: Next) -> Envelope:
    return call_next(envelope)


def generator_middleware(envelope: Envelope, call_next: Next) -> Iterator[Envelope]:
    yield call_next(envelope)


class AsyncMiddleware:
    """Middleware with an async __call__."""

    async def __call__(self, envelope: Envelope, call_next: Next) -> Envelope:
        return call_next(envelope)


@pytest.mark.parametrize("step", [async_middleware, generator_middleware, AsyncMiddleware()])
def test_middleware_that_would_not_run_is_refused(step: Any) -> None:
    """What is async, or a generator, would let every message pass as handled; it is refused when the bus is made."""
    with pytest.raises(ConfigurationError, match="does nothing when it is called. Make it a plain def."):
        MessageBus("main", [step])
