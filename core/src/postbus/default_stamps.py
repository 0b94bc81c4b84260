"""The stamps that a class of messages is dispatched with, unless the dispatch brings its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

from postbus.envelope import Envelope
from postbus.errors import ConfigurationError, describe, qualified_name
from postbus.stamps import Stamp

Stamps = Iterable[Stamp] | Callable[[Any], Iterable[Stamp]]
"""Stamps, the same for each message; or a function that returns those of one message."""


class DefaultStamps:
    """The stamps by the class of message; a class that declares none has those of its nearest ancestor."""

    def __init__(self) -> None:
        self.declared: dict[type, Callable[[Any], Iterable[Stamp]]] = {}
        """What returns the stamps of a message, by the class that declares it."""
        self._found: dict[type, Callable[[Any], Iterable[Stamp]] | None] = {}

    def declare(self, kind: type, declared: Stamps) -> None:
        """Let a class be dispatched with these stamps; raise `ConfigurationError` for what is no stamp."""
        if callable(declared):
            self.declared[kind] = declared
        else:
            if not isinstance(cast(object, declared), Iterable):
                raise ConfigurationError(
                    f"The stamps of {qualified_name(kind)} are {declared!r}, which is no list. Give it several, as in "
                    "stamps=[...], or a function of the message that returns them."
                )
            given = tuple(declared)
            Envelope(None).with_(*given)
            self.declared[kind] = lambda _: given
        self._found.clear()

    def put_on(self, envelope: Envelope) -> Envelope:
        """Return the envelope with the stamps of its class, but for those of a type that it has already.

        Raises `ConfigurationError` if the function that returns them fails.
        """
        kind = envelope.message.__class__
        if kind not in self._found:
            self._found[kind] = next((self.declared[one] for one in kind.__mro__ if one in self.declared), None)
        declared = self._found[kind]
        if declared is None:
            return envelope
        try:
            return envelope.with_(*(stamp for stamp in declared(envelope.message) if not envelope.has(type(stamp))))
        except ConfigurationError:
            raise
        except Exception as error:  # A border: the function is the user's.
            raise ConfigurationError(
                f"{qualified_name(kind)} cannot be dispatched, because its default stamps fail: {describe(error)}"
            ) from error
