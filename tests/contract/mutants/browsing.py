"""Mutants for the rules in `postbus.testing.rules.browsing`."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from postbus.transport import Delivery, Outgoing
from postbus_in_memory.queue import Message
from tests.contract.healthy import Plain
from tests.contract.mutants.entry import breaks


@breaks("browsing_delivers_nothing")
class CountsLooks(Plain):
    """Counts a look as a delivery."""

    def browse(self, limit: int, after: str | None = None) -> Sequence[Delivery]:
        shown = super().browse(limit, after)
        for delivery in shown:
            self.queue.messages[delivery.id or ""].count += 1
        return shown


@breaks("browsing_shows_messages_as_they_are")
class ShowsText(Plain):
    """Shows a body as text."""

    def browse(self, limit: int, after: str | None = None) -> Sequence[Delivery]:
        shown = super().browse(limit, after)
        return [replace(delivery, body=delivery.body.decode(errors="replace").encode()) for delivery in shown]


class Overlooking(Plain):
    """Does not show everything."""

    def browse(self, limit: int, after: str | None = None) -> Sequence[Delivery]:
        shown = super().browse(limit, after)
        return [delivery for delivery in shown if self.shows(self.queue.messages[delivery.id or ""])]

    def shows(self, message: Message) -> bool:
        raise NotImplementedError


@breaks(
    "browsing_shows_what_is_delayed",
    # It finds the ids by browsing.
    also=["a_removed_message_is_gone"],
)
class HidesWhatIsDelayed(Overlooking):
    """Does not show what is delayed."""

    def shows(self, message: Message) -> bool:
        return message.available_at <= self.queue.clock.now()


@breaks(
    "browsing_shows_what_is_in_flight",
    # It finds the ids by browsing.
    also=["a_removed_message_is_gone"],
)
class HidesWhatIsInFlight(Overlooking):
    """Does not show what is in flight."""

    def shows(self, message: Message) -> bool:
        return message.tag is None


@breaks("browsing_shows_no_more_than_its_limit")
class ShowsEverything(Plain):
    """Shows all that there is, whatever the limit."""

    def browse(self, limit: int, after: str | None = None) -> Sequence[Delivery]:
        return super().browse(1000, after)


@breaks("browsing_goes_on_behind_an_id")
class ShowsTheLastAgain(Plain):
    """Begins a page with the last message of the one before."""

    def browse(self, limit: int, after: str | None = None) -> Sequence[Delivery]:
        return super().browse(limit, after and str(int(after) - 1))


@breaks("find_returns_the_message_with_an_id")
class FindsWhatWaits(Plain):
    """Does not find what is in flight."""

    def find(self, id: str) -> Delivery | None:
        found = super().find(id)
        return found if found and found.tag is None else None


@breaks("what_is_not_there_is_not_found")
class RefusesForeignIds(Plain):
    """Raises for an id that is not of its own kind."""

    def find(self, id: str) -> Delivery | None:
        return super().find(str(int(id)))


@breaks("a_removed_message_is_gone")
class RemovesWhatIsAtRest(Plain):
    """Does not remove what is in flight."""

    def remove(self, ids: Sequence[str]) -> int:
        return super().remove([id for id in ids if (m := self.queue.messages.get(id)) and m.tag is None])

    def purge(self) -> int:
        return super().remove(list(self.queue.messages))


@breaks("remove_leaves_what_was_not_named")
class CountsWhatIsNotThere(Plain):
    """Returns how many ids it was given."""

    def remove(self, ids: Sequence[str]) -> int:
        super().remove(ids)
        return len(ids)


@breaks("purge_deletes_everything")
class PurgesWhatIsAtRest(Plain):
    """Does not delete what is in flight."""

    def purge(self) -> int:
        return self.remove([id for id, message in self.queue.messages.items() if message.tag is None])


@breaks("a_purged_queue_goes_on")
class DeletesTheQueue(Plain):
    """Deletes the queue with its messages, and stores nothing any more."""

    purged = False

    def purge(self) -> int:
        self.purged = True
        return super().purge()

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        return [None] * len(messages) if self.purged else super().publish(messages)
