"""Handlers: what may be one, which message each of them takes, and which of them a message gets."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import cached_property, partial
from types import CoroutineType, SimpleNamespace
from typing import Any, Literal, NamedTuple, TypeVar, Union, cast, get_args, get_origin, overload

from msgspec import Struct

from postbus import stamps
from postbus.batches import Batch, Item, conclude
from postbus.display import sentence
from postbus.envelope import Envelope
from postbus.errors import ConfigurationError, PostbusError, Unrecoverable, qualified_name, seconds_of
from postbus.event_loop import loop
from postbus.provided import Needs, Provided, is_required, needs_of
from postbus.spelling import nearest
from postbus.stamps import HandlerArguments, Stamp
from postbus.time_limits import TimedRun

T = TypeVar("T")

Handles = type | Literal["*"]
"""What a handler takes: a class and its subclasses, what satisfies a protocol, or ``"*"`` for everything."""

_MARK = "__postbus_handles__"


class Handler(Struct, frozen=True, dict=True):
    """A callable that handles messages, and which of them. Its name is its identity."""

    name: str
    function: Callable[..., Any]
    types: tuple[Handles, ...]
    bus: str | None = None
    """Only for messages on this bus; None for all."""
    from_transport: str | None = None
    """Only for messages that came from this transport, or are handled where they were dispatched."""
    priority: int = 0
    """Higher runs first."""
    takes_envelope: bool = False
    needs: Needs = ()
    """Which further parameters it has, by name, and what each is to be given."""
    stamped: tuple[StampParameter, ...] = ()
    """Which further parameters get a stamp of the message."""
    optional: tuple[str, ...] = ()
    """Which further parameters it has that `stamps.HandlerArguments` may fill, and need not."""
    takes_any: bool = False
    """Whether it takes arguments of whatever name."""
    time_limit: float | None = None
    """Seconds that it may take; None for any time."""
    batch: int | None = None
    """How many messages it gets together at most; None if it gets one at a time."""
    wait: float = 0.0
    """Seconds that a batch waits for more messages."""
    takes_items: bool = False
    """Whether it gets a `Batch` of items in place of a list of messages."""
    # What is the same for every message is found out once.

    @cached_property
    def handled(self) -> stamps.Handled:
        """What is put on a message that it has handled."""
        return stamps.Handled(self.name)

    @cached_property
    def is_async(self) -> bool:
        """Whether it is ``async def``, so that to call it never blocks."""
        return inspect.iscoroutinefunction(self.function)

    @cached_property
    def is_plain(self) -> bool:
        """Whether it is simply called with the message, for as long as it takes."""
        return (
            not self.takes_envelope
            and not (self.needs or self.stamped or self.optional or self.takes_any)
            and self.time_limit is None
            and self.batch is None
        )

    def handle(self, envelope: Envelope, succeeded: Sequence[str] = (), provided: Provided | None = None) -> Any:
        """Handle the message and return what the function returned; what can be awaited is waited for.

        That is a coroutine, a future, or whatever else says so, and what comes out of it as well. Raises
        `PostbusError` for a generator, of which nothing would have run when the message is taken for handled.

        ``succeeded`` are the message's other handlers that have, for who must give this one up; ``provided`` is what
        has the objects that it needs.
        """
        if self.batch is not None:
            item = Item[Any](envelope)
            error: Exception | None = None
            try:
                self.handle_batch([item], provided, succeeded)
            except Exception as problem:  # A border: it is raised below, unless the handler has acked before.
                error = problem
            conclude([item], self, error)
            return item.outcome()
        arguments = self._arguments(envelope, provided)
        if self.time_limit is None:
            return self._handle(envelope, arguments)
        run = TimedRun(self.name, self.time_limit, envelope.message, succeeded)
        return run.work(partial(self._handle, envelope, arguments, run))

    def handle_batch(
        self, items: Sequence[Item[Any]], provided: Provided | None = None, succeeded: Sequence[str] = ()
    ) -> None:
        """Handle several messages at once; raise what the function raises. `conclude` is for who calls this."""
        batch = Batch(items)
        given: object = batch if self.takes_items else batch.messages
        arguments = provided.arguments(self.needs) if provided is not None and self.needs else {}
        if self.time_limit is None:
            self.finished(self.function(given, **arguments))
            return
        run = TimedRun(self.name, self.time_limit, batch if len(items) > 1 else items[0].message, succeeded)
        run.work(lambda: self.finished(self.function(given, **arguments), run))

    def _arguments(self, envelope: Envelope, provided: Provided | None) -> Mapping[str, Any] | None:
        """Return what its further parameters are given, by name; None if there are none."""
        arguments = (provided or Provided()).arguments(self.needs, envelope) if self.needs else {}
        for parameter in self.stamped:
            stamp = envelope.last(parameter.type)
            if stamp is not None or not parameter.has_default:
                arguments[parameter.name] = stamp
            if stamp is None and parameter.is_required:
                raise Unrecoverable(
                    f"{type(envelope.message).__qualname__} has no stamp {parameter.type.__qualname__}, which handler "
                    f"{self.name!r} needs as {parameter.name!r}. Let it be None, or put one on."
                )
        if (self.optional or self.takes_any) and (more := envelope.last(HandlerArguments)) is not None:
            names = {*self.optional, *(name for name, _ in self.needs), *(one.name for one in self.stamped)}
            arguments |= {name: value for name, value in more.arguments.items() if self.takes_any or name in names}
        return arguments or None

    def _handle(self, envelope: Envelope, arguments: Mapping[str, Any] | None, run: TimedRun | None = None) -> Any:
        result: Any
        if arguments is not None:
            before = (envelope.message, envelope) if self.takes_envelope else (envelope.message,)
            result = self.function(*before, **arguments)
        elif self.takes_envelope:
            result = self.function(envelope.message, envelope)
        else:
            result = self.function(envelope.message)
        # Most handlers return nothing, and to ask what something is takes as long as to call them.
        return result if result is None else self.finished(result, run)

    def finished(self, result: Any, run: TimedRun | None = None) -> Any:
        """Return what comes of what the function returned, which is waited for if it can be awaited."""
        while result is not None and (coroutine := _coroutine_of(result, self.name)) is not None:
            result = loop.run(coroutine, self.name) if run is None else run.wait_for(coroutine)
        return result


class StampParameter(NamedTuple):
    """A parameter that gets a stamp of the message."""

    name: str
    type: type[Stamp]
    is_required: bool
    """Whether a message without such a stamp cannot be handled."""
    has_default: bool


class Handlers:
    """A group of handlers, in the order in which they were added; the app is one such group.

    A module that must not import the app makes a group of its own, which the app then includes.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._found: dict[tuple[type, str, str | None], tuple[Handler, ...]] = {}
        self.depend_on_transport = False
        """Whether some of them are only for messages from a certain transport."""
        self.has_async = False
        """Whether some of them are ``async def``."""
        self.has_batches = False
        """Whether some of them get several messages at once."""
        self._batch_handlers: dict[tuple[type, str, str | None], tuple[Handler, ...]] = {}

    @overload
    def handler(
        self,
        target: T,
        /,
        *,
        bus: str | None = None,
        from_transport: str | None = None,
        priority: int = 0,
        handles: Handles | Iterable[Handles] | None = None,
        name: str | None = None,
        time_limit: float | timedelta | None = None,
        batch: int | None = None,
        wait: float | timedelta | None = None,
    ) -> T: ...
    @overload
    def handler(
        self,
        target: None = None,
        /,
        *,
        bus: str | None = None,
        from_transport: str | None = None,
        priority: int = 0,
        handles: Handles | Iterable[Handles] | None = None,
        name: str | None = None,
        time_limit: float | timedelta | None = None,
        batch: int | None = None,
        wait: float | timedelta | None = None,
    ) -> Callable[[T], T]: ...
    def handler(self, target: Any = None, /, **options: Any) -> Any:
        """Add a handler; a decorator with or without options, or a call with an object.

        ``target`` is a function, ``def`` or ``async def``, whose first parameter is annotated with what it
        handles (a class, a base class, a protocol, a union) unless ``handles`` says so; or an object with
        a ``__call__`` like that, or with methods marked by `handles`. A further parameter annotated `Envelope`
        gets the envelope, one annotated with a stamp gets that of the message (``Tenant | None`` may be without), and
        one annotated with a class that `Postbus.provide` has a factory for gets that object. `stamps.HandlerArguments`
        fills others by name, which must have a default.
        ``time_limit``, in seconds, is how long it may take: an ``async def`` handler is cancelled then, and in a
        worker a ``def`` handler is interrupted, or its process replaced; the message has failed, and is retried or
        buried.

        With ``batch``, the first parameter is a ``list[Page]`` or a `Batch[Page]`, and a worker hands over up to so
        many messages at once: when there are as many, when the first has waited for ``wait`` seconds (1 if not given),
        when its transport has no more for now, and when it stops. If the function raises, all of them have failed; of
        a `Batch`, those that it has not acked. Without a worker it gets each message by itself, at once.
        """
        _check_options(options)
        if target is None:
            return partial(self.handler, **options)
        for handler in _handlers_of(target, **options):
            self.add(handler)
        return target

    def add(self, handler: Handler) -> None:
        """Add one handler, again if it is the same; raise `ConfigurationError` if another one has its name."""
        if self._handlers.setdefault(handler.name, handler) != handler:
            raise ConfigurationError(
                f"Two handlers are named {handler.name!r}. A handler's name tells which have succeeded when a message "
                "is retried; give one of them another: name=..."
            )
        self._found = {}
        self._batch_handlers = {}
        self.has_batches = self.has_batches or handler.batch is not None
        self.depend_on_transport = self.depend_on_transport or handler.from_transport is not None
        self.has_async = self.has_async or handler.is_async

    def include(self, group: Handlers) -> None:
        """Add all handlers of another group."""
        for handler in group:
            self.add(handler)

    def are_async_for(self, envelope: Envelope, bus: str) -> bool:
        """Say whether a message has handlers, and all of them are ``async def``."""
        origin = None
        if self.depend_on_transport:
            if envelope.has(stamps.Buried):  # It may be handled as one that came from elsewhere.
                return False
            received = envelope.last(stamps.Received)
            origin = received.transport if received is not None else None
        handlers = self.handlers_for(envelope.message, bus, origin)
        for handler in handlers:
            if not handler.is_async:
                return False
        return bool(handlers)

    def batch_handlers_for(self, envelope: Envelope, bus: str) -> tuple[Handler, ...]:
        """Return those batch handlers that a received message may wait for with others; none if it goes alone.

        That is what comes again, for whatever reason: if one of a batch makes all fail, or kills its worker, it does so
        to no other a second time. Equal answers are the same object.
        """
        origin = None
        for stamp in envelope.stamps:  # One look, as it is taken at every message.
            kind = type(stamp)
            if isinstance(stamp, stamps.Received):
                if stamp.count is not None and stamp.count > 1:
                    return ()
                origin = stamp.transport
            elif kind in _COMES_AGAIN:
                return ()
        if not self.depend_on_transport:
            origin = None
        key = envelope.message.__class__, bus, origin
        found = self._batch_handlers.get(key)
        if found is None:
            handlers = tuple(one for one in self.handlers_for(envelope.message, bus, origin) if one.batch is not None)
            found = next((one for one in self._batch_handlers.values() if one == handlers), handlers)
            self._batch_handlers[key] = found
        return found

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._handlers.values())

    def handlers_for(self, message: Any, bus: str, transport: str | None) -> tuple[Handler, ...]:
        """Return who handles this message on that bus, in order: by priority, then the closest type first.

        ``transport`` is where the message came from; None, when it is handled where it was dispatched,
        finds the handlers of every transport. What is found for a message holds for all of its class.
        """
        try:
            return self._found[message.__class__, bus, transport]
        except KeyError:
            found = self._found[message.__class__, bus, transport] = tuple(self._find(message, bus, transport))
            return found

    def _find(self, message: Any, bus: str, transport: str | None) -> list[Handler]:
        ranked = [
            (-handler.priority, distance, position, handler)
            for position, handler in enumerate(self._handlers.values())
            if handler.bus in (None, bus)
            and (transport is None or handler.from_transport in (None, transport))
            and (distance := _distance(message, handler.types)) is not None
        ]
        return [handler for *_, handler in sorted(ranked, key=lambda entry: entry[:3])]


