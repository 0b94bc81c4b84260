"""What an app is called that was given no name: by where it is, so that two apps are not taken for one."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from postbus import Postbus
from postbus.cli import main
from postbus.cli.invocation import Invocation

UNNAMED = """
from postbus import Postbus

app = Postbus(transports={"orders": {"dsn": "in-memory://", "rate_limit": "5/second"}}, routing={})


def make_app():
    return Postbus(transports={})


class Special(Postbus):
    def __init__(self):
        super().__init__(transports={})
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make a folder on the path, with the modules ``nameless_one`` and ``nameless_two``, each with an app."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("POSTBUS_STATE_DIR", str(tmp_path / "state"))
    for name in ("nameless_one", "nameless_two"):
        (tmp_path / f"{name}.py").write_text(UNNAMED)
    yield tmp_path
    for name in ("nameless_one", "nameless_two"):
        sys.modules.pop(name, None)


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


def test_stopping_reaches_no_other_app(folder: Path) -> None:
    """The workers of another unnamed app go on, and the command says whom it has told."""
    one, two = (load(name).app.stop_signal() for name in ("nameless_one", "nameless_two"))
    result = CliRunner().invoke(main, ["--app", "nameless_one:app", "stop-workers"])

    assert (True, False) == (one.was_sent(), two.was_sent())
    assert (
        "Told every worker of 'nameless_one:app' to stop after the messages in hand: all that share the folder "
        f"{folder}/state.\n" == result.stdout
    )


def test_the_name_is_that_of_the_place(folder: Path) -> None:
    """It is the module and the attribute, as for ``--app``; the module alone, where it is no attribute."""
    module = load("nameless_one")

    assert "nameless_one:app" == module.app.name
    assert "nameless_one" == module.make_app().name
    assert "nameless_one" == module.Special().name
    assert "shop" == Postbus(name="shop", transports={}).name


def test_the_name_of_a_program(folder: Path) -> None:
    """A module that was started as a program has the name by which it can be imported."""
    (folder / "nameless_one.py").write_text(f"{UNNAMED}\nprint(app.name)\n")
    shown = subprocess.run([sys.executable, "nameless_one.py"], capture_output=True, text=True, timeout=60, check=True)

    assert "nameless_one:app\n" == shown.stdout


@pytest.mark.parametrize(
    ("text", "name"),
    [('name = "shop"', "shop"), ('handlers = ["web.handlers:group"]', "web.handlers:group"), ("", "{}")],
)
def test_the_name_of_an_app_that_a_file_describes(folder: Path, text: str, name: str) -> None:
    """It is that of its first handlers, which stays when the folder is another one; else that of the folder."""
    (folder / "postbus.toml").write_text(f'{text}\n[transports]\norders = "in-memory://"')

    assert name.format(folder) == Invocation().app.name


def test_workers_of_different_apps_share_no_rate_limit(folder: Path) -> None:
    """What their limits are counted under in a common store differs."""
    one, two = (load(name).app for name in ("nameless_one", "nameless_two"))

    assert one._rate_limit("orders")._key != two._rate_limit("orders")._key


@pytest.mark.parametrize("name", ["../../etc", "/srv/shop", ".", "..", "x" * 300, "shöp/app"])
def test_any_name_makes_a_file(folder: Path, name: str) -> None:
    """Whatever an app is called, its signal lies in the folder for that, and is its own."""
    app = Postbus(name=name, transports={})
    signal, other = app.stop_signal(), Postbus(name=f"{name}2", transports={}).stop_signal()
    app.stop_signal().send()

    assert (True, False) == (signal.was_sent(), other.was_sent())
    assert [folder / "state"] == [path.parents[1] for path in folder.rglob("stop-workers")]
