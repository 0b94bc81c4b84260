"""Mutants for the rules in `postbus.testing.rules.groups`."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from postbus.transport import Delivery
from postbus_in_memory.queue import Message
from tests.contract.healthy import Grouped
from tests.contract.mutants.entry import breaks
from tests.contract.server import Groups


@breaks("a_delivery_tells_its_group", also=["any_text_is_a_key"])
class KnowsOneGroup(Grouped):
    """Gives every delivery the same ordering key."""

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        return [replace(delivery, group="all") for delivery in super().fetch(limit, wait)]


class Cutting(Groups):
    """Knows the first 128 characters of a key."""

    def group_of(self, message: Message) -> str | None:
        group = super().group_of(message)
        return None if group is None else group[:128]


@breaks("any_text_is_a_key")
class CutsKeys(Grouped):
    """Takes long keys that begin alike for one."""

    queue_type = Cutting


class Folding(Groups):
    """Takes a key as some databases compare texts."""

    def group_of(self, message: Message) -> str | None:
        group = super().group_of(message)
        return None if group is None else group.rstrip().lower()


@breaks("any_text_is_a_key")
class FoldsKeys(Grouped):
    """Takes keys that differ in capitals, or in a space at their end, for one."""

    queue_type = Folding


@breaks("a_copy_stays_in_its_group")
class AddsToKeys(Grouped):
    """Gives the group another name than the key that it was made of, and than one that it would be made of."""

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        return [replace(d, group=f"group-{d.group}") if d.group is not None else d for d in super().fetch(limit, wait)]


class OneAtATime(Groups):
    """Has no two groups in flight."""

    def is_taken(self, message: Message) -> bool:
        return self.group_of(message) is not None and any(map(self.group_of, self.in_flight.values()))


@breaks("a_group_keeps_no_other_waiting")
class HoldsUpOtherGroups(Grouped):
    """Delivers nothing of a group while something of another one is in flight."""

    queue_type = OneAtATime


class Polite(Groups):
    """Lets what has no group wait for what has one."""

    def is_taken(self, message: Message) -> bool:
        few = list(self.in_flight.values())[:10]  # Who has fetched thousands is not to wait for this.
        return super().is_taken(message) or (self.group_of(message) is None and any(map(self.group_of, few)))


@breaks("a_group_keeps_no_other_waiting")
class HoldsUpWhatHasNoGroup(Grouped):
    """Delivers nothing without a group while something of one is in flight."""

    queue_type = Polite


class Overtaking(Groups):
    """Lets the last of a group overtake all others, if there are many."""

    def ready(self) -> list[Message]:
        ready = super().ready()
        return ready[::-1] if len(ready) > 5 else ready


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