@overload
def handles(method: T, /) -> T: ...
@overload
def handles(
    method: None = None,
    /,
    *,
    bus: str | None = None,
    from_transport: str | None = None,
    priority: int = 0,
    handles: Handles | Iterable[Handles] | None = None,
    name: str | None = None,
    time_limit: float | timedelta | None = None,
    batch: int | None = None,
    wait: float | timedelta | None = None,
) -> Callable[[T], T]: ...
def handles(method: Any = None, /, **options: Any) -> Any:
    """Mark a method as a handler; ``app.handler(Orders(...))`` then adds every marked method of the object."""
    _check_options(options)
    return _mark(options, method) if method is not None else partial(_mark, options)


def matches(message: Any, wanted: type) -> int | None:
    """Return how far up from the message's own class a type is found, protocols last; None if it is not."""
    ancestors = type(message).__mro__
    if wanted in ancestors:
        return ancestors.index(wanted)
    return len(ancestors) if isinstance(message, wanted) else None


def can_be_checked(wanted: type) -> bool:
    """Say whether isinstance takes a type: every class, and a protocol if it is ``@runtime_checkable``."""
    return not getattr(wanted, "_is_protocol", False) or getattr(wanted, "_is_runtime_protocol", False)


def _coroutine_of(result: Any, name: str) -> Coroutine[Any, Any, Any] | None:
    """Return what is to be waited for before a handler that returned this has run; None if nothing is."""
    if result.__class__ is CoroutineType:
        return cast("Coroutine[Any, Any, Any]", result)
    if inspect.isawaitable(result) or _is_future(result):
        return _wait_for(result, name)
    if isinstance(result, Generator | AsyncGenerator):
        raise PostbusError(
            f"Handler {name!r} returned a generator, of which nothing has run. Replace yield, or return a list."
        )
    return None


