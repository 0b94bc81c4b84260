"""Mutants for the rules in `postbus.testing.rules.queues`."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from postbus.transport import Delivery
from postbus_in_memory.queue import Message
from tests.contract.healthy import Served
from tests.contract.mutants.entry import breaks
from tests.contract.server import Route, Server


class Overflowing(Server):
    """Delivers from other queues when there is nothing in those that were asked for."""

    def take_from(self, names: Sequence[str], limit: int, lease: float) -> list[Delivery]:
        return super().take_from(names, limit, lease) or super().take_from(self.names, limit, lease)


@breaks("only_named_queues_deliver")
class DeliversFromAnyQueue(Served):
    """Takes the named queues for a wish."""

    queue_type = Overflowing


@breaks("every_queue_delivers_when_none_is_named")
class FetchesFromTheFirstQueue(Served):
    """Knows only one queue when none is named."""

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        return self.fetch_from(self.queue.names[:1], limit, wait)


class Fair(Server):
    """Delivers first what was stored first, whatever the queue."""

    def rank(self, message: Message, names: Sequence[str]) -> tuple[float, ...]:
        return super().rank(message, names)[1:]


@breaks("the_first_named_queue_comes_first")
class KeepsNoOrderOfQueues(Served):
    """Takes the named queues for one."""

    queue_type = Fair


@breaks("a_fetch_waits_for_all_named_queues")
class WaitsForTheFirstQueue(Served):
    """Looks into all queues at first, and waits for messages in the first only."""

    def fetch_from(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        if len(queues) == 1:
            return super().fetch_from(queues, limit, wait)
        return super().fetch_from(queues, limit, 0) or super().fetch_from(queues[:1], limit, wait)


class Misplacing(Server):
    """Puts what is given back into the first queue."""

    def put_back(self, tag: int) -> Message | None:
        message = super().put_back(tag)
        if message is not None:
            elsewhere = tuple(stamp for stamp in message.content.stamps if not isinstance(stamp, Route))
            message.content = replace(message.content, stamps=elsewhere)
        return message


@breaks("what_came_from_a_named_queue_is_settled_as_ever")
class ReleasesToTheFirstQueue(Served):
    """Gives messages back to the wrong queue."""

    queue_type = Misplacing


@breaks("an_unknown_queue_is_named_in_an_error")
class WaitsForAnyName(Served):
    """Waits for messages in a queue that nobody has made."""

    def fetch_from(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        return super().fetch_from([name for name in queues if name in self.queue.names], limit, wait)
