"""Runs the contract on a transport, each in a process of its own, and tells what became of every rule."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from postbus.testing import TransportContract
from postbus.testing.workbench import Workbench
from tests.contract.healthy import AWKWARD, HEALTHY, Shared
from tests.contract.mutants import MUTANTS

Verdict = Mapping[str, str]
"""The outcome of each rule: passed, skipped or failed."""

ROOT = Path(__file__).parents[2]

# Mutants mostly wait, so more of them run than there are processors; but other tests run beside them.
AT_ONCE = 4 * (os.cpu_count() or 1)

CONNECTIONS = {connection.__name__: connection for connection in (*HEALTHY, *AWKWARD)} | {
    name: mutant.connection for name, mutant in MUTANTS.items()
}


def groups() -> list[type]:
    """Return the groups of rules, in their order."""
    return [group for group in TransportContract.__bases__ if group is not Workbench]


def rules(*only: type) -> list[str]:
    """Return the names of the rules of some groups, by default of all."""
    return [name for group in only or groups() for name in vars(group) if name.startswith("test_")]


def failed(verdict: Verdict) -> set[str]:
    """Return the rules that noticed something."""
    return {rule for rule, outcome in verdict.items() if outcome == "failed"}


def prove(names: Iterable[str], *, whole: bool = True) -> dict[str, Future[Verdict]]:
    """Run the contract on the transports of these names; unless ``whole``, only the groups that a mutant is about."""
    # Those whose rules start processes are spread evenly over the others, to leave the processors to other tests too.
    kinds: dict[bool, list[str]] = {True: [], False: []}
    for name in sorted(names):
        kinds[issubclass(CONNECTIONS[name], Shared)].append(name)
    names = [
        name for _, name in sorted((n / len(kind), name) for kind in kinds.values() for n, name in enumerate(kind))
    ]
    pool = ProcessPoolExecutor(AT_ONCE, multiprocessing.get_context("spawn"), _see_the_project, (list(sys.path),))
    verdicts = {name: pool.submit(run, name, whole=whole) for name in names}
    pool.shutdown(wait=False)
    return verdicts


def groups_for(name: str, *, whole: bool) -> list[type]:
    """Return the groups of rules that a transport is put through; unless ``whole``, those that a mutant breaks."""
    only = CONNECTIONS[name].only
    if only:
        return [group for group in groups() if group.__name__ in only]
    if whole or name not in MUTANTS:
        return groups()
    mutant = MUTANTS[name]
    return [group for group in groups() if {mutant.rule, *mutant.also, *mutant.perhaps} & vars(group).keys()]


def run(name: str, *, whole: bool) -> Verdict:
    """Run the contract on one transport, in this process."""
    listener = _Listener()
    subject = f"{ROOT / 'tests' / 'contract' / 'subjects.py'}::{name}"
    asked = [f"{subject}::{rule}" for rule in rules(*groups_for(name, whole=whole))]
    options = ["-q", "-c", os.devnull, f"--rootdir={ROOT}", "--import-mode=importlib", "-p", "no:cacheprovider"]
    # Of the folders that pytest makes by itself only the newest few outlive their run, and others run beside this one.
    with (
        Path(os.devnull).open("w") as nowhere,
        tempfile.TemporaryDirectory(prefix="proof-", ignore_cleanup_errors=True) as folder,
    ):
        out, sys.stdout = sys.stdout, nowhere
        try:
            pytest.main([*asked, f"--basetemp={folder}", *options, "-o", f"python_classes={name}"], plugins=[listener])
        finally:
            sys.stdout = out
    return listener.verdicts


def _see_the_project(path: list[str]) -> None:
    sys.path[:] = [str(ROOT), *path]


class _Listener:
    def __init__(self) -> None:
        self.verdicts: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        rule = report.nodeid.rpartition("::")[2].partition("[")[0]
        if self.verdicts.get(rule) not in ("failed", "skipped"):
            self.verdicts[rule] = report.outcome
