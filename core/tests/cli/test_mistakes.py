"""The commonest mistakes of a newcomer, and what is printed for each: one sentence or two, and the whole of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from postbus.cli import main
from postbus.plugins import installed_plugins

if TYPE_CHECKING:
    from conftest import Shop

PLAIN = "from postbus import Postbus\n\napp = Postbus()\n"
"""An app that is configured by what is around it."""

SCHEMES = (
    "doctrine://, in-memory://, mariadb://, mariadb+pymysql://, mysql://, mysql+pymysql://, postgresql://, "
    "postgresql+psycopg://, sqlite://, sqlite+pysqlite://, sync://"
)


def errors(arguments: str) -> list[str]:
    """Run a command; return the errors that it prints, after checking that it prints nothing else."""
    sys.modules.pop("plain", None)
    result = CliRunner().invoke(main, arguments.split(), prog_name="postbus")

    assert 2 == result.exit_code, result.output
    lines = result.stderr.splitlines()
    assert all(line.startswith("Error: ") for line in lines)
    assert not [line for line in lines if re.search(r"(?<!\.)\.\.(?!\.)", line)]
    return [line.removeprefix("Error: ") for line in lines]


@pytest.mark.usefixtures("shop", "no_broker")
@pytest.mark.parametrize(
    ("dsn", "problem"),
    {
        "oracle://localhost/shop": "No plugin serves oracle://. Take one that is served here ({}), or install a plugin "
        "for it that you trust.",
        "nats://localhost": "No plugin serves nats://. Take one that is served here ({}), or install a plugin for it "
        "that you trust.",
        "rabbitmq://localhost": "No plugin serves rabbitmq://. Install it: pip install postbus-amqp",
        "rediss://localhost": "No plugin serves rediss://. Install it: pip install postbus-redis",
        "sqlit:///shop.db": "No plugin serves sqlit://. Did you mean sqlite://?",
        "limits://localhost": "No plugin serves limits://. Take one that is served here ({}), or install a plugin for "
        "it that you trust.",
        "$DSN": "The DSN is a variable that nobody has filled in. In postbus.toml, write ${{NAME}}.",
        "%env(DSN)%": "The DSN is a variable as Symfony writes it. In postbus.toml, write ${{NAME}}.",
        "'sqlite:///shop.db'": "The DSN has quotes around it that are part of it. Leave them out.",
        '"sqlite:///shop.db"': "The DSN has quotes around it that are part of it. Leave them out.",
        "url=sqlite:///shop.db": "The DSN begins with a name and '='. Leave them out.",
        "localhost:6379": "A DSN starts with a scheme and '://'. Write one such as redis://localhost:6379/messages.",
        " ": "The DSN is empty. Write one such as redis://localhost:6379/messages.",
    }.items(),
)
def test_a_wrong_dsn(shop: Shop, monkeypatch: pytest.MonkeyPatch, dsn: str, problem: str) -> None:
    """What is written in place of a DSN is recognized, none of it is quoted, and no package is made up."""
    shop.write(PLAIN, "plain.py")
    monkeypatch.setenv("POSTBUS_TRANSPORT_DSN", dsn)

    [told] = errors("--app plain:app stats")
    # A command to be copied has no full stop behind it, unless more follows: here, that plugins are left out.
    assert f"POSTBUS_TRANSPORT_DSN: {problem.format(SCHEMES)}".rstrip(".") == told.partition(" But note:")[0].rstrip(
        "."
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    {
        'orders = "$DSN"': "transports.orders: The DSN is a variable that nobody has filled in. In postbus.toml, write "
        "${NAME}.",
        'orders = "${ORDERS_DSN}"': "transports.orders uses ${ORDERS_DSN}, which is not set in the environment. Set "
        "it, or write ${ORDERS_DSN:-default}.",
        'orders = "${EMPTY_DSN}"': "transports.orders uses ${EMPTY_DSN}, which is empty in the environment. Set it, "
        "or write "
        "${EMPTY_DSN:-default}.",
        'orders = { url = "sync://" }': "transports.orders.url is no key of the configuration. Did you mean 'dsn'?",
        "orders = 5": "transports.orders must be a DSN or a table with 'dsn', got 5.",
        'orders = ""': "transports.orders: The DSN is empty. Write one such as redis://localhost:6379/messages.",
    }.items(),
)
def test_a_wrong_transport(shop: Shop, monkeypatch: pytest.MonkeyPatch, line: str, problem: str) -> None:
    """A mistake in the table of transports is named once, by its key."""
    monkeypatch.setenv("EMPTY_DSN", "")
    shop.write(f"[transports]\n{line}\n", "postbus.toml")

    assert [problem] == errors("stats")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("postbus.toml", b'# Caf\xe9\nname = "x"', "is not UTF-8, as TOML must be: see line 1. Save it as UTF-8."),
        (
            "postbus.toml",
            'name = "x"'.encode("utf-16"),
            "is written in UTF-16, which TOML is not. Save it as UTF-8.",
        ),
        (
            "postbus.toml",
            'name = "x"'.encode("utf-16-le"),
            "is written in UTF-16, which TOML is not. Save it as UTF-8.",
        ),
        (
            "postbus.toml",
            b"name = x",
            "is not TOML: Invalid value (at line 1, column 8). Put quotes around what is a text.",
        ),
    ],
)
def test_a_file_that_is_no_toml(shop: Shop, name: str, content: bytes, problem: str) -> None:
    """A file in another encoding is a sentence that names it and the way out."""
    path = shop.folder / name
    path.write_bytes(content)

    assert [f"{path} {problem}"] == errors("stats")


def test_a_file_with_a_mark_in_front(shop: Shop) -> None:
    """What editors of Windows put in front of UTF-8 does not matter."""
    (shop.folder / "postbus.toml").write_bytes(b'\xef\xbb\xbf[transports]\norders = "in-memory://"')

    assert "orders" in CliRunner().invoke(main, ["stats"]).output


@pytest.mark.parametrize("text", ['[tool]\npostbus = "x"', "tool = 1", '[tool.other]\na = "x"'])
def test_a_project_whose_tool_is_no_table(shop: Shop, text: str) -> None:
    """``tool.postbus`` that is no table is named; whatever else ``tool`` holds is not ours."""
    shop.write(text, "pyproject.toml")
    path = shop.folder / "pyproject.toml"
    nowhere = f"There is no app in {shop.folder}." if "postbus" not in text else ""

    [problem] = errors("stats")
    assert problem.startswith(nowhere or f"tool.postbus in {path} must be a table, got a str. Write [tool.postbus].")


@pytest.mark.parametrize(
    ("reference", "problem"),
    {
        "shop": "--app must be written 'module:attribute', got 'shop'. Did you mean 'shop:app'?",
        "./shop:app": "--app must be written 'module:attribute', got './shop:app'. Did you mean 'shop:app'?",
        "shop.py:app": "--app must be written 'module:attribute', got 'shop.py:app'. Did you mean 'shop:app'?",
        "web/shop.py:app": "--app must be written 'module:attribute', got 'web/shop.py:app'. Did you mean "
        "'web.shop:app'?",
        "shop:": "--app must be written 'module:attribute', got 'shop:'. Did you mean 'shop:app'?",
        "shop-x:app": "--app must be written 'module:attribute', got 'shop-x:app'.",
        "shop:ap": "--app names 'shop:ap', but 'shop' has no 'ap'. Did you mean 'app'?",
        "shopp:app": "--app names the module 'shopp', which is neither in {} nor elsewhere on the Python path. Did "
        "you mean "
        "'shop'?",
        "shop:send_receipt": "--app names 'shop:send_receipt', which is no Postbus app but of type function. Did you "
        "mean "
        "'shop:app'?",
    }.items(),
)
def test_a_wrong_app(shop: Shop, reference: str, problem: str) -> None:
    """What is wrong with the name of the app is one sentence, with the name that was probably meant."""
    assert [problem.format(Path.cwd())] == errors(f"--app {reference} stats")


def test_a_module_that_ends_the_program(shop: Shop) -> None:
    """A module that exits while it is imported is a mistake, with exit code 2, whatever its own exit code was."""
    shop.write("import sys\n\nsys.exit(0)\n", "script.py")

    assert [
        f"Importing 'script:app' ended the program ({shop.folder}/script.py, line 3). Put what a program does under "
        "if __name__ == '__main__'."
    ] == errors("--app script:app stats")


@pytest.mark.parametrize("arguments", ["consume --app shop:app", "stats --debug", "failed show --app shop:app"])
def test_an_option_behind_the_command(shop: Shop, arguments: str) -> None:
    """An option that goes before the command is not taken for another one."""
    result = CliRunner().invoke(main, arguments.split(), prog_name="postbus")

    command, *_ = arguments.split()
    option = next(word for word in arguments.split() if word.startswith("--"))
    example = f"{option} MODULE:ATTRIBUTE" if option == "--app" else option
    assert 2 == result.exit_code
    assert f"Error: {option} goes before the command: postbus {example} {command}" == result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_output_into_a_pipe_of_another_encoding(shop: Shop) -> None:
    """A character that the pipe's encoding has no form for is escaped, and JSON stays what it is."""
    shop.append('app = Postbus(transports={"käse": "in-memory://", "🚌": "in-memory://"}, routing={})')
    for more in ([], ["--format", "json"]):
        result = subprocess.run(
            [sys.executable, "-m", "postbus", "--app", "shop:app", "stats", *more],
            env={**os.environ, "PYTHONIOENCODING": "latin-1"},
            capture_output=True,
            timeout=60,
        )

        assert 0 == result.returncode, result.stderr
        assert b"k\xe4se" in result.stdout
        assert b"\\ud83d\\ude8c" in result.stdout


