"""What handlers need beside their messages: made by factories, once in each process, and closed at the end."""

from __future__ import annotations

import inspect
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar, cast

from postbus.envelope import Envelope
from postbus.errors import ConfigurationError, PostbusError, qualified_name
from postbus.event_loop import loop
from postbus.threads import aside

logger = logging.getLogger("postbus")

T = TypeVar("T")
P = ParamSpec("P")

Factory = Callable[
    [],
    T | Awaitable[T] | Iterator[T] | AsyncIterator[T] | AbstractContextManager[T] | AbstractAsyncContextManager[T],
]
"""A function that makes an object; or a generator that yields it, and closes it when it goes on."""

Needs = tuple[tuple[str, type], ...]
"""Parameters by name, and the type of which each is to be given the object."""


class Provided:
    """One object of each type that has a factory, in this process; made when it is first asked for.

    What has a method ``reset`` is had, in a worker, by one message at a time, and reset before the next one gets it:
    see `reset_after`. So there are as many of it as messages need it at once.
    """

    def __init__(self) -> None:
        self._factories: dict[type, Callable[[], Any]] = {}
        self._inherited: list[object] = []
        self._forget()

    def _forget(self) -> None:
        self._made: dict[type, Any] = {}
        self._endings: list[tuple[type, Any, Callable[[], object]]] = []
        """What closes each, in the order in which they were made."""
        self._free: dict[type, list[Any]] = {}
        """What is to be reset: of each such type, those objects that no message has."""
        self._lock = threading.RLock()
        self._pid = os.getpid()

    def add(self, type_: type, factory: Callable[[], Any]) -> None:
        """Have objects of a type made by a factory; another one for the same type takes its place.

        Raises `ConfigurationError` for what is no type, or no factory.
        """
        name = getattr(factory, "__qualname__", repr(factory))
        if not isinstance(cast(object, type_), type):
            raise ConfigurationError(f"provide() takes a class and a function that makes one of it, got {type_!r}.")
        if not callable(factory):
            raise ConfigurationError(
                f"{name} makes no {type_.__qualname__}, as it cannot be called. Write lambda: {name}."
            )
        if requires_arguments(factory):
            raise ConfigurationError(
                f"{name}() cannot make {type_.__qualname__}, as it has parameters. Wrap it in a function without any."
            )
        self._factories[type_] = factory

    def missing(self, needs: Needs) -> list[tuple[str, type]]:
        """Return those that nothing provides."""
        return [(name, type_) for name, type_ in needs if type_ not in self._factories and type_ is not Envelope]

    def arguments(self, needs: Needs, envelope: Envelope | None = None) -> dict[str, Any]:
        """Return what to give to a function that needs this."""
        return {name: envelope if type_ is Envelope else self.get(type_) for name, type_ in needs}

    def get(self, type_: type) -> Any:
        """Return the object of a type; raise what its factory raises, or `ConfigurationError` if there is none."""
        if self._pid != os.getpid():
            # The parent still uses them: closing them here, or letting them be collected, would do so for the parent.
            self._inherited += [self._made, self._endings]
            self._forget()
        if type_ in self._made and (type_ not in self._free or _borrowed.get() is None):
            return self._made[type_]
        return aside(lambda: self._get(type_), f"that needs {type_.__qualname__}")

    def _get(self, type_: type) -> Any:
        with self._lock:
            if type_ not in self._made:
                self._made[type_] = made = self._make(type_)
                if _can_be_reset(made):
                    self._free[type_] = [made]
            borrowed = _borrowed.get()
            if borrowed is None or type_ not in self._free:
                return self._made[type_]
            if type_ not in borrowed:
                free = self._free[type_]
                borrowed[type_] = free.pop() if free else self._make(type_)
            return borrowed[type_]

    @property
    def are_reset(self) -> bool:
        """Whether something was made that is to be reset between two messages."""
        return bool(self._free)

    def reset_after(self, call: Callable[P, T]) -> Callable[P, T]:
        """Return a call that handles a message, or a batch, and resets what handlers have got in it, when it is over.

        They have it to themselves until then. What cannot be reset is logged, closed, and made anew.
        """

        def call_and_reset(*args: P.args, **kwargs: P.kwargs) -> T:
            borrowed: dict[type, Any] = {}
            token = _borrowed.set(borrowed)
            try:
                return call(*args, **kwargs)
            finally:
                _borrowed.reset(token)
                if borrowed:
                    aside(lambda: self._reset(borrowed), "whose services are reset")

        return call_and_reset

    def _reset(self, borrowed: dict[type, Any]) -> None:
        for type_, made in borrowed.items():
            try:
                finished(made.reset(), f"{type_.__qualname__}.reset")
            except Exception:  # A border: it is somebody else's code.
                logger.exception("Resetting %s failed, so it is closed, and made anew.", type_.__qualname__)
                self._discard(type_, made)
                continue
            with self._lock:
                if type_ in self._free:  # Else everything was closed meanwhile.
                    self._free[type_].append(made)

    def _discard(self, type_: type, made: Any) -> None:
        with self._lock:
            ending = next((one for one in self._endings if one[1] is made), None)
            if ending is not None:
                self._endings.remove(ending)
            if self._made.get(type_) is made:
                del self._made[type_]
        if ending is not None:
            _end(type_, ending[2])

    def close(self) -> None:
        """Close what was made, the last first. What cannot be closed is logged, and does not keep the others."""
        if self._pid != os.getpid():
            return
        with self._lock:
            endings, self._endings, self._made, self._free = self._endings, [], {}, {}
        for type_, _, end in reversed(endings):
            _end(type_, end)

    def _make(self, type_: type) -> Any:
        factory = self._factories.get(type_)
        if factory is None:
            raise ConfigurationError(f"Nothing provides {type_.__qualname__}. Add app.provide({type_.__name__}, ...).")
        name = qualified_name(factory) if hasattr(factory, "__qualname__") else repr(factory)
        inner = inspect.unwrap(factory)
        if inspect.isgeneratorfunction(inner):
            manager = contextmanager(factory)() if inner is factory else factory()
            made = manager.__enter__()
            self._endings.append((type_, made, lambda: manager.__exit__(None, None, None)))
        elif inspect.isasyncgenfunction(inner):
            manager = asynccontextmanager(factory)() if inner is factory else factory()
            made = loop.run(manager.__aenter__(), name)
            self._endings.append((type_, made, lambda: loop.run(manager.__aexit__(None, None, None), name)))
        else:
            made = finished(factory(), name)
        if made is None:
            raise PostbusError(f"{name}() made no {type_.__qualname__}, but None. Let it return, or yield, one.")
        return made


