"""How messages come from a transport: how many at once, and, beside other transports, in a thread that waits."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

from msgspec import Struct

from postbus.envelope import Envelope
from postbus.worker.deliveries import Deliveries

WAIT = 0.5
"""Seconds for which a fetcher waits at a time, and so for which somebody who wants to stop may have to."""


class FetchSize:
    """How many messages to fetch at once: as many as are handled in a fifth of a second, found out as it goes.

    So fast handlers get big batches, and slow ones keep nothing from other workers. Of large messages there are fewer,
    so that they have no more than ``most_bytes`` together.
    """

    AHEAD = 0.2
    MOST = 500
    MANY = 32
    """From this on, the next are fetched while these are handled."""
    UNKNOWN = 256 * 2**10
    """How large messages are taken to be of which none has come yet, in bytes."""

    def __init__(self, fixed: int | None = None, most_bytes: int | None = None) -> None:
        self._fixed = fixed
        self.most_bytes = math.inf if most_bytes is None else most_bytes
        self.limit = fixed or 1

    @property
    def is_fixed(self) -> bool:
        """Whether it was given, and is not found out."""
        return self._fixed is not None

    def limit_for(self, size: float | None) -> int:
        """Return how many messages of so many bytes to fetch at once; None for an unknown number of bytes."""
        size = self.UNKNOWN if size is None else size
        return self.limit if size * self.limit <= self.most_bytes else max(1, int(self.most_bytes / size))

    def learn(self, messages: int, seconds: float, *, given_back: bool = False) -> None:
        """Take note of how long so many took, and whether others had to be given back meanwhile.

        The size at most doubles each time.
        """
        most = self._fixed or self.MOST
        if self._fixed is None and seconds > 0:
            most = min(most, int(self.AHEAD * messages / seconds))
        self.limit = 1 if given_back else max(1, min(most, self.limit * 2))


class Arrived(Struct, frozen=True):
    """What a fetcher has to say: that these came, or that there is nothing now."""

    fetcher: Fetcher
    envelopes: Sequence[Envelope]
    since: float
    """When the fetch began, and so the earliest moment at which the leases did."""
    is_waiting: bool = False
    """Whether it goes on to wait for the next message."""
    error: BaseException | None = None


class Fetcher:
    """A thread that fetches from one transport, as many messages as it was asked for; and what they come to.

    While there is nothing, it waits; beside others, it has asked the broker for a single message: so the fetchers of
    many idle transports hold next to nothing. All but the thread itself belongs to who asks.
    """

    PATIENCE = 1.0
    """Seconds after which a transport that has not answered is taken for empty."""

    def __init__(self, deliveries: Deliveries, inbox: SimpleQueue[Any], *, is_alone: bool = False) -> None:
        """One that is alone waits for as many as it was asked for, because none of them is brought too soon."""
        self.deliveries = deliveries
        self._is_alone = is_alone
        self._inbox = inbox
        self._asked: SimpleQueue[tuple[int, Sequence[str]] | None] = SimpleQueue()
        self._is_stopping = False
        self._is_abandoned = False
        self._is_recalled = False
        self._asked_at = 0.0
        self._is_empty = False
        self.asked = 0
        """How many messages it was asked for, and has not brought yet; 1 of a transport that has nothing now."""
        self.has_ended = False
        """Whether nothing will arrive any more."""
        threading.Thread(target=self._run, name=f"postbus-fetcher-{deliveries.name}", daemon=True).start()

    @property
    def is_asked(self) -> bool:
        """Whether it was asked for messages, and has brought none yet."""
        return self.asked > 0

    @property
    def is_empty(self) -> bool:
        """Whether the transport has nothing, as far as is known."""
        return self._is_empty or (self.is_asked and time.monotonic() - self._asked_at > self.PATIENCE)

    @property
    def has_next(self) -> bool:
        """Whether it has, or may have, a message that can be begun now."""
        return self.deliveries.next() is not None if self.deliveries.waiting else not self.is_empty

    def ask(self, limit: int, queues: Sequence[str]) -> None:
        """Fetch up to so many; from these queues, the first of them first, if any are named."""
        self.asked, self._asked_at, self._is_recalled = limit, time.monotonic(), False
        self._asked.put((limit, queues))

    def take_in(self, arrived: Arrived) -> None:
        """Hold what has arrived."""
        self._is_empty = not arrived.envelopes
        self.asked = int(arrived.is_waiting)
        if arrived.envelopes:
            self.deliveries.take_in(arrived.envelopes, arrived.since)

    def recall(self) -> None:
        """Wait no longer; what is being fetched still arrives."""
        self._is_recalled = True

    def stop(self) -> None:
        """Fetch no more; what is being fetched still arrives."""
        self._is_stopping = True
        self._asked.put(None)

    def abandon(self) -> None:
        """Give back at once what still arrives, because nobody takes it in any more."""
        self._is_abandoned = True

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            while (asked := self._asked.get()) is not None:
                self._fetch(*asked)
        except BaseException as problem:  # A border: it comes out in the thread of the worker.
            error = problem
        self.has_ended = True
        self._inbox.put(Arrived(self, (), 0.0, error=error))

    def _fetch(self, limit: int, queues: Sequence[str]) -> None:
        fetch = self.deliveries.fetch
        envelopes, since = fetch(limit, WAIT if self._is_alone else 0.0, queues)
        if not envelopes:
            self._inbox.put(Arrived(self, (), since, is_waiting=True))
        while not envelopes and not (self._is_recalled or self._is_stopping):
            envelopes, since = fetch(limit if self._is_alone else 1, WAIT, queues)
        if self._is_abandoned:
            self.deliveries.release(envelopes, last=True)
            return
        self._inbox.put(Arrived(self, envelopes, since))
