"""Handlers in modules that nobody imported: a worker without any refuses to start, and it is said what to import."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from postbus import ConfigurationError, Postbus
from postbus.cli import main
from postbus.limits import Limits
from postbus.serialization import Undecodable

if TYPE_CHECKING:
    from conftest import Shop

APP = """
from dataclasses import dataclass
from postbus import Postbus

app = Postbus(
    transports={"orders": "in-memory://web-orders", "failed": "in-memory://web-failed"},
    routing={"web.app.OrderPlaced": "orders"},
    failure_transport="failed",
    handlers=HANDLERS,
)


@dataclass(frozen=True)
class OrderPlaced:
    order_id: int
"""

HANDLERS = """
from web.app import OrderPlaced, app

seen = []


@app.handler
def note(order: OrderPlaced) -> None:
    seen.append(order.order_id)
"""


class Web:
    """A package ``web`` with an app in one module and its handlers in another, as a web project has it."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop

    def write(self, listed: str = "()", **modules: str) -> None:
        """Write the package; ``listed`` is what the app is given as handlers, ``modules`` are more modules."""
        for name, text in {"__init__": "", "app": APP.replace("HANDLERS", listed), **modules}.items():
            path = self.shop.folder.joinpath("web", *name.split("__dot__")).with_suffix(".py")
            path.parent.mkdir(exist_ok=True, parents=True)
            (path.parent / "__init__.py").touch()
            path.write_text(text)
        importlib.invalidate_caches()

    def load(self, name: str) -> Any:
        return importlib.import_module(f"web.{name}")

    def error(self, *arguments: str) -> str:
        result = CliRunner().invoke(main, ["--app", "web.app:app", *arguments])
        assert 2 == result.exit_code, result.output
        return result.stderr


@pytest.fixture
def web(shop: Shop) -> Iterator[Web]:
    yield Web(shop)
    for name in [name for name in sys.modules if name.partition(".")[0] == "web"]:
        del sys.modules[name]


def test_a_worker_without_handlers(web: Web) -> None:
    """It refuses to start, and says what to import; nothing is fetched."""
    web.write(handlers_of_web=HANDLERS)
    web.load("app").app.dispatch(web.load("app").OrderPlaced(13))

    assert (
        "Error: There is no handler for anything from 'orders', so every message would fail. Import the module with "
        "the "
        "handlers where the app is made, or list it, as in handlers = ['web.handlers'].\n"
    ) == web.error("consume", "orders", "-t", "0.1")
    orders: Any = Postbus(transports={"orders": "in-memory://web-orders"}, routing={}).transport("orders")
    assert 1 == orders.connection.count().waiting


def test_a_file_without_an_app(shop: Shop) -> None:
    """Where a file describes the app, and names none, it says how to name the one that has the handlers."""
    shop.write('[transports]\norders = "in-memory://"\n[routing]\n"shop.OrderPlaced" = "orders"\n', "postbus.toml")
    result = CliRunner().invoke(main, ["consume", "orders", "-t", "0.1"])

    assert 2 == result.exit_code
    assert (
        "Error: There is no handler for anything from 'orders', so every message would fail. Name the app that has "
        "them, "
        "as in --app shop:app or app = 'shop:app', or list modules with groups of handlers in handlers.\n"
    ) == result.stderr


@dataclass(frozen=True)
class Ping:
    pass


def test_what_a_worker_could_handle() -> None:
    """Handlers count that may take something on its buses, from its transports, or from where what is buried was."""
    app = Postbus(
        transports=dict.fromkeys(("a", "b", "failed"), "in-memory://"),
        failure_transport="failed",
        buses={"one": {}, "two": {}, "open": {"allow_no_handlers": True}},
        default_bus="one",
        routing={},
    )
    app.handler(handles=Ping, bus="one", from_transport="a")(lambda ping: None)

    app.require_handlers(["a", "b"], "one")
    app.require_handlers(["failed"], "one")
    app.require_handlers(["b"], "open")
    for name, bus in (("b", "one"), ("a", "two"), ("failed", "two")):
        with pytest.raises(ConfigurationError, match=f"There is no handler for anything from '{name}', so every"):
            app.require_handlers([name], bus)


@pytest.mark.parametrize("handlers", ["'auto'", "['auto']", "['web.handlers']"])
def test_handlers_that_are_found(web: Web, handlers: str) -> None:
    """``auto`` imports what is in the package of the app's module, at any depth."""
    web.write(handlers, handlers=HANDLERS)
    app = web.load("app").app
    app.dispatch(web.load("app").OrderPlaced(13))
    app.worker("orders", limits=Limits(messages=1)).run()

    assert [13] == web.load("handlers").seen


