"""A run of several processes says what a run of one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.once]


def run(folder: Path, tests: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run some tests in two processes."""
    pytest.importorskip("xdist")
    (folder / "test_it.py").write_text(tests)
    (folder / "pytest.ini").write_text("[pytest]\n")
    in_parallel = ("--numprocesses=2", "--dist=loadscope", "--no-loadscope-reorder", "--max-worker-restart=0")
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-v",
            "-p",
            "no:cacheprovider",
            "-p",
            "tests.parallel.plugin",
            *in_parallel,
            *options,
        ],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_a_test_that_takes_too_long_shows_its_stack(tmp_path):
    """It fails by its name, and all stacks of its process are written."""
    hanging = "import threading\n\ndef test_hang():\n    threading.Event().wait()\n"

    done = run(tmp_path, hanging, "--timeout=2", "--timeout-method=thread")

    assert 1 == done.returncode
    assert "crashed while running 'test_it.py::test_hang'" in done.stdout
    assert "in test_hang" in done.stderr


def test_a_test_that_holds_the_interpreter_ends_all_the_same(tmp_path):
    """No line of Python can run in its process any more, so what is written in Python could not end it."""
    holding = "import ctypes\n\ndef test_hold():\n    ctypes.PyDLL(None).sleep(1000)\n"

    done = run(tmp_path, holding, "--timeout=2", "--timeout-method=thread")

    assert 1 == done.returncode
    assert "crashed while running 'test_it.py::test_hold'" in done.stdout
    assert "in test_hold" in done.stderr


def test_a_process_that_dies_ends_the_run(tmp_path):
    """The test that it died in fails, and nothing waits for the others."""
    dying = "import os\n\ndef test_die():\n    os._exit(0)\n"

    done = run(tmp_path, dying)

    assert 1 == done.returncode
    assert "crashed while running 'test_it.py::test_die'" in done.stdout


def test_half_a_character_is_shown(tmp_path):
    """What a test wrote is shown whatever it is, also where it says why the test failed."""
    half = 'def test_half():\n    print("\\udce9")\n    raise ValueError("\\udcea")\n'

    done = run(tmp_path, half)

    assert 1 == done.returncode
    assert "INTERNALERROR" not in done.stdout
    assert "ValueError: \\udcea" in done.stdout


def test_the_tests_of_a_heavy_broker_stay_together(tmp_path):
    """Those with its name in theirs run in one process, whatever is between them."""
    tests = """\
import pathlib
import time
import pytest

@pytest.mark.parametrize("part", [1, 2, 3])
def test_on_kafka(part):
    while not pathlib.Path("other").exists():
        time.sleep(0.01)

def test_other():
    pathlib.Path("other").touch()

class TestMore:
    def test_kafka_too(self):
        pass
"""

    done = run(tmp_path, tests)

    assert 0 == done.returncode, done.stdout
    processes = [line.split("]")[0] for line in done.stdout.splitlines() if "PASSED" in line and "kafka" in line]
    assert (4, 1) == (len(processes), len(set(processes)))


def test_the_tests_of_a_class_stay_together(tmp_path):
    """They run in one process; tests that are functions run in the one that is free."""
    tests = """\
import pathlib
import time

class TestTogether:
    def test_a(self):
        while not pathlib.Path("b").exists():
            time.sleep(0.01)

    def test_c(self):
        pass

def test_b():
    pathlib.Path("b").touch()

def test_d():
    pass
"""

    done = run(tmp_path, tests)

    assert 0 == done.returncode, done.stdout
    processes = {line.split("]")[0] for line in done.stdout.splitlines() if "PASSED" in line and "TestTogether" in line}
    assert 1 == len(processes)
