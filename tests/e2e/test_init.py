"""``postbus init``, and all that it says to do next, as somebody types it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.once]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a shell in which the programs of this Python are found first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    hidden = ("POSTBUS_APP", "POSTBUS_TRANSPORT_DSN", "ORDERS_DSN", "FAILED_DSN", "PYTEST_ADDOPTS")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, "PATH": path, "POSTBUS_STATE_DIR": str(tmp_path / "state"), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def run(command: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False
    )


def test_what_it_writes_runs(folder: Path, environment: dict[str, str]) -> None:
    """Each line that it says to type works, and does what it says."""
    written = run("postbus init", folder, environment)
    assert (0, "") == (written.returncode, written.stderr)
    names = written.stdout.splitlines()[0].removeprefix("Wrote ").removesuffix(".").split(", ")
    assert set(names) == {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    install, *commands = [line.strip() for line in written.stdout.splitlines() if line.startswith("  ")]
    assert "pip install 'postbus[sql,in-memory]' pytest" == install
    for requirement in ("postbus", "postbus-sql", "postbus-in-memory", "pytest"):  # No registry is asked in tests.
        assert distribution(requirement)
    done = [run(command, folder, environment) for command in commands]

    assert [0, 0, 0] == [one.returncode for one in done], done
    assert ["python", "postbus", "pytest"] == [shlex.split(command)[0] for command in commands]
    sent, consumed, tested = done
    assert "Order 13 is placed.\n" == sent.stdout
    assert "Receipt for order 13\n" == consumed.stdout
    assert "Stopped, because there was nothing to do: 1 handled, 0 failed" in consumed.stderr
    assert "1 passed" in tested.stdout


def test_its_configuration_has_no_problem(folder: Path, environment: dict[str, str]) -> None:
    """What it writes is what check wants, once it is set up."""
    run("postbus init", folder, environment)
    assert tomllib.loads((folder / "postbus.toml").read_text())["app"] == "shop:app"
    run("postbus setup", folder, environment)
    checked = run("postbus check", folder, environment)

    assert 0 == checked.returncode, checked


def test_it_overwrites_nothing(folder: Path, environment: dict[str, str]) -> None:
    """What is there already is named, and nothing at all is written."""
    (folder / "shop").mkdir()
    (folder / "shop" / "messages.py").write_text("mine")
    (folder / "compose.yaml").write_text("mine")
    (folder / "README").write_text("is in nobody's way")
    refused = run("postbus init", folder, environment)

    assert (2, "") == (refused.returncode, refused.stdout)
    assert (
        "Error: Nothing was written, because there already is shop/messages.py, compose.yaml. Start in an empty "
        "folder.\n" == refused.stderr
    )
    files = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert {"shop/messages.py": "mine", "compose.yaml": "mine", "README": "is in nobody's way"} == files
