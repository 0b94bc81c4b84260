"""A delivery as this process knows it: by what it is settled, and until when it is ours."""

from __future__ import annotations

import math
import time

from postbus_sqs.limits import LONGEST_LEASE


class Lease:
    """One delivery of a message: the tag of it.

    Whether it is somebody else's by now is decided by our own clock first. The service is no witness: on a standard
    queue it says yes to whoever deletes by an old handle.
    """

    __slots__ = ("ends_at", "group", "handle", "id", "is_settled", "until")

    def __init__(self, id: str, handle: str, since: float, seconds: float, group: str | None) -> None:
        self.id = id
        self.handle = handle
        self.group = group
        self.until = since + seconds
        """When it is over, by the monotonic clock, unless it is extended."""
        self.ends_at = since + LONGEST_LEASE
        """When it cannot be extended any more."""
        self.is_settled = False

    def __repr__(self) -> str:
        return f"<Lease on {self.id}>"

    @property
    def is_over(self) -> bool:
        """Whether the message was given away, or may have been: then it is not touched any more."""
        return time.monotonic() >= self.until

    def possible(self, seconds: float) -> int:
        """Return for how many of these whole seconds the message can be hidden from now on."""
        return max(1, math.ceil(min(seconds, self.ends_at - time.monotonic() - 1)))

    def extend(self, since: float, seconds: float) -> None:
        """Take note that it has begun anew, at some moment since then."""
        self.until = min(since + seconds, self.ends_at)

    def end(self) -> None:
        """Take note that the message is not ours any more."""
        self.until = -math.inf

    def settle(self) -> None:
        """Take note that the message is deleted."""
        self.is_settled = True
        self.until = -math.inf
