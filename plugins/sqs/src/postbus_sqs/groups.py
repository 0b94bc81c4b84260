"""The groups of a FIFO queue: of each, one message at a time is handed out, and the next one when that is settled."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from postbus.transport import Delivery
from postbus_sqs.leases import Lease


class Lines:
    """What was received of each group, in order: the first is in somebody's hands, and the others wait for it.

    So one that is given back takes all those along that are behind it, and none of them overtakes it.
    """

    def __init__(self) -> None:
        self._lines: dict[str, deque[Delivery]] = {}

    def join(self, delivery: Delivery) -> bool:
        """Put a delivery at the end of its line; say whether it is the first, and so may be handed out."""
        group = _lease(delivery).group or ""
        line = self._lines.get(group)
        if line is None or _lease(line[0]).is_over:  # Then all of it comes again.
            self._lines[group] = deque([delivery])
            return True
        line.append(delivery)
        return False

    def behind(self, leases: Iterable[Lease]) -> list[Lease]:
        """Return the leases of what waits behind these."""
        return [_lease(waiting) for lease in leases for waiting in self._waiting_behind(lease)]

    def leave(self, leases: Iterable[Lease]) -> list[Delivery]:
        """Take those out that were settled; return what may be handed out next."""
        following: list[Delivery] = []
        for lease in leases:
            waiting = self._waiting_behind(lease)
            self.dissolve([lease])
            while waiting and _lease(waiting[0]).is_over:
                waiting.popleft()
            if waiting:
                self._lines[lease.group or ""] = waiting
                following.append(waiting[0])
        return following

    def dissolve(self, leases: Iterable[Lease]) -> None:
        """Forget these, and what waits behind them, because it was given back or lost."""
        for lease in leases:
            line = self._lines.get(lease.group or "")
            if line and _lease(line[0]) is lease:
                del self._lines[lease.group or ""]

    def clear(self) -> list[Lease]:
        """Forget all; return the leases of what waits behind others."""
        leases = self.behind([_lease(line[0]) for line in self._lines.values()])
        self._lines.clear()
        return leases

    def _waiting_behind(self, lease: Lease) -> deque[Delivery]:
        line: Sequence[Delivery] = self._lines.get(lease.group or "", ())
        return deque(list(line)[1:]) if line and _lease(line[0]) is lease else deque()


def _lease(delivery: Delivery) -> Lease:
    lease: Lease = delivery.tag
    return lease
