"""The connection, and the queue in this process's memory that takes the place of a broker.

Written to be read by who makes a connection for a real broker: each promise of the contract is kept
here in the plainest way.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from postbus.errors import TransportError
from postbus.transport import Counts, Delivery, Outgoing


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
        self.clock = Clock(self.changed)
        self._last_number = 0
        self._last_tag = 0
        self.clear()

    def clear(self) -> None:
        """Forget every message, and what became of earlier ones."""
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
            self._last_tag += 1
            message.tag, message.lease_end, message.count = self._last_tag, now + lease, message.count + 1
            self.in_flight[self._last_tag] = message
            deliveries.append(message.as_delivery())
        return deliveries

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


class InMemoryConnection:
    """A connection to a queue in this process; every connection can settle what another has fetched."""

    def __init__(self, queue: Queue, *, lease: float = 3600.0) -> None:
        self._queue = queue
        self._lease = lease
        self._closed = False

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        with self._queue.changed:
            ids = [self._queue.put(message) for message in messages]
            self._queue.changed.notify_all()
        return ids

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        deadline = time.monotonic() + wait
        with self._queue.changed:
            while not self._closed:
                deliveries = self._queue.take(limit, self._lease)
                left = deadline - time.monotonic()
                if deliveries or left <= 0:
                    return deliveries
                # Waiting lets go of the lock, so that other threads publish and settle meanwhile.
                self._queue.changed.wait(min(left, self._queue.seconds_until_next()))
        return []

    def ack(self, tags: Sequence[int]) -> None:
        with self._queue.changed:
            self._queue.acknowledged += self._settle(tags)

    def reject(self, tags: Sequence[int]) -> None:
        with self._queue.changed:
            self._queue.rejected += self._settle(tags)

    def release(self, tags: Sequence[int]) -> None:
        with self._queue.changed:
            for message in filter(None, map(self._queue.put_back, tags)):
                message.count -= 1
            self._queue.changed.notify_all()

    def close(self) -> None:
        with self._queue.changed:
            self._closed = True
            self._queue.changed.notify_all()

    @property
    def lease(self) -> float:
        return self._lease

    def keepalive(self, tags: Sequence[int]) -> Sequence[int]:
        with self._queue.changed:
            lost = [tag for tag in tags if tag not in self._queue.in_flight]
            for tag in tags:
                if tag in self._queue.in_flight:
                    self._queue.in_flight[tag].lease_end = self._queue.clock.now() + self._lease
        return lost

    def replace(self, tag: int, message: Outgoing) -> str | None:
        with self._queue.changed:
            settled = self._settle([tag])
            if not settled:
                raise TransportError("The delivery is settled, or its lease was lost; the copy was not stored.")
            self._queue.acknowledged += settled
            [id] = self.publish([message])
        return id

    def count(self) -> Counts:
        with self._queue.changed:
            self._queue.end_leases()
            now = self._queue.clock.now()
            at_rest = [message.available_at for message in self._queue.messages.values() if message.tag is None]
            waiting = [since for since in at_rest if since <= now]
            return Counts(
                waiting=len(waiting),
                delayed=len(at_rest) - len(waiting),
                in_flight=len(self._queue.in_flight),
                oldest_age=now - min(waiting) if waiting else None,
            )

    def browse(self, limit: int, after: str | None = None) -> Sequence[Delivery]:
        first = 0 if after is None else int(after) + 1
        with self._queue.changed:
            messages = (m.as_delivery() for m in self._queue.messages.values() if m.number >= first)
            return list(itertools.islice(messages, limit))

    def find(self, id: str) -> Delivery | None:
        with self._queue.changed:
            message = self._queue.messages.get(id)
            return message.as_delivery() if message else None

    def remove(self, ids: Sequence[str]) -> int:
        with self._queue.changed:
            removed = [message for id in ids if (message := self._queue.messages.pop(id, None))]
            for message in removed:
                if message.tag is not None:
                    del self._queue.in_flight[message.tag]
        return len(removed)

    def purge(self) -> int:
        with self._queue.changed:
            return self.remove(list(self._queue.messages))

    def _settle(self, tags: Sequence[int]) -> list[Delivery]:
        # A tag that was settled before, or whose lease was lost, is ignored.
        return [delivery for tag in tags if (delivery := self._queue.settle(tag))]
