"""Mutants for the rules in `postbus.testing.rules.batches`."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from postbus.dsn import Dsn
from postbus.errors import MessageRefused, TransportError
from postbus.queue_transport import QueueTransport
from postbus.transport import Delivery, Outgoing, TransportContext
from postbus_in_memory import InMemoryOptions
from tests.contract.healthy import Limited, Plain
from tests.contract.mutants.entry import breaks


@breaks(
    "publish_returns_an_id_for_each_message",
    # Both compare the ids with those of the deliveries.
    also=["a_delivery_has_the_id_that_publish_returned", "a_transport_sends_more_than_one_batch"],
)
class ReturnsTheFirstIdForAll(Plain):
    """Gives every message of a batch the id of the first."""

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        return [super().publish(messages)[0]] * len(messages)


@breaks(
    "a_delivery_has_the_id_that_publish_returned",
    # Both compare the ids with those of the deliveries.
    also=["a_transport_sends_more_than_one_batch", "replace_returns_the_id_of_the_copy"],
)
class DeliversAnotherId(Plain):
    """Delivers messages under other ids than those that it has returned."""

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        return [replace(delivery, id=f"queue-{delivery.id}") for delivery in super().fetch(limit, wait)]


@breaks(
    "publish_takes_as_many_as_promised",
    # A transport relies on the promise.
    also=["a_transport_sends_more_than_one_batch"],
)
class TakesFewerThanPromised(Plain):
    """Loses what is in a batch after the 999th message."""

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        return [*super().publish(messages[:999]), *[None for _ in messages[999:]]]


@breaks("a_transport_sends_more_than_one_batch")
class KeepsItsLimitsToItself(Limited):
    """Does not tell `QueueTransport` how large a batch may be."""

    @classmethod
    def make(cls, dsn: Dsn, context: TransportContext) -> QueueTransport:
        options = InMemoryOptions.from_dsn(dsn)
        context = replace(context, guarantees=replace(cls.guarantees, publish_batch=1000))
        return QueueTransport(lambda: cls(cls.queue_for(dsn), lease=options.lease), context)


@breaks("fetch_returns_no_more_than_its_limit", also=["order_holds_while_fetches_grow_and_shrink"])
class FetchesTooMany(Plain):
    """Delivers twice as many as it was asked for."""

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        return super().fetch(limit * 2 if limit > 1 else 1, wait)


@breaks("fetch_may_be_asked_for_as_many_as_promised")
class RefusesToFetchMany(Plain):
    """Raises for a limit of more than a hundred."""

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        if limit > 100:
            raise TransportError("Asked for more than 100 messages.")
        return super().fetch(limit, wait)


@breaks(
    "what_a_failed_batch_says_it_stored_is_stored",
    # They look at the same answer.
    also=[
        "a_delay_that_cannot_be_kept_is_refused",
        "a_message_that_is_too_large_is_refused_alone",
        "a_refused_message_is_refused_alone",
    ],
)
class SaysItStoredMore(Limited):
    """Counts the message that was refused among those that were stored."""

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        try:
            return super().publish(messages)
        except MessageRefused as error:
            error.stored = {**error.stored, **dict.fromkeys(error.refused)}
            raise


@breaks(
    "a_refused_message_is_refused_alone",
    # It does the same with a copy.
    also=["a_copy_that_is_refused_leaves_the_original"],
)
class ToldOfNoRefusals(Limited):
    """Takes what its broker refuses for an error like any other."""

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        try:
            return super().publish(messages)
        except MessageRefused as error:
            if any(message.body == b"refused" for message in messages):
                raise TransportError(str(error), stored=error.stored) from error
            raise

    def replace(self, tag: int, message: Outgoing) -> str | None:
        try:
            return super().replace(tag, message)
        except MessageRefused as error:
            raise TransportError(str(error)) from error


@breaks("a_message_that_is_too_large_is_refused_alone")
class StopsAtWhatIsTooLarge(Limited):
    """Does not store what is behind a message that is too large."""

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        for position, message in enumerate(messages):
            if len(message.body) > 200_000:
                stored = dict(enumerate(super().publish(messages[:position])))
                raise MessageRefused({position: "It is too large."}, stored=stored)
        return super().publish(messages)


@breaks("a_published_message_outlives_its_connection")
class LosesWhatItPublishedWhenClosed(Plain):
    """Has what it published last in a buffer of its own, which `close` does not empty."""

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        self.buffered = super().publish(messages)
        return self.buffered

    def close(self) -> None:
        super().close()
        waiting = [id for id in getattr(self, "buffered", ()) if (m := self.queue.messages.get(id)) and m.tag is None]
        self.remove(waiting)
