"""The program: how it finds the app, what its exit codes mean, and errors as sentences."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from postbus.cli import main
from postbus.cli.program import COMMANDS

if TYPE_CHECKING:
    from conftest import Shop


def postbus(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own, in the folder of the test."""
    environment = {name: value for name, value in os.environ.items() if name != "POSTBUS_APP"} | environment
    command = [sys.executable, "-m", "postbus", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def install(folder: Path, name: str, module: str) -> None:
    """Make a distribution with one plugin, as an installer would leave it in a folder."""
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[postbus]\n{name} = {name}_plugin\n")
    (folder / f"{name}_plugin.py").write_text(module)


COMMAND = """
import click
from postbus import hookimpl

CONTRACT = 1

@hookimpl
def register_commands(group):
    @group.command()
    @click.pass_obj
    def greet(invocation):
        "Greet the app."
        click.echo(f"hello {', '.join(invocation.app.transports)}")

    @group.command()
    def stats():
        "Be somebody else."
"""


@pytest.mark.parametrize("command", [*COMMANDS, "failed show", "failed retry", "failed remove"])
def test_every_command_has_an_example(command: str) -> None:
    """The help of each command ends with an example of it."""
    result = CliRunner().invoke(main, [*command.split(), "--help"])

    assert 0 == result.exit_code
    assert f"postbus {command}" in result.output.strip().splitlines()[-1]


def test_the_help_lists_every_command() -> None:
    """``postbus --help`` names every command, with a sentence that is not cut off."""
    result = CliRunner().invoke(main, ["--help"])

    listed = {line.split()[0]: line for line in result.output.partition("Commands:")[2].splitlines() if line.strip()}
    assert COMMANDS.keys() <= listed.keys()
    assert not [line for name, line in listed.items() if name in COMMANDS and line.endswith("...")]


@pytest.mark.slow
def test_the_help_imports_nothing_heavy() -> None:
    """What prints tables, runs an event loop or talks to brokers is not imported for help."""
    code = "import sys; from postbus.cli import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert not {"rich", "asyncio", "sqlalchemy", "pydantic"} & set(result.stdout.split())


def test_a_misspelt_command(shop: Shop) -> None:
    """An unknown command is answered with the nearest one, and exit code 2."""
    result = shop.run("constume")

    assert 2 == result.exit_code
    assert "There is no command 'constume'. Did you mean 'consume'?" in result.stderr


# where the app is


def test_the_app_is_where_the_option_says(shop: Shop) -> None:
    """``--app`` names it."""
    assert "orders" in shop.run("stats").output


@pytest.mark.slow
def test_the_app_is_where_the_environment_says(shop: Shop) -> None:
    """``POSTBUS_APP`` names it, and the current folder is on the path."""
    result = postbus("stats", POSTBUS_APP="shop:app")

    assert 0 == result.returncode, result.stderr
    assert "orders" in result.stdout


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("postbus.toml", 'app = "shop:app"'),
        ("pyproject.toml", '[tool.postbus]\napp = "shop:app"'),
        ("postbus.toml", '[transports]\norders = "in-memory://"'),
        ("pyproject.toml", '[tool.postbus.transports]\norders = "in-memory://"'),
    ],
)
def test_the_app_is_where_the_file_says(shop: Shop, name: str, text: str) -> None:
    """The file names the app, or else describes it."""
    shop.write(text, name)
    result = CliRunner().invoke(main, ["stats"])

    assert 0 == result.exit_code, result.output
    assert "orders" in result.output


def test_the_environments_dsn_alone_is_an_app(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing else is configured, ``POSTBUS_TRANSPORT_DSN`` is."""
    monkeypatch.setenv("POSTBUS_TRANSPORT_DSN", "in-memory://")

    assert "async" in CliRunner().invoke(main, ["stats"]).output


def test_no_app_anywhere(shop: Shop) -> None:
    """Without an app, the user is told how to name one."""
    result = CliRunner().invoke(main, ["stats"])

    assert 2 == result.exit_code
    assert f"Error: There is no app in {Path.cwd()}. Name it with --app" in result.stderr


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("def (:", "SyntaxError: invalid syntax"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_module_that_cannot_be_imported(shop: Shop, line: str, problem: str) -> None:
    """A mistake in the user's module is a sentence that says where it is, without a traceback."""
    shop.write(f"\n{line}\n")
    result = shop.run("stats")

    assert 2 == result.exit_code
    assert f"Importing 'shop:app' failed: {problem}" in result.stderr
    assert "shop.py, line 2" in result.stderr
    assert "Traceback" not in result.stderr


def test_every_mistake_of_the_configuration_is_told(shop: Shop) -> None:
    """Each mistake in the file is a line of its own."""
    shop.write('rooting = 1\n[transports]\norders = "nix://"\n[routing]\n"*" = "ordesr"', "postbus.toml")
    result = CliRunner().invoke(main, ["stats"])

    assert 2 == result.exit_code
    assert 2 == result.stderr.count("Error: ")


@pytest.mark.slow
def test_a_traceback_only_when_asked_for(shop: Shop) -> None:
    """``--debug`` adds the traceback to the sentence; without it there is none."""
    shop.write("1 / 0\n")
    plain, debugged = (postbus(*option, "--app", "shop:app", "stats") for option in ([], ["--debug"]))

    assert "Traceback" not in plain.stderr
    assert "Traceback" in debugged.stderr
    assert "Error: Importing 'shop:app' failed" in debugged.stderr
    assert 2 == plain.returncode == debugged.returncode


@pytest.mark.slow
def test_a_reader_that_has_seen_enough(shop: Shop) -> None:
    """Output into a pipe that nobody reads ends the program without a traceback."""
    command = [sys.executable, "-m", "postbus", "--app", "shop:app", "debug", "--format", "json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process, process.stderr:
        assert "Traceback" not in process.stderr.read()


# commands of plugins


@pytest.mark.slow
def test_a_plugin_adds_commands(shop: Shop) -> None:
    """A plugin's command is listed after ours and has the app; it cannot take the place of one of ours."""
    install(shop.folder, "greeter", COMMAND)

    listed = postbus("--help", PYTHONPATH=str(shop.folder)).stdout
    assert "Greet the app." in listed
    assert "Be somebody else." not in listed
    assert "hello orders" in postbus("--app", "shop:app", "greet", PYTHONPATH=str(shop.folder)).stdout
    assert "TRANSPORT" in postbus("--app", "shop:app", "stats", PYTHONPATH=str(shop.folder)).stdout


@pytest.mark.slow
def test_a_broken_plugin_stops_no_command(shop: Shop) -> None:
    """A plugin that cannot be imported is a warning with its name and reason, and ``plugins`` lists it."""
    install(shop.folder, "broken", "raise RuntimeError('out of order')")

    result = postbus("--app", "shop:app", "stats", PYTHONPATH=str(shop.folder))
    assert 0 == result.returncode
    assert "WARNING Plugin 'broken' of broken 1.0 could not be imported" in result.stderr
    listed = postbus("plugins", PYTHONPATH=str(shop.folder))
    assert 0 == listed.returncode
    assert 1 == listed.stderr.count("out of order")
