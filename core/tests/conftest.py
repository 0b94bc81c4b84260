"""What the tests of the core share."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pytest

from postbus import Limits, Postbus
from postbus.cli import logs
from postbus.plugins import installed_plugins

LOCAL = ("in-memory", "sql", "sync")
"""The plugins that need no broker."""


@pytest.fixture
def make_app() -> Iterator[Callable[..., Postbus]]:
    """Make apps with a transport "orders" for everything, which buries in "failed"; closed in the end.

    Takes what `Postbus` takes; its ``transports`` come to these two, which are in memory, or take their places.
    """
    with ExitStack() as stack:

        def make(*, transports: dict[str, Any] | None = None, **options: Any) -> Postbus:
            transports = {"orders": "in-memory://", "failed": "in-memory://", **(transports or {})}
            options = {"routing": {"*": "orders"}, "failure_transport": "failed", **options}
            return stack.enter_context(Postbus(transports=transports, **options))

        yield make


@pytest.fixture
def run() -> Callable[..., None]:
    """Run a worker until nothing is waiting; for "orders", unless other transports are named."""

    def run(app: Postbus, *names: str) -> None:
        app.worker(*(names or ["orders"]), limits=Limits(idle=0)).run()

    return run


@pytest.fixture(params=[1, 3], ids=["one at a time", "three at once"])
def concurrency(request: pytest.FixtureRequest) -> int:
    """How many messages a worker handles at once."""
    return int(request.param)


@pytest.fixture
def no_broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let it be as where no plugin is installed that needs a broker."""

    def without_brokers(group: str) -> list[EntryPoint]:
        found = entry_points(group=group)
        return [one for one in found if one.name in LOCAL or not one.module.startswith("postbus_")]

    monkeypatch.setattr("postbus.plugins.entry_points", without_brokers)
    installed_plugins.cache_clear()
    yield
    installed_plugins.cache_clear()


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """Leave logging as it was: a command sets it up for its own process, which here is that of the next tests too."""
    loggers = [logging.getLogger(name) for name in (None, "postbus", logs.ANNOUNCEMENTS)]
    before = [(logger, logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, propagate, handlers in before:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers
