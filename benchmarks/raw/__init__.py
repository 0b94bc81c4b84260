"""What a broker's own client does with a queue, batched as well as it can be: the contenders beside Postbus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Queue(Protocol):
    """A queue, stream, list … of a broker, used with the client alone.

    What it stores are copies of a message that an app has stored, so that both contenders send the same bytes.
    """

    dsn: str
    """What an app finds this queue by."""
    listener: Sequence[str]
    """A module and its arguments, which prints a line when it is ready, and how old each ping is when it comes."""

    def setup(self) -> None:
        """Make the queue, as a plugin would."""
        ...

    def pop(self) -> Any:
        """Take the one message out of the queue, and return what this needs to store copies of it."""
        ...

    def store(self, count: int) -> None:
        """Store so many messages, in batches."""
        ...

    def store_singly(self, count: int) -> None:
        """Store so many messages, each after the broker has taken the one before."""
        ...

    def take(self, count: int) -> None:
        """Open a connection, receive so many messages, settle them in batches, and close it."""
        ...

    def ping(self, sent_at: float) -> None:
        """Store a message that says when it was sent."""
        ...

    def empty(self) -> None:
        """Delete every message."""
        ...

    def delete(self) -> None:
        """Delete the queue, if there is one."""
        ...

    def close(self) -> None:
        """Let go of the broker."""
        ...
