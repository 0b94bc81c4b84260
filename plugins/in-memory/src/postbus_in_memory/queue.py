"""The queue in this process's memory that takes the place of a broker, and its clock."""

from __future__ import annotations

import heapq
import math
import os
import threading
import time
import weakref
from dataclasses import dataclass

from postbus.transport import Delivery, Outgoing


class Clock:
    """Real time, which tests can move ahead; whoever waits on the queue then looks again."""

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._ahead = 0.0

    def now(self) -> float:
        """Return the time in seconds, since some moment that means nothing."""
        return time.monotonic() + self._ahead

    def move(self, seconds: float) -> None:
        """Let so many seconds pass at once: delays end, leases run out."""
        with self._changed:
            self._ahead += seconds
            self._changed.notify_all()


@dataclass(eq=False, slots=True)
class Message:
    """One message in a queue; ``tag`` and ``lease_end`` mean something only while it is in flight."""

    number: int
    content: Outgoing
    available_at: float
    count: int = 0
    tag: int | None = None
    lease_end: float = math.inf

    @property
    def id(self) -> str:
        """The number, as the rest of Postbus sees it."""
        return str(self.number)

    def as_delivery(self) -> Delivery:
        """Return the message as a connection hands it out."""
        return Delivery(self.content.body, self.content.headers, self.tag, self.id, self.count)


class Queue:
    """The messages of all connections that share it. Touched only by who holds ``changed``."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        _queues.add(self)
        self.clock = Clock(self.changed)
        self._last_number = 0
        self._last_tag = 0
        self.clear()

    def clear(self) -> None:
        """Forget every message, what became of earlier ones, and every note."""
        self.notes: dict[str, str] = {}
        self.messages: dict[str, Message] = {}
        self.in_flight: dict[int, Message] = {}
        self._schedule: list[tuple[float, int]] = []
        self.sent: list[Message] = []
        self.acknowledged: list[Delivery] = []
        self.rejected: list[Delivery] = []

    def put(self, content: Outgoing) -> str:
        """Store a message and return its id."""
        self._last_number += 1
        message = Message(self._last_number, content, self.clock.now() + content.delay)
        self.messages[message.id] = message
        self.sent.append(message)
        self._line_up(message)
        return message.id

    def take(self, limit: int, lease: float) -> list[Delivery]:
        """Put up to ``limit`` messages in flight: the first available comes first, then the first stored."""
        self.end_leases()
        now = self.clock.now()
        deliveries: list[Delivery] = []
        while len(deliveries) < limit and self._schedule and self._schedule[0][0] <= now:
            message = self.messages.get(str(heapq.heappop(self._schedule)[1]))
            if message is None:  # It was removed while it waited.
                continue
            deliveries.append(self.hand_out(message, lease))
        return deliveries

    def hand_out(self, message: Message, lease: float) -> Delivery:
        """Put a message in flight and return its delivery."""
        self._last_tag += 1
        message.tag, message.lease_end, message.count = self._last_tag, self.clock.now() + lease, message.count + 1
        self.in_flight[self._last_tag] = message
        return message.as_delivery()

    def settle(self, tag: int) -> Delivery | None:
        """Delete a message in flight and return it; None if the tag holds none any more."""
        message = self.in_flight.pop(tag, None)
        if message is None:
            return None
        del self.messages[message.id]
        return message.as_delivery()

    def put_back(self, tag: int) -> Message | None:
        """End a delivery and return its message, which is available again, in its old place."""
        message = self.in_flight.pop(tag, None)
        if message is not None:
            message.tag = None
            self._line_up(message)
        return message

    def seconds_until_next(self) -> float:
        """Return how long until a delay or a lease ends; infinite if none is under way."""
        ends = [message.lease_end for message in self.in_flight.values()]
        if self._schedule:
            ends.append(self._schedule[0][0])
        return min(ends, default=math.inf) - self.clock.now()

    def end_leases(self) -> None:
        """Put back what has been in flight for too long."""
        now = self.clock.now()
        for tag in [tag for tag, message in self.in_flight.items() if message.lease_end <= now]:
            self.put_back(tag)

    def _line_up(self, message: Message) -> None:
        heapq.heappush(self._schedule, (message.available_at, message.number))


# A fork while another thread changes a queue would leave the child half a change, and a lock that nobody lets go of.
_queues = weakref.WeakSet[Queue]()
_forking = threading.RLock()
_held: list[Queue] = []


def _before_fork() -> None:
    _forking.acquire()
    for queue in list(_queues):
        queue.changed.acquire()
        _held.append(queue)


def _after_fork() -> None:
    while _held:
        _held.pop().changed.release()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
