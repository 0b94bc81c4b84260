"""Mutants for the rules in `postbus.testing.rules.restarts`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from postbus.errors import ConnectionLost, TransportError
from postbus.transport import Delivery, Outgoing
from postbus_in_memory.queue import Message
from tests.contract.healthy import Plain, Served
from tests.contract.mutants.entry import breaks
from tests.contract.server import Server


class Forgetful(Server):
    """Forgets some of its messages when it goes away."""

    def forgets(self, message: Message) -> bool:
        return True

    def go_away(self) -> None:
        super().go_away()
        with self.changed:
            for message in filter(self.forgets, list(self.messages.values())):
                del self.messages[message.id]
                self.in_flight.pop(message.tag or 0, None)


@breaks(
    "what_was_published_survives_a_restart",
    # All that look for what was there before.
    also=[
        "a_transport_goes_on_after_a_restart",
        "a_transport_receives_after_a_restart",
        "a_transport_settles_after_a_restart",
        "what_is_delayed_survives_a_restart",
        "what_was_in_flight_survives_a_restart",
        "what_was_published_survives_a_crash",
    ],
)
class KeepsMessagesInMemory(Served):
    """Calls itself durable, and begins empty."""

    queue_type = Forgetful


class Buffering(Forgetful):
    """Writes to its disk only when it is stopped in an orderly way."""

    crashed = False

    def kill(self) -> None:
        self.crashed = True
        super().kill()

    def forgets(self, message: Message) -> bool:
        return self.crashed


@breaks("what_was_published_survives_a_crash")
class StoresWhenItIsStopped(Served):
    """Survives a restart, and no crash."""

    queue_type = Buffering


class Deleting(Forgetful):
    """Deletes from its disk what it delivers."""

    def forgets(self, message: Message) -> bool:
        return message.tag is not None


@breaks(
    "what_was_in_flight_survives_a_restart",
    # Its messages are in flight, too.
    also=["a_transport_settles_after_a_restart"],
)
class KeepsDeliveriesInMemory(Served):
    """Knows nothing of what was in flight."""

    queue_type = Deleting


class Idle(Forgetful):
    """Stores what is delayed when its delay is over."""

    def forgets(self, message: Message) -> bool:
        return message.available_at > self.clock.now()


@breaks("what_is_delayed_survives_a_restart")
class KeepsDelaysInMemory(Served):
    """Knows nothing of what was delayed."""

    queue_type = Idle


@breaks("a_waiting_fetch_hears_of_a_lost_broker")
class WaitsForALostBroker(Served):
    """Does not notice while it waits that there is nobody any more to wait for."""

    def fetch_from(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        self.reach()
        deadline = time.monotonic() + wait
        try:
            return super().fetch_from(queues, limit, wait)
        except ConnectionLost:
            with self.queue.changed:
                while not self._closed and (left := deadline - time.monotonic()) > 0:
                    self.queue.changed.wait(left)
            return []


@breaks(
    "fetching_without_a_broker_is_a_lost_connection",
    # Who hears of no loss has none to tell.
    also=["a_loss_is_told_once"],
)
class FetchesNothingFromALostBroker(Served):
    """Takes a broker that is away for one that is empty."""

    def fetch_from(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        return super().fetch_from(queues, limit, wait) if self.queue.running else []


@breaks(
    "publishing_without_a_broker_is_an_error",
    # It sends without a broker, too.
    also=["a_transport_goes_on_after_a_restart"],
)
class PublishesToALostBroker(Served):
    """Takes messages that it cannot store."""

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        return super().publish(messages) if self.queue.running else [None] * len(messages)


@breaks("closing_without_a_broker_is_quiet", also=["what_was_in_flight_survives_a_restart"])
class SaysGoodbye(Served):
    """Wants to tell the broker that it closes."""

    def close(self) -> None:
        super().close()
        self.reach()


@breaks("a_transport_goes_on_after_a_restart")
class TakesALossForARefusal(Served):
    """Does not say that it is the connection that is of no use any more."""

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        try:
            return super().publish(messages)
        except ConnectionLost as error:
            raise TransportError(str(error)) from error


@breaks("a_transport_receives_after_a_restart")
class IsDeafAfterARestart(Served):
    """Does not notice that the broker is another one, which knows nothing of this connection."""

    def fetch_from(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        if self.queue.running and self.start != self.queue.starts:
            time.sleep(min(wait, 0.05))
            return []
        return super().fetch_from(queues, limit, wait)


@breaks("a_transport_settles_after_a_restart")
class RefusesTagsFromBefore(Served):
    """Raises for a tag that the broker does not know since it was restarted."""

    def ack(self, tags: Sequence[int]) -> Sequence[int]:
        if self.start > 1 and any(tag not in self.queue.in_flight for tag in tags):
            raise TransportError("There is no such delivery.")
        return super().ack(tags)


class Shaky(Server):
    """Goes away once more, for whoever looks for the second time since it is back."""

    fetches = 0

    def take_from(self, names: Sequence[str], limit: int, lease: float) -> list[Delivery]:
        self.fetches += self.starts == 2
        if self.fetches == 2:
            self.starts += 1
            raise ConnectionLost("The broker is gone again.")
        return super().take_from(names, limit, lease)


@breaks(
    "a_loss_is_told_once",
    # It looks twice on one connection, too.
    also=["what_is_delayed_survives_a_restart"],
)
class LosesItsBrokerTwice(Served):
    """Opens a connection to a broker that is not ready, and finds that out later."""

    queue_type = Shaky


@breaks("a_loss_is_told_once")
class TakesSilenceForAnEmptyQueue(Served):
    """Connects while it fetches, and says that nothing is there if that takes longer than it was to wait."""

    def __init__(self, queue: Server, *, lease: float) -> None:
        self.start = queue.starts
        self.has_reached = queue.running
        Plain.__init__(self, queue, lease=lease)

    def fetch_from(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        if not self.has_reached and wait < 1:
            return []
        return super().fetch_from(queues, limit, wait)
