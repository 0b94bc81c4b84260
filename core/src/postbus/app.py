"""The app: the one place where buses, transports, routing and handlers are put together."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from sys import is_finalizing
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload
from urllib.parse import quote

from msgspec.structs import replace

from postbus import stamps
from postbus.bus import MessageBus, Middleware
from postbus.buses import BusFactory
from postbus.config import (
    AUTO,
    ENVIRONMENT_DSN,
    BusConfig,
    TransportConfig,
    check,
    find_file,
    load_module,
    load_object,
    load_package,
    read_file,
)
from postbus.control import Control
from postbus.default_stamps import DefaultStamps, Stamps
from postbus.doubts import doubts
from postbus.dsn import Dsn, masked, unknown
from postbus.envelope import Envelope
from postbus.errors import (
    MAIN,
    ConfigurationError,
    HandlerFailed,
    NoHandler,
    PostbusError,
    SerializationError,
    qualified_name,
    real_name,
)
from postbus.event_loop import loop
from postbus.events import Observer, Observers
from postbus.failures import Failures
from postbus.handlers import Handler, Handlers
from postbus.keys import Keys
from postbus.limits import GRACE, PREFETCH_BYTES, Limits, StopSignal
from postbus.middleware import CollectMessages, SendMessage
from postbus.provided import Factory
from postbus.retry import RetryPolicy
from postbus.routing import Route, Router
from postbus.serialization import Serializers, TypeRegistry, can_be_message
from postbus.stamps import Stamp
from postbus.threads import in_thread, on_loop, runs_on_a_loop
from postbus.transport import Receiver, Transport, TransportContext
from postbus.worker.hooks import Hook, Hooks
from postbus.worker.hooks import check as check_hook
from postbus.worker.rates import RateLimit

if TYPE_CHECKING:
    from postbus.plugins import Plugins
    from postbus.worker.strategies import Strategy
    from postbus.worker.worker import Worker

T = TypeVar("T", bound=type)
P = TypeVar("P")
H = TypeVar("H", bound=Hook)

logger = logging.getLogger("postbus")

LONGEST_FILE_NAME = 200
"""Characters; the folder of an app with a longer name is named by its digest."""


class Postbus(Handlers):
    """An application's buses, transports and handlers.

    Without arguments it reads ``postbus.toml``, or ``[tool.postbus]`` of ``pyproject.toml``, in the current
    folder; where neither is, ``POSTBUS_TRANSPORT_DSN``; and without that, it handles everything at once.
    Raises `ConfigurationError` with every mistake that it finds. Nothing is connected to before it is used.

    The arguments have the structure of the file.
    """

    BATCH = 1000
    """How many messages `dispatch_many` collects before it sends them."""

    def __init__(
        self,
        *,
        transports: Mapping[str, str | Mapping[str, object] | TransportConfig | Transport] | None = None,
        routing: Mapping[Route, str | Sequence[str]] | None = None,
        buses: Mapping[str, Mapping[str, object] | BusConfig] | None = None,
        default_bus: str | None = None,
        failure_transport: str | None = None,
        control: str | None = None,
        retry: RetryPolicy | Mapping[str, object] | None = None,
        handlers: str | Sequence[str | Handlers] = (),
        name: str | None = None,
        config: Mapping[str, object] | str | Path | None = None,
        plugins: Plugins | None = None,
    ) -> None:
        super().__init__()
        self._module = _namespace_of_caller()
        given: dict[str, object] = {
            "transports": transports,
            "routing": routing,
            "buses": buses,
            "default_bus": default_bus,
            "failure_transport": failure_transport,
            "control": control,
            "retry": retry,
            "handlers": handlers or None,
            "name": name,
        }
        given = {key: value for key, value in given.items() if value is not None}
        configured = {**_configured(config, given), **given}
        self._is_configured = bool(configured) or config is not None
        """Whether it was told what it is by arguments or a file, and not by the environment alone."""
        self._is_routed = "routing" in configured
        self.config = check(configured)
        self.types = TypeRegistry()
        self._serializers = Serializers(
            self.types, lambda: self.plugins.serializers, lambda path: load_object(path, "serializer")
        )
        self.keys = Keys()
        self.default_stamps = DefaultStamps()
        self.observers = Observers()
        self.hooks = Hooks(self)
        self._plugins = plugins
        self._rate_limits: dict[str, RateLimit] = {}
        self._own_transports: dict[type, Sequence[str]] = {}
        self._lock = threading.RLock()
        self._has_told_of_loop = False
        self._bus_factory = BusFactory(
            self, self.hooks.provided, self.keys, self.default_stamps, self.observers, lambda: self.plugins
        )
        self._buses: dict[str | None, MessageBus] | None = None
        self.transports = _Transports(self._make_transport, self.config.transports)
        self.router = Router(self.transports, self.config.routing, self._own_transports, self.types)
        self._check_transports()

    @property
    def name(self) -> str:
        """What this app is called among others: its ``name``, else where it is, as for ``--app``.

        One that a file describes is called as the first module with its handlers, or as its folder.
        """
        if self.config.name is not None:
            return self.config.name
        if self._module is not None:
            attribute = next((name for name, value in list(self._module.items()) if value is self), None)
            module = _name_of(self._module)
            return module if attribute is None else f"{module}:{attribute}"
        return next((entry for entry in self.config.handlers if isinstance(entry, str)), str(Path.cwd()))

    # declaring

    @overload
    def message(self, cls: T, /) -> T: ...
    @overload
    def message(
        self,
        name: str | None = None,
        /,
        *,
        transport: str | Sequence[str] | None = None,
        aliases: Iterable[str] = (),
        key: str | None = None,
        stamps: Stamps | None = None,
    ) -> Callable[[T], T]: ...
    def message(
        self,
        target: Any = None,
        /,
        *,
        transport: str | Sequence[str] | None = None,
        aliases: Iterable[str] = (),
        key: str | None = None,
        stamps: Stamps | None = None,
    ) -> Any:
        """Make a class known as a message; a decorator, with or without options.

        ``target`` is the name under which it travels, by default its module and qualified name; ``aliases``
        are names that it had before. ``transport`` is where it is sent unless the routing says otherwise. ``key`` names
        the field, or the property, that holds what a message belongs to: where the broker has groups, those with the
        same value are handled one after the other, in order; see `stamps.Key`. ``stamps`` are put on each when it is
        dispatched, but for those of a type that the dispatch brings; or it is a function that returns those of one
        message. Classes derived from it have the same key, and the same stamps, unless they name their own.
        """
        if isinstance(target, type):
            self.types.register(target)
            return target
        return partial(self._register, target, transport, tuple(aliases), key, stamps)

    def _register(
        self,
        name: str | None,
        transport: str | Sequence[str] | None,
        aliases: Sequence[str],
        key: str | None,
        stamps: Stamps | None,
        cls: T,
    ) -> T:
        self.types.register(cls, name, aliases)
        if key is not None:
            self.keys.add(cls, key)
        if stamps is not None:
            self.default_stamps.declare(cls, stamps)
        if transport is not None:
            names = [transport] if isinstance(transport, str) else list(transport)
            for one in names:
                if one not in self.config.transports:
                    known = ", ".join(self.config.transports) or "none"
                    raise ConfigurationError(
                        f"{cls.__qualname__} names the transport {masked(one)!r}, which is not configured. "
                        f"Transports: {known}."
                    )
            self._own_transports[cls] = names
            self.router.forget()
        return cls

    def add(self, handler: Handler) -> None:
        """Add one handler, and make the messages that it is annotated with known."""
        super().add(handler)
        if handler.bus is not None and handler.bus not in self.config.buses:
            raise ConfigurationError(
                f"Handler {handler.name!r} is for the bus {handler.bus!r}, which is not configured. "
                f"Buses: {', '.join(self.config.buses)}."
            )
        for type_ in handler.types:
            if isinstance(type_, type) and can_be_message(type_):
                self.types.register(type_)

    def observe(self, observer: Observer) -> Observer:
        """Tell this callable of every event; a decorator."""
        self.observers.add(observer)
        return observer

    def provide(self, type_: type[P], factory: Factory[P]) -> None:
        """Give handlers an object: to each parameter, after the message, that is annotated with this very class.

        There is one in each process, for all handlers. The factory makes it when it is first needed, in a worker
        before it begins; ``async def`` ones run on the event loop of the ``async def`` handlers. A generator yields
        it, and what follows closes it, in `close`. Another factory for the same class takes the place of the first.
        What has a method ``reset`` is had by one message at a time in a worker, which calls that after each: so there
        are as many of it as messages need one at once.
        Raises `ConfigurationError` for a factory that has parameters.
        """
        self.hooks.provided.add(type_, factory)

    def on_start(self, hook: H) -> H:
        """Call a function before a worker begins, in its process; a decorator. If it raises, the worker does not."""
        check_hook(hook)
        self.hooks.on_start.append(hook)
        return hook

    def on_stop(self, hook: H) -> H:
        """Call a function after a worker has stopped, and settled what it had; a decorator."""
        check_hook(hook)
        self.hooks.on_stop.append(hook)
        return hook

    # dispatching

    def dispatch(self, message: Any, *stamps: Stamp, bus: str | None = None) -> Envelope:
        """Dispatch a message, or an envelope, on a bus, by default the default one; return the envelope.

        When it returns, the message has been handled, or every transport that it is routed to has stored it.
        Raises `HandlerFailed`, `NoHandler`, or `TransportError` if it is in doubt whether it was stored.
        """
        chosen = self.bus(bus)
        if not self._has_told_of_loop and runs_on_a_loop():
            self._tell_of_loop("dispatch", "app.dispatch_async(...)")
        # Handing on no stamps takes longer than asking whether there are any.
        return chosen.dispatch(message, *stamps) if stamps else chosen.dispatch(message)

    def dispatch_many(self, messages: Iterable[Any], *stamps: Stamp, bus: str | None = None) -> list[Envelope]:
        """Dispatch many messages, each through the same chain, and store them in batches.

        One round trip for each transport and batch. When it returns, all have been handled or stored; the
        envelopes are in the order of the messages. If a batch cannot be stored, raises `TransportError`,
        whose ``stored`` maps positions in ``messages`` of those that are stored for certain. At a message that
        cannot be written, it stops: all before it are stored, neither it nor any behind it is, and the
        `SerializationError` has its ``position``, and ``stored`` as well.
        """
        chosen = self.bus(bus)
        if not self._has_told_of_loop and runs_on_a_loop():
            self._tell_of_loop("dispatch_many", "asyncio.to_thread(app.dispatch_many, ...)")
        send = next((step for step in chosen.middleware if isinstance(step, SendMessage)), SendMessage(self.router))
        collect = CollectMessages(send)
        dispatch = MessageBus(chosen.name, [collect if step is send else step for step in chosen.middleware]).dispatch
        envelopes: list[Envelope] = []
        if not isinstance(cast(object, messages), Iterable):  # For whoever has no type checker.
            name = type(messages).__qualname__
            raise ConfigurationError(f"dispatch_many() was given one {name}. Give it several, as in a list.")
        try:
            with collect.collecting():
                for collect.position, message in enumerate(messages):
                    try:
                        # As above: to hand on none takes longer than to ask.
                        envelopes.append(dispatch(message, *stamps) if stamps else dispatch(message))
                    except SerializationError as error:
                        raise SerializationError(
                            f"The message at position {collect.position} was not sent, nor was any behind it; those "
                            f"before it are. {error}",
                            position=collect.position,
                            stored=collect.stored,  # It is filled below.
                        ) from error
                    if len(envelopes) % self.BATCH == 0:
                        collect.flush(envelopes)
        finally:  # A message whose handler fails here takes none of those before it along.
            collect.is_over = True
            collect.flush(envelopes)
        return envelopes

    def _tell_of_loop(self, method: str, remedy: str) -> None:
        self._has_told_of_loop = True
        caller = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]  It is documented.
        place = f"{Path(caller.f_code.co_filename).name}:{caller.f_lineno} in {caller.f_code.co_name}"
        logger.warning(
            "app.%s() was called on an event loop (%s), which does nothing else until it returns. Write: await %s.",
            method,
            place,
            remedy,
        )

    async def dispatch_async(self, message: Any, *stamps: Stamp, bus: str | None = None) -> Envelope:
        """Dispatch from an event loop without blocking it: as `dispatch`, with the context's variables.

        It takes a thread, unless nothing but ``async def`` handlers is called for the message; see `never_blocks`.
        Who is cancelled in waiting does not know what becomes of the message: it is sent all the same, and an
        ``async def`` handler that handles it just then is cancelled as well.
        """
        chosen = self.bus(bus)  # Here, as many may be the first at once, each of which would take a thread for it.
        envelope = Envelope.wrap(message, *stamps)
        if loop.strands is not None and self._never_blocks(envelope, chosen):
            declared = self.default_stamps.put_on(envelope) if self.default_stamps.declared else envelope
            if not self.router.would_send(declared):
                return await on_loop(lambda: chosen.dispatch(envelope))
        return await in_thread(lambda: chosen.dispatch(envelope))

    def query(self, message: Any, *stamps_: Stamp, bus: str | None = None) -> Any:
        """Handle a message here, whatever its route, and return what its one handler returned.

        Raises what the handler raised, `NoHandler` without a handler, and `PostbusError` with several.
        """
        try:
            envelope = self.bus(bus).dispatch(message, *stamps_, stamps.HERE)
        except HandlerFailed as failed:
            if len(failed.errors) == 1 and not failed.succeeded:
                raise next(iter(failed.errors.values())) from None
            raise
        handled = envelope.all(stamps.Handled)
        name = qualified_name(type(envelope.message))
        if not handled:
            raise NoHandler(f"No handler answered {name}. Add one with @app.handler.")
        if len(handled) > 1:
            names = ", ".join(stamp.handler for stamp in handled)
            raise PostbusError(f"{len(handled)} handlers answered {name}: {names}. A query has exactly one.")
        result = envelope.last(stamps.Result)
        return result.value if result is not None else None

    def bus(self, name: str | None = None) -> MessageBus:
        """Return a bus by name, by default the default bus."""
        if is_finalizing():
            raise PostbusError(
                "Python is ending, and has stopped all threads, so nothing can be dispatched any more. Do it before "
                "that, for example in a function that is registered with atexit, and not in __del__."
            )
        buses = self._buses or self._make_buses()
        try:
            return buses[name]
        except KeyError:
            raise unknown("bus", name or "", self.config.buses, "buses") from None

    # receiving

    def worker(
        self,
        *names: str,
        limits: Limits | None = None,
        queues: Sequence[str] = (),
        bus: str | None = None,
        concurrency: int = 1,
        fetch_size: int | None = None,
        prefetch_bytes: int | None = PREFETCH_BYTES,
        strategy: Strategy = "strict",
        weights: Mapping[str, int] | None = None,
        grace: float | None = GRACE,
        max_outage: float | None = None,
        health_file: str | Path | None = None,
        reset: bool = True,
    ) -> Worker:
        """Return a worker for some transports, in order of priority; by default for all but the failure transports.

        ``bus`` handles everything on that bus, whichever it was dispatched on. ``concurrency`` is how many
        messages are handled at once, ``fetch_size`` how many are fetched at once, in place of what fits. Of large
        messages fewer are, so that those that no handler has take about ``prefetch_bytes``; None for any number.
        ``strategy`` says whose turn it is among transports, and queues, that have messages: always the
        first's, or by turns, in which ``weights`` (by name, 1 if not given) may make shares unequal. After
        ``grace`` seconds of stopping a running handler is interrupted, and its message given back; None
        waits for it. A broker that is away for longer than ``max_outage`` seconds ends the worker; without
        it, reconnecting is tried for ever. Into ``health_file`` it writes signs of life. ``reset`` says whether
        what `provide` has made, and has a method of that name, is reset after each message.
        """
        self.bus(bus)  # What is wrong with handlers and middleware comes out now, and is no message's failure.
        chosen = names or [name for name in self.config.transports if name not in self.failure_transports]
        receivers: dict[str, Receiver] = {}
        for name in chosen:
            transport = self.transport(name)
            if isinstance(transport, Receiver):
                receivers[name] = transport
            elif names:
                raise ConfigurationError(f"Transport {name!r} handles at once, so there is nothing to consume.")
        from postbus.worker.options import Options  # noqa: PLC0415  Who only dispatches has no worker.
        from postbus.worker.worker import Worker  # noqa: PLC0415

        return Worker(
            receivers,
            self.handle if bus is None else partial(self.handle, bus=bus),
            self.failures,
            Options(
                limits=limits or Limits(),
                queues=queues,
                concurrency=concurrency,
                fetch_size=fetch_size,
                prefetch_bytes=prefetch_bytes,
                strategy=strategy,
                weights=weights or {},
                rates={name: rate for name in receivers if (rate := self._rate_limit(name)) is not None},
                kill_switches={
                    name: config.kill_switch
                    for name in receivers
                    if isinstance(config := self.config.transports[name], TransportConfig) and config.kill_switch
                },
                grace=grace,
                max_outage=max_outage,
                health_file=None if health_file is None else Path(health_file),
                reset=reset,
            ),
            observers=self.observers,
            stop_signal=self.stop_signal(),
            control=self.control,
            hooks=self.hooks,
            never_blocks=partial(self.never_blocks, bus=bus),
            batch_handlers_for=partial(self._batch_handlers_of, bus) if self.has_batches else None,
        )

    def require_handlers(self, names: Collection[str], bus: str | None = None) -> None:
        """Raise `ConfigurationError` if no handler takes anything from these transports; ``bus`` is as for `worker`.

        Every message would fail, and be buried or dropped.
        """
        buses = {name: config for name, config in self.config.buses.items() if bus in (None, name)}
        origins = {None, *names}
        if origins & {*self.failure_transports}:  # What comes out of it is handled as what it was before.
            origins |= {*self.transports}
        takes_something = any(handler.bus in (None, *buses) and handler.from_transport in origins for handler in self)
        if takes_something or not names or any(config.allow_no_handlers for config in buses.values()):
            return
        package = self._module.get("__package__") if self._module is not None else None
        routed = (
            next((route.rpartition(".")[0] for route in self.config.routing if isinstance(route, str)), "") or "shop"
        )
        remedy = (
            f"Name the app that has them, as in --app {routed}:app or app = '{routed}:app', or list modules with "
            "groups of handlers in handlers."
            if self._module is None
            else "Import the module with the handlers where the app is made, or list it, as in handlers = "
            f"['{f'{package}.' if package else ''}handlers']."
        )
        raise ConfigurationError(
            f"There is no handler for anything from {' or '.join(map(repr, names))}, so every message would fail. "
            f"{remedy}"
        )

    def _rate_limit(self, name: str) -> RateLimit | None:
        """Return the rate limit of a transport, which all workers of the app share that have the same store."""
        config = self.config.transports[name]
        if not isinstance(config, TransportConfig) or config.rate_limit is None:
            return None
        key = f"postbus:{self.name}:{name}"
        if name not in self._rate_limits:
            self._rate_limits[name] = RateLimit(config.rate_limit, key=key, store=config.rate_limit_store)
        # When the app is being made, and this checked, it is no attribute of its module yet, and its name another one.
        self._rate_limits[name].count_under(key)
        return self._rate_limits[name]

    def handle(self, envelope: Envelope, *, bus: str | None = None) -> Envelope:
        """Take an envelope that a transport delivered through the bus that it was dispatched on."""
        named = envelope.last(stamps.BusName)
        return self.bus(bus or (named.name if named is not None else None)).dispatch(envelope)

    def _batch_handlers_of(self, bus: str | None, envelope: Envelope) -> Sequence[Handler]:
        """Return those batch handlers that a message may wait for, on this bus, or on that which it names."""
        if bus is None:
            named = envelope.last(stamps.BusName)
            bus = named.name if named is not None else self.config.default_bus
        return self.batch_handlers_for(envelope, bus)

    def never_blocks(self, envelope: Envelope, *, bus: str | None = None) -> bool:
        """Say whether nothing that `handle` calls for an envelope blocks, so that it may run on the event loop.

        Its handlers say so by being ``async def``, middleware and observers by `postbus.bus.never_blocks`.
        """
        if not self.has_async:  # As in many apps, whose messages are spared the rest.
            return False
        named = envelope.last(stamps.BusName)
        chosen = (self._buses or {}).get(bus or (named.name if named is not None else None))
        return chosen is not None and self._never_blocks(envelope, chosen)

    def _never_blocks(self, envelope: Envelope, bus: MessageBus) -> bool:
        return bus.never_blocks and self.observers.never_block and self.are_async_for(envelope, bus.name)

    @property
    def failures(self) -> Failures:
        """What deals with messages that failed."""
        return self.failures_among(self.transports)

    def failures_among(self, transports: Mapping[str, Transport]) -> Failures:
        """Return what deals with messages that failed, which come from, and go to, these transports."""
        return Failures(
            transports,
            self.retry_policy_for,
            self.failure_transport_for,
            self.observers,
            all_failure_transports=self.failure_transports,
        )

    def retry_policy_for(self, transport: str) -> RetryPolicy:
        """Return the retry policy of a transport: its own, or the global one."""
        config = self.config.transports.get(transport)
        own = config.retry if isinstance(config, TransportConfig) else None
        return own if own is not None else self.config.retry

    def failure_transport_for(self, transport: str) -> str | None:
        """Return where messages of a transport are buried; those of a failure transport stay in it."""
        config = self.config.transports.get(transport)
        own = config.failure_transport if isinstance(config, TransportConfig) else None
        if own is not None:
            return own
        return transport if transport in self.failure_transports else self.config.failure_transport

    @property
    def failure_transports(self) -> list[str]:
        """The names of the transports that others bury their messages in, the global one first."""
        own = [
            config.failure_transport
            for config in self.config.transports.values()
            if isinstance(config, TransportConfig)
        ]
        return list(dict.fromkeys(name for name in [self.config.failure_transport, *own] if name is not None))

    @property
    def origins(self) -> list[str]:
        """The names of all other transports: what a failed message can have come from."""
        failure_transports = self.failure_transports
        return [name for name in self.transports if name not in failure_transports]

    # transports

    @property
    def consumable(self) -> list[str]:
        """The names of the transports that a worker is for: neither failure transports, nor what handles at once."""
        return [name for name in self.origins if isinstance(self.transport(name), Receiver)]

    def transport(self, name: str) -> Transport:
        """Return a transport by name."""
        try:
            return self.transports[name]
        except KeyError:
            raise unknown("transport", name, self.transports) from None

    def close(self) -> None:
        """Close what factories have made, the last first, and every transport that was used."""
        self.hooks.provided.close()
        self.transports.close()

    def __enter__(self) -> Postbus:
        """Begin anew, if it was closed: a web application may be started more than once in a process, as in tests."""
        self.transports.reopen()
        self.router.forget()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def rewired(
        self, rewire: Callable[[str, TransportConfig], TransportConfig], *middleware: Middleware
    ) -> Generator[None]:
        """For tests: have other transports until the end of the block, and this middleware before that of each bus.

        ``rewire`` returns what takes the place of a transport's configuration. Those that were given as objects stay.
        """
        before = self.config, self.transports, self.router, self._buses
        transports = {
            name: rewire(name, config) if isinstance(config, TransportConfig) else config
            for name, config in self.config.transports.items()
        }
        buses = {
            name: replace(config, middleware=[*middleware, *config.middleware])
            for name, config in self.config.buses.items()
        }
        self.config = replace(self.config, transports=transports, buses=buses)
        self.transports = _Transports(self._make_transport, transports)
        self.router = Router(self.transports, self.config.routing, self._own_transports, self.types)
        self._buses = None
        try:
            yield
        finally:
            self.transports.close(but=[name for name in transports if transports[name] is before[0].transports[name]])
            self.config, self.transports, self.router, self._buses = before

    @property
    def plugins(self) -> Plugins:
        """The plugins that serve this app: the installed ones, unless others were given."""
        if self._plugins is None:
            # Looking for plugins takes as long as all the rest, and who has no transport needs none.
            from postbus.plugins import installed_plugins  # noqa: PLC0415

            self._plugins = installed_plugins()
        return self._plugins

    def stop_signal(self) -> StopSignal:
        """Return the signal that stops all workers of this app, which is known by its name, for this user."""
        folder = _state_folder()
        return StopSignal(None if folder is None else folder / _as_file_name(self.name) / "stop-workers")

    @property
    def control(self) -> Control:
        """What tells the workers of this app, on all machines, that a transport is paused, or that they are to stop."""
        return Control(self.name, self.transports, self.config.control)

    # putting it together

    def _make_buses(self) -> dict[str | None, MessageBus]:
        with self._lock:
            if self._buses is None:
                self.load_handlers()
                self._check_needs()
                self.types.check()
                for doubt in self.doubts():
                    logger.warning("%s", doubt)
                buses: dict[str | None, MessageBus] = {}
                for name, config in self.config.buses.items():
                    buses[name] = self._bus_factory.make(
                        name, config, self.router, self.failure_transports, self.origins
                    )
                buses[None] = buses[self.config.default_bus]
                for observer in self.plugins.observers if self.config.transports else ():
                    self._bus_factory.tell(observer)
                self._buses = buses
            return self._buses

    def _check_needs(self) -> None:
        problems = [
            f"Nothing provides {type_.__qualname__}, which handler {handler.name!r} needs as {parameter!r}. Add "
            f"app.provide({type_.__qualname__}, ...) with a function that makes one."
            for handler in self
            for parameter, type_ in self.hooks.provided.missing(handler.needs)
        ]
        if problems:
            raise ConfigurationError(*problems)

    def load_handlers(self) -> None:
        """Import and include what the configuration lists under ``handlers``; again changes nothing."""
        for entry in self.config.handlers:
            if entry == AUTO:
                self._load_own_package()
                continue
            if isinstance(entry, str) and ":" not in entry:
                load_module(entry, "handlers")
                continue
            group: Any = load_object(entry, "handlers") if isinstance(entry, str) else entry
            if not isinstance(group, Handlers):
                raise ConfigurationError(
                    f"handlers names {entry!r}, which is no group of handlers. Make it Handlers()."
                )
            if group is not self:
                self.include(group)

    def _load_own_package(self) -> None:
        if self._module is None:
            raise ConfigurationError(
                f"handlers = {AUTO!r} imports what is in the package of the app's module, and this app has none. Set "
                "app = "
                "'module:attribute', or list the modules with handlers by name."
            )
        package = self._module.get("__package__")
        if package:
            load_package(package, leave_out=_name_of(self._module))

    def doubts(self) -> list[str]:
        """Return what is probably a mistake, although nothing refuses it, in a sentence or two each."""
        return list(
            doubts(
                self.config,
                self,
                is_configured=self._is_configured or bool(self.config.transports),
                is_routed=self._is_routed or bool(self.config.routing or self._own_transports),
                failure_transports=self.failure_transports,
                file=self._module.get("__file__") if self._module is not None else None,
            )
        )

    def _check_transports(self) -> None:
        """Check every DSN and its options before any is used; no client library is imported for that."""
        problems: list[str] = []
        places: dict[str, Dsn] = {}
        for name, config in self.config.transports.items():
            if not isinstance(config, TransportConfig):
                continue
            try:
                dsn = Dsn.parse(config.dsn).with_options(config.options)
                scheme = self.plugins.scheme_for(dsn)
                if dsn.hosts or dsn.path:  # Else it names no place, and in memory each has one of its own.
                    places[name] = dsn
                if scheme.options is not None:
                    scheme.options.from_dsn(dsn)
                if name == self.config.control and not scheme.guarantees.notes:
                    problems.append(
                        f"control names {name!r}, and {scheme.name}:// keeps no notes for workers. Name a transport on "
                        f"one of these: {', '.join(self._note_keepers()) or 'none is installed'}."
                    )
                self._serializers.make(config.serializer, name, verify=config.verify)
                self._rate_limit(name)
            except ConfigurationError as error:
                problems += [f"{self._key_of(name)}: {problem}" for problem in error.problems]
        problems += self._buried_where_consumed(places)
        if problems:
            raise ConfigurationError(*problems)

    def _note_keepers(self) -> list[str]:
        return [f"{name}://" for name, scheme in self.plugins.schemes.items() if scheme.guarantees.notes]

    def _key_of(self, transport: str) -> str:
        return f"transports.{transport}" if self._is_configured else ENVIRONMENT_DSN

    def _buried_where_consumed(self, places: Mapping[str, Dsn]) -> Iterator[str]:
        """Yield a sentence for each failure transport that is one of those whose messages are buried in it.

        What failed for good would be handled again at once, and again, for ever.
        """
        for name, place in places.items():
            grave = self.failure_transport_for(name)
            if grave is not None and grave != name and places.get(grave) == place:
                yield (
                    f"{grave!r} is the failure transport of {name!r}, and in the same place: {place}. What failed for "
                    "good would be handled again and again. Name another queue in one of the two."
                )

    def _make_transport(self, name: str) -> Transport:
        config = self.config.transports[name]
        if not isinstance(config, TransportConfig):
            return config
        try:
            return self._transport_of(name, config)
        except ConfigurationError as error:
            raise ConfigurationError(*(f"{self._key_of(name)}: {problem}" for problem in error.problems)) from error

    def _transport_of(self, name: str, config: TransportConfig) -> Transport:
        serializers, wanted = self._serializers, config.serializer
        return self.plugins.make_transport(
            config.dsn,
            config.options,
            lambda guarantees: TransportContext(
                name,
                serializers.make(wanted, name, verify=config.verify),
                self.handle,
                guarantees,
                self.observers,
                verify=config.verify,
                serializer_name=serializers.name_for(wanted, name),
                # Whoever can send somewhere must not choose what reads it. Into a failure transport only we send.
                serializers=serializers.find if name in self.failure_transports else None,
            ),
        )


class _Transports(Mapping[str, Transport]):
    """The transports by name, each made when it is first used."""

    def __init__(self, make: Callable[[str], Transport], names: Iterable[str]) -> None:
        self._make = make
        self._names = tuple(names)
        self._made: dict[str, Transport] = {}
        self._is_closed = False
        self._lock = threading.RLock()

    def __getitem__(self, name: str) -> Transport:
        made = self._made.get(name)
        if made is not None:
            return made
        if name not in self._names:
            raise KeyError(name)
        with self._lock:
            if name not in self._made:
                self._made[name] = self._make(name)
            return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def close(self, *, but: Collection[str] = ()) -> None:
        self._is_closed = True
        for name, transport in self._made.items():
            if name not in but:
                transport.close()

    def reopen(self) -> None:
        """Make those that were closed anew, when they are used; but for those that were given as objects."""
        with self._lock:
            if self._is_closed:
                self._made = {}
                self._is_closed = False


def _namespace_of_caller() -> Mapping[str, Any] | None:
    """Return the names of the module that makes an app; None where our command line makes one that a file describes."""
    module = sys._getframe(2).f_globals  # pyright: ignore[reportPrivateUsage]  It is documented.
    return None if str(module.get("__name__")).startswith("postbus.cli.") else module


def _name_of(module: Mapping[str, Any]) -> str:
    name = str(module.get("__name__"))
    return real_name(sys.modules[name]) if name in MAIN else name


def _as_file_name(name: str) -> str:
    quoted = quote(name, safe=":")
    if quoted.strip(".") and len(quoted) <= LONGEST_FILE_NAME:
        return quoted
    from hashlib import sha256  # noqa: PLC0415  Few have such a name.

    return sha256(name.encode()).hexdigest()


def _state_folder() -> Path | None:
    """Return the folder for what the workers of this user share; None for one who has no home, as in a container."""
    given = os.environ.get("POSTBUS_STATE_DIR")
    if given:
        return Path(given)
    home = os.environ.get("XDG_STATE_HOME")
    try:
        return Path(home or Path.home() / ".local" / "state") / "postbus"
    except RuntimeError:
        return None


def _configured(config: Mapping[str, object] | str | Path | None, given: Mapping[str, object]) -> Mapping[str, object]:
    if isinstance(config, Mapping):
        return config
    if config is not None:
        return read_file(Path(config))
    path = find_file() if not given else None
    return read_file(path) if path is not None else {}
