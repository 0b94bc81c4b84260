"""The connection: every promise of the contract, kept in the plainest way.

Written to be read by who makes a connection for a real broker. What would be the broker is in
`postbus_in_memory.queue`; what is done to it together is done while holding its ``changed``.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from postbus.errors import TransportError
from postbus.transport import Counts, Delivery, Outgoing
from postbus_in_memory.queue import Queue


class InMemoryConnection:
    """A connection to a queue in this process; every connection can settle what another has fetched."""

    def __init__(self, queue: Queue, *, lease: float = 60.0) -> None:
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

    def ack(self, tags: Sequence[int]) -> Sequence[int]:
        with self._queue.changed:
            lost = self._lost(tags)
            self._queue.acknowledged += self._settle(tags)
        return lost

    def reject(self, tags: Sequence[int]) -> Sequence[int]:
        with self._queue.changed:
            lost = self._lost(tags)
            self._queue.rejected += self._settle(tags)
        return lost

    def release(self, tags: Sequence[int]) -> Sequence[int]:
        with self._queue.changed:
            lost = self._lost(tags)
            for message in filter(None, map(self._queue.put_back, tags)):
                message.count -= 1
            self._queue.changed.notify_all()
        return lost

    def close(self) -> None:
        with self._queue.changed:
            self._closed = True
            self._queue.changed.notify_all()

    @property
    def lease(self) -> float:
        return self._lease

    def keepalive(self, tags: Sequence[int]) -> Sequence[int]:
        with self._queue.changed:
            in_flight = self._queue.in_flight
            for tag in tags:
                if tag in in_flight:
                    in_flight[tag].lease_end = self._queue.clock.now() + self._lease
            return self._lost(tags)

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
        first = int(after) + 1 if after is not None and after.isdecimal() else 0
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

    def write_note(self, name: str, text: str | None) -> None:
        with self._queue.changed:
            self._queue.notes.pop(name, None)
            if text is not None:
                self._queue.notes[name] = text

    def read_notes(self, names: Sequence[str]) -> Sequence[str | None]:
        with self._queue.changed:
            return [self._queue.notes.get(name) for name in names]

    def _lost(self, tags: Sequence[int]) -> list[int]:
        return [tag for tag in tags if tag not in self._queue.in_flight]

    def _settle(self, tags: Sequence[int]) -> list[Delivery]:
        return [delivery for tag in tags if (delivery := self._queue.settle(tag))]
