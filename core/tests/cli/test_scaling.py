"""How many workers there are to be: as a property of anything that may be waiting."""

from __future__ import annotations

from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from postbus import Postbus, TransportError
from postbus.cli import main, scaling
from postbus.cli.scaling import Backlog, Scaling
from postbus.errors import ConnectionLost
from postbus.transport import Counts

looks = st.lists(st.tuples(st.integers(0, 1000), st.none() | st.floats(0, 1000)), max_size=100)


@given(st.integers(1, 5), st.integers(0, 10), looks)
def test_it_stays_between_the_least_and_the_most(least: int, more: int, looks: list[tuple[int, float | None]]) -> None:
    """Whatever waits, there are never too few and never too many; at most twice as many, or one fewer, at a time."""
    scaling = Scaling(least, least + more)
    before = least
    for waiting, age in looks:
        number = scaling.look(waiting, age)
        assert least <= number <= least + more
        assert before - 1 <= number <= 2 * before
        before = number


def test_it_grows_while_messages_wait_for_long() -> None:
    """As long as the oldest message is late, there are twice as many at each look."""
    scaling = Scaling(1, 10)
    assert [2, 4, 8, 10, 10] == [scaling.look(100, 60.0) for _ in range(5)]


def test_it_does_not_grow_for_a_moment() -> None:
    """What waits only just now, or is little, needs no more workers."""
    scaling = Scaling(2, 10)
    assert [2] * 5 == [scaling.look(100, 1.0) for _ in range(5)]
    assert [2] * 5 == [scaling.look(2, 60.0) for _ in range(5)]


def test_where_no_age_is_known_it_looks_twice() -> None:
    """A broker that does not tell ages has to show twice that messages wait."""
    scaling = Scaling(1, 10)
    assert [1, 2, 4] == [scaling.look(100, None) for _ in range(3)]
    assert 4 == scaling.look(0, None)
    assert 4 == scaling.look(100, None)


def test_it_shrinks_slowly() -> None:
    """After half a minute of calm there is one fewer, and another each quarter; one message begins it anew."""
    scaling = Scaling(1, 10)
    for _ in range(3):
        scaling.look(100, 60.0)
    assert [8] * 5 + [7, 7, 7, 6] == [scaling.look(0, None) for _ in range(9)]
    scaling.look(1, 0.0)
    assert [6] * 5 + [5] == [scaling.look(0, None) for _ in range(6)]


def test_whatever_goes_wrong_with_counting_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that no transport should raise does not end the thread that counts."""
    monkeypatch.setattr(scaling, "INTERVAL", 0.01)
    app = Postbus(transports={"tasks": "in-memory://"})
    tasks: Any = app.transport("tasks")
    told: SimpleQueue[int] = SimpleQueue()
    answers = iter([ValueError("odd"), TransportError("away"), Counts(waiting=0)])

    def count() -> Counts:
        answer = next(answers, Counts(waiting=0))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(tasks.connection, "count", count)
    backlog = Backlog({"tasks": tasks}, Scaling(1, 2))
    backlog.watch(told.put)
    assert 1 == told.get(timeout=30)
    backlog.close()


def test_it_counts_again_after_a_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that was lost stays so, and a new one is opened."""
    monkeypatch.setattr(scaling, "INTERVAL", 0.01)
    app = Postbus(transports={"tasks": "in-memory://"})
    tasks: Any = app.transport("tasks")
    told: SimpleQueue[int] = SimpleQueue()

    def count() -> Counts:
        raise ConnectionLost("It was cut.")

    monkeypatch.setattr(tasks.connection, "count", count)
    backlog = Backlog({"tasks": tasks}, Scaling(1, 2))
    backlog.watch(told.put)
    assert 1 == told.get(timeout=30)
    backlog.close()


def test_what_is_paused_calls_for_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as somebody has paused it for all, and also while that cannot be asked; others count."""
    monkeypatch.setattr(scaling, "INTERVAL", 0.01)
    app = Postbus(transports={"tasks": "in-memory://", "others": "in-memory://"})
    for name, waiting in (("tasks", 1000), ("others", 0)):
        transport: Any = app.transport(name)
        monkeypatch.setattr(transport.connection, "count", lambda waiting=waiting: Counts(waiting, oldest_age=60.0))
    answers: Iterator[bool | TransportError] = iter([True, TransportError("The store is away."), True])
    told: SimpleQueue[int] = SimpleQueue()

    def is_paused(name: str) -> bool:
        answer = next(answers, False) if name == "tasks" else False
        if isinstance(answer, TransportError):
            raise answer
        return answer

    backlog = Backlog({name: app.transport(name) for name in app.transports}, Scaling(1, 8), is_paused)
    backlog.watch(told.put)
    assert [1, 1, 1, 2, 4] == [told.get(timeout=30) for _ in range(5)]
    backlog.close()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--processes", "many"], "'many' is no number of processes. Write one, or a least and a most such as 2:8."),
        (["--processes", "0"], "'0' is no number of processes."),
        (["--processes", "8:2"], "'8:2' is no number of processes."),
        (["--processes", "1:2", "--watch"], "--watch goes together with a fixed number of --processes."),
    ],
)
def test_a_mistake_in_the_arguments(arguments: list[str], problem: str) -> None:
    """A number that cannot be meant is said to be so, before anything is started."""
    result = CliRunner().invoke(main, ["--app", "nowhere:app", "consume", *arguments])
    assert 2 == result.exit_code
    assert problem in result.stderr
