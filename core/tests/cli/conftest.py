"""An app in a folder of its own, and the command line on it."""

from __future__ import annotations

import importlib
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result

from postbus import Postbus
from postbus.cli import main

APP = """
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from postbus import Handlers, Postbus

app = Postbus(
    transports={
        "orders": "in-memory://%(id)s-orders",
        "mails": "in-memory://%(id)s-mails",
        "failed": "in-memory://%(id)s-failed",
        "now": "sync://",
    },
    routing={"shop.OrderPlaced": "orders", "shop.MailSent": "mails"},
    failure_transport="failed",
    retry={"max_retries": 0},
    name="%(id)s",
)


@app.message("order.placed")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: int


@app.message
@dataclass(frozen=True)
class MailSent:
    to: str


@app.handler
def send_receipt(order: OrderPlaced) -> None:
    # Order 13, and what is above 100, fails until somebody mends the shop.
    if (order.order_id == 13 or order.order_id > 100) and not Path("mended").exists():
        raise ValueError(f"order {order.order_id} is unlucky")


@app.handler(priority=5, time_limit=30)
async def note(message: OrderPlaced | MailSent) -> None:
    pass
"""


class Shop:
    """An app in a module ``shop`` of its own folder. Each command imports it anew, as a process of its own would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = uuid4().hex
        self.write(APP % {"id": self.id})

    def write(self, text: str, name: str = "shop.py") -> None:
        """Write a file in the folder."""
        (self.folder / name).write_text(textwrap.dedent(text))

    def append(self, text: str) -> None:
        """Add to the module."""
        module = self.folder / "shop.py"
        module.write_text(module.read_text() + textwrap.dedent(text))

    def load(self) -> Any:
        """Return the module, imported anew."""
        sys.modules.pop("shop", None)
        return importlib.import_module("shop")

    @property
    def app(self) -> Postbus:
        """The app, imported anew."""
        return self.load().app

    def dispatch(self, *order_ids: int) -> None:
        """Dispatch orders; 13, and those above 100, cannot be handled."""
        module = self.load()
        for order_id in order_ids:
            module.app.dispatch(module.OrderPlaced(order_id))

    def bury(self, *order_ids: int) -> None:
        """Let orders fail for good."""
        self.dispatch(*order_ids)
        self.run("consume", "orders", "--limit", str(len(order_ids)))

    def run(self, *arguments: str, app: str = "shop:app", input: str | None = None) -> Result:
        """Run a command on the app."""
        sys.modules.pop("shop", None)
        return CliRunner().invoke(main, ["--app", app, *arguments], prog_name="postbus", input=input)

    def json(self, *arguments: str) -> Any:
        """Run a command and return the JSON that it prints."""
        return json.loads(self.run(*arguments, "--format", "json").stdout)

    def ids(self) -> list[str]:
        """Return the ids of the failed messages."""
        return [line["id"] for line in self.json("failed", "show")]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("POSTBUS_STATE_DIR", str(tmp_path / "state"))
    for name in ("POSTBUS_APP", "POSTBUS_TRANSPORT_DSN", "POSTBUS_PLUGINS"):
        monkeypatch.delenv(name, raising=False)
    yield Shop(tmp_path)
    sys.modules.pop("shop", None)
