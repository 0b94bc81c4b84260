"""Whether a worker has had nothing to do for as long as its limit says."""

from __future__ import annotations

import time
from collections.abc import Sequence

from postbus.errors import TransportError
from postbus.limits import Counters, Stopping
from postbus.queue_transport import QueueTransport
from postbus.transport import SupportsCount, supports
from postbus.worker.deliveries import Deliveries


class Idleness:
    """Stops a worker that has had nothing in hand for so many seconds, once no transport has anything for it.

    A transport has nothing if it was asked, waited for an answer, and brought none, all after the last message was
    settled, which may have been dispatched to it; and if it says so too, where it can count. One that cannot be
    reached, or must not be asked, may have anything; but one that is paused for all workers has nothing for this one.
    """

    def __init__(
        self,
        limit: float | None,
        all_deliveries: Sequence[Deliveries],
        counters: Counters,
        stopping: Stopping,
        *,
        counts: bool = True,
    ) -> None:
        """Not ``counts`` is for a worker of some queues of a transport, which counts them all."""
        self._limit = limit
        self._all_deliveries = all_deliveries
        self._counters = counters
        self._stopping = stopping
        self._counts = counts
        self._dealt_with = 0
        self._busy_at = time.monotonic()

    def look(self) -> None:
        """Tell the worker to stop, if it has been idle for long enough; to be called again and again by its thread."""
        if self._limit is None:
            return
        now = time.monotonic()
        dealt_with = self._counters.handled + self._counters.failed
        if dealt_with != self._dealt_with or any(self._all_deliveries):
            self._dealt_with, self._busy_at = dealt_with, now
            return
        if now - self._busy_at < self._limit or not all(
            self._has_nothing(deliveries) for deliveries in self._all_deliveries
        ):
            return
        if self._counts and any(_waiting(deliveries) for deliveries in self._all_deliveries if not deliveries.held):
            self._busy_at = now  # It comes, if not for this worker, and may have others dispatched.
            return
        since = f" for {self._limit:g} s" if self._limit else ""
        self._stopping.tell(f"there was nothing to do{since}")

    def _has_nothing(self, deliveries: Deliveries) -> bool:
        if deliveries.held:
            return True
        return deliveries.asked_in_vain_at is not None and deliveries.asked_in_vain_at >= self._busy_at


def _waiting(deliveries: Deliveries) -> bool:
    """Say whether there are messages that could be handled; one that is not told of does not count."""
    receiver = deliveries.receiver
    try:
        connection = receiver.connection if isinstance(receiver, QueueTransport) else receiver
        return supports(connection, SupportsCount) and connection.count().waiting > 0
    except TransportError:
        # Whether the broker was lost is found out by who fetches, and who must not count is not kept from stopping.
        return deliveries.lost_since is not None
