"""Handlers: what may be one, which message each of them takes, and which of them a message gets."""

from __future__ import annotations

import inspect
import sys
import threading
import types
import typing
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, cast, get_args, get_origin, overload

from msgspec import Struct

from postbus.envelope import Envelope
from postbus.errors import ConfigurationError, PostbusError

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

Handles = type | Literal["*"]
"""What a handler takes: a class and its subclasses, what satisfies a protocol, or ``"*"`` for everything."""

_MARK = "__postbus_handles__"


class Handler(Struct, frozen=True, eq=False):
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
    is_async: bool = False

    def handle(self, envelope: Envelope) -> Any:
        """Handle the message and return what the function returned; wait for it if it is ``async def``."""
        if self.takes_envelope:
            result = self.function(envelope.message, envelope)
        else:
            result = self.function(envelope.message)
        return _loop.run(result, self.name) if self.is_async else result


class Handlers:
    """A group of handlers, in the order in which they were added; the app is one such group.

    A module that must not import the app makes a group of its own, which the app then includes.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._found: dict[tuple[type, str, str | None], tuple[Handler, ...]] = {}

    @overload
    def handler(self, target: T, /) -> T: ...
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
    ) -> Callable[[T], T]: ...
    def handler(self, target: Any = None, /, **options: Any) -> Any:
        """Add a handler; a decorator with or without options, or a call with an object.

        ``target`` is a function, ``def`` or ``async def``, whose first parameter is annotated with what it
        handles (a class, a base class, a protocol, a union) unless ``handles`` says so; or an object with
        a ``__call__`` like that, or with methods marked by `handles`. A second parameter annotated
        `Envelope` gets the envelope.
        """
        if target is None:
            return partial(self.handler, **options)
        for handler in _handlers_of(target, options):
            self.add(handler)
        return target

    def add(self, handler: Handler) -> None:
        """Add one handler; raise `ConfigurationError` if another one has its name."""
        other = self._handlers.setdefault(handler.name, handler)
        if other.function != handler.function:
            raise ConfigurationError(
                f"Two handlers are named {handler.name!r}. A handler's name tells which have succeeded when a message "
                "is retried; give one of them another: name=..."
            )
        self._found.clear()

    def include(self, group: Handlers) -> None:
        """Add all handlers of another group."""
        for handler in group:
            self.add(handler)

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._handlers.values())

    def handlers_for(self, message: Any, bus: str, transport: str | None) -> tuple[Handler, ...]:
        """Return who handles this message on that bus, in order: by priority, then the closest type first.

        ``transport`` is where the message came from; None, when it is handled where it was dispatched,
        finds the handlers of every transport.
        """
        key = (message.__class__, bus, transport)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = tuple(self._find(message, bus, transport))
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
) -> Callable[[T], T]: ...
def handles(method: Any = None, /, **options: Any) -> Any:
    """Mark a method as a handler; ``app.handler(Orders(...))`` then adds every marked method of the object."""
    return _mark(options, method) if method is not None else partial(_mark, options)


def qualified_name(thing: Any) -> str:
    """Return ``module.QualName``; for what the started program itself defines, by that module's real name."""
    module: str = thing.__module__
    if module == "__main__":
        main = sys.modules["__main__"]
        if main.__spec__ is not None:
            module = main.__spec__.name
        elif file := getattr(main, "__file__", None):
            module = Path(file).stem
    return f"{module}.{thing.__qualname__}"


def matches(message: Any, wanted: type) -> int | None:
    """Return how far up from the message's own class a type is found, protocols last; None if it is not."""
    ancestors = type(message).__mro__
    if wanted in ancestors:
        return ancestors.index(wanted)
    return len(ancestors) if isinstance(message, wanted) else None


def _distance(message: Any, wanted: tuple[Handles, ...]) -> int | None:
    distances = [len(type(message).__mro__) + 1 if one == "*" else matches(message, one) for one in wanted]
    return min((distance for distance in distances if distance is not None), default=None)


