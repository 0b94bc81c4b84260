"""Plugins as installed distributions: found, reported when broken, and never in the way of the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CLIENT_LIBRARIES = ["sqlalchemy", "sqlite3", "redis", "pika", "kafka", "botocore", "greenstalk"]


def install(folder: Path, distribution: str, module: str, source: str, version: str = "1.2.3") -> None:
    """Lay out a distribution with one plugin, as an installer would."""
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[postbus]\n{module} = {module}\n")


def run(code: str, folder: Path, **environment: str) -> dict[str, list[str]]:
    """Run a program in a fresh interpreter that sees the folder's distributions; return the JSON that it prints."""
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert 0 == result.returncode, result.stderr
    answer: dict[str, list[str]] = json.loads(result.stdout)
    return answer


LOAD = """
import json, logging
logging.disable()
from postbus.plugins import installed_plugins
plugins = installed_plugins()
print(json.dumps({
    "plugins": [plugin.name for plugin in plugins.loaded],
    "schemes": {name: str(scheme.plugin) for name, scheme in plugins.schemes.items()},
    "problems": [str(problem) for problem in plugins.problems],
}))
"""

PLUGIN = """
from postbus.hookspecs import hookimpl
from postbus.transport import Guarantees

CONTRACT = 1

@hookimpl
def register_transports(register):
    register("{scheme}", lambda dsn, context: None, guarantees=Guarantees(durable=True))
"""


USE = """
import json
from postbus import ConfigurationError, Postbus
try:
    Postbus(transports={"a": "acme://"}).transport("a")
except ConfigurationError as error:
    print(json.dumps({"error": str(error)}))
"""

HOOKED = "from postbus.hookspecs import hookimpl\n\nCONTRACT = 1\n\n@hookimpl\n"


def test_a_broken_plugin_is_reported_and_stops_nobody(tmp_path: Path) -> None:
    """A plugin that raises at import is named with its distribution, version and reason; the others are there."""
    install(tmp_path, "acme-broken", "aaa_broken", "raise RuntimeError('no such driver')\n")
    install(tmp_path, "acme-good", "acme_good", PLUGIN.format(scheme="acme"))
    answer = run(LOAD, tmp_path)
    assert "acme" in answer["schemes"]
    assert "in-memory" in answer["schemes"]
    (problem,) = answer["problems"]
    assert (
        "Plugin 'aaa_broken' of acme-broken 1.2.3 could not be imported, so it is left out: "
        "RuntimeError: no such driver."
    ) == problem


def test_a_scheme_that_is_registered_twice_is_reported(tmp_path: Path) -> None:
    """The first plugin keeps the scheme; the second is named, with the first."""
    install(tmp_path, "acme-one", "acme_one", PLUGIN.format(scheme="acme"))
    install(tmp_path, "acme-two", "acme_two", PLUGIN.format(scheme="acme"), version="9.9")
    answer = run(LOAD, tmp_path)
    assert "acme-one 1.2.3" == dict(answer["schemes"])["acme"]  # type: ignore[arg-type]
    assert [
        "Plugin 'acme_two' of acme-two 9.9 registers the scheme 'acme', which acme-one 1.2.3 has registered before. "
        "acme-one 1.2.3 keeps it."
    ] == answer["problems"]


def test_a_hook_that_raises_is_reported(tmp_path: Path) -> None:
    """A hook's error is reported with the hook's name, and the next plugin registers all the same."""
    install(
        tmp_path,
        "acme-bad",
        "aaa_bad",
        HOOKED + "def register_transports(register):\n    1 / 0\n",
    )
    answer = run(LOAD, tmp_path)
    assert "in-memory" in answer["schemes"]
    assert [
        "Plugin 'aaa_bad' of acme-bad 1.2.3 failed in register_transports: ZeroDivisionError: division by zero."
    ] == (answer["problems"])


def test_a_hook_of_an_unknown_shape_is_reported(tmp_path: Path) -> None:
    """A hook that takes an argument that there is not is a problem of that plugin alone."""
    install(
        tmp_path,
        "acme-odd",
        "aaa_odd",
        HOOKED + "def register_transports(register, colour):\n    pass\n",
    )
    answer = run(LOAD, tmp_path)
    assert "in-memory" in answer["schemes"]
    assert "aaa_odd" in answer["problems"][0]


