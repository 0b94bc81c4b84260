"""A model of a queue: what may, must and must not become of each message, by what has been done so far.

A broker does things at moments that nobody sees from outside. So times are spans, and where the contract leaves
two outcomes open, the model holds both to be right until it is shown one of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from postbus import stamps
from postbus.queue_transport import QueueTransport
from postbus.testing.workbench import CLOCKS_DIFFER
from postbus.transport import Counts, Delivery, Guarantees, Outgoing

GROUPS = 3
"""How many ordering keys there are, where messages have one."""


class Span(NamedTuple):
    """Not before the one and not after the other: a time in seconds, or a number."""

    first: float
    last: float

    def later(self, seconds: float, rounding: float = 0.0) -> Span:
        """Return when so many seconds have passed since then, and a broker that rounds times knows it."""
        return Span(self.first + seconds, self.last + seconds + rounding)

    def is_over(self, now: Span) -> bool | None:
        """Say whether this time has come; None if nobody can tell."""
        if now.last < self.first - CLOCKS_DIFFER:
            return False
        return True if self.last < now.first else None


@dataclass(eq=False)
class Holding:
    """A delivery in somebody's hands; its tag is ``doubtful`` once the connection that gave it is lost."""

    message: Message
    delivery: Delivery
    lease_end: Span
    is_doubtful: bool = False

    @property
    def is_current(self) -> bool:
        """Say whether the message was neither settled nor given back, and came to nobody else meanwhile."""
        return self.message.holding is self

    def is_lost(self, now: Span) -> bool | None:
        """Say whether the message is somebody else's, or anybody's; None if nobody can tell."""
        if not self.is_current:
            return True
        return False if self.lease_end.is_over(now) is False and not self.is_doubtful else None


@dataclass(eq=False)
class Message:
    """One message. It is None whether it is settled when a settle may have come too late."""

    number: int
    due: Span
    is_delayed: bool
    group: str | None = None
    is_settled: bool | None = False
    is_new: bool = True
    deliveries: Span = field(default=Span(0, 0))
    holding: Holding | None = None


@dataclass(eq=False)
class Client:
    """Somebody who fetches and settles: what he holds, and what he has done with."""

    transport: QueueTransport
    held: list[Holding] = field(default_factory=list[Holding])
    past: list[Holding] = field(default_factory=list[Holding])
    last: int = -1
    """The newest message of those that came to him in their order."""


