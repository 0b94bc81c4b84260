"""Messages that come: each by a subscription of its own, which is one message's from being asked for to being settled.

ActiveMQ sends a subscription as many messages ahead as its ``prefetchSize`` says, whether anybody waits for them or
not, and over STOMP nobody can change that later, nor give one message back: a NACK is its end. But what a subscription
holds is given back, at its place, when the subscription ends. So each has a prefetch of one::

    SUBSCRIBE                  one message is asked for
    ACK, UNSUBSCRIBE           it is settled
    UNSUBSCRIBE                it is given back; or it is asked for no longer, and if it was on its way, nobody has it
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from secrets import token_hex
from typing import Any

from postbus.errors import TransportError
from postbus.transport import Delivery, Outgoing
from postbus_stomp.link import Link
from postbus_stomp.messages import read, write
from postbus_stomp.options import Settings

SOON = 0.02
"""Seconds within which what waits in the queue comes once it is asked for, also to who would not wait."""

MORE = 0.002
"""Seconds within which what else was asked for is likely to come, behind what has."""


class Consumer:
    """A connection that is only received on, and what is in hand by it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._news = threading.Condition()
        self._asked: dict[str, None] = {}
        """Subscriptions that have got no message yet, in the order in which they were begun."""
        self._held: dict[str, str] = {}
        """By subscription, what its message is acknowledged by."""
        self._arrived: deque[tuple[str, Any]] = deque()
        self._is_let_in = False
        self._is_closed = False
        self._name = token_hex(4)  # No tag is taken for one of another connection.
        self._link = Link(settings, self._take, self._wake)

    def fetch(self, limit: int, wait: float) -> list[Delivery]:
        """Return up to so many deliveries, as soon as there is one; what else was asked for is not any more."""
        deadline = time.monotonic() + wait
        try:
            self._ask_for(limit)
        except TransportError:
            self._asked.clear()
            raise
        with self._news:
            self._news.wait_for(self._has_news, max(deadline - time.monotonic(), SOON))
            came = 0
            while came < len(self._arrived) and self._asked and not self._is_over():
                came = len(self._arrived)
                self._news.wait(MORE)
            asked, self._asked = self._asked, {}
            arrived, self._arrived = self._arrived, deque()
        if self._is_closed:  # Which has given them back.
            return []
        self._end(asked)
        return [read(frame, subscription) for subscription, frame in arrived]

    def settle(self, verb: str, tags: Sequence[str]) -> list[str]:
        """Say ACK or NACK to what is in hand; return the others."""
        return self._let_go(tags, verb)

    def release(self, tags: Sequence[str]) -> list[str]:
        """Give back what is in hand; return the others."""
        return self._let_go(tags)

    def replace(self, tag: str, message: Outgoing) -> None:
        """Store a message and settle a delivery, both or neither."""
        with self._news:
            id = self._held.get(tag)
        if id is None:
            raise TransportError(f"{self._settings.where} has given that delivery to somebody else.")
        transaction = {"transaction": f"replace-{self._link.name()}"}
        self._link.send("BEGIN", transaction)
        try:
            self._link.ask("SEND", {**write(message, self._settings.destination), **transaction}, message.body)
        except TransportError:
            if self._link.lost is None:
                self._link.ask("ABORT", transaction)
            raise
        self._link.send("ACK", {"id": id, **transaction})
        self._link.ask("COMMIT", transaction)
        with self._news:
            self._held.pop(tag, None)
        self._end([tag])

    def close(self) -> None:
        """Let go of everything; what is in hand is given back by that."""
        self._is_closed = True
        self._wake()
        self._link.close()

    def _ask_for(self, number: int) -> None:
        names = [f"{self._name}-{self._link.name()}" for _ in range(number)]
        with self._news:
            self._asked |= dict.fromkeys(names)
        for name in names:
            headers = {
                "destination": self._settings.destination,
                "id": name,
                "ack": "client-individual",
                "activemq.prefetchSize": "1",
            }
            if self._is_let_in and name != names[-1]:
                self._link.send("SUBSCRIBE", headers)
            else:
                self._link.ask("SUBSCRIBE", headers)
                self._is_let_in = True

    def _let_go(self, tags: Sequence[str], verb: str | None = None) -> list[str]:
        with self._news:
            mine = {tag: id for tag in tags if (id := self._held.pop(tag, None)) is not None}
        if mine:
            receipt = self._link.name()
            answers = self._link.expect([receipt])
            for tag, id in mine.items():
                if verb is not None:
                    self._link.send(verb, {"id": id})
                last = {"receipt": receipt} if tag == next(reversed(mine)) else {}
                self._link.send("UNSUBSCRIBE", {"id": tag, **last})
            self._link.wait(answers)
        return [tag for tag in tags if tag not in mine]

    def _end(self, subscriptions: Iterable[str]) -> None:
        for name in subscriptions:
            self._link.send("UNSUBSCRIBE", {"id": name})

    def _has_news(self) -> bool:
        return bool(self._arrived) or self._is_over()

    def _is_over(self) -> bool:
        return self._is_closed or self._link.lost is not None

    def _take(self, frame: Any) -> None:
        name = frame.headers.get("subscription", "")
        with self._news:
            if name in self._asked:
                del self._asked[name]
                self._held[name] = frame.headers["ack"]
                self._arrived.append((name, frame))
                self._news.notify_all()

    def _wake(self) -> None:
        with self._news:
            self._news.notify_all()
