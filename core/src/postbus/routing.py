"""Which transports a message is sent to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from postbus import stamps
from postbus.dsn import masked
from postbus.envelope import Envelope
from postbus.errors import ConfigurationError, qualified_name
from postbus.handlers import can_be_checked, matches
from postbus.transport import Sender

Route = type | str
"""What a route is for: a class and its subclasses, a protocol, the dotted name of a class, ``"package.module.*"``, or
``"*"``."""


class Router:
    """Finds the senders of a message.

    `stamps.TransportNames` on the envelope decides alone. Then the routes for the message's class, its
    bases and protocols count together; then the transports that the class itself names; then the longest
    wildcard that fits. Without any of them a message has no senders.
    """

    def __init__(
        self,
        senders: Mapping[str, Sender],
        routes: Mapping[Route, Sequence[str]],
        own_transports: Mapping[type, Sequence[str]] | None = None,
    ) -> None:
        for route in routes:
            if isinstance(route, type) and not can_be_checked(route):
                raise ConfigurationError(
                    f"A route is for the protocol {route.__qualname__}, which cannot be checked when a message comes. "
                    "Decorate it with @runtime_checkable."
                )
        self._senders = senders
        self._routes = routes
        self._own_transports = own_transports if own_transports is not None else dict[type, Sequence[str]]()
        self._found: dict[type, Mapping[str, Sender]] = {}

    def senders_for(self, envelope: Envelope) -> Mapping[str, Sender]:
        """Return the senders of this envelope by name; none means that it is handled here."""
        override = envelope.last(stamps.TransportNames)
        if override is not None:
            names = [override.names] if isinstance(override.names, str) else override.names
            return {name: self._sender(name) for name in names}
        kind = envelope.message.__class__
        found = self._found.get(kind)
        if found is None:
            names = self.names_for(envelope.message)
            found = self._found[kind] = {name: self._sender(name) for name in names}
        return found

    def names_for(self, message: Any) -> list[str]:
        """Return the names of the transports that this message is routed to, without repetition."""
        by_class = sorted(
            (distance, position, names)
            for position, (route, names) in enumerate(self._routes.items())
            if (distance := _distance(message, route)) is not None
        )
        names = [name for *_, group in by_class for name in group]
        if not names:
            names = [
                name for ancestor in type(message).__mro__ for name in self._own_transports.get(ancestor, ())
            ] or list(self._wildcard(message.__class__))
        return list(dict.fromkeys(names))

    def forget(self) -> None:
        """Look everything up anew: a message class has named its transport since."""
        self._found.clear()

    def _wildcard(self, kind: type) -> Sequence[str]:
        path = qualified_name(kind)
        fitting = [
            route
            for route in self._routes
            if isinstance(route, str) and (route == "*" or (route.endswith(".*") and path.startswith(route[:-1])))
        ]
        return self._routes[max(fitting, key=lambda route: len(str(route)))] if fitting else ()

    def _sender(self, name: str) -> Sender:
        try:
            return self._senders[name]
        except KeyError:
            known = ", ".join(sorted(self._senders)) or "none"
            raise ConfigurationError(f"There is no transport {masked(name)!r}. Transports: {known}.") from None


def _distance(message: Any, route: Route) -> int | None:
    """Return how far up from the message's class a route is; a dotted name is compared, nothing is imported."""
    if isinstance(route, type):
        return matches(message, route)
    names = [qualified_name(ancestor) for ancestor in type(message).__mro__]
    return names.index(route) if route in names else None