def _mark(options: dict[str, Any], method: T) -> T:
    setattr(method, _MARK, options)
    return method


def _handlers_of(target: Any, options: dict[str, Any]) -> list[Handler]:
    if inspect.isclass(target):
        raise ConfigurationError(
            f"{target.__qualname__} is a class. Make an object of it: app.handler({target.__qualname__}(...))."
        )
    if inspect.isroutine(target):
        return [_make_handler(target, target, **options)]

    kind = target.__class__
    marked = [name for name in dir(kind) if hasattr(getattr(kind, name), _MARK)]
    if marked:
        methods = [getattr(target, name) for name in marked]
        return [_make_handler(method, method, **{**options, **getattr(method, _MARK)}) for method in methods]
    if callable(target):
        return [_make_handler(target.__call__, kind, **options)]
    raise ConfigurationError(
        f"{kind.__qualname__} cannot handle anything. Give it a __call__ method, or mark methods with @handles."
    )


def _make_handler(
    function: Callable[..., Any],
    named: Any,
    *,
    handles: Handles | Iterable[Handles] | None = None,
    name: str | None = None,
    **options: Any,
) -> Handler:
    parameters = list(inspect.signature(function).parameters.values())
    label = f"{getattr(function, '__qualname__', function)}()"
    if not parameters or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise ConfigurationError(f"{label} takes no message. Give it a first parameter annotated with one.")
    annotations = _annotations(function, label, required=handles is None)
    takes_envelope = len(parameters) > 1 and annotations.get(parameters[1].name) in (Envelope, "Envelope")
    for parameter in parameters[2 if takes_envelope else 1 :]:
        if parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            raise ConfigurationError(
                f"Nothing can be given to parameter {parameter.name!r} of {label}. Give it a default, or annotate the "
                "second parameter as Envelope."
            )
    return Handler(
        name=name or qualified_name(named),
        function=function,
        types=_types(handles if handles is not None else annotations.get(parameters[0].name), label),
        takes_envelope=takes_envelope,
        is_async=inspect.iscoroutinefunction(function),
        **options,
    )


def _annotations(function: Callable[..., Any], label: str, *, required: bool) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except NameError as error:
        if not required:
            return dict(inspect.get_annotations(function))
        raise ConfigurationError(
            f"Cannot tell which message {label} handles: {error}. Import it at run time, or pass handles=..."
        ) from error


def _types(wanted: Any, label: str) -> tuple[Handles, ...]:
    if get_origin(wanted) in (Union, types.UnionType):
        wanted = get_args(wanted)
    elif isinstance(wanted, str | type) or not isinstance(wanted, Iterable):
        wanted = (wanted,)
    members = tuple(cast(Iterable[Any], wanted))
    for member in members:
        if member == "*":
            continue
        if not isinstance(member, type) or (member.__module__ == "builtins" and member is not object):
            raise ConfigurationError(
                f"Cannot tell which message {label} handles. Annotate its first parameter, or pass handles=..."
            )
        if getattr(member, "_is_protocol", False) and not getattr(member, "_is_runtime_protocol", False):
            raise ConfigurationError(
                f"{label} handles the protocol {member.__qualname__}, which cannot be checked when a message comes. "
                "Decorate it with @runtime_checkable."
            )
    return members


class _EventLoop:
    """The one event loop of this process for ``async def`` handlers, on a thread of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, coroutine: Coroutine[Any, Any, T], name: str) -> T:
        """Wait for a coroutine; it sees the context variables of the caller."""
        import asyncio  # noqa: PLC0415  It takes half as long to import as all of the core.

        with self._lock:
            if self._loop is None or self._thread is None or not self._thread.is_alive():  # first use, or forked
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="postbus-async", daemon=True)
                self._thread.start()
            loop, thread = self._loop, self._thread
        if threading.current_thread() is thread:
            coroutine.close()
            raise PostbusError(
                f"An async handler dispatched a message to the async handler {name}, and waits for it on the loop that "
                "both run on. Use `await app.dispatch_async(...)` there."
            )
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()


_loop = _EventLoop()
