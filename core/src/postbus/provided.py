"""What handlers need beside their messages: made by factories, once in each process, and closed at the end."""

from __future__ import annotations

import inspect
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeVar, cast

from postbus.envelope import Envelope
from postbus.errors import ConfigurationError, PostbusError, qualified_name
from postbus.event_loop import loop
from postbus.threads import aside

logger = logging.getLogger("postbus")

T = TypeVar("T")

Factory = Callable[
    [],
    T | Awaitable[T] | Iterator[T] | AsyncIterator[T] | AbstractContextManager[T] | AbstractAsyncContextManager[T],
]
"""A function that makes an object; or a generator that yields it, and closes it when it goes on."""

Needs = tuple[tuple[str, type], ...]
"""Parameters by name, and the type of which each is to be given the object."""


class Provided:
    """One object of each type that has a factory, in this process; made when it is first asked for."""

    def __init__(self) -> None:
        self._factories: dict[type, Callable[[], Any]] = {}
        self._inherited: list[object] = []
        self._forget()

    def _forget(self) -> None:
        self._made: dict[type, Any] = {}
        self._endings: list[tuple[type, Callable[[], object]]] = []
        """What closes each, in the order in which they were made."""
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
        try:
            return self._made[type_]
        except KeyError:
            pass
        return aside(lambda: self._get(type_), f"that needs {type_.__qualname__}")

    def _get(self, type_: type) -> Any:
        with self._lock:
            if type_ not in self._made:
                self._made[type_] = self._make(type_)
            return self._made[type_]

    def close(self) -> None:
        """Close what was made, the last first. What cannot be closed is logged, and does not keep the others."""
        if self._pid != os.getpid():
            return
        with self._lock:
            endings, self._endings, self._made = self._endings, [], {}
        for type_, end in reversed(endings):
            try:
                end()
            except Exception:  # A border: it is somebody else's code.
                logger.exception("Closing %s failed.", type_.__qualname__)

    def _make(self, type_: type) -> Any:
        factory = self._factories.get(type_)
        if factory is None:
            raise ConfigurationError(f"Nothing provides {type_.__qualname__}. Add app.provide({type_.__name__}, ...).")
        name = qualified_name(factory) if hasattr(factory, "__qualname__") else repr(factory)
        inner = inspect.unwrap(factory)
        if inspect.isgeneratorfunction(inner):
            manager = contextmanager(factory)() if inner is factory else factory()
            made = manager.__enter__()
            self._endings.append((type_, lambda: manager.__exit__(None, None, None)))
        elif inspect.isasyncgenfunction(inner):
            manager = asynccontextmanager(factory)() if inner is factory else factory()
            made = loop.run(manager.__aenter__(), name)
            self._endings.append((type_, lambda: loop.run(manager.__aexit__(None, None, None), name)))
        else:
            made = finished(factory(), name)
        if made is None:
            raise PostbusError(f"{name}() made no {type_.__qualname__}, but None. Let it return, or yield, one.")
        return made


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
