"""Mutants for the rules in `postbus.testing.rules.leases`."""

from __future__ import annotations

from collections.abc import Sequence

from postbus.errors import TransportError
from postbus.transport import Delivery
from tests.contract.healthy import Plain
from tests.contract.mutants.entry import Locking, Remembering, breaks


@breaks(
    "a_lost_lease_gives_the_message_to_another",
    # All that begin with a lost lease.
    also=[
        "settling_tells_what_is_lost",
        "a_late_ack_is_quiet",
        "a_late_release_takes_nothing_from_another",
        "a_lease_does_not_run_out_early",
        "a_lost_delivery_is_counted",
        "keepalive_tells_what_is_lost",
        "what_went_to_another_cannot_be_replaced",
    ],
)
class NeverEndsALease(Plain):
    """Says that there are leases, and ends none."""

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        self._lease, said = 3600.0, self._lease
        try:
            return super().fetch(limit, wait)
        finally:
            self._lease = said


@breaks(
    "a_lease_does_not_run_out_early",
    # On a busy machine it may be called after half the time.
    perhaps=["keepalive_keeps_a_delivery"],
)
class EndsLeasesEarly(Plain):
    """Ends a lease after half its time."""

    @property
    def lease(self) -> float:
        return 2 * self._lease


@breaks("keepalive_keeps_a_delivery")
class ForgetsKeepalives(Plain):
    """Tells what is lost, and extends nothing."""

    def keepalive(self, tags: Sequence[int]) -> Sequence[int]:
        with self.queue.changed:
            return [tag for tag in tags if tag not in self.queue.in_flight]


@breaks("keepalive_does_not_wait_for_a_fetch")
class KeepsAliveAfterTheFetch(Locking):
    """Extends leases when no fetch waits."""

    def keepalive(self, tags: Sequence[int]) -> Sequence[int]:
        with self.lock:
            return super().keepalive(tags)


@breaks("keepalive_tells_what_is_lost")
class NeverTellsWhatIsLost(Plain):
    """Extends leases, and says that none was lost."""

    def keepalive(self, tags: Sequence[int]) -> Sequence[int]:
        super().keepalive(tags)
        return []


@breaks("settling_tells_what_is_lost")
class TakesLostAcksForSettled(Plain):
    """Says nothing about what it could not ack."""

    def ack(self, tags: Sequence[int]) -> Sequence[int]:
        super().ack(tags)
        return []


@breaks(
    "a_late_ack_is_quiet",
    # It acks late, too.
    also=["settling_tells_what_is_lost"],
)
class RefusesLateAcks(Remembering):
    """Raises when what it acks is in another's hands."""

    def ack(self, tags: Sequence[int]) -> Sequence[int]:
        if any(tag not in self.queue.in_flight and tag not in self.settled for tag in tags) and self.queue.messages:
            raise TransportError("The lease was lost.")
        return super().ack(tags)


@breaks(
    "a_late_release_takes_nothing_from_another",
    # It releases late, too.
    also=["settling_tells_what_is_lost"],
)
class ReleasesByMessage(Remembering):
    """Gives a message back, whoever has it."""

    def release(self, tags: Sequence[int]) -> Sequence[int]:
        ids = {self.fetched[tag].id for tag in tags if tag in self.fetched}
        return super().release(
            [tag for tag, message in self.queue.in_flight.items() if message.id in ids or tag in tags]
        )
