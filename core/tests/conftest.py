"""What the tests of the core share."""

import logging
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points

import pytest

from postbus.cli import logs
from postbus.plugins import installed_plugins

LOCAL = ("in-memory", "sql", "sync")
"""The plugins that need no broker."""


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