def test_what_auto_imports(web: Web) -> None:
    """All modules below the package, in the order of their names, but for programs and tests; nothing beside it."""
    names = ("orders__dot__handlers", "orders__dot__test_handlers", "orders__dot__tests__dot__all", "mail", "test_mail")
    web.write("'auto'", __main__="1/0", conftest="1/0", **dict.fromkeys(names, ""))
    web.shop.write("1 / 0", "web_beside.py")
    web.load("app").app.load_handlers()

    loaded = {name for name in sys.modules if name.partition(".")[0] == "web"}
    assert {"web", "web.app", "web.mail", "web.orders", "web.orders.handlers"} == loaded


@pytest.mark.parametrize(
    ("text", "problem"),
    {"1 / 0": "ZeroDivisionError: division by zero.", "import sys\nsys.exit('Enough.')": "SystemExit: Enough."}.items(),
)
def test_a_module_that_auto_cannot_import(web: Web, text: str, problem: str) -> None:
    """The error names it."""
    web.write("'auto'", broken=text)

    assert (
        f"Error: handlers = 'auto' imports 'web.broken', which failed: {problem} Mend that, or list the modules with "
        "handlers "
        "by name.\n"
    ) == web.error("consume", "orders", "-t", "0.1")


def test_auto_without_a_package(shop: Shop) -> None:
    """An app that a file describes has no package, and is told so; one in a module of its own has nothing to import."""
    shop.write('handlers = "auto"\n[transports]\norders = "in-memory://"', "postbus.toml")
    result = CliRunner().invoke(main, ["consume", "orders", "-t", "0.1"])

    assert (
        "Error: handlers = 'auto' imports what is in the package of the app's module, and this app has none. Set app = "
        "'module:attribute', or list the modules with handlers by name.\n"
    ) == result.stderr
    shop.append('app = Postbus(transports={"orders": "in-memory://"}, handlers="auto")\napp.handler(send_receipt)')
    assert 0 == shop.run("consume", "orders", "--time-limit", "0.1").exit_code


def test_routes_that_no_imported_message_fits(shop: Shop) -> None:
    """A worker that has other handlers says for which of its routes nothing was imported."""
    shop.append("""
        app = Postbus(
            transports={"orders": "in-memory://", "mails": "in-memory://"},
            routing={"shop.OrderPlaced": "orders", "shop.mail.*": "orders", "shop.bills.Bill": "mails"},
            failure_transport="mails",
        )
        app.handler(send_receipt)
    """)
    result = shop.run("consume", "orders", "--time-limit", "0.1")

    assert (
        "No message is known that fits the route 'shop.mail.*', which leads here: it would fail. Import the module "
        "with its handlers, or list it in handlers." in result.stderr
    )


# a message of an unknown type


def reason(app: Postbus, name: str) -> str:
    """Return why a message of a type cannot be read."""
    transport: Any = app.transport("orders")
    message = transport.serializer.decode(b"{}", {"type": name}).message
    assert isinstance(message, Undecodable)
    assert message.reason.startswith(f"no message is registered as {name!r}")
    return message.reason.removeprefix(f"no message is registered as {name!r}")


def test_where_an_unknown_message_may_be(web: Web) -> None:
    """It is said that its class is here, or which module of ours was not imported, and nothing is imported for it."""
    web.write(handlers=HANDLERS, bills__dot__messages="1 / 0")
    web.shop.write("1 / 0", "loose.py")
    app = web.load("app").app
    app.message(web.load("app").OrderPlaced)
    sys.modules["web.app"].Unknown = type("Unknown", (), {})  # type: ignore[attr-defined]
    sys.modules["web.app"].__getattr__ = lambda name: importlib.import_module(name)  # type: ignore[attr-defined]
    before = set(sys.modules)

    not_imported = "; its module {!r} has not been imported: list it in handlers, or import it where the app is made"
    assert "; its class has been imported, so add a handler for it, or @app.message" == reason(app, "web.app.Unknown")
    assert not_imported.format("web.handlers") == reason(app, "web.handlers.Note")
    assert not_imported.format("web.bills") == reason(app, "web.bills.Bill")
    assert not_imported.format("loose") == reason(app, "loose.Thing")
    renamed = "; if its class was renamed, write @app.message(aliases=['web.app.OrderMade']) above it"
    assert renamed == reason(app, "web.app.OrderMade")
    assert before == set(sys.modules)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "Thing",
        "email.Thing",
        "antigravity.Thing",
        "../loose.Thing",
        "a." * 5000,
        "loose",
    ],
)
def test_a_name_that_means_nothing_here(web: Web, name: str) -> None:
    """A name of somebody's choice is looked up in what is ours alone, and imports nothing."""
    web.write()
    web.shop.write("1 / 0", "loose.py")
    app = web.load("app").app
    app.message(web.load("app").OrderPlaced)
    before = set(sys.modules)

    if name:
        assert "" == reason(app, name)
    assert before == set(sys.modules)
