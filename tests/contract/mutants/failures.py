"""Mutants for the rules in `postbus.testing.rules.failures`."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from postbus.transport import Outgoing
from postbus_in_memory import InMemoryConnection
from tests.contract.healthy import Limited, Plain
from tests.contract.mutants.entry import Remembering, breaks


@breaks("a_retry_copy_is_the_same_message")
class DropsCopies(Plain):
    """Takes a message with an id that it has seen for a mistake."""

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        seen = {message.content.headers.get("X-Message-Stamp-id") for message in self.queue.sent} - {None}
        new = [message for message in messages if message.headers.get("X-Message-Stamp-id") not in seen]
        return super().publish(new) if new else [None] * len(messages)


@breaks("a_buried_copy_is_in_the_other_queue_alone")
class PublishesToTheNextQueueToo(Plain):
    """Stores messages in the two queues that were used last."""

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        for other in list(self.queues.values())[-2:]:
            if other is not self.queue:
                InMemoryConnection(other).publish(messages)
        return super().publish(messages)


@breaks("replace_stores_the_copy_and_settles_the_original")
class KeepsWhatItReplaces(Plain):
    """Stores the copy, and leaves the original in flight."""

    def replace(self, tag: int, message: Outgoing) -> str | None:
        if tag not in self.queue.in_flight:
            return super().replace(tag, message)
        [id] = self.publish([message])
        return id


@breaks("replace_returns_the_id_of_the_copy")
class ReturnsTheIdOfTheOriginal(Plain):
    """Returns the id that has just been settled."""

    def replace(self, tag: int, message: Outgoing) -> str | None:
        original = self.queue.in_flight.get(tag)
        super().replace(tag, message)
        return original.id if original else None


@breaks("a_copy_may_be_delayed")
class ReplacesAtOnce(Plain):
    """Stores a copy without its delay."""

    def replace(self, tag: int, message: Outgoing) -> str | None:
        return super().replace(tag, replace(message, delay=0.0))


@breaks("what_is_settled_cannot_be_replaced")
class ReplacesWhatIsSettled(Remembering):
    """Stores a copy of what was settled before."""

    def replace(self, tag: int, message: Outgoing) -> str | None:
        return self.publish([message])[0] if tag in self.settled else super().replace(tag, message)


@breaks("what_went_to_another_cannot_be_replaced")
class ReplacesWhatOthersHave(Remembering):
    """Stores a copy of what has been delivered to another meanwhile."""

    def replace(self, tag: int, message: Outgoing) -> str | None:
        others = tag not in self.queue.in_flight and tag not in self.settled
        return self.publish([message])[0] if others else super().replace(tag, message)


@breaks("a_copy_that_is_refused_leaves_the_original")
class SettlesBeforeItStores(Limited):
    """Settles the original first, and then has no copy to put in its place."""

    def replace(self, tag: int, message: Outgoing) -> str | None:
        if self.refuses(message):
            self.ack([tag])
        return super().replace(tag, message)
