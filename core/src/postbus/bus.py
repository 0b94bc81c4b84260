"""A bus: an ordered chain of middleware that an envelope goes through."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import FunctionType, MethodType
from typing import Any, TypeVar, cast

from postbus.envelope import Envelope
from postbus.errors import ConfigurationError
from postbus.stamps import Stamp

Next = Callable[[Envelope], Envelope]
"""The rest of the chain."""

Middleware = Callable[[Envelope, Next], Envelope]
"""Takes an envelope and the rest of the chain, which it calls or not; returns an envelope."""


T = TypeVar("T", bound=Callable[..., Any])


def never_blocks(call: T) -> T:
    """Say of a middleware, or of an observer, that it waits for nothing, as for an answer or a lock; a decorator.

    Then messages that have nothing but ``async def`` handlers need no thread. It must not put another message in the
    place of one either, nor have it sent elsewhere.
    """
    cast(Any, call).never_blocks = True
    return call


def says_that_it_never_blocks(call: Callable[..., Any]) -> bool:
    """Say whether a middleware or observer is marked so."""
    return getattr(call, "never_blocks", False) or getattr(type(call).__call__, "never_blocks", False)


class Step:
    """A middleware of ours, which is made into one function that does its work and calls the rest.

    So it takes a single frame and call, where a callable of two arguments needs somebody to hand it the rest.
    """

    def link(self, call_next: Next) -> Next:
        """Return the function; ``call_next`` is the rest of the chain."""
        raise NotImplementedError


class MessageBus:
    """A chain of middleware, built once.

    The first in the list is the outermost. An envelope that reaches the end is returned as it is.
    """

    def __init__(self, name: str, middleware: Sequence[Middleware | Step]) -> None:
        self.name = name
        self.middleware = tuple(middleware)
        self.never_blocks = all(isinstance(step, Step) or says_that_it_never_blocks(step) for step in middleware)
        """Whether no middleware blocks; one of ours has what may, as sending, done aside."""
        chain: Next = _return
        for step in reversed(self.middleware):
            chain = step.link(chain) if isinstance(step, Step) else _link(step, chain)
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
    call: Middleware = step if isinstance(step, FunctionType | MethodType) else cast(Any, step).__call__
    if inspect.iscoroutinefunction(call) or inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
        raise ConfigurationError(
            f"Middleware {call.__qualname__} is async, or a generator, which does nothing when it is called. Make it a "
            "plain def."
        )
    function = call.__func__ if isinstance(call, MethodType) else call
    if isinstance(function, FunctionType) and function.__code__.co_argcount == (2 if function is call else 3):
        # The same function, but that its last parameter is the rest of the chain unless it is given. So it is called
        # without another one around it, which would be a frame, and 80 ns, for each.
        code, scope, name, closure = function.__code__, function.__globals__, function.__name__, function.__closure__
        linked = FunctionType(code, scope, name, (call_next,), closure)
        linked.__kwdefaults__ = function.__kwdefaults__
        return cast(Next, linked if isinstance(call, FunctionType) else MethodType(linked, cast(Any, call).__self__))
    return lambda envelope: call(envelope, call_next)
