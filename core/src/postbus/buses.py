"""What stands on a bus: the built-in middleware, and between it what is configured, given or named."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, cast

from postbus.bus import MessageBus, Middleware, Step
from postbus.config import BusConfig, load_object
from postbus.default_stamps import DefaultStamps
from postbus.dsn import masked
from postbus.errors import ConfigurationError
from postbus.events import Observer, Observers
from postbus.handlers import Handlers
from postbus.keys import Keys
from postbus.middleware import BeginMessage, HandleMessage, SendMessage
from postbus.provided import Provided
from postbus.routing import Router

if TYPE_CHECKING:
    from postbus.plugins import Plugins

AVAILABLE = {"trace": "postbus.tracing:Trace", "validate": "postbus.validation:Validate"}
"""Middleware of Postbus that a bus has if it is named there, and the class of each."""


class BusFactory:
    """Makes the buses of an app. What stands on one and has a method ``observe`` is told of events."""

    def __init__(
        self,
        handlers: Handlers,
        provided: Provided,
        keys: Keys,
        default_stamps: DefaultStamps,
        observers: Observers,
        plugins: Callable[[], Plugins],
    ) -> None:
        self._handlers = handlers
        self._provided = provided
        self._keys = keys
        self._default_stamps = default_stamps
        self._observers = observers
        self._plugins = plugins
        self._told: list[Observer] = []

    def make(
        self,
        name: str,
        config: BusConfig,
        router: Router,
        failure_transports: Collection[str],
        origins: Collection[str],
    ) -> MessageBus:
        """Return a bus; raise `ConfigurationError` for a middleware that is named and cannot be found."""
        built_in: dict[str, Step] = {
            "begin_message": BeginMessage(name, failure_transports, origins, self._default_stamps),
            "send_message": SendMessage(router, allow_no_senders=config.allow_no_senders, keys=self._keys),
            "handle_message": HandleMessage(
                self._handlers, name, allow_no_handlers=config.allow_no_handlers, provided=self._provided
            ),
        }
        key = f"buses.{name}.middleware"
        if not config.default_middleware:
            return MessageBus(name, [self._middleware(step, key, built_in) for step in config.middleware])
        begin, send, handle = built_in.values()
        own = [self._middleware(step, key, {}) for step in config.middleware]
        return MessageBus(name, [begin, *own, send, handle])

    def tell(self, observer: Observer) -> None:
        """Tell an observer that a bus or a plugin brings of events; once, however often buses are made."""
        if observer not in self._told:
            self._told.append(observer)
            self._observers.add(observer)

    def _middleware(self, step: str | Middleware, key: str, built_in: Mapping[str, Step]) -> Middleware | Step:
        found: Middleware | Step
        if isinstance(step, str):
            found = built_in.get(step) or self._named_middleware(step, key, built_in)
        else:
            found = step
        observer = getattr(found, "observe", None)
        if callable(observer):
            self.tell(cast(Observer, observer))
        return found

    def _named_middleware(self, step: str, key: str, built_in: Mapping[str, Step]) -> Middleware:
        if step in AVAILABLE:
            made: Middleware = load_object(AVAILABLE[step], key)()
            return made
        if ":" not in step:
            plugins = self._plugins()
            try:
                return plugins.middleware[step]
            except KeyError:
                known = ", ".join([*built_in, *AVAILABLE, *plugins.middleware])
                raise ConfigurationError(
                    f"{key} names {masked(step)!r}, which no plugin brings. "
                    f"Write 'module:attribute', or one of: {known}."
                ) from None
        found: Middleware = load_object(step, key)
        return found
