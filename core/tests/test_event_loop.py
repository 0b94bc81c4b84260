"""The event loop of the async handlers: whose it is, and who keeps it from going on."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from postbus import Limits, Postbus
from postbus.event_loop import EventLoop
from postbus.events import Event, EventLoopBlocked

PATIENCE = 30.0
"""Seconds after which something that must happen counts as never happening."""


@dataclass(frozen=True)
class Task:
    number: int


@pytest.fixture
def app() -> Postbus:
    return Postbus(transports={"tasks": "in-memory://"}, routing={Task: "tasks"})


class Blocked:
    """An event loop with a handler that blocks it until the test lets go, and a clock that the test sets."""

    def __init__(self) -> None:
        self.loop = EventLoop()
        self.is_blocked = threading.Event()
        self.let_go = threading.Event()
        self.now = 0.0
        self._waiting = threading.Thread(target=lambda: self.loop.run(self._block(), "block"))
        self._waiting.start()
        assert self.is_blocked.wait(PATIENCE)

    async def _block(self) -> None:
        await asyncio.sleep(0)
        self.is_blocked.set()
        self.let_go.wait(PATIENCE)

    def after(self, seconds: float) -> str | None:
        self.now += seconds
        return self.loop.blocked(self.now)

    def end(self) -> None:
        self.let_go.set()
        self._waiting.join(PATIENCE)


@pytest.fixture
def blocked() -> Iterator[Blocked]:
    blocked = Blocked()
    yield blocked
    blocked.end()


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_worker_tells_who_blocks_the_loop(app: Postbus, concurrency: int, caplog: pytest.LogCaptureFixture) -> None:
    """One sentence and one event say that an async handler blocks all others, and the line in which it does."""
    told = threading.Event()
    seen: list[Event] = []

    def note(event: Event) -> None:
        if isinstance(event, EventLoopBlocked):
            seen.append(event)
            told.set()

    app.observers.add(note)

    @app.handler
    async def block(task: Task) -> None:
        await asyncio.sleep(0)
        told.wait(PATIENCE)

    app.dispatch(Task(1))
    with caplog.at_level(logging.WARNING, "postbus"):
        app.worker("tasks", limits=Limits(messages=1), concurrency=concurrency).run()

    assert [EventLoopBlocked(1.0)] == seen
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("The event loop of the async handlers has not gone on for 1 s. Await what takes long")
    assert "told.wait(PATIENCE)" in line
    assert "asyncio" not in line.split("\n", 1)[1]


def test_it_is_told_once(blocked: Blocked) -> None:
    """Asked again and again, it says so once, until the loop has gone on."""
    answers = [blocked.after(0.3) for _ in range(20)]
    assert 1 == len([where for where in answers if where is not None])


def test_a_process_that_stood_still_blames_nobody(blocked: Blocked) -> None:
    """What nobody has asked for a long time has not been blocked for that long, as far as is known."""
    assert blocked.after(0) is None
    assert blocked.after(60) is None
    assert [None, None] == [blocked.after(0.4), blocked.after(0.4)]
    assert blocked.after(0.4) is not None


def test_a_handler_that_awaits_is_not_blamed() -> None:
    """However long it takes: the loop goes on."""
    loop = EventLoop()
    over = threading.Event()

    async def wait() -> None:
        await asyncio.to_thread(over.wait, PATIENCE)

    async def pass_by() -> None:
        """Come to the end behind everything that the loop was given before."""

    waiting = threading.Thread(target=lambda: loop.run(wait(), "wait"))
    waiting.start()
    for number in range(20):
        assert loop.blocked(0.4 * number) is None
        loop.run(pass_by(), "pass_by")
    over.set()
    waiting.join(PATIENCE)


def test_a_loop_of_the_users_choice_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has set a policy, for uvloop for instance, gets its loop."""

    class Chosen(asyncio.SelectorEventLoop):
        pass

    monkeypatch.setattr(asyncio, "new_event_loop", Chosen)

    async def kind() -> type:
        return type(asyncio.get_running_loop())

    assert Chosen is EventLoop().run(kind(), "kind")
