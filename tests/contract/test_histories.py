"""`TransportHistories` finds what is wrong: also what shows only after several steps that are each right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pytest
from msgspec.structs import replace

from postbus.queue_transport import QueueTransport
from postbus.testing.histories import Clock, TransportHistories
from postbus.transport import Delivery
from postbus_in_memory.queue import Message, Queue
from tests.contract.healthy import Grouped, Limited, Plain
from tests.contract.mutants import MUTANTS
from tests.contract.mutants.entry import Remembering
from tests.contract.server import Groups

pytestmark = [pytest.mark.slow, pytest.mark.once]


class Healthy(TransportHistories):
    """The histories of a connection that keeps the contract, or should."""

    __test__ = False
    connection: ClassVar[type[Plain]]
    guarantees = Plain.guarantees
    short_lease: ClassVar = {"lease": 60}
    short_delay = 20.0
    patience = 0.1
    histories = 200

    def __init_subclass__(cls, connection: type[Plain] | None = None) -> None:
        if connection is None:
            return
        cls.__test__ = True
        cls.connection = connection
        cls.plugin = f"{connection.__module__}:{connection.__name__}"
        cls.guarantees = connection.guarantees

    def dsn(self) -> str:
        return self.connection.new_dsn(self.tmp_path)

    def clock_of(self, transport: QueueTransport) -> Clock:
        connection = transport.connection
        assert isinstance(connection, Plain)
        return connection.queue.clock


class TestLimited(Healthy, connection=Limited):
    """A healthy one passes, so that it is the fault of the others if they do not."""

    histories = 50
    patience = 30.0


class GroupedForAll(Grouped):
    """Gives what was given back to whoever comes first."""

    guarantees = replace(Grouped.guarantees, release="uncounted")

    def release(self, tags: Sequence[int]) -> Sequence[int]:
        return Plain.release(self, tags)


class TestGroupedForAll(Healthy, connection=GroupedForAll):
    """So do groups, which come one message after the other."""

    patience = 30.0


class InManyHands(Groups):
    """Hands out all that is there, whoever has what of the same group."""

    def is_taken(self, message: Message) -> bool:
        return False


class SharesGroups(GroupedForAll):
    """Lets several consumers have messages of one group."""

    queue_type = InManyHands


class Shuffled(Groups):
    """Has the newest message of a group come first."""

    def ready(self) -> list[Message]:
        return super().ready()[::-1]


class TurnsGroupsRound(GroupedForAll):
    """Delivers the messages of a group one after the other, the last one first."""

    queue_type = Shuffled


class KnowsDeliveriesByMessage(Plain):
    """Takes the tag of an earlier delivery for that of the one which the same connection has of the message now."""

    def __init__(self, queue: Queue, *, lease: float) -> None:
        super().__init__(queue, lease=lease)
        self.tags: dict[int, int] = {}

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        deliveries = super().fetch(limit, wait)
        self.tags |= {int(delivery.id or 0): delivery.tag for delivery in deliveries}
        return [replace(delivery, tag=int(delivery.id or 0)) for delivery in deliveries]

    def ack(self, tags: Sequence[int]) -> None:
        super().ack([self.tags[tag] for tag in tags if tag in self.tags])

    def reject(self, tags: Sequence[int]) -> None:
        super().reject([self.tags[tag] for tag in tags if tag in self.tags])

    def release(self, tags: Sequence[int]) -> None:
        super().release([self.tags[tag] for tag in tags if tag in self.tags])

    def keepalive(self, tags: Sequence[int]) -> Sequence[int]:
        lost = super().keepalive([self.tags[tag] for tag in tags if tag in self.tags])
        return [tag for tag in tags if self.tags.get(tag) in lost]


class LosesWhatIsReleasedTwice(Remembering):
    """Drops a message that the same connection gives back for the second time."""

    def __init__(self, queue: Queue, *, lease: float) -> None:
        super().__init__(queue, lease=lease)
        self.released: set[str | None] = set()

    def release(self, tags: Sequence[int]) -> None:
        again = [tag for tag in tags if tag in self.fetched and self.fetched[tag].id in self.released]
        self.released |= {self.fetched[tag].id for tag in tags if tag in self.fetched}
        self.ack(again)
        super().release([tag for tag in tags if tag not in again])


class Broken(Healthy):
    """The histories of one that breaks a promise."""

    def test_any_history_is_one_of_a_queue(self) -> None:
        """One of them is not."""
        with pytest.raises(AssertionError):
            super().test_any_history_is_one_of_a_queue()


class LikeBeanstalkd(Remembering):
    """Lets what was given back wait, and gives back what it had in hand as it is closed."""

    pause = 20.0

    def release(self, tags: Sequence[int]) -> Sequence[int]:
        with self.queue.changed:
            for message in (self.queue.in_flight[tag] for tag in tags if tag in self.queue.in_flight):
                message.available_at = self.queue.clock.now() + self.pause
        return super().release(tags)

    def close(self) -> None:
        with self.queue.changed:
            for tag in self.fetched:
                self.queue.put_back(tag)
        super().close()


class PausesLess(LikeBeanstalkd):
    """Lets what was given back wait for less time than it says."""

    pause = 5.0


class TestLikeBeanstalkd(Healthy, connection=LikeBeanstalkd):
    """Where the histories are told of it, it is no fault."""

    pause = 20.0
    held_by_connection = True


class TestGoesBackUnsaid(Broken, connection=LikeBeanstalkd):
    """A lease that ends with the connection is a fault where nobody has said so."""

    pause = 20.0


class TestPausesUnsaid(Broken, connection=LikeBeanstalkd):
    """So is a pause."""

    held_by_connection = True


class TestSharesGroups(Broken, connection=SharesGroups):
    """A group is in one hand."""


class TestTurnsGroupsRound(Broken, connection=TurnsGroupsRound):
    """A group comes in its order."""


class TestPausesLess(Broken, connection=PausesLess):
    """Nothing comes before the pause is over."""

    pause = 20.0
    held_by_connection = True


# Some of those that the contract finds out, of each kind that one client after the other can meet with.
KNOWN = """
    ForgetsAcks ForgetsReleases AcksAllBefore ReleasesTwo RevivesWhatItReleases DeliversItsOwnAgain DeliversTheNewest
    HalvesDelays CountsFromZero CountsReleases CountsOneInFlight
    NeverEndsALease EndsLeasesEarly NeverTellsWhatIsLost ReleasesByMessage
""".split()

for mutant in (KnowsDeliveriesByMessage, LosesWhatIsReleasedTwice, *(MUTANTS[name].connection for name in KNOWN)):
    globals()[f"Test{mutant.__name__}"] = type(f"Test{mutant.__name__}", (Broken,), {}, connection=mutant)
