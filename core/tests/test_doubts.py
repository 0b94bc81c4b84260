"""Mistakes that nothing refuses, and that would let a message be handled where it is dispatched, without a word."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from postbus import Postbus
from postbus.cli import main


@dataclass(frozen=True)
class Ping:
    pass


def said(app: Postbus, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Dispatch two messages; return what is logged about it."""
    caplog.clear()
    app.handler(handles=Ping)(lambda ping: None)
    for _ in range(2):
        app.dispatch(Ping())
    return [record.getMessage() for record in caplog.records]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make an empty folder to be in, and in ``shop`` beside it a module with an unconfigured app."""
    (tmp_path / "shop" / "src").mkdir(parents=True)
    (tmp_path / "shop" / "src" / "doubted.py").write_text("from postbus import Postbus\n\napp = Postbus()\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.syspath_prepend(str(tmp_path / "shop" / "src"))
    monkeypatch.delenv("POSTBUS_TRANSPORT_DSN", raising=False)
    yield tmp_path
    sys.modules.pop("doubted", None)


def test_transports_without_any_routing(caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, unless an empty routing says that it is meant, or a message names its transport itself."""
    transports = {"orders": "in-memory://", "failed": "in-memory://"}

    assert [
        "Nothing is routed to 'orders', so every message is handled where it is dispatched. Add routes to routing, or "
        "an empty "
        "routing if that is meant."
    ] == said(Postbus(transports=transports, failure_transport="failed"), caplog)
    assert [] == said(Postbus(transports=transports, failure_transport="failed", routing={}), caplog)
    assert [] == said(Postbus(transports={"failed": "in-memory://"}, failure_transport="failed"), caplog)
    app = Postbus(transports=transports)
    app.message(transport="orders")(Ping)
    assert [] == said(app, caplog)


@pytest.mark.parametrize(
    ("name", "problem"),
    {
        "POSTBUS_TRANSPORT_DNS": "The variable POSTBUS_TRANSPORT_DNS means nothing. Did you mean "
        "POSTBUS_TRANSPORT_DSN?",
        "POSTBUS_PLUGIN": "The variable POSTBUS_PLUGIN means nothing. Did you mean POSTBUS_PLUGINS?",
        "POSTBUS_FLEET": None,
        "MY_TRANSPORT_DSN": None,
    }.items(),
)
def test_a_misspelt_variable(
    name: str, problem: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is nearly one of ours is said, without its value; any other is somebody else's."""
    for known in ("POSTBUS_TRANSPORT_DSN", "POSTBUS_PLUGINS"):
        monkeypatch.delenv(known, raising=False)
    monkeypatch.setenv(name, "redis://me:hush@localhost")

    assert ([] if problem is None else [problem]) == said(Postbus(transports={}), caplog)


@pytest.mark.usefixtures("folder")
def test_an_empty_dsn_in_the_environment(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It is said, and is no DSN."""
    monkeypatch.setenv("POSTBUS_TRANSPORT_DSN", "")

    assert [
        "POSTBUS_TRANSPORT_DSN is empty, so every message is handled where it is dispatched. Give it a DSN."
    ] == said(Postbus(), caplog)


@pytest.mark.parametrize(
    ("name", "text"), [("postbus.toml", ""), ("pyproject.toml", "[tool.postbus]"), ("src/postbus.toml", "")]
)
def test_a_configuration_in_another_folder(
    name: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An app that finds none where it was started, while one lies by its module, says so; there it does not."""
    file = folder / "shop" / name
    file.write_text(text)
    app = importlib.import_module("doubted").app

    assert [
        f"There is no configuration in {folder}/elsewhere, so every message is handled where it is dispatched, but "
        "there is "
        f"{file}. Start the program in that folder, or name the file: Postbus(config=...)."
    ] == said(app, caplog)
    monkeypatch.chdir(file.parent)
    sys.modules.pop("doubted")
    assert [] == said(importlib.import_module("doubted").app, caplog)


@pytest.mark.parametrize("text", [None, "[tool.other]", "[[["])
def test_no_configuration_anywhere(text: str | None, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An app without one handles everything at once, and nothing is said; whatever other files hold is not ours."""
    if text is not None:
        (folder / "shop" / "pyproject.toml").write_text(text)

    assert [] == said(importlib.import_module("doubted").app, caplog)


def test_a_handler_for_a_transport_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    """It is said, with the nearest one; where there is no transport at all, everything is handled at once."""
    for transports, expected in (
        ({"orders": "in-memory://"}, ["Did you mean 'orders'?"]),
        ({"mails": "in-memory://"}, ["Transports: mails."]),
        ({}, []),
    ):
        app = Postbus(transports=transports, routing={})
        app.handler(handles=Ping, from_transport="ordesr", name="shop.note")(lambda ping: None)

        assert [
            f"Handler 'shop.note' is for messages from 'ordesr', which is not configured. {hint}" for hint in expected
        ] == said(app, caplog)


@pytest.mark.usefixtures("folder")
def test_check_calls_each_a_problem(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``postbus check`` has all of them; where there is no app, it is said which variable is none of ours."""
    (folder / "elsewhere" / "postbus.toml").write_text('app = "doubted:app"\n[transports]\norders = "in-memory://"')
    monkeypatch.setenv("POSTBUS_TRANSPORT_DNS", "in-memory://")
    result = CliRunner().invoke(main, ["check"])

    assert 1 == result.exit_code
    assert 1 == result.output.count("problem  The variable POSTBUS_TRANSPORT_DNS means nothing.")
    assert 1 == result.output.count("problem  Nothing is routed to 'orders'")

    (folder / "elsewhere" / "postbus.toml").unlink()
    assert "Error: The variable POSTBUS_TRANSPORT_DNS means nothing." in CliRunner().invoke(main, ["stats"]).stderr
