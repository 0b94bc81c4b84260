"""The plugin contract: the hooks that Postbus calls, once, while an app or the command line is set up.

A plugin is a module that an entry point of the group ``postbus`` names; it implements what it needs of
these with `hookimpl`, and says ``CONTRACT = 1``. Nothing here is called per message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import pluggy

from postbus.bus import Middleware
from postbus.dsn import Dsn, Options
from postbus.events import Observer
from postbus.serialization import SerializerFactory
from postbus.transport import Guarantees, Transport, TransportContext

if TYPE_CHECKING:
    import click

CONTRACT = 1
"""The number of this contract, and of that in `postbus.transport`.

A plugin states the one that it was written for. It is served as long as that is this number, or the one before it.
While the number is the same, a plugin need not be touched: no hook, method or field that it gives or gets goes away or
comes to mean something else, a new one may be left out, and a new ability is asked for before it is used. What cannot
be had so is a new number.
"""

hookspec = pluggy.HookspecMarker("postbus")
hookimpl = pluggy.HookimplMarker("postbus")

TransportFactory = Callable[[Dsn, TransportContext], Transport]


class RegisterTransport(Protocol):
    """Serves a scheme: what to call for a DSN that has it, which options it takes, what it promises."""

    def __call__(
        self,
        scheme: str,
        factory: TransportFactory,
        *,
        guarantees: Guarantees,
        options: type[Options] | None = None,
    ) -> None: ...


@hookspec
def register_transports(register: RegisterTransport) -> None:
    """Call ``register`` for each scheme that the plugin serves; import the client library in the factory only."""


@hookspec
def register_serializers(register: Callable[[str, SerializerFactory], None]) -> None:
    """Call ``register`` with a name, for ``serializer = "name"`` on a transport, and what makes it."""


@hookspec
def register_middleware(register: Callable[[str, Middleware], None]) -> None:
    """Call ``register`` with a name, for ``middleware = ["name"]`` on a bus, and the middleware."""


@hookspec
def register_commands(group: click.Group) -> None:
    """Add commands to the command line."""


@hookspec
def register_observers(register: Callable[[Observer], None]) -> None:
    """Call ``register`` with each callable that wants to be told of events."""
