"""What is done before a worker begins, and after it has stopped."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from msgspec import Struct, field

from postbus.envelope import Envelope
from postbus.errors import ConfigurationError, StartFailed, describe, qualified_name
from postbus.failures import way_of
from postbus.handlers import Handler
from postbus.provided import Provided, finished, requires_arguments

logger = logging.getLogger("postbus")

Hook = Callable[[], object]
"""A function without parameters, ``def`` or ``async def``."""


class Hooks(Struct, frozen=True):
    """What an app wants done around its workers, in the order in which it was said."""

    handlers: Iterable[Handler]
    provided: Provided = field(default_factory=Provided)
    on_start: list[Hook] = field(default_factory=list[Hook])
    on_stop: list[Hook] = field(default_factory=list[Hook])

    def start(self) -> None:
        """Make what handlers need, then run the start hooks; raise `StartFailed` at the first that fails."""
        for type_ in dict.fromkeys(type_ for handler in self.handlers for _, type_ in handler.needs):
            if type_ is not Envelope:
                _run(partial(self.provided.get, type_), f"making {type_.__qualname__}")
        for hook in self.on_start:
            _run(partial(call, hook), f"{qualified_name(hook)}()")

    def stop(self) -> None:
        """Run the stop hooks; what fails is logged, and keeps none of the others."""
        for hook in self.on_stop:
            try:
                call(hook)
            except Exception:  # A border: it is somebody else's code.
                logger.exception("The stop hook %s() failed.", qualified_name(hook))


def check(hook: Any) -> None:
    """Raise `ConfigurationError` for what cannot be a hook."""
    if not inspect.isroutine(hook):
        raise ConfigurationError(f"A hook is a function without parameters, got {hook!r}.")
    if requires_arguments(hook):
        raise ConfigurationError(
            f"{hook.__qualname__}() cannot be a hook, as it has parameters, to which nothing is given."
        )
    if inspect.isgeneratorfunction(hook) or inspect.isasyncgenfunction(hook):
        raise ConfigurationError(
            f"{hook.__qualname__}() is a generator, which does nothing when it is called. Replace yield; what is to be "
            "closed at the end is for app.provide()."
        )


def call(hook: Hook) -> None:
    """Run a hook to its end; an ``async def`` one on the event loop of the handlers."""
    finished(hook(), qualified_name(hook))


def _run(do: Callable[[], object], what: str) -> None:
    try:
        do()
    except Exception as error:  # A border: it is somebody else's code.
        where = f" ({', '.join(way)})" if (way := way_of(error)) else ""
        raise StartFailed(f"The worker does not start, because {what} failed: {describe(error)}{where}.") from error