def _is_future(thing: object) -> bool:
    """Say whether something is a future of threads; nothing is before somebody has imported what they are."""
    futures = sys.modules.get("concurrent.futures")
    return futures is not None and isinstance(thing, futures.Future)


async def _wait_for(awaitable: Any, name: str) -> Any:
    """Return what comes of whatever can be awaited, on the event loop of the handlers."""
    import asyncio  # noqa: PLC0415  It has been imported, as this runs on its loop.

    if _is_future(awaitable):
        return await asyncio.wrap_future(awaitable)
    if asyncio.isfuture(awaitable) and not awaitable.done() and awaitable.get_loop() is not asyncio.get_running_loop():
        raise PostbusError(
            f"Handler {name!r} returned a future of another event loop, which may be waiting for this very handler. "
            "Make it async def, and await it there."
        )
    return await awaitable


def _distance(message: Any, wanted: tuple[Handles, ...]) -> int | None:
    distances = [len(type(message).__mro__) + 1 if one == "*" else matches(message, one) for one in wanted]
    return min((distance for distance in distances if distance is not None), default=None)


WAIT = 1.0
"""Seconds that a batch waits for more messages, unless its handler says how many."""

_COMES_AGAIN = (stamps.Retried, stamps.Buried, stamps.Handled)
"""What is on a message that a worker has had before."""

