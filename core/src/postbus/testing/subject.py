"""The plugin under test: how a process, the tests' own or a child of it, comes to its transport."""

from __future__ import annotations

import pkgutil
from functools import cache

from msgspec import Struct

from postbus.dsn import Dsn
from postbus.envelope import Envelope
from postbus.events import Observers
from postbus.plugins import Plugin, Plugins, Scheme, installed_plugins
from postbus.queue_transport import QueueTransport
from postbus.serialization import JsonSerializer, TypeRegistry
from postbus.transport import TransportContext


class Note(Struct, frozen=True):
    """The message that the rules send."""

    text: str


class Subject(Struct, frozen=True):
    """A DSN, and where the hooks of its plugin are if that is not installed: ``package`` or ``package:object``."""

    dsn: str
    plugin: str | None = None

    def scheme(self) -> Scheme:
        """Return what the plugin registered for the scheme of the DSN."""
        return plugins_for(self.plugin).scheme_for(Dsn.parse(self.dsn))

    def make_transport(self, observers: Observers | None = None) -> QueueTransport:
        """Return a new transport, as an app would get it from the plugin."""
        registry = TypeRegistry()
        registry.register(Note, "note")
        scheme = self.scheme()
        context = TransportContext(
            "contract", JsonSerializer(registry), _refuse, scheme.guarantees, observers or Observers()
        )
        transport = scheme.factory(Dsn.parse(self.dsn), context)
        assert isinstance(transport, QueueTransport), (
            f"The contract is about connections, and {type(transport).__name__} is not a QueueTransport."
        )
        return transport


class Task(Struct, frozen=True):
    """What a child process is to do: "fetch" or "publish" messages and be killed, or "setup" when it is told to."""

    verb: str
    subject: Subject
    number: int = 0
    patience: float = 10.0


@cache
def plugins_for(name: str | None) -> Plugins:
    """Return the installed plugins, or the one whose hooks are at ``package`` or ``package:object``."""
    if name is None:
        return installed_plugins()
    plugins = Plugins()
    plugins.add(pkgutil.resolve_name(name), Plugin(name, name, "under test"))
    return plugins


def _refuse(envelope: Envelope) -> Envelope:
    raise AssertionError(f"A transport with a connection dispatches nothing, but it was asked to: {envelope}.")
