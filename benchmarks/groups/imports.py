"""Importing.

Each round is a fresh interpreter, which takes the time around the import itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from benchmarks import machine
from benchmarks.groups import Prepared
from benchmarks.measuring import Figure

TIMED_IMPORT = "from time import perf_counter as now; t = now(); import {module}; print(now() - t)"


@contextmanager
def figures() -> Generator[Prepared]:
    """Measure on one core; the first round, which may have to compile, does not count."""
    with machine.pinned(machine.CORES[-1]), tempfile.TemporaryDirectory(prefix="postbus-bench-") as compiled:
        # As installed: what is compiled is kept, though an environment may forbid that, or the folder be read-only.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = compiled
        yield (
            {"Libraries": machine.versions("postbus", "msgspec", "pluggy")},
            [
                Figure(
                    name="import postbus\nraw: start an interpreter that does nothing",
                    ours=lambda: import_time("postbus", environment),
                    raw=lambda: start_time(environment),
                    comparison="cost",
                    target=60e-3,
                ),
            ],
        )


def import_time(module: str, environment: Mapping[str, str]) -> float:
    """Return the seconds that a fresh interpreter needs for an import, its own start not counted."""
    return float(_run(TIMED_IMPORT.format(module=module), environment))


def start_time(environment: Mapping[str, str]) -> float:
    """Return the seconds for starting an interpreter and waiting for its end."""
    started = time.perf_counter()
    _run("pass", environment)
    return time.perf_counter() - started


def _run(code: str, environment: Mapping[str, str]) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
