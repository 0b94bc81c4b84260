"""Transports of which only so many messages may be handled in a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from postbus import Limits, Postbus
from postbus.errors import ConfigurationError
from postbus.worker.rates import RateLimit


@dataclass(frozen=True)
class Task:
    number: int


@dataclass(frozen=True)
class Other:
    number: int


def make_app(rate: str, **options: str) -> Postbus:
    return Postbus(
        transports={"tasks": {"dsn": "in-memory://", "rate_limit": rate, **options}, "others": "in-memory://"},
        routing={Task: "tasks", Other: "others"},
    )


def transport(app: Postbus, name: str = "tasks") -> Any:
    return app.transport(name)


def test_no_more_are_handled_than_may_be(concurrency: int) -> None:
    """What is beyond the rate stays with its broker, and no attempt is spent on it."""
    app = make_app("3/hour")
    handled: list[int] = []
    app.handler(handles=Task)(lambda task: handled.append(task.number))
    app.dispatch_many(Task(n) for n in range(10))

    for _ in range(2):  # Another worker of the app goes on where the first has stopped.
        app.worker("tasks", concurrency=concurrency, limits=Limits(time=0.2)).run()

    assert [0, 1, 2] == sorted(handled)
    counts = transport(app).connection.count()
    assert (7, 0) == (counts.waiting, counts.in_flight)
    assert [1] * 7 == [delivery.count for delivery in transport(app).connection.fetch(10, 0)]


def test_all_are_handled_in_the_end(concurrency: int) -> None:
    """When the time is over, the next ones have their turn."""
    app = make_app("4/second")
    handled: list[int] = []
    app.handler(handles=Task)(lambda task: handled.append(task.number))
    app.dispatch_many(Task(n) for n in range(6))
    app.worker("tasks", concurrency=concurrency, limits=Limits(messages=6)).run()
    assert list(range(6)) == sorted(handled)


def test_others_do_not_wait_for_it() -> None:
    """A transport whose rate is used up, though it comes first, keeps no other waiting."""
    app = make_app("1/hour")
    handled: list[Any] = []
    app.handler(handles=(Task, Other))(handled.append)
    app.dispatch_many([*(Task(n) for n in range(5)), *(Other(n) for n in range(50))])
    app.worker("tasks", "others", limits=Limits(messages=51)).run()
    assert 1 == sum(isinstance(one, Task) for one in handled)


def test_what_others_took_meanwhile_is_given_back() -> None:
    """Of a batch that was fetched while others used up the rate, only what is still allowed is kept."""
    limit = RateLimit("5/hour", key="shared")
    assert 5 == limit.allowed()
    assert 3 == limit.take(3)
    assert 2 == limit.take(4)
    assert 0 == limit.take(1)
    assert 0 == limit.allowed()
    assert 3000 < limit.wait() <= 3600


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_a_store_that_is_away_lets_nothing_pass(scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    """While nobody can tell how many there were, nothing is fetched, and that is said once."""
    pytest.importorskip("redis")
    app = make_app("100/second", rate_limit_store=f"{scheme}://127.0.0.1:1")
    handled: list[int] = []
    app.handler(handles=Task)(lambda task: handled.append(task.number))
    app.dispatch(Task(1))
    app.worker("tasks", limits=Limits(time=1.2)).run()
    assert [] == handled
    assert 1 == caplog.text.count("Fetching nothing, because the store of the rate limit cannot be reached")


def test_whatever_is_wrong_with_a_store_it_is_asked_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that its client should not raise ends no worker."""
    limit = RateLimit("100/second", key=uuid4().hex)

    def fail() -> Any:
        raise ValueError("odd")

    with monkeypatch.context() as patch:
        patch.setattr(limit, "_reach", fail)
        assert (0, 0, limit.LATER) == (limit.allowed(), limit.take(1), limit.wait())
    assert 1 == caplog.text.count("Fetching nothing")
    assert (100, 1) == (limit.allowed(), limit.take(1))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"rate": "often"},
            "transports.tasks: 'often' is no rate. Write for example 100/second, 10/minute, or 5 per 2",
        ),
        ({"rate": "1/second", "rate_limit_store": "nowhere://user:secret@host"}, "transports.tasks: rate_limit_store"),
        ({"rate": "1/second", "rate_limit_store": "redis://:secret#1@host"}, "transports.tasks: rate_limit_store"),
    ],
)
def test_a_mistake_is_found_at_once(options: dict[str, str], problem: str) -> None:
    """What cannot be read is named by its key, without what may be secret."""
    with pytest.raises(ConfigurationError) as caught:
        make_app(**options)
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)
