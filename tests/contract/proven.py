"""Which rules of the contract have held on which versions of which brokers, as a table on the page of the guarantees.

``./run proven`` runs the rules, and nothing else, and writes the table anew.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from postbus.cli.markdown import table
from postbus.testing import TransportContract
from postbus.testing.promises import promise_of, promises_of
from postbus.testing.workbench import Workbench
from tests.brokers.plugin import STARTED, _asked_by
from tests.contract.versions import version_of, version_without_broker

VARIABLE = "POSTBUS_TEST_PROVEN"
"""The variable of the environment that says into which page the table is written."""

BLOCK = re.compile(r"(?<=<!-- proven -->\n).*?(?=<!-- end -->)", re.DOTALL)
PROPERTY = "proven"
RULES = [promise.id for promise, _ in promises_of(TransportContract)]


class Proven:
    """A pytest plugin that leaves out what is no rule, and notes of each rule with which broker it was tried."""

    def __init__(self, page: Path) -> None:
        self._page = page
        self._outcomes: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        here = Path(__file__).parent
        rules = [item for item in items if _rule_of(item) and item.path.parent != here]
        config.hook.pytest_deselected(items=[item for item in items if item not in rules])
        items[:] = rules

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Any:
        started = item.config.stash.get(STARTED, None)
        asked = _asked_by(item) - {"brokers"}
        versions = {version_of(started[variant]) for variant in asked} if started is not None else set[str]()
        package = item.path.parent.parent.name
        told = " and ".join(sorted(filter(None, versions))) or version_without_broker(package)
        item.user_properties.append((PROPERTY, (package, told, _rule_of(item))))
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == PROPERTY and report.when == "call":
                package, told, rule = value
                self._outcomes[package, told][rule].add(report.outcome)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._outcomes:
            text = self._page.read_text(encoding="utf-8")
            self._page.write_text(BLOCK.sub(f"\n{proven_table(self._outcomes)}\n\n", text), encoding="utf-8")
            terminalreporter.write_line(f"Wrote {self._page}.")


def proven_table(outcomes: Mapping[tuple[str, str], Mapping[str, Collection[str]]]) -> str:
    """Return a row for each plugin and broker: how many rules have held, and which were not tried."""
    rows: list[tuple[str, ...]] = []
    for (package, told), found in sorted(outcomes.items()):
        broken = [rule for rule in RULES if "failed" in found.get(rule, ())]
        held = [rule for rule in RULES if "passed" in found.get(rule, ()) and rule not in broken]
        others = in_short([rule for rule in RULES if rule not in held and rule not in broken])
        words = f"{len(held)} of {len(RULES)}" + (f"; broken: {in_short(broken)}" if broken else "")
        rows.append((f"`postbus-{package}`", told, words, others))
    return table(("Plugin", "Tried with", "Rules that held", "Not promised, or not tried"), rows)


def in_short(rules: Collection[str]) -> str:
    """Return the ids of rules: of a whole group its name alone, of many in a row the first and the last."""
    groups: dict[str, list[int]] = defaultdict(list)
    for rule in RULES:
        name, _, number = rule.rpartition("-")
        groups[name].append(int(number))
    words: list[str] = []
    for name, numbers in groups.items():
        some = sorted(number for number in numbers if f"{name}-{number}" in rules)
        if len(some) == len(numbers):
            words.append(f"all of `{name}`")
            continue
        for _, row in groupby(enumerate(some), lambda counted: counted[1] - counted[0]):
            ids = [f"`{name}-{number}`" for _, number in row]
            words += [f"{ids[0]} to {ids[-1]}"] if len(ids) > 2 else ids
    return ", ".join(words)


def _rule_of(item: pytest.Item) -> str | None:
    """Return the id of a rule that is tried on a transport; None for any other test."""
    cls: type | None = getattr(item, "cls", None)
    found = promise_of(getattr(item, "obj", None)) if cls is not None and issubclass(cls, Workbench) else None
    return found.id if found is not None else None


def pytest_configure(config: pytest.Config) -> None:
    page = os.environ.get(VARIABLE)
    if page is not None:
        config.pluginmanager.register(Proven(Path(page)))
