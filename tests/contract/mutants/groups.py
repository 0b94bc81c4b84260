"""Mutants for the rules in `postbus.testing.rules.groups`."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from postbus.transport import Delivery
from postbus_in_memory.queue import Message
from tests.contract.healthy import Grouped
from tests.contract.mutants.entry import breaks
from tests.contract.server import Groups


@breaks("a_delivery_tells_its_group")
class KnowsOneGroup(Grouped):
    """Gives every delivery the same ordering key."""

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        return [replace(delivery, group="all") for delivery in super().fetch(limit, wait)]


class Overtaking(Groups):
    """Lets the last of a group overtake all others, if there are many."""

    def ready(self) -> list[Message]:
        ready = super().ready()
        return ready[::-1] if len(ready) > 3 else ready


@breaks("a_group_comes_in_its_order")
class LetsOthersOvertake(Grouped):
    """Delivers the messages of a group in another order."""

    queue_type = Overtaking


class Careless(Groups):
    """Does not look at what is in flight."""

    def is_taken(self, message: Message) -> bool:
        return False


@breaks("a_group_is_in_one_hand")
class SharesAGroup(Grouped):
    """Delivers what is behind a message in its group while that is in flight."""

    queue_type = Careless


class Moving(Groups):
    """Puts what was given back behind all others."""

    def put_back(self, tag: int) -> Message | None:
        message = super().put_back(tag)
        if message is not None:
            message.available_at = self.clock.now()
        return message


@breaks("what_is_given_back_keeps_its_place")
class MovesWhatIsGivenBack(Grouped):
    """Lets what is behind a message in its group overtake it when it is given back."""

    queue_type = Moving
