"""A pytest plugin that ends a run with the table of the contract: every rule, on every variant of every transport."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from postbus.testing import TransportContract, reporting
from postbus.testing.workbench import Workbench

MARKS = {"passed": "+", "skipped": ".", "failed": "X"}
PROPERTY = "contract"


class Verdicts:
    """What became of the rules of the contract in this run, whichever of its processes they ran in."""

    def __init__(self) -> None:
        self._outcomes: dict[tuple[str, str], str] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            cls: type | None = getattr(item, "cls", None)
            # What lies beside this file is about the kit, not about a transport.
            if cls is not None and issubclass(cls, Workbench) and item.path.parent != Path(__file__).parent:
                package = item.path.parent.parent.name
                # A test's report takes its properties along, from the process that runs it to the one that prints.
                item.user_properties.append(
                    (PROPERTY, (f"{package} {cls.__name__.removeprefix('Test')}", item.name.partition("[")[0]))
                )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == PROPERTY:
                variant, rule = value
                if self._outcomes.get((variant, rule), "passed") == "passed":
                    self._outcomes[variant, rule] = report.outcome

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self._outcomes:
            return
        terminalreporter.section("the contract: variants × rules")
        for line in table(self._outcomes):
            terminalreporter.write_line(line)


def table(outcomes: Mapping[tuple[str, str], str]) -> list[str]:
    """Return the lines of the table, of which each variant is a column: + held, . is not promised, X broken."""
    variants = sorted({variant for variant, _ in outcomes})
    asked = dict.fromkeys(rule for _, rule in outcomes)
    in_order = (name for group in TransportContract.__mro__ for name in vars(group))
    rules = list(dict.fromkeys([*(name for name in in_order if name in asked), *asked]))
    texts = {rule: rule.removeprefix("test_").replace("_", " ") for rule in rules}
    width = max(map(len, texts.values()))
    lines = []
    for number, variant in enumerate(variants):
        found = [outcome for (of, _), outcome in outcomes.items() if of == variant]
        counts = ", ".join(f"{found.count(outcome)} {outcome}" for outcome in MARKS if outcome in found)
        lines.append(f"{' ' * width}  {'|  ' * number}{variant}: {counts}")
    for rule in rules:
        marks = [MARKS.get(outcomes.get((variant, rule), ""), " ") for variant in variants]
        lines.append(f"{texts[rule]:{width}}  {'  '.join(marks)}".rstrip())
    return lines


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Verdicts())
    reporting.pytest_configure(config)
