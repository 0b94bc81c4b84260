"""Mutants for the rules in `postbus.testing.rules.waiting`."""

from __future__ import annotations

from collections.abc import Sequence

from postbus.transport import Delivery, Outgoing
from tests.contract.healthy import Plain
from tests.contract.mutants.entry import Closing, Locking, breaks


@breaks(
    "a_fetch_waits_for_a_message",
    # All that need a fetch that waits.
    also=[
        "a_fetch_returns_when_a_delay_is_over",
        "a_fetch_returns_when_a_message_arrives",
        "a_fetch_returns_when_a_message_is_released",
        "closing_ends_a_wait",
        "keepalive_does_not_wait_for_a_fetch",
        "publishing_works_while_a_fetch_waits",
        "settling_works_while_a_fetch_waits",
    ],
)
class NeverWaits(Plain):
    """Returns at once, whether there is something or not."""

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        return super().fetch(limit, 0)


@breaks("a_fetch_ends_when_its_wait_is_over")
class WaitsForTheFirstMessage(Closing):
    """Does not return from a queue that has never had a message."""

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        while not self.queue.sent and not self.closed:
            super().fetch(0, 0.01)
        return super().fetch(limit, wait)


@breaks(
    "a_fetch_returns_when_a_message_arrives",
    # Nothing that is published wakes a fetch.
    also=["publishing_works_while_a_fetch_waits", "a_fetch_returns_when_a_delay_is_over"],
)
class PublishesUnheard(Plain):
    """Stores messages and tells nobody who waits."""

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        with self.queue.changed:
            return [self.queue.put(message) for message in messages]


@breaks("a_fetch_returns_when_a_message_is_released")
class ReleasesUnheard(Plain):
    """Gives messages back and tells nobody who waits."""

    def release(self, tags: Sequence[int]) -> Sequence[int]:
        with self.queue.changed:
            put_back = {tag: self.queue.put_back(tag) for tag in tags}
            for message in filter(None, put_back.values()):
                message.count -= 1
        return [tag for tag, message in put_back.items() if message is None]


@breaks("closing_ends_a_wait")
class ClosesUnheard(Plain):
    """Closes nothing."""

    def close(self) -> None:
        pass


@breaks("settling_works_while_a_fetch_waits")
class SettlesAfterTheFetch(Locking):
    """Settles when no fetch waits."""

    def ack(self, tags: Sequence[int]) -> Sequence[int]:
        with self.lock:
            return super().ack(tags)


@breaks("publishing_works_while_a_fetch_waits")
class PublishesAfterTheFetch(Locking):
    """Publishes when no fetch waits."""

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        with self.lock:
            return super().publish(messages)