OPTIONS = ("bus", "from_transport", "priority", "handles", "name", "time_limit", "batch", "wait")
"""The options of a handler."""


def _check_options(given: Iterable[str]) -> None:
    for name in given:
        if name not in OPTIONS:
            meant = nearest(name, OPTIONS)
            hint = f" Did you mean {meant!r}?" if meant else ""
            raise ConfigurationError(f"A handler has no option {name!r}.{hint} Options: {', '.join(OPTIONS)}.")


def _mark(options: dict[str, Any], method: T) -> T:
    setattr(getattr(method, "__func__", method), _MARK, options)  # That of a classmethod or staticmethod.
    return method


def _handlers_of(target: Any, *, name: str | None = None, **options: Any) -> list[Handler]:
    if inspect.isclass(target):
        raise ConfigurationError(
            f"{target.__qualname__} is a class. Make an object of it: app.handler({target.__qualname__}(...))."
        )
    if isinstance(target, partial):  # First, as from Python 3.14 on it is a routine too.
        return [_make_handler(cast(Any, target), name or qualified_name(target.func), **options)]
    if inspect.isroutine(target):
        return [_make_handler(target, name or qualified_name(target), **options)]

    own_name = name or qualified_name(type(target))
    marked = _marked_methods(target.__class__)
    handlers: list[Handler] = []
    for method, more in marked.items():
        merged: dict[str, Any] = {"name": f"{own_name}.{method}", **options, **more}
        handlers.append(_make_handler(getattr(target, method), **merged))
    if not handlers and callable(target):
        handlers = [_make_handler(target.__call__, own_name, **options)]
    if not handlers:
        raise ConfigurationError(f"{own_name} cannot handle anything. Give it __call__, or mark methods with @handles.")
    return handlers


