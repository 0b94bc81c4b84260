"""A bus: an ordered chain of middleware that an envelope goes through."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, cast

from postbus.envelope import Envelope
from postbus.errors import ConfigurationError
from postbus.stamps import Stamp

Next = Callable[[Envelope], Envelope]
"""The rest of the chain."""

Middleware = Callable[[Envelope, Next], Envelope]
"""Takes an envelope and the rest of the chain, which it calls or not; returns an envelope."""


class MessageBus:
    """A chain of middleware, built once.

    The first in the list is the outermost. An envelope that reaches the end is returned as it is.
    """

    def __init__(self, name: str, middleware: Sequence[Middleware]) -> None:
        self.name = name
        self.middleware = tuple(middleware)
        chain: Next = _return
        for step in reversed(self.middleware):
            chain = _link(step, chain)
        self._chain = chain

    def dispatch(self, message: Any, *stamps: Stamp) -> Envelope:
        """Take a message, or an envelope, through the chain; return the envelope that comes back."""
        # By the class itself, because isinstance takes as long as a middleware to say no.
        envelope = message if message.__class__ is Envelope else Envelope(message)
        return self._chain(envelope.with_(*stamps) if stamps else envelope)


def _return(envelope: Envelope) -> Envelope:
    return envelope


def _link(step: Middleware, call_next: Next) -> Next:
    # Python calls a bound method without leaving the interpreter's loop, but an object with __call__ not.
    call: Middleware = step if isinstance(step, FunctionType) else cast(Any, step).__call__
    if inspect.iscoroutinefunction(call) or inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
        raise ConfigurationError(
            f"Middleware {call.__qualname__} is async, or a generator, which does nothing when it is called. Make it a "
            "plain def."
        )
    return lambda envelope: call(envelope, call_next)