class Model:
    """All messages that were published, and what became of them."""

    def __init__(
        self,
        guarantees: Guarantees,
        lease: float,
        rounding: float,
        *,
        pause: float = 0.0,
        held_by_connection: bool = False,
    ) -> None:
        self._guarantees = guarantees
        self._lease = lease
        self._pause = pause
        self._goes_back_at_once = held_by_connection or not guarantees.lease
        self._rounding = rounding + CLOCKS_DIFFER
        self._messages: list[Message] = []

    # what is done

    def make(self, delays: Iterable[float]) -> list[Outgoing]:
        """Return messages to publish, which the model will know again."""
        return [self._make(number, delay) for number, delay in enumerate(delays, len(self._messages))]

    def publish(self, messages: Iterable[Outgoing], when: Span) -> None:
        """Take note of what was stored."""
        for message in messages:
            due = when.later(message.delay, self._rounding if message.delay else 0.0)
            self._messages.append(Message(int(message.body), due, message.delay > 0, message.group))

    def fetch(self, client: Client, deliveries: Iterable[Delivery], when: Span) -> None:
        """See that each of these could come now, and take note of who holds it."""
        for delivery in deliveries:
            message = self._message_of(delivery)
            self._check(message, delivery, when)
            self._check_neighbours(message, client, when)
            # What is behind another of its group becomes available only when that one is settled.
            is_in_line = message.is_new and not message.is_delayed and message.group is None
            if is_in_line and self._guarantees.ordering == "fifo":
                assert client.last < message.number, f"Message {message.number} came after {client.last}."
                client.last = message.number
            message.is_new, message.is_settled = False, False
            message.deliveries = message.deliveries.later(1)
            message.holding = Holding(message, delivery, when.later(self._lease, self._rounding))
            client.held.append(message.holding)

    def settle(self, client: Client, holdings: Sequence[Holding], when: Span) -> None:
        """Take note of an `ack` or a `reject`; one that may be too late may be ignored."""
        for holding in holdings:
            if holding.is_current:
                holding.message.is_settled = True if holding.is_lost(when) is False else None
        self._end(client, holdings)

    def release(self, client: Client, holdings: Sequence[Holding], when: Span) -> None:
        """Take note of a `release`; one that may be too late may be ignored."""
        for holding in filter(lambda holding: holding.is_current, holdings):
            message, is_certain = holding.message, holding.is_lost(when) is False
            if self._guarantees.release != "counted":
                first, last = message.deliveries
                message.deliveries = Span(first - 1, last - is_certain)
            holding.lease_end = Span(-math.inf, holding.lease_end.last)
            if is_certain:
                message.holding = None
            if self._pause:
                due = when.later(self._pause, self._rounding)
                message.due = due if is_certain else Span(message.due.first, due.last)
        self._end(client, holdings)

    def keep(self, client: Client, holdings: Sequence[Holding], lost: Sequence[Any], when: Span) -> None:
        """See that `keepalive` tells the truth, and take note of it."""
        told = {holding: holding.delivery.tag in lost for holding in holdings}
        for holding, is_lost in told.items():
            number = holding.message.number
            assert holding.is_lost(when) in (None, is_lost), f"Is {number} lost? Told {is_lost}, and that is wrong."
            if not is_lost:
                holding.lease_end = when.later(self._lease, self._rounding)
            elif holding.is_current:
                holding.lease_end = Span(-math.inf, when.last)
        self._end(client, [holding for holding, is_lost in told.items() if is_lost])

    def replace(self, client: Client, holding: Holding, copy: Outgoing | None, when: Span) -> None:
        """See that a `replace` was refused, which gives no copy, exactly when it had to be; take note of it."""
        number = holding.message.number
        assert holding.is_lost(when) in (None, copy is None), f"Is {number} replaced? {copy}, and that is wrong."
        if copy is not None:
            holding.message.is_settled = True
            self.publish([copy], when)
        self._end(client, [holding])

    def reconnect(self, client: Client, when: Span) -> None:
        """Take note that what came before may be settled or not, and where all of it comes again."""
        for holding in client.held:
            holding.is_doubtful = True
        if self._goes_back_at_once:
            self.leave(client, when)

    def leave(self, client: Client, when: Span) -> None:
        """Take note that what the client holds may come again now, or when its lease is over."""
        for holding in client.held:
            lease_end = holding.lease_end.last if self._guarantees.lease else when.last
            holding.lease_end = Span(-math.inf, lease_end)

    # what must be

    def must_come(self, now: Span) -> list[int]:
        """Return the messages of which at least one must come now."""
        return [message.number for message in self._messages if _is_waiting(message, now) and self._is_next(message)]

    @property
    def unsettled(self) -> list[int]:
        """The messages that must come some time."""
        return [message.number for message in self._messages if message.is_settled is False]

    def check_counts(self, counts: Counts, now: Span) -> None:
        """See that the numbers can be right."""
        expected = {name: Span(0, 0) for name in ("waiting", "delayed", "in_flight", "all")}
        for message in self._messages:
            if message.is_settled:
                continue
            states = _states(message, now)
            is_there = message.is_settled is False
            for name in (*states, "all"):
                first, last = expected[name]
                expected[name] = Span(first + (is_there and (len(states) == 1 or name == "all")), last + 1)
        told: dict[str, int | None] = {name: getattr(counts, name) for name in ("waiting", "delayed", "in_flight")}
        told["all"] = None if None in told.values() else sum(filter(None, told.values()))
        for name, number in told.items():
            first, last = expected[name]
            assert number is None or first <= number <= last, f"{name} is {number}, not from {first} to {last}."

    # details

    def _make(self, number: int, delay: float) -> Outgoing:
        key = (stamps.Key(f"group-{number % GROUPS}"),) if self._guarantees.groups else ()
        return Outgoing(b"%d" % number, {}, delay, stamps=key)

    def _neighbours_of(self, message: Message) -> Iterable[Message]:
        """Yield the other messages of its group that may not be settled."""
        if message.group is not None:
            for other in self._messages:
                if other.group == message.group and other is not message and not other.is_settled:
                    yield other

    def _is_next(self, message: Message) -> bool:
        """Say whether nothing of its group has to come, or to be settled, before it."""
        return all(other.number > message.number and other.holding is None for other in self._neighbours_of(message))

    def _message_of(self, delivery: Delivery) -> Message:
        assert delivery.body.isdigit(), f"{delivery.body!r} came, which nobody has published."
        number = int(delivery.body)
        assert number < len(self._messages), f"Message {number} came, which nobody has published."
        return self._messages[number]

    def _check(self, message: Message, delivery: Delivery, when: Span) -> None:
        number, holding = message.number, message.holding
        assert not message.is_settled, f"Message {number} came, although it was settled."
        assert message.due.is_over(when) is not False, f"Message {number} came before its delay was over."
        assert holding is None or holding.lease_end.is_over(when) is not False, f"Message {number} is held by another."
        if self._guarantees.delivery_count:
            assert delivery.count is not None, f"Message {number} came without a count."
            first, last = message.deliveries.later(1)
            assert first <= delivery.count <= last, (
                f"Message {number} came with a count of {delivery.count}, not from {first} to {last}."
            )

    def _check_neighbours(self, message: Message, client: Client, when: Span) -> None:
        """See that nobody else has one of its group in hand, and that none was to come before it."""
        number = message.number
        for other in self._neighbours_of(message):
            is_elsewhere = other.is_settled is False and other.holding is not None and other.holding not in client.held
            assert not is_elsewhere or _states(other, when) != ("in_flight",), (
                f"Message {number} came while another has {other.number}, of the same group."
            )
            is_first = other.number < number and not (other.is_delayed or message.is_delayed)
            assert not is_first or not _is_waiting(other, when), f"Message {number} came before {other.number}."

    def _end(self, client: Client, holdings: Iterable[Holding]) -> None:
        for holding in holdings:
            if holding in client.held:
                client.held.remove(holding)
                client.past.append(holding)


def _is_waiting(message: Message, now: Span) -> bool:
    return message.is_settled is False and _states(message, now) == ("waiting",)


def _states(message: Message, now: Span) -> tuple[str, ...]:
    """Return what a message that is not settled may be counted as."""
    due = message.due.is_over(now)
    if message.holding is not None:
        lost = message.holding.lease_end.is_over(now)
        if lost is False:
            return ("in_flight",)
        # It may have been given back, late, and wait.
        return ("waiting", "in_flight") if due else ("waiting", "in_flight", "delayed")
    if due is None:
        return ("waiting", "delayed")
    return ("waiting",) if due else ("delayed",)
