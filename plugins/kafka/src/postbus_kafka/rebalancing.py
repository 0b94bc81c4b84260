"""What a member does when partitions come to it and go to others.

kafka-python calls this in its own I/O thread, where nothing may block; while this waits, heartbeats go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any, Protocol

from postbus_kafka.inventory import Inventory
from postbus_kafka.options import Settings
from postbus_kafka.untyped import AsyncConsumerRebalanceListener

logger = logging.getLogger("postbus")

LOOK = 0.01
"""Seconds between two looks at whether what is in hand has been settled."""


class Owner(Protocol):
    """Who owns the consumer whose partitions come and go."""

    net: Any
    """The loop of kafka-python's thread."""
    turned_at: float
    """When it was last seen at work."""

    @property
    def is_over(self) -> bool:
        """Whether it is about to end."""
        ...

    def hold_back(self, partitions: Collection[Any]) -> None:
        """Read nothing yet of partitions that have come, if too much waits already."""
        ...

    async def commit_last(self, partitions: Collection[Any]) -> None:
        """Commit what is settled of these."""
        ...


class Rebalancing(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    """Lets what is handled come to its end, commits, and only then lets a partition go."""

    def __init__(self, owner: Owner, inventory: Inventory, settings: Settings) -> None:
        self._owner = owner
        self._inventory = inventory
        self._settings = settings

    async def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        """Take note of what came; what the group has committed of it is read after the poll."""
        self._owner.hold_back(assigned)
        self._inventory.gain(assigned)

    async def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        """Hand out nothing more of these, wait for what is in hand, commit, and forget them."""
        self._inventory.begin_to_leave(revoked)
        end = time.monotonic() + self._settings.options.revoke_wait
        while self._inventory.number_in_hand(revoked) and time.monotonic() < end and not self._owner.is_over:
            await self._owner.net.sleep(LOOK)
            self._owner.turned_at = time.monotonic()
        await self._owner.commit_last(revoked)
        self._inventory.lose(revoked)

    async def on_partitions_lost(self, lost: Collection[Any]) -> None:
        """Forget what others have already; nothing of it can be committed."""
        logger.warning(
            "The group %r of %s has taken %d partitions from this worker, of which it had not heard for too long; what "
            "it has in hand of them comes again.",
            self._settings.group,
            self._settings,
            len(lost),
        )
        self._inventory.lose(lost)
