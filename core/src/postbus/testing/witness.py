"""A plugin of pytest that writes down what a run has proven, for `postbus certify`: ``-p postbus.testing.witness``.

With pytest-xdist it is the process that prints which hears of all tests, and writes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import msgspec
import pytest

from postbus.testing import reporting
from postbus.testing.certifying import VARIABLE, Seen
from postbus.testing.faults.tests import TransportFaults
from postbus.testing.histories import TransportHistories
from postbus.testing.promises import promise_of, proof_of

PROOF = "postbus-proof"
"""The property of a test that says what it proves if it passes."""


class Witness:
    """Hears of every test, and writes all of it down in the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: dict[str, Seen] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            # The report of a test takes its properties along, from the process that runs it to the one that prints.
            item.user_properties.append((PROOF, _proof_of(item)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        said = dict(report.user_properties)
        seen = self._seen.setdefault(report.nodeid, Seen(report.nodeid, str(said.get(PROOF, ""))))
        seen.says = str(said.get(reporting.FAULTS, seen.says))
        if report.failed:
            seen.outcome = "failed"
        elif report.skipped and seen.outcome == "passed":
            seen.outcome = "unproven" if reporting.UNPROVEN in said else "skipped"
            if reporting.BROKEN in said:
                seen.outcome, seen.says = "broken", str(said[reporting.BROKEN])

    def pytest_sessionfinish(self) -> None:
        self._path.write_bytes(msgspec.json.encode([*self._seen.values()]))


def pytest_configure(config: pytest.Config) -> None:
    """Be a witness of this run, if one is asked for; where there are several processes, in each of them."""
    if (path := os.environ.get(VARIABLE)) is None:
        return
    reporting.pytest_configure(config)
    is_worker = hasattr(config, "workerinput")
    config.pluginmanager.register(Witness(Path(os.devnull if is_worker else path)))


def _proof_of(item: pytest.Item) -> str:
    function, cls = getattr(item, "function", None), cast(type | None, getattr(item, "cls", None))
    if promise := promise_of(function):
        return promise.id
    if cls is not None and item.name.startswith("test_") and item.name.partition("[")[0] in _KIT:
        for kit, name in ((TransportHistories, "histories"), (TransportFaults, "faults")):
            if issubclass(cls, kit):
                return name
    return proof_of(function)


_KIT = {name for kit in (TransportHistories, TransportFaults) for name in vars(kit) if name.startswith("test_")}
