"""A pytest plugin for runs of several processes, with pytest-xdist: who runs what, and that all of them are heard."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Generator
from typing import Any

import pytest

from tests.brokers.broker import find_variants


class Process:
    """One of the processes that run tests."""

    def __init__(self) -> None:
        self._stderr = os.dup(2)  # Before pytest captures it.

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_timeout_set_timer(self, settings: Any) -> None:
        """Write all stacks to stderr, and end this process, a moment before pytest-timeout would.

        What that writes is lost here; and it is in Python, which who holds the interpreter keeps from running.
        """
        faulthandler.dump_traceback_later(max(settings.timeout - 1, 0.1), file=self._stderr, exit=True)

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_timeout_cancel_timer(self) -> None:
        faulthandler.cancel_dump_traceback_later()

    @pytest.hookimpl(wrapper=True)
    def pytest_report_to_serializable(self) -> Generator[None, Any, Any]:
        """Let half a character, in what a test wrote, not keep its report from the process that prints it."""
        return _with_whole_characters((yield))


def _with_whole_characters(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case list() | tuple():
            return type(value)(map(_with_whole_characters, value))
        case dict():
            return {key: _with_whole_characters(item) for key, item in value.items()}
        case _:
            return value


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Keep the tests of a class in one process, and give any other test to the first process that is free.

    So are all that have a broker that is too heavy to be started by each process; they are known by their names.
    """
    if config.getoption("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    heavy = {variant.kind() for variant in find_variants().values() if variant.heavy}

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if kinds := [kind for kind in heavy if kind in nodeid]:
                return kinds[0]
            scope = super()._split_scope(nodeid)
            return scope if "::" in scope else nodeid

    return Scheduling(config, log)


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(Process())