def _marked_methods(kind: type) -> dict[str, dict[str, Any]]:
    """Return the options of each method that is marked, in the order of definition; an override decides by itself."""
    attributes: dict[str, Any] = {}
    for ancestor in reversed(kind.__mro__):
        attributes.update(vars(ancestor))
    functions = {name: getattr(attribute, "__func__", attribute) for name, attribute in attributes.items()}
    return {
        name: vars(function)[_MARK]
        for name, function in functions.items()
        if inspect.isfunction(function) and hasattr(function, _MARK)
    }


def _make_handler(
    function: Callable[..., Any],
    name: str,
    *,
    handles: Handles | Iterable[Handles] | None = None,
    time_limit: float | timedelta | None = None,
    batch: int | None = None,
    wait: float | timedelta | None = None,
    **options: Any,
) -> Handler:
    label = f"{qualified_name(function) if hasattr(function, '__qualname__') else name}()"
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(f"{label} is a generator, which does nothing when it is called. Replace yield.")
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:
        raise ConfigurationError(f"{label} does not tell its parameters. Wrap it in a function of your own.") from None
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    if not positional:
        raise ConfigurationError(f"{label} takes no message. Give it a first parameter annotated with one.")

    size, seconds_to_wait = _batch(batch, wait, label)
    takes_envelope = size is None and len(positional) > 1 and _annotation(function, positional[1], label) is Envelope
    filled = positional[: 2 if takes_envelope else 1]
    wanted = _annotation(function, positional[0], label, required=handles is None)
    takes_items = get_origin(wanted) is Batch or wanted is Batch
    if handles is not None:
        wanted = handles
    elif size is not None:
        wanted = _member(wanted, label)
    types = _types(wanted, label)
    rest = [parameter for parameter in parameters if parameter not in filled]
    stamped = tuple(_stamp_parameters(function, rest, label)) if size is None else ()
    others = [one for one in rest if is_required(one) and one.name not in {parameter.name for parameter in stamped}]
    needs = needs_of(others, lambda parameter: _annotation(function, parameter, label))
    for parameter in others:
        # One that takes what is handled comes second only in a method without its object.
        need = dict(needs).get(parameter.name)
        is_of_one = size is not None and (need is Envelope or _stamp_of(function, parameter, label) is not None)
        if is_of_one or need in (None, *types):
            remedy = (
                "Each message of a batch has an envelope and stamps of its own: take a Batch, whose items have them."
                if is_of_one
                else "Give it a default, or annotate it as Envelope, with a stamp, or with a class that app.provide() "
                "has a factory for."
            )
            raise ConfigurationError(f"Nothing can be given to parameter {parameter.name!r} of {label}. {remedy}")
    return Handler(
        name,
        function,
        types,
        takes_envelope=takes_envelope,
        needs=needs,
        stamped=stamped,
        optional=tuple(
            one.name
            for one in rest
            if one not in others and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) and size is None
        ),
        takes_any=size is None and any(one.kind is one.VAR_KEYWORD for one in rest),
        time_limit=_time_limit(time_limit, label),
        batch=size,
        wait=seconds_to_wait,
        takes_items=takes_items,
        **options,
    )


