"""Mutants for the rules in `postbus.testing.rules.order`."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from postbus.transport import Delivery, Outgoing
from postbus_in_memory.queue import Message
from tests.contract.healthy import Plain, Served
from tests.contract.mutants.entry import breaks
from tests.contract.server import Server


@breaks("messages_come_in_the_order_of_publishing")
class DeliversTheNewest(Plain):
    """Puts each message that is published alone before all others."""

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        if len(messages) == 1 and not messages[0].delay:
            messages = [replace(messages[0], delay=-1.0 * len(self.queue.sent))]
        return super().publish(messages)


@breaks(
    "a_batch_comes_in_its_order",
    # It fetches a batch one by one.
    also=["order_holds_from_one_fetch_to_the_next", "order_holds_while_fetches_grow_and_shrink"],
)
class TurnsBatchesAround(Plain):
    """Stores the last message of a batch first."""

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        return list(reversed(super().publish(list(reversed(messages)))))


@breaks("order_holds_from_one_fetch_to_the_next", also=["order_holds_while_fetches_grow_and_shrink"])
class FetchesOneFromTheEnd(Plain):
    """Delivers the newest message to who asks for one only."""

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        if limit > 1:
            return super().fetch(limit, wait)
        deliveries = super().fetch(1000, wait)
        super().release([delivery.tag for delivery in deliveries[:-1]])
        return deliveries[-1:]


@breaks("order_holds_while_fetches_grow_and_shrink")
class ForgetsItsPlace(Plain):
    """Begins behind what it has just asked for, when it is asked for more than the last time."""

    last = 0

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        grows, self.last = 1 < self.last < limit, limit
        deliveries = super().fetch(limit, wait)
        return deliveries[::-1] if grows else deliveries


class Equal(Server):
    """Does not look at the priority of a message."""

    def rank(self, message: Message, names: Sequence[str]) -> tuple[float, ...]:
        name, _, *order = super().rank(message, names)
        return name, *order


@breaks("a_higher_priority_overtakes")
class IgnoresPriority(Served):
    """Delivers in the order of publishing, whatever is urgent."""

    queue_type = Equal


class LastIsMostUrgent(Server):
    """Lets urgent messages overtake each other."""

    def rank(self, message: Message, names: Sequence[str]) -> tuple[float, ...]:
        name, not_urgent, *order = super().rank(message, names)
        return name, not_urgent, *(order if not_urgent else [-message.number])


@breaks("one_priority_has_one_order")
class DeliversUrgentOnesBackwards(Served):
    """Delivers what was published last first, if it is urgent."""

    queue_type = LastIsMostUrgent
