"""Mutants for the rules in `postbus.testing.rules.settling`."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from postbus.errors import TransportError
from postbus.transport import Delivery, Outgoing
from postbus_in_memory.queue import Queue
from tests.contract.healthy import Plain
from tests.contract.mutants.entry import Closing, Remembering, breaks


@breaks(
    "an_acked_message_is_gone",
    # All that end by acking what they have, and see that nothing is left.
    also=[
        "a_released_message_comes_back",
        "settling_tells_what_is_lost",
        "a_batch_is_settled_whole",
        "a_buried_copy_is_in_the_other_queue_alone",
        "a_connection_serves_several_threads",
        "a_late_ack_is_quiet",
        "a_late_release_takes_nothing_from_another",
        "a_retry_copy_is_the_same_message",
        "a_settled_message_cannot_be_released",
        "browsing_shows_what_is_in_flight",
        "count_tells_what_is_in_flight",
        "keepalive_keeps_a_delivery",
        "many_producers_and_consumers_share_a_queue",
        "replace_stores_the_copy_and_settles_the_original",
        "settling_nothing_is_quiet",
        "settling_works_while_a_fetch_waits",
        "what_is_not_there_is_not_found",
        "what_is_settled_cannot_be_replaced",
    ],
)
class ForgetsAcks(Plain):
    """Does nothing when it is told to ack."""

    def ack(self, tags: Sequence[int]) -> Sequence[int]:
        return []


@breaks(
    "a_rejected_message_is_gone",
    # It settles in each of the three ways.
    also=["settling_tells_what_is_lost"],
)
class ForgetsRejects(Plain):
    """Does nothing when it is told to reject."""

    def reject(self, tags: Sequence[int]) -> Sequence[int]:
        return []


@breaks(
    "a_batch_is_settled_whole",
    # Its consumers ack in batches.
    also=["many_producers_and_consumers_share_a_queue"],
)
class AcksTheFirst(Plain):
    """Acks one delivery, however many tags there are."""

    def ack(self, tags: Sequence[int]) -> Sequence[int]:
        return super().ack(tags[:1])


@breaks(
    "acking_one_leaves_the_others",
    # It acks one that another has, and one that was delivered later.
    also=["settling_tells_what_is_lost"],
)
class AcksAllBefore(Plain):
    """Acks what was delivered earlier too, as AMQP does with "multiple"."""

    def ack(self, tags: Sequence[int]) -> Sequence[int]:
        return super().ack([tag for tag in self.queue.in_flight if tag <= max(tags, default=0)])


@breaks(
    "a_delivery_is_in_one_hand",
    # They fetch in vain with a delivery in flight; two of them not if the machine stands still for a whole lease.
    also=["a_lease_does_not_run_out_early", "keepalive_keeps_a_delivery"],
    perhaps=[
        "settling_tells_what_is_lost",
        "a_connection_serves_several_threads",
        "a_late_release_takes_nothing_from_another",
        "keepalive_tells_what_is_lost",
        "many_producers_and_consumers_share_a_queue",
    ],
)
class DeliversItsOwnAgain(Plain):
    """Delivers what it has in flight once more when there is nothing else."""

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        with self.queue.changed:
            mine = [message.as_delivery() for message in self.queue.in_flight.values()]
        return super().fetch(limit, wait) or mine[:limit]


@breaks(
    "a_released_message_is_for_others_at_once",
    # All that release, to see something come again.
    also=[
        "a_released_message_comes_back",
        "settling_tells_what_is_lost",
        "a_batch_is_released_whole",
        "a_fetch_returns_when_a_message_is_released",
        "a_released_delivery_is_not_counted",
        "a_tag_of_an_earlier_connection_settles_nothing_else",
        "acking_one_leaves_the_others",
    ],
)
class ForgetsReleases(Plain):
    """Does nothing when it is told to release: the message comes when its lease is over."""

    def release(self, tags: Sequence[int]) -> Sequence[int]:
        return []


@breaks("a_batch_is_released_whole")
class ReleasesTwo(Plain):
    """Gives back no more than two at a time."""

    def release(self, tags: Sequence[int]) -> Sequence[int]:
        return super().release(tags[:2])


@breaks("settling_twice_is_quiet")
class RefusesToSettleTwice(Remembering):
    """Raises for a tag that it has settled."""

    def ack(self, tags: Sequence[int]) -> Sequence[int]:
        if self.settled & set(tags):
            raise TransportError("A delivery is settled already.")
        return super().ack(tags)


@breaks("a_settled_message_cannot_be_released")
class RevivesWhatItReleases(Remembering):
    """Stores what is released anew, whether it was settled or not."""

    def release(self, tags: Sequence[int]) -> Sequence[int]:
        lost = super().release(tags)
        for tag in self.settled & set(tags):
            self.publish([Outgoing(self.fetched[tag].body, self.fetched[tag].headers)])
        return lost


@breaks("settling_nothing_is_quiet")
class RefusesToSettleNothing(Plain):
    """Passes a command without arguments to its broker, which refuses it."""

    def ack(self, tags: Sequence[int]) -> Sequence[int]:
        if not tags:
            raise TransportError("Wrong number of arguments for 'ack'.")
        return super().ack(tags)


@breaks("a_tag_of_an_earlier_connection_is_quiet")
class NeedsAChannelToSettle(Remembering):
    """Has no channel to settle on before it has fetched something."""

    def ack(self, tags: Sequence[int]) -> Sequence[int]:
        if tags and not self.fetched:
            raise TransportError("There is no channel.")
        return super().ack(tags)


@breaks("a_tag_of_an_earlier_connection_settles_nothing_else")
class CountsItsOwnDeliveries(Remembering):
    """Uses the numbers of its own deliveries as tags, which begin with 1 on each connection."""

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        numbered: list[Delivery] = []
        for delivery in super(Remembering, self).fetch(limit, wait):
            number = len(self.fetched) + 1
            self.fetched[number] = delivery
            numbered.append(replace(delivery, tag=number))
        return numbered

    def ack(self, tags: Sequence[int]) -> Sequence[int]:
        return self._told(tags, super().ack(self._real(tags)))

    def reject(self, tags: Sequence[int]) -> Sequence[int]:
        return self._told(tags, super().reject(self._real(tags)))

    def release(self, tags: Sequence[int]) -> Sequence[int]:
        return self._told(tags, super().release(self._real(tags)))

    def keepalive(self, tags: Sequence[int]) -> Sequence[int]:
        return [tag for tag in tags if super(Remembering, self).keepalive(self._real([tag]))]

    def replace(self, tag: int, message: Outgoing) -> str | None:
        return super().replace(self._real([tag])[0], message)

    def _told(self, tags: Sequence[int], lost: Sequence[int]) -> list[int]:
        return [tag for tag in tags if tag not in self.fetched or self.fetched[tag].tag in lost]

    def _real(self, tags: Sequence[int]) -> list[int]:
        return [self.fetched[tag].tag for tag in tags if tag in self.fetched]


@breaks("settling_after_close_is_quiet_or_a_lost_connection")
class FailsWhenClosed(Closing):
    """Raises something else than `ConnectionLost` once it is closed."""

    def ack(self, tags: Sequence[int]) -> Sequence[int]:
        if self.closed:
            raise TransportError("The connection is closed.")
        return super().ack(tags)


@breaks("closing_twice_is_quiet")
class FailsToCloseTwice(Closing):
    """Raises when it is closed already."""

    def close(self) -> None:
        if self.closed:
            raise TransportError("The connection is closed.")
        super().close()


@breaks(
    "a_released_message_comes_back",
    # They see it come again where it was given back.
    also=["a_released_delivery_is_not_counted", "a_tag_of_an_earlier_connection_settles_nothing_else"],
)
class KeepsReleasesFromItself(Plain):
    """Leaves to others what it has given back itself."""

    def __init__(self, queue: Queue, *, lease: float) -> None:
        super().__init__(queue, lease=lease)
        self.released: set[str | None] = set()

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        deliveries = super().fetch(limit, wait)
        super().release([delivery.tag for delivery in deliveries if delivery.id in self.released])
        return [delivery for delivery in deliveries if delivery.id not in self.released]

    def release(self, tags: Sequence[int]) -> Sequence[int]:
        self.released |= {message.id for tag in tags if (message := self.queue.in_flight.get(tag))}
        return super().release(tags)


@breaks(
    "settling_says_nothing_of_what_it_settled",
    # It looks at the same answer.
    also=["settling_tells_what_is_lost"],
)
class TakesReleasesForLost(Plain):
    """Returns all that it was told to give back."""

    def release(self, tags: Sequence[int]) -> Sequence[int]:
        super().release(tags)
        return tags
