"""What a newcomer gets wrong, in a package of modules as a web project is: each is met with what, where, what next."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from postbus.cli import main

FILES = {
    "store/__init__.py": "",
    "store/app.py": "from postbus import Postbus\n\napp = Postbus()\n",
    "store/messages.py": "from dataclasses import dataclass\n\n\n@dataclass(frozen=True)\n"
    "class OrderPlaced:\n    order_id: int\n",
    "store/handlers.py": "from store.app import app\nfrom store.messages import OrderPlaced\n\n\n@app.handler\n"
    "def send_receipt(order: OrderPlaced) -> None:\n    print(f'Receipt for order {order.order_id}')\n",
    "send.py": "from store.app import app\nfrom store.messages import OrderPlaced\n\napp.dispatch(OrderPlaced(13))\n",
    "postbus.toml": 'app = "store.app:app"\nhandlers = ["store.handlers"]\nfailure_transport = "failed"\n\n'
    '[transports]\norders = "sqlite:///store.db?queue_name=orders"\nfailed = "sqlite:///store.db?queue_name=failed"\n\n'
    '[routing]\n"store.messages.OrderPlaced" = "orders"\n',
}


class Store:
    """A web project in the current folder, without the web."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in FILES.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        """Write a file, whose folder is made if need be."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def change(self, name: str, old: str, new: str) -> None:
        """Make one mistake in a file."""
        text = (self.folder / name).read_text()
        assert text.count(old) == 1
        self.write(name, text.replace(old, new))

    def run(self, arguments: str) -> tuple[int, str]:
        """Run a command; return its exit code and what it prints."""
        for name in [name for name in sys.modules if name.partition(".")[0] == "store"]:
            del sys.modules[name]
        result = CliRunner().invoke(main, arguments.split(), prog_name="postbus")
        return result.exit_code, result.output

    def error(self, arguments: str = "consume --until-empty") -> str:
        """Run a command that refuses; return the one error that it prints."""
        code, output = self.run(arguments)
        assert 2 == code, output
        assert output.startswith("Error: ")
        assert 1 == output.count("\n")
        return output.removeprefix("Error: ").strip()

    def program(self, text: str) -> str:
        """Run a program of the project's; return the last line that it prints."""
        self.write("program.py", text)
        done = subprocess.run([sys.executable, "program.py"], cwd=self.folder, capture_output=True, text=True)
        return (done.stdout + done.stderr).splitlines()[-1]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in [name for name in os.environ if name.startswith("POSTBUS_")]:
        monkeypatch.delenv(name)
    return Store(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    {
        "store.ap:app": "which is neither in {folder} nor elsewhere on the Python path. Did you mean 'store.app'?",
        "stor.app:app": "which is neither in {folder} nor elsewhere on the Python path. Did you mean 'store.app'?",
        "store.app.app": "must be written 'module:attribute', got 'store.app.app'. Did you mean 'store.app:app'?",
        "store.app": "must be written 'module:attribute', got 'store.app'. Did you mean 'store.app:app'?",
    }.items(),
)
def test_the_app_is_not_where_it_is_said_to_be(store: Store, wrong: str, problem: str) -> None:
    """The nearest module is looked for in its package too."""
    store.change("postbus.toml", "store.app:app", wrong)
    assert problem.format(folder=store.folder) in store.error()


