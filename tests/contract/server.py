"""A broker in this process: its queues have names, some messages are urgent, and it can go away and come back."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec.structs import replace

from postbus.stamps import Stamp
from postbus.transport import Delivery
from postbus_in_memory.queue import Message, Queue


class Route(Stamp):
    """Which queue a message goes to; without it, to the first."""

    queue: str


class Urgent(Stamp):
    """A higher priority."""


class Groups(Queue):
    """A queue that has no more than one message of each group in flight; what was given back has an owner."""

    def clear(self) -> None:
        super().clear()
        self.owners: dict[str, object] = {}

    def take_for(self, owner: object, limit: int, lease: float) -> list[Delivery]:
        """Put up to so many messages in flight for a consumer."""
        self.end_leases()
        taken: list[Delivery] = []
        for message in self.ready():
            if len(taken) < limit and self.owners.get(message.id, owner) is owner and not self.is_taken(message):
                taken.append(self.hand_out(message, lease))
        return taken

    def ready(self) -> list[Message]:
        """Return what could be delivered, in its order."""
        now = self.clock.now()
        ready = [m for m in self.messages.values() if m.tag is None and m.available_at <= now]
        return sorted(ready, key=lambda message: (message.available_at, message.number))

    def is_taken(self, message: Message) -> bool:
        """Tell whether its group is in somebody's hands."""
        group = self.group_of(message)
        return group is not None and any(self.group_of(other) == group for other in self.in_flight.values())

    def group_of(self, message: Message) -> str | None:
        """Return the ordering key of a message, if it has one."""
        return message.content.group

    def seconds_until_next(self) -> float:
        now = self.clock.now()
        ends = [m.available_at if m.tag is None else m.lease_end for m in self.messages.values()]
        return min((end for end in ends if end > now), default=math.inf) - now

    def _line_up(self, message: Message) -> None:
        """Whoever fetches looks at all messages."""


class Server(Queue):
    """All queues of a broker. What it holds is on its disk: it survives a restart, and a crash."""

    names: Sequence[str] = ("",)
    running = True
    starts = 1

    def stop(self) -> None:
        """Go away, having tidied up."""
        self.go_away()

    def kill(self) -> None:
        """Go away at once."""
        self.go_away()

    def go_away(self) -> None:
        """Let every connection be lost."""
        with self.changed:
            self.running = False
            self.changed.notify_all()

    def start(self) -> None:
        """Come back, with nothing in flight any more."""
        with self.changed:
            self.running = True
            self.starts += 1
            for tag in list(self.in_flight):
                self.put_back(tag)
            self.changed.notify_all()

    def take(self, limit: int, lease: float) -> list[Delivery]:
        return self.take_from(self.names, limit, lease)

    def take_from(self, names: Sequence[str], limit: int, lease: float) -> list[Delivery]:
        """Put up to so many messages of these queues in flight."""
        self.end_leases()
        now = self.clock.now()
        ready = [m for m in self.messages.values() if m.tag is None and m.available_at <= now]
        chosen = sorted((m for m in ready if self.name_for(m) in names), key=lambda m: self.rank(m, names))
        return [self.hand_out(message, lease) for message in chosen[:limit]]

    def rank(self, message: Message, names: Sequence[str]) -> tuple[float, ...]:
        """Return what decides who comes first."""
        urgent = any(isinstance(stamp, Urgent) for stamp in message.content.stamps)
        return names.index(self.name_for(message)), not urgent, message.available_at, message.number

    def name_for(self, message: Message) -> str:
        """Return the queue that a message is in."""
        return next((s.queue for s in message.content.stamps if isinstance(s, Route)), self.names[0])

    def seconds_until_next(self) -> float:
        now = self.clock.now()
        ends = [m.available_at if m.tag is None else m.lease_end for m in self.messages.values()]
        return min((end for end in ends if end > now), default=math.inf) - now

    def _line_up(self, message: Message) -> None:
        """Whoever fetches looks at all messages."""


class Interrupted(Server):
    """Is always stopped between handing on what is delayed and noting that it did."""

    def go_away(self) -> None:
        super().go_away()
        with self.changed:
            for message in list(self.messages.values()):
                if (left := message.available_at - self.clock.now()) > 0:
                    self.put(replace(message.content, delay=left))