@pytest.mark.parametrize(
    ("chosen", "expected"), [("in-memory,sync", ["in-memory", "sync"]), ("", []), ("sql", ["sql"])]
)
def test_postbus_plugins_chooses(tmp_path: Path, chosen: str, expected: list[str]) -> None:
    """POSTBUS_PLUGINS loads only those that it names; empty loads none."""
    assert expected == run(LOAD, tmp_path, POSTBUS_PLUGINS=chosen)["plugins"]


def test_a_scheme_of_a_plugin_that_was_not_chosen_is_explained(tmp_path: Path) -> None:
    """Who misses a plugin that is installed is told that POSTBUS_PLUGINS leaves it out."""
    install(tmp_path, "postbus-acme", "acme", PLUGIN.format(scheme="acme"))
    error = str(run(USE, tmp_path, POSTBUS_PLUGINS="sync")["error"])
    assert "No plugin serves acme://." in error
    assert "But note: POSTBUS_PLUGINS leaves out acme" in error


def test_importing_postbus_imports_no_plugin(tmp_path: Path) -> None:
    """`import postbus` loads no plugin and no client library, nor the command line's libraries."""
    code = "import json, sys, postbus; print(json.dumps({'modules': sorted(sys.modules)}))"
    modules = run(code, tmp_path)["modules"]
    assert [] == [name for name in modules if name.startswith("postbus_")]
    assert [] == [name for name in [*CLIENT_LIBRARIES, "click", "rich", "asyncio"] if name in modules]


def test_importing_every_plugin_imports_no_client_library(tmp_path: Path) -> None:
    """Loading all installed plugins, and checking a DSN of each, imports none of their clients."""
    code = """
import json, sys
from postbus import Postbus
app = Postbus(transports={"a": "in-memory://", "b": "sync://", "c": "sqlite:///x.db"})
print(json.dumps({
    "modules": sorted(sys.modules), "plugins": [p.name for p in app.plugins.loaded],
}))
"""
    answer = run(code, tmp_path)
    assert {"in-memory", "sql", "sync"} <= set(answer["plugins"])
    assert [] == [name for name in CLIENT_LIBRARIES if name in answer["modules"]]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        pytest.param(
            PLUGIN.format(scheme="acme").replace("CONTRACT = 1\n", ""),
            "is left out. It does not say which contract it was written for. Put CONTRACT = 1 into its module",
            id="no number",
        ),
        pytest.param(
            PLUGIN.format(scheme="acme").replace("CONTRACT = 1", "CONTRACT = 7"),
            "is left out. It was written for contract 7, and this Postbus serves 1. Upgrade Postbus.",
            id="a newer number",
        ),
        pytest.param(
            HOOKED + "def register_transport(register):\n    pass\n",
            "has the hook 'register_transport', which Postbus never calls. Did you mean 'register_transports'?",
            id="misspelt",
        ),
        pytest.param(
            "CONTRACT = 1\n\ndef register_transports(register):\n    pass\n",
            "has a function 'register_transports' without @hookimpl, so Postbus never calls it.",
            id="unmarked",
        ),
        pytest.param(
            HOOKED + "def register_transports(register):\n    register('acme', lambda dsn, context: None)\n",
            "failed in register_transports: TypeError:",
            id="no guarantees",
        ),
        pytest.param(
            PLUGIN.format(scheme="acme").replace("Guarantees(durable=True)", "'durable'"),
            "the guarantees of acme:// are 'durable', not Guarantees(...)",
            id="other guarantees",
        ),
    ],
)
def test_what_is_wrong_with_a_plugin_is_named(tmp_path: Path, source: str, told: str) -> None:
    """A plugin that will not work is told what is wrong with it, not found dead when its scheme is used."""
    install(tmp_path, "acme-odd", "acme_odd", source)

    (problem,) = run(LOAD, tmp_path)["problems"]

    assert "Plugin 'acme_odd' of acme-odd 1.2.3 " in problem
    assert told in problem


def test_a_factory_that_makes_no_transport_is_named(tmp_path: Path) -> None:
    """Who uses the scheme hears whose factory it is, and what it made."""
    install(tmp_path, "postbus-acme", "acme", PLUGIN.format(scheme="acme"))
    error = str(run(USE, tmp_path)["error"])

    assert "Plugin 'acme' of postbus-acme 1.2.3 made a NoneType for acme://, which is no transport" in error