def install(folder: Path, name: str, text: str, keywords: str = "") -> None:
    """Make a distribution with one plugin, as an installer would leave it in a folder."""
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nKeywords: {keywords}\n")
    (metadata / "entry_points.txt").write_text(f"[postbus]\n{name} = {name}_plugin\n")
    (folder / f"{name}_plugin.py").write_text(text)


@pytest.mark.usefixtures("shop", "no_broker")
def test_what_the_broker_is_called(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheme that is a keyword of an installed plugin is answered with the schemes that this serves."""
    plugin = """
        from postbus import hookimpl
        from postbus.transport import Guarantees

        CONTRACT = 1

        @hookimpl
        def register_transports(register):
            register("acme", None, guarantees=Guarantees(durable=False))
            register("acmes", None, guarantees=Guarantees(durable=False))
    """
    install(shop.folder, "acme", "", "coyote,bird")
    shop.write(plugin, "acme_plugin.py")
    shop.write(PLAIN, "plain.py")
    monkeypatch.setenv("POSTBUS_PLUGINS", "acme")
    installed_plugins.cache_clear()
    monkeypatch.setenv("POSTBUS_TRANSPORT_DSN", "coyote://me:hush@localhost")

    [told] = errors("--app plain:app stats")
    assert (
        "POSTBUS_TRANSPORT_DSN: No plugin serves coyote://. Write acme:// or acmes:// for acme."
        == told.partition(" But note:")[0]
    )


@pytest.mark.usefixtures("shop", "no_broker")
def test_a_plugin_that_ends_the_program(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin that exits while it is imported is left out, as any other that cannot be."""
    install(shop.folder, "ending", "raise SystemExit(0)")
    monkeypatch.setenv("POSTBUS_PLUGINS", "ending")
    installed_plugins.cache_clear()

    result = CliRunner().invoke(main, ["plugins"])
    assert 0 == result.exit_code
    assert "could not be imported, so it is left out: SystemExit: 0." in result.stderr


def test_packages_that_are_suggested_are_published_by_this_project() -> None:
    """Each extra that names a package of ours names one that has a folder here."""
    import tomllib

    root = Path(__file__).parents[3]
    project = tomllib.loads((root / "core" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {
        name.partition("[")[0]
        for names in project["optional-dependencies"].values()
        for name in names
        if name.startswith("postbus")
    }
    folders = {f"postbus-{path.parent.name}" for path in root.glob("plugins/*/pyproject.toml")}

    assert not named - folders - {"postbus"}
