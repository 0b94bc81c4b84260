"""Which transports a message is sent to."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from postbus import stamps
from postbus.dsn import unknown
from postbus.envelope import Envelope
from postbus.errors import ConfigurationError, qualified_name
from postbus.handlers import can_be_checked, matches
from postbus.spelling import nearest
from postbus.transport import Sender

logger = logging.getLogger("postbus")

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
        types: Iterable[tuple[str, type]] = (),
    ) -> None:
        """``types`` are the messages that are known, by the names under which they travel."""
        for route in routes:
            if isinstance(route, type) and not can_be_checked(route):
                raise ConfigurationError(
                    f"A route is for the protocol {route.__qualname__}, which cannot be checked when a message comes. "
                    "Decorate it with @runtime_checkable."
                )
        self._senders = senders
        self._routes = routes
        self._own_transports = own_transports if own_transports is not None else dict[type, Sequence[str]]()
        self._types = types
        self._said: set[str] = set()
        self.found: dict[type, Mapping[str, Sender]] = {}
        """What `senders_for` has found, by class of message, for who asks again unless its envelope decides."""

    def senders_for(self, envelope: Envelope) -> Mapping[str, Sender]:
        """Return the senders of this envelope by name; none means that it is handled here."""
        override = envelope.last(stamps.TransportNames)
        if override is not None:
            names = [override.names] if isinstance(override.names, str) else override.names
            if not names and override is not stamps.HERE:
                self._say_once(
                    f"{qualified_name(envelope.message.__class__)} is handled here, as stamps.TransportNames names "
                    "nothing. If that is meant, write stamps.HERE."
                )
            return {name: self._sender(name) for name in names}
        kind = envelope.message.__class__
        found = self.found.get(kind)
        if found is None:
            names = self.names_for(envelope.message)
            found = self.found[kind] = {name: self._sender(name) for name in names}
            route = self.nearest_route(kind) if not names else None
            if route is not None:
                self._say_once(
                    f"{qualified_name(kind)} is handled here, as no route fits it. Is it meant by the route {route!r}?"
                )
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

    def would_send(self, envelope: Envelope) -> bool:
        """Say whether an envelope is to be sent, without making any transport."""
        for stamp in envelope.stamps:
            if type(stamp) is stamps.Received:
                return False
            if type(stamp) is stamps.TransportNames:
                return bool(stamp.names)
        found = self.found.get(envelope.message.__class__)
        return bool(self.names_for(envelope.message) or self.senders_for(envelope)) if found is None else bool(found)

    def unused_routes(self) -> list[Route]:
        """Return the routes that fit no known message; they may be misspelt, or for messages of other programs."""
        kinds = [kind for _, kind in self._types]
        return [route for route in self._routes if route != "*" and not any(fits(route, kind) for kind in kinds)]

    def meant_by_unused(self) -> dict[Route, type]:
        """Return those of the unused routes that may have been meant for a message, each with it; it has no route."""
        meant: dict[Route, type] = {}
        for _, kind in self._types:
            blank = blank_of(kind)
            route = self.nearest_route(kind) if blank is None or not self.names_for(blank) else None
            if route is not None:
                meant[route] = kind
        return meant

    def nearest_route(self, kind: type) -> str | None:
        """Return the route that may have been meant for a class that has none; it fits no message that is known."""
        path = qualified_name(kind)
        candidates = [route for route in self.unused_routes() if isinstance(route, str)]
        namesakes = [route for route in candidates if route.rpartition(".")[2] == kind.__name__]
        return namesakes[0] if namesakes else nearest(path, candidates, cutoff=0.8)

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            logger.warning("%s", text)

    def forget(self) -> None:
        """Look everything up anew: a message class has named its transport since."""
        self.found.clear()

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
            raise unknown("transport", name, self._senders) from None


def fits(route: Route, kind: type) -> bool:
    """Say whether a route is for a class of messages."""
    if isinstance(route, str):
        if route.endswith("*"):
            return qualified_name(kind).startswith(route.removesuffix("*"))
        return route in map(qualified_name, kind.__mro__)
    blank = blank_of(kind)
    return issubclass(kind, route) if blank is None else matches(blank, route) is not None


def blank_of(kind: type) -> object:
    """Return an instance without content, or None if there is no way: routing asks for one, and looks at its class."""
    try:
        return cast(object, object.__new__(kind))
    except TypeError:  # A Struct is made by its own constructor, which takes anything.
        names: tuple[str, ...] = getattr(kind, "__struct_fields__", ())
    try:
        return cast(Any, kind)(**dict.fromkeys(names))
    except Exception:  # A border: the type's own checks may raise anything.
        return None


def _distance(message: Any, route: Route) -> int | None:
    """Return how far up from the message's class a route is; a dotted name is compared, nothing is imported."""
    if isinstance(route, type):
        return matches(message, route)
    names = [qualified_name(ancestor) for ancestor in type(message).__mro__]
    return names.index(route) if route in names else None
