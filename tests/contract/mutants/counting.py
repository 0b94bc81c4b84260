"""Mutants for the rules in `postbus.testing.rules.counting`."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from postbus.transport import Counts, Delivery
from postbus_in_memory import InMemoryConnection
from postbus_in_memory.queue import Queue
from tests.contract.healthy import Plain, Served
from tests.contract.mutants.entry import breaks


@breaks(
    "the_first_delivery_is_number_one",
    # Every count is one less.
    also=["a_lost_delivery_is_counted", "a_released_delivery_is_not_counted"],
)
class CountsFromZero(Plain):
    """Tells how often a message was delivered before."""

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        return [replace(d, count=d.count - 1) for d in super().fetch(limit, wait) if d.count is not None]


class Forgiving(Queue):
    """Does not count a delivery whose lease was lost."""

    def end_leases(self) -> None:
        before = dict(self.in_flight)
        super().end_leases()
        for tag in before.keys() - self.in_flight.keys():
            before[tag].count -= 1


@breaks("a_lost_delivery_is_counted")
class CountsWhatWasSettled(Plain):
    """Does not count a delivery whose worker vanished."""

    queue_type = Forgiving


@breaks("a_released_delivery_is_not_counted")
class CountsReleases(Plain):
    """Counts a delivery that was given back."""

    def release(self, tags: Sequence[int]) -> Sequence[int]:
        with self.queue.changed:
            lost = [tag for tag in tags if self.queue.put_back(tag) is None]
            self.queue.changed.notify_all()
        return lost


@breaks("a_release_is_counted_where_the_guarantees_say_so")
class CountsNoReleases(Served):
    """Does not count a delivery that was given back, although it says so."""

    def release(self, tags: Sequence[int]) -> Sequence[int]:
        return InMemoryConnection.release(self, tags)


class Miscounting(Plain):
    """Tells other numbers than there are."""

    def count(self) -> Counts:
        return self.change(super().count())

    def change(self, counts: Counts) -> Counts:
        raise NotImplementedError


@breaks("count_tells_what_waits")
class CountsOneThatWaits(Miscounting):
    """Tells whether something waits, not how much."""

    def change(self, counts: Counts) -> Counts:
        return replace(counts, waiting=min(counts.waiting, 1))


@breaks("count_tells_what_is_delayed")
class CountsOneThatIsDelayed(Miscounting):
    """Tells whether something is delayed, not how much."""

    def change(self, counts: Counts) -> Counts:
        return replace(counts, delayed=min(counts.delayed or 0, 1))


@breaks("count_tells_what_is_in_flight")
class CountsOneInFlight(Miscounting):
    """Tells whether something is in flight, not how much."""

    def change(self, counts: Counts) -> Counts:
        return replace(counts, in_flight=min(counts.in_flight or 0, 1))


@breaks("age_begins_when_a_message_could_be_delivered")
class AgesWhatIsDelayed(Miscounting):
    """Lets a message age from when it was stored."""

    def change(self, counts: Counts) -> Counts:
        return replace(counts, oldest_age=1.0 if counts.delayed else counts.oldest_age)
