"""Other libraries, each as fast as its own documentation makes it; see the README for every setting.

A module is one library: ``python -m benchmarks.peers celery worker redis://localhost 1000 late`` does a
thousand messages in a process of its own, and prints the seconds for each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

CUSTOMER = "Ada Lovelace"
QUEUE = "postbus-bench-peers"


class Tally:
    """What a task tells that it has run, with a number that no other message has; calls ``finish`` after the last."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._finish: Callable[[], object] = lambda: None
        self.count = 0
        self.began = self.ended = 0.0

    def expect(self, count: int, finish: Callable[[], object]) -> None:
        """Wait for so many messages from now on."""
        self._seen.clear()
        self.count, self._finish = count, finish

    def __call__(self, number: int) -> None:
        """Note that the message of this number was handled."""
        seen = self._seen
        if not seen:
            self.began = time.perf_counter()
        seen.add(number)
        if len(seen) == self.count and not self.ended:
            self.ended = time.perf_counter()
            self._finish()

    @property
    def seconds(self) -> float:
        """The seconds from the first message to the last; raises if some are missing."""
        if not self.ended:
            raise RuntimeError(f"It has handled {len(self._seen)} of {self.count} messages.")
        return self.ended - self.began


class Peer(Protocol):
    """A library with one task, ``(number, customer)``, on one queue."""

    def purge(self) -> None:
        """Make the queue, and empty it."""
        ...

    def enqueue(self, numbers: range) -> None:
        """Enqueue messages of these numbers, one by one."""
        ...

    def enqueue_many(self, numbers: range) -> None:
        """Enqueue them in batches, where the library can."""
        ...

    def work(self, count: int) -> float:
        """Handle so many messages, which are queued; return the seconds that it took."""
        ...
