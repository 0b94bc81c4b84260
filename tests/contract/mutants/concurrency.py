"""Mutants for the rules in `postbus.testing.rules.concurrency`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from postbus.transport import Delivery, Outgoing
from postbus_in_memory.queue import Queue
from tests.contract.healthy import Plain
from tests.contract.mutants.entry import breaks


class Crowded(Queue):
    """Knows how many fetch at the moment."""

    fetching = 0


@breaks("many_producers_and_consumers_share_a_queue")
class DeliversTwiceInACrowd(Plain):
    """Delivers a message twice when several fetch at once."""

    queue: Crowded
    queue_type = Crowded

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        self.queue.fetching += 1
        try:
            deliveries = super().fetch(limit, wait)
            if deliveries and self.queue.fetching > 1:
                self.publish([Outgoing(deliveries[0].body, deliveries[0].headers)])
            return deliveries
        finally:
            self.queue.fetching -= 1


@breaks("a_connection_serves_several_threads")
class MixesUpAnswers(Plain):
    """Loses what is published while another thread publishes on the same connection."""

    publishing = 0

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        self.publishing += 1
        time.sleep(0.001)
        try:
            return super().publish(messages) if self.publishing == 1 else [None] * len(messages)
        finally:
            self.publishing -= 1
