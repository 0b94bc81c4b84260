"""Arrivals: what the broker has pushed, until it is fetched."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from postbus_amqp.subscription import Subscription

ON_ITS_WAY = 0.005
"""Seconds for which a queue may look empty although it is not, after a message of it was taken."""

Arrival = tuple[Subscription, Any, Any, bytes]
"""Who brought it; its method, properties and body, as the client library gives them."""


class Arrivals:
    """What has arrived, by queue. The client's thread adds and takes back, while one other takes, or waits."""

    def __init__(self) -> None:
        self._buffers: dict[str, deque[Arrival]] = {}
        self._event = threading.Event()
        self._has_news = False
        self._last_queue = ""
        self._taken_at = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._buffers.values()))

    def take(self, queues: Sequence[str], limit: int) -> list[Arrival]:
        """Take up to so many of the first of these queues that has any."""
        for queue in self._turn(queues):
            if taken := self._take(queue, limit):
                self._last_queue, self._taken_at = queue, time.monotonic()
                return taken
        return []

    def reset(self) -> None:
        """Let `wait` be woken by what happens from now on."""
        self._event.clear()

    def wait(self, queues: Sequence[str], timeout: float) -> bool:
        """Wait until something may have come from these queues, or somebody calls; tell whether there was time."""
        turn = self._turn(queues)
        if any(self._buffers.get(queue) for queue in turn):
            return True
        if timeout <= 0:
            return False
        self._event.wait(timeout if turn == queues else min(timeout, ON_ITS_WAY))
        return True

    def wake(self) -> None:
        """Let who waits look again."""
        self._event.set()

    # in the client's thread

    def expect(self, queue: str) -> None:
        """Prepare for what comes from a queue."""
        self._buffers.setdefault(queue, deque())

    def add(self, arrival: Arrival) -> None:
        """Add what has come; `announce` tells who waits, once for all that comes together."""
        self._buffers[arrival[0].queue].append(arrival)
        self._has_news = True

    def announce(self) -> None:
        """Wake who waits, if anything was added."""
        if self._has_news:
            self._has_news = False
            self._event.set()

    def take_back(self, queue: str) -> list[Arrival]:
        """Take all that has come from a queue."""
        return self._take(queue, len(self._buffers[queue]))

    def clear(self) -> None:
        """Forget all of it."""
        for buffer in self._buffers.values():
            buffer.clear()

    def _turn(self, queues: Sequence[str]) -> Sequence[str]:
        """Return those of the queues whose turn it is: those behind the last one have to wait for its next message."""
        if self._last_queue in queues[:-1] and time.monotonic() - self._taken_at < ON_ITS_WAY:
            return queues[: queues.index(self._last_queue) + 1]
        return queues

    def _take(self, queue: str, limit: int) -> list[Arrival]:
        buffer = self._buffers.get(queue)
        taken: list[Arrival] = []
        while buffer and len(taken) < limit:
            try:
                taken.append(buffer.popleft())
            except IndexError:  # The other one has just taken it.
                break
        return taken
