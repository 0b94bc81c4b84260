"""What a run of the contract says beside its verdicts: what a rule that failed had promised, and what is not proven.

The first rule of a run registers it. Where pytest-xdist runs the rules in other processes, the one that prints has to
be told: call `pytest_configure` in that of the outermost ``conftest.py``.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, cast

import pytest

from postbus.testing.promises import promise_of, words_of

NAME = "postbus-contract"

UNPROVEN = "postbus-unproven"
"""The property of a test that says which contract lacks which hook; its report takes it along."""

BROKEN = "postbus-broken"
"""The property of a test that says which new rule is broken, of which who breaks it is only warned."""

FAULTS = "postbus-faults"
"""The property of a test that says what workers were put through, and what came of it."""


class Reporting:
    """A plugin of pytest that adds words to the rules of the contract."""

    def __init__(self) -> None:
        self._unproven: dict[tuple[str, str], dict[str, None]] = {}
        self._broken: dict[str, None] = {}
        self._faults: dict[str, None] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, object, object]:
        """Say in words what a failed assertion of a rule was about; if the rule is new, only warn."""
        promise = promise_of(pyfuncitem.obj)
        try:
            return (yield)
        except (Exception, pytest.fail.Exception) as error:
            if promise is None:
                raise
            words = f"{promise.id}, since {promise.since}: {words_of(pyfuncitem.obj)}"
            if promise.is_new:
                name = pyfuncitem.cls.__name__ if pyfuncitem.cls is not None else pyfuncitem.name
                why = f"{name} breaks {words} An error with {promise.in_force}, and with POSTBUS_CONTRACT=next."
                pyfuncitem.user_properties.append((BROKEN, why))
                pytest.xfail(why)
            if isinstance(error, AssertionError):
                error.add_note(f"The contract promises, {words}")
            raise

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of what could not be tried."""
        for name, value in report.user_properties:
            if name == UNPROVEN:
                contract, hook = cast(tuple[str, str], value)
                rule = report.nodeid.rpartition("::")[2].partition("[")[0]
                self._unproven.setdefault((contract, hook), {})[rule.removeprefix("test_").replace("_", " ")] = None
            if name == BROKEN:
                self._broken[str(value)] = None
            if name == FAULTS and report.when == "call":
                self._faults[str(value)] = None

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say it, in a line for each hook that a contract lacks; and which new rules are broken; and of the faults."""
        for line in self._faults:
            terminalreporter.write_line(line)
        for why in self._broken:
            terminalreporter.write_line(f"WARNING: {why}", yellow=True, bold=True)
        for (contract, hook), rules in sorted(self._unproven.items()):
            line = f"NOT PROVEN for {contract}, which has no {hook}: {'; '.join(rules)}."
            terminalreporter.write_line(line, yellow=True, bold=True)


def pytest_configure(config: pytest.Config) -> None:
    """Add the words to this run, once."""
    if not config.pluginmanager.has_plugin(NAME):
        config.pluginmanager.register(Reporting(), NAME)
