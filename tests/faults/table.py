"""A pytest plugin that ends a run with the table of the faults: what each test of them came to."""

from __future__ import annotations

import pytest
from rich.console import Console

from tests.faults.report import Report

PROPERTY = "faults"


class Faults:
    """The rows of this run, whichever of its processes they come from."""

    def __init__(self) -> None:
        self._report = Report()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":  # It has brought along what the test recorded, maybe from another process.
            self._report.rows += [row for name, row in report.user_properties if name == PROPERTY]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._report.rows:
            terminalreporter.section("faults")
            self._report.show(Console(file=terminalreporter._tw._file, width=140))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Faults())
