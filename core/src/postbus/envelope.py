"""The one value that travels: a message and its stamps."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from msgspec import Struct

from postbus.errors import ConfigurationError
from postbus.stamps import Stamp

S = TypeVar("S", bound=Stamp)


# Made after all that it holds, so it is in no cycle, and the garbage collector need not look at it.
class Envelope(Struct, frozen=True, gc=False):
    """A message and its stamps, in the order in which they were put on; immutable.

    Make one with `wrap`.
    """

    message: Any
    stamps: tuple[Stamp, ...] = ()

    @classmethod
    def wrap(cls, message: Any, *stamps: Stamp) -> Envelope:
        """Return the message in an envelope; an envelope is not wrapped again, it only gets the stamps."""
        if isinstance(message, Envelope):
            return message.with_(*stamps)
        return cls(message).with_(*stamps)

    def with_(self, *stamps: Stamp) -> Envelope:
        """Return a copy with these stamps put on last; raise `ConfigurationError` for what is none."""
        for stamp in stamps:
            if not isinstance(cast(object, stamp), Stamp):
                raise ConfigurationError(_no_stamp(stamp))
        return Envelope(self.message, self.stamps + stamps)

    def without(self, *types: type[Stamp]) -> Envelope:
        """Return a copy that has no stamp of exactly these types."""
        return Envelope(self.message, tuple(stamp for stamp in self.stamps if type(stamp) not in types))

    # Every middleware asks these. So they are plain loops: a comprehension or a generator is a call of its own.

    def last(self, kind: type[S]) -> S | None:
        """Return the newest stamp of exactly this type, or None."""
        for stamp in reversed(self.stamps):  # What a worker asks for was put on last, and is found at once.
            if type(stamp) is kind:
                return stamp
        return None

    def all(self, kind: type[S]) -> list[S]:
        """Return every stamp of exactly this type, oldest first."""
        return [stamp for stamp in self.stamps if type(stamp) is kind]

    def has(self, kind: type[Stamp]) -> bool:
        """Say whether a stamp of exactly this type is on the envelope."""
        for stamp in self.stamps:  # noqa: SIM110
            if type(stamp) is kind:
                return True
        return False


def _no_stamp(thing: object) -> str:
    if isinstance(thing, type) and issubclass(thing, Stamp):
        return f"{thing.__qualname__} is a class, and a stamp is an object of one. Write {thing.__qualname__}(...)."
    return f"{thing!r} is no stamp. Put on what is of a class in postbus.stamps, or of a subclass of Stamp."