def _batch(size: object, wait: object, label: str) -> tuple[int | None, float]:
    """Return how many messages a handler gets at once, and how long these wait, as was said of it."""
    if size is None:
        if wait is not None:
            raise ConfigurationError(f"{label} has a wait and no batch. Say how many messages it gets: batch=...")
        return None, 0.0
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ConfigurationError(f"batch of {label} must be a number of messages from 1 up, got {size!r}.")
    seconds = WAIT if wait is None else seconds_of(wait)
    if seconds is None or seconds < 0:
        raise ConfigurationError(
            f"wait of {label} must be a number of seconds from 0 up, or a timedelta, got {wait!r}."
        )
    return size, seconds


def _member(annotation: Any, label: str) -> Any:
    """Return what the list, or the `Batch`, of a batch handler is one of."""
    if get_origin(annotation) not in (list, Sequence, Batch) or not get_args(annotation):
        raise ConfigurationError(
            f"{label} gets several messages at once. Annotate its first parameter as list[...] or Batch[...]."
        )
    return get_args(annotation)[0]


def _stamp_of(
    function: Callable[..., Any], parameter: inspect.Parameter, label: str
) -> tuple[type[Stamp], bool] | None:
    """Return the stamp that a parameter is annotated with, and whether it may be None; None if it is with no stamp."""
    annotation = _annotation(function, parameter, label)
    members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    kinds = [member for member in members if isinstance(member, type) and issubclass(member, Stamp)]
    if len(kinds) != 1 or {*members} - {*kinds} - {types.NoneType}:
        return None
    return kinds[0], len(members) > 1


def _stamp_parameters(
    function: Callable[..., Any], parameters: Iterable[inspect.Parameter], label: str
) -> Iterator[StampParameter]:
    for parameter in parameters:
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            found = _stamp_of(function, parameter, label)
            if found is not None:
                has_default = parameter.default is not parameter.empty
                yield StampParameter(parameter.name, found[0], not (found[1] or has_default), has_default)


def _time_limit(given: object, label: str) -> float | None:
    if given is None:
        return None
    seconds = seconds_of(given)
    if seconds is None or seconds <= 0:
        raise ConfigurationError(
            f"time_limit of {label} must be a number of seconds above 0, or a timedelta, got {given!r}."
        )
    return seconds


def _annotation(
    function: Callable[..., Any], parameter: inspect.Parameter, label: str, *, required: bool = False
) -> Any:
    """Return a parameter's annotation; None where it has none, or, unless ``required``, cannot be found out."""
    if parameter.annotation is parameter.empty:
        return None
    inner = inspect.unwrap(cast(Any, function.func if isinstance(function, partial) else function))
    scope = getattr(getattr(inner, "__func__", inner), "__globals__", {})
    try:
        # By itself, because one that can only be read by a type checker must not hide the others.
        return typing.get_type_hints(SimpleNamespace(__annotations__={"it": parameter.annotation}), scope)["it"]
    except Exception as error:  # A border: an annotation may be any expression.
        if required:
            raise ConfigurationError(
                f"Cannot tell which message {label} handles: {sentence(str(error))} Import it at run time, or pass "
                "handles=..."
            ) from error
        return None


def _types(wanted: Any, label: str) -> tuple[Handles, ...]:
    if get_origin(wanted) in (Union, types.UnionType):
        wanted = get_args(wanted)
    elif not isinstance(wanted, list | tuple | set | frozenset):
        wanted = (wanted,)
    members = tuple(cast(Iterable[Any], wanted))
    if members in ((), (None,)):
        raise ConfigurationError(
            f"Cannot tell which message {label} handles. Annotate its first parameter, or pass handles=..."
        )
    for member in members:
        if member == "*":
            continue
        if not _can_be_handled(member):
            shown = member.__name__ if isinstance(member, type) else repr(member)
            raise ConfigurationError(
                f"Cannot tell which message {label} handles: {shown} is not the class of one. Annotate its first "
                'parameter with that, or pass handles=..., for all messages handles="*".'
            )
        if not can_be_checked(member):
            raise ConfigurationError(
                f"{label} handles the protocol {member.__qualname__}, which cannot be checked when a message comes. "
                "Decorate it with @runtime_checkable."
            )
    return members


def _can_be_handled(member: object) -> bool:
    if not isinstance(member, type) or member is Any or issubclass(member, Envelope):
        return False
    return member.__module__ != "builtins" or member is object
