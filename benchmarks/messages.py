"""The message and the app of most measurements: two plain fields, and by default a handler that does nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from postbus import Postbus

TRANSPORT = "async"


@dataclass(frozen=True, slots=True)
class OrderPlaced:
    """What is dispatched."""

    order_id: int
    customer: str


MESSAGE = OrderPlaced(13, "Ada Lovelace")


def do_nothing(order: OrderPlaced) -> None:
    """Handle a message."""


def make_app(dsn: str | None = None, handler: Callable[[OrderPlaced], Any] = do_nothing) -> Postbus:
    """Return an app as users have it, which sends the message to this DSN, or handles it at once without one."""
    app = Postbus(transports={TRANSPORT: dsn}, routing={OrderPlaced: TRANSPORT}) if dsn else Postbus(config={})
    app.handler(handler)
    return app
