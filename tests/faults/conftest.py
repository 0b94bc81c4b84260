import pytest
from rich.console import Console

from tests.faults.report import Report

KEY = pytest.StashKey[Report]()


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Report:
    """Return the table of all runs, which is printed at the end."""
    return request.config.stash.setdefault(KEY, Report())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash.get(KEY, None):
        terminalreporter.section("faults")
        config.stash[KEY].show(Console(file=terminalreporter._tw._file, width=140))