_borrowed: ContextVar[dict[type, Any] | None] = ContextVar("postbus_borrowed", default=None)
"""What the message that is being handled has to itself, by type; None outside of workers that reset it."""


def _can_be_reset(made: object) -> bool:
    reset = getattr(made, "reset", None)
    return callable(reset) and not requires_arguments(reset)


def _end(type_: type, end: Callable[[], object]) -> None:
    try:
        end()
    except Exception:  # A border: it is somebody else's code.
        logger.exception("Closing %s failed.", type_.__qualname__)


def needs_of(parameters: Iterable[inspect.Parameter], annotation_of: Callable[[inspect.Parameter], Any]) -> Needs:
    """Return which parameters can be given an object: those that have a name and are annotated with a class."""
    found: list[tuple[str, type]] = []
    for parameter in parameters:
        annotation = annotation_of(parameter)
        is_class = isinstance(annotation, type) and annotation.__module__ != "builtins"
        if is_class and parameter.kind is not parameter.POSITIONAL_ONLY:
            found.append((parameter.name, annotation))
    return tuple(found)


def requires_arguments(function: Callable[..., Any]) -> bool:
    """Say whether a function cannot be called without arguments, as far as it tells."""
    try:
        return any(map(is_required, inspect.signature(function).parameters.values()))
    except ValueError:  # Some that are written in C do not tell.
        return False


def finished(result: Any, name: str) -> Any:
    """Return what came of a call; of a coroutine, on the event loop of the handlers."""
    return loop.run(cast("Coroutine[Any, Any, Any]", result), name) if inspect.iscoroutine(result) else result


def is_required(parameter: inspect.Parameter) -> bool:
    """Say whether a parameter must be given something."""
    is_variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not is_variable