def test_a_command_in_a_folder_below(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration around it is named, whatever the folder is."""
    monkeypatch.chdir(store.folder / "store")
    there = store.folder
    assert (
        f"There is no app in {there}/store, but there is {there}/postbus.toml. Start in that folder." == store.error()
    )


def test_a_syntax_error_is_placed_once(store: Store) -> None:
    """Python's own sentence has a place as well."""
    store.write("store/app.py", "from postbus import Postbus\n\napp = Postbus(\n")
    assert (
        f"Importing 'store.app:app' failed: SyntaxError: '(' was never closed ({store.folder}/store/app.py, line 3). "
        "Mend that; with --debug there is a traceback." == store.error()
    )


@pytest.mark.parametrize(
    ("line", "table", "problem"),
    [
        ('failure_transport = "failed"', "routing", "routing.failure_transport is no route."),
        ('failure_transport = "failed"', "transports", "transports.failure_transport is no transport."),
        ('handlers = ["store.handlers"]', "transports", "transports.handlers is no transport."),
        ('handlers = ["store.handlers"]', "retry", "retry.handlers is no key of the configuration."),
    ],
)
def test_a_key_that_has_slipped_into_a_table(store: Store, line: str, table: str, problem: str) -> None:
    """What TOML makes of a line behind a [table] is not what was meant: it was a route, or a transport, until now."""
    store.change("postbus.toml", f"{line}\n", "")
    text = (store.folder / "postbus.toml").read_text()
    store.write("postbus.toml", text.replace(f"[{table}]\n", "") if table == "retry" else text)
    if table == "retry":
        store.write("postbus.toml", f"{text}\n[retry]\n{line}\n")
    else:
        store.change("postbus.toml", f"[{table}]\n", f"[{table}]\n{line}\n")
    _, output = store.run("consume --until-empty")
    key = line.split(" ")[0]
    assert f"Error: {problem} Move {key} to the top of the file, above [{table}]." in output.splitlines()


def test_a_route_without_quotes(store: Store) -> None:
    """Its dots make tables of it."""
    store.change("postbus.toml", '"store.messages.OrderPlaced" =', "store.messages.OrderPlaced =")
    assert "routing.store is a table. Put the whole route in quotes: 'store.messages.OrderPlaced'." == store.error()


def test_a_misspelt_route_is_told_to_the_worker_that_waits_for_it(store: Store) -> None:
    """With the message that is meant, as `check` says it."""
    store.change("postbus.toml", "store.messages.OrderPlaced", "store.messages.OrderPlacd")
    _, output = store.run("consume --until-empty")
    assert (
        "No message is known that fits the route 'store.messages.OrderPlacd', which leads here: it would fail. Did you "
        "mean 'store.messages.OrderPlaced'?" in output.splitlines()
    )


def test_nothing_to_consume(store: Store) -> None:
    """Whoever has an empty file is told under what to write, and of no failure transport that is not there."""
    store.write("postbus.toml", 'app = "store.app:app"\n')
    assert "There is no transport to consume. Configure one under [transports]." == store.error()


def test_a_plugin_that_is_installed_and_left_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It need not be installed once more."""
    from postbus.plugins import installed_plugins

    monkeypatch.setenv("POSTBUS_PLUGINS", "in-memory")
    installed_plugins.cache_clear()
    _, output = store.run("consume")
    installed_plugins.cache_clear()
    assert (
        "Error: transports.orders: No plugin serves sqlite://, as POSTBUS_PLUGINS leaves out 'sql'. Name it there too."
        == output.splitlines()[0]
    )


def test_what_the_factory_of_a_transport_refuses_is_told_by_its_key(store: Store) -> None:
    """As what the options refuse is."""
    store.change("postbus.toml", "sqlite:///store.db?queue_name=orders", "sqlite://store.db?queue_name=orders")
    assert (
        "transports.orders: sqlite:// has no host and no user. A file takes three slashes: sqlite:///messages.db."
        == store.error()
    )


@pytest.mark.parametrize(
    ("handler", "problem"),
    {
        "@app.handler\ndef send(order):\n    pass\n": "Cannot tell which message store.handlers.send() handles. "
        "Annotate its first parameter, or pass handles=...",
        "@app.handler(time_limt=3)\ndef send(order: OrderPlaced):\n    pass\n": "A handler has no option 'time_limt'. "
        "Did you mean 'time_limit'? Options: bus, from_transport, priority, handles, name, time_limit, batch, wait.",
        "@app.handler(retries=3)\ndef send(order: OrderPlaced):\n    pass\n": "A handler has no option 'retries'. "
        "Options: bus, from_transport, priority, handles, name, time_limit, batch, wait.",
    }.items(),
)
def test_a_wrong_handler(store: Store, handler: str, problem: str) -> None:
    """It is named with its module: several have a function of that name."""
    store.write("store/handlers.py", f"from store.app import app\nfrom store.messages import OrderPlaced\n\n{handler}")
    assert problem == store.error()


def test_check_warns_of_an_app_without_handlers(store: Store) -> None:
    """A worker would not start; who only dispatches needs none, so it is no problem."""
    store.change("postbus.toml", 'handlers = ["store.handlers"]\n', "")
    code, output = store.run("check --format json")
    (finding,) = [finding for finding in json.loads(output) if finding["what"] == "handlers"]
    assert 0 == code
    assert "warning" == finding["status"]
    assert finding["detail"].startswith("0 handlers; buses: default. There is no handler for anything from 'orders'")


def test_a_queue_in_memory_between_processes(store: Store) -> None:
    """What one process sends, the worker in another never gets: both `check` and `consume` say so."""
    store.change("postbus.toml", "sqlite:///store.db?queue_name=orders", "in-memory://")
    _, output = store.run("check --format json")
    (finding,) = [finding for finding in json.loads(output) if finding["what"] == "transport orders"]
    assert "warning" == finding["status"]
    assert finding["detail"].endswith(": what is sent to it stays in the process that sends it")

    _, output = store.run("consume orders --until-empty")
    assert (
        "What is sent to 'orders' stays in the process that sends it, so this worker gets nothing of what others send. "
        "Give it the DSN of a broker." in output.splitlines()
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    {
        "OrderPlacd {}": "There is no message 'OrderPlacd'. Did you mean 'store.messages.OrderPlaced'? Messages: "
        "store.messages.OrderPlaced.",
        "OrderPlaced order_id=13": "This is no store.messages.OrderPlaced: JSON is malformed: invalid character (byte "
        "0). Write its fields as a JSON object.",
        "OrderPlaced {}": "This is no store.messages.OrderPlaced: $: object missing required field order_id. Write its "
        "fields as a JSON object.",
    }.items(),
)
def test_a_wrong_message_from_the_command_line(store: Store, arguments: str, problem: str) -> None:
    """The nearest message, and what JSON is to hold."""
    assert problem == store.error(f"dispatch {arguments}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "problem"),
    {
        "app.dispatch({'order_id': 13})": "NoHandler: A dict is no message. Dispatch an object of a class of your own, "
        "such as a dataclass.",
        "app.dispatch(OrderPlaced)": "NoHandler: OrderPlaced is a class, and no message. Dispatch an object of it: "
        "OrderPlaced(...).",
        "app.dispatch([OrderPlaced(1), OrderPlaced(2)])": "NoHandler: A list is no message. Dispatch what is in it: "
        "app.dispatch_many(...).",
        "app.dispatch_many(OrderPlaced(1))": "ConfigurationError: dispatch_many() was given one OrderPlaced. Give it "
        "several, as in a list.",
        "app.dispatch(OrderPlaced(object()))": "SerializationError: store.messages.OrderPlaced cannot be written as "
        "JSON: $.order_id: encoding objects of type object is unsupported. Give it fields of plain types.",
        "app.dispatch(OrderPlaced({'a': [1, object()]}))": "SerializationError: store.messages.OrderPlaced cannot be "
        "written as JSON: $.order_id (value 0)[1]: encoding objects of type object is unsupported. Give it fields of "
        "plain types.",
    }.items(),
)
def test_a_wrong_dispatch(store: Store, call: str, problem: str) -> None:
    """What was given is named, and what to give."""
    program = f"from store.app import app\nfrom store.messages import OrderPlaced\n\n{call}\n"
    assert f"postbus.errors.{problem}" == store.program(program)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "    order_id: int\n",
            "    order_id: int\n    customer: str\n",
            "ERROR Burying Undecodable store.messages.OrderPlaced",
        ),
        (
            "    order_id: int\n",
            "    order_id: int\n    customer: str\n",
            "NotDecoded: $: object missing required field customer; a field that is added needs a default",
        ),
        (
            "class OrderPlaced",
            "class OrderMade",
            "NotDecoded: no message is registered as 'store.messages.OrderPlaced'; if its class was renamed, write "
            "@app.message(aliases=['store.messages.OrderPlaced']) above it",
        ),
    ],
)
def test_a_class_that_has_changed_since(store: Store, old: str, new: str, line: str) -> None:
    """The log says which class it was, and what to do; the message is kept."""
    assert 0 == store.run("""dispatch OrderPlaced {"order_id":13}""")[0]
    store.change("store/messages.py", old, new)
    if "class" in old:
        store.write("store/handlers.py", FILES["store/handlers.py"].replace("OrderPlaced", "OrderMade"))
    _, output = store.run("consume orders --idle-limit 0.1s")
    assert line in output


@pytest.mark.slow
@pytest.mark.once
def test_several_processes_say_once_how_they_are_stopped(store: Store) -> None:
    """The parent says it for all of them."""
    command = [sys.executable, "-c", "from postbus.cli import main; main()", "consume", "--processes", "2"]
    done = subprocess.run([*command, "--until-empty"], cwd=store.folder, capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr
    assert 2 == done.stderr.count("Consuming 'orders'.")
    assert 1 == done.stderr.count("It stops by itself as soon as nothing is waiting or on `postbus stop-workers`.")
    assert 1 == done.stderr.count("Ctrl+C or SIGTERM stops it after the messages in hand, a second one at once.")
