"""How many messages the broker sends ahead."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from postbus_amqp.options import Settings

MOST = 1024
"""How many it sends ahead at most, unless it is told."""

LARGEST = 65535
"""The largest number that AMQP has a form for."""


class Prefetch:
    """About twice as many as are asked for at a time.

    So a fast worker never waits, and a slow one has nothing that others could handle.
    """

    def __init__(self, settings: Settings) -> None:
        self._fixed = settings.options.prefetch_count
        # Others may not have their messages anyway, and to stop consuming would be to hand over to one of them; or to
        # have the next consumer begin before the former ends would mix up what is on its way.
        self._kept = {
            name
            for name, queue in settings.queues.items()
            if queue.has_single_consumer or (queue.is_quorum and queue.is_short_lived)
        }

    def is_kept(self, queues: Collection[str]) -> bool:
        """Tell whether a consumer of these queues must stay as it is, whether somebody fetches or not."""
        return not self._kept.isdisjoint(queues)

    def for_fetching(self, limit: int, queues: Sequence[str], in_hand: int) -> int:
        """Return how many messages may be unsettled, those in hand, which were fetched before, included."""
        if self._fixed is not None:
            return self._fixed
        if self.is_kept(queues):
            return MOST
        if limit == 1:
            # Of several queues, the first would look empty while its next message is on its way.
            return min(in_hand + min(len(queues), 2), LARGEST)
        ahead = min(_power_of_two(2 * limit), MOST)
        return min(_power_of_two(in_hand + ahead), LARGEST)

    @staticmethod
    def fits(wanted: int, given: int) -> bool:
        """Tell whether a consumer that was given one prefetch may go on where another one is wanted."""
        return given // 4 < wanted <= given


def _power_of_two(number: int) -> int:
    """Return the smallest power of two that is not smaller."""
    return 1 << (number - 1).bit_length()
