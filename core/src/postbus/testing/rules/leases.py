"""Where deliveries run out, they do so in time, are kept by who keeps them alive, and then belong to one only."""

from __future__ import annotations

import time
from concurrent.futures import wait
from functools import partial
from typing import Protocol, runtime_checkable

import pytest

from postbus.testing.promises import promise
from postbus.testing.workbench import CLOCKS_DIFFER, Workbench, in_background, not_later_than, punctual
from postbus.transport import Connection, Delivery, Outgoing, SupportsKeepalive, supports

MESSAGE = Outgoing(b"message", {})


@runtime_checkable
class LeasingConnection(Connection, SupportsKeepalive, Protocol):
    """A connection that delivers on a lease."""


class Leases(Workbench):
    """Where deliveries run out, they do so in time, are kept by who keeps them alive, and then belong to one only."""

    @promise("leases-1", since="0.1")
    def test_a_lost_lease_gives_the_message_to_another(self) -> None:
        """What is neither settled nor kept alive is delivered again, to a connection that waits for it."""
        self._one_on_lease()

        [again] = self.take(self._leasing_connection(), 1)

        assert MESSAGE.body == again.body

    @promise("leases-2", since="0.1")
    @punctual
    def test_a_lease_does_not_run_out_early(self) -> None:
        """Nobody else gets the message before the lease has passed since it was fetched."""
        connection = self._leasing_connection()
        connection.publish([MESSAGE])
        fetched = time.monotonic()
        self.take(connection, 1)

        self.assert_not_early(self._leasing_connection(), fetched, connection.lease)

    @promise("leases-3", since="0.1")
    @punctual
    def test_keepalive_keeps_a_delivery(self) -> None:
        """As long as it is called, from any thread and while a fetch waits, nobody else gets the message."""
        connection = self._leasing_connection()
        lease = connection.lease
        connection.publish([MESSAGE])
        [delivery], until = self.take_on_lease(connection)
        waiting = in_background(partial(connection.fetch, 1, 3 * lease))
        lost: list[object] = []

        end = time.monotonic() + 3 * lease + self.patience
        while time.monotonic() < end and not wait([waiting], lease / 4).done:
            begun = time.monotonic()
            lost += connection.keepalive([delivery.tag])
            not_later_than(until)
            until = begun + lease - CLOCKS_DIFFER
        connection.ack([delivery.tag])
        not_later_than(until)

        others = self.in_time(waiting)
        assert [] == lost
        assert [] == list(others)
        self.assert_empty(connection)

    @promise("leases-4", since="0.1")
    def test_keepalive_does_not_wait_for_a_fetch(self) -> None:
        """A worker that waits for more extends the leases of what it has meanwhile."""
        self.requires(lease=True)
        connection = self.connect()
        assert supports(connection, LeasingConnection)
        connection.publish([MESSAGE])
        [delivery] = self.take(connection, 1)
        waiting = in_background(partial(connection.fetch, 1, 3 * self.patience))
        self.assert_still_waiting(waiting)

        lost = self.in_time(in_background(partial(connection.keepalive, [delivery.tag])))

        assert [] == list(lost)
        self.assert_still_waiting(waiting)

    @promise("leases-5", since="0.1")
    @punctual
    def test_keepalive_tells_what_is_lost(self) -> None:
        """It returns the tags of deliveries that others have meanwhile, and of no others."""
        connection, delivery = self._one_on_lease()
        other = self._leasing_connection()
        [theirs], until = self.take_on_lease(other)

        lost, none = connection.keepalive([delivery.tag]), other.keepalive([theirs.tag])

        not_later_than(until)
        assert [delivery.tag] == list(lost)
        assert [] == list(none)

    @promise("leases-6", since="0.1")
    @punctual
    @pytest.mark.parametrize("verb", ["ack", "reject", "release"])
    def test_settling_tells_what_is_lost(self, verb: str) -> None:
        """Of a batch, `ack`, `reject` and `release` return what another has meanwhile, and settle the rest."""
        connection, delivery = self._one_on_lease()
        other = self._leasing_connection()
        [theirs], until = self.take_on_lease(other)
        connection.publish([Outgoing(b"held", {})])
        [held], until_too = self.take_on_lease(connection)

        lost = getattr(connection, verb)([delivery.tag, held.tag])

        not_later_than(min(until, until_too))
        assert [delivery.tag] == list(lost), "Not exactly the tag whose lease was lost was returned."
        none = other.ack([theirs.tag])
        not_later_than(until)
        assert [] == list(none)

    @promise("leases-7", since="0.1")
    @punctual
    def test_a_late_ack_is_quiet(self) -> None:
        """Who acks after a lost lease hears no error; the other one, who has the message now, settles it as ever."""
        connection, delivery = self._one_on_lease()
        other = self._leasing_connection()
        [theirs], until = self.take_on_lease(other)

        connection.ack([delivery.tag])

        other.ack([theirs.tag])
        not_later_than(until)
        self.assert_empty(other)

    @promise("leases-8", since="0.1")
    @punctual
    def test_a_late_release_takes_nothing_from_another(self) -> None:
        """Who gives back after a lost lease does not give away what another one has now."""
        connection, delivery = self._one_on_lease()
        other = self._leasing_connection()
        [theirs], until = self.take_on_lease(other)

        connection.release([delivery.tag])

        lost = other.keepalive([theirs.tag])
        other.ack([theirs.tag])
        not_later_than(until)
        assert [] == list(lost)
        self.assert_empty(other)

    def _one_on_lease(self) -> tuple[LeasingConnection, Delivery]:
        connection = self._leasing_connection()
        connection.publish([MESSAGE])
        [delivery] = self.take(connection, 1)
        return connection, delivery

    def _leasing_connection(self) -> LeasingConnection:
        self.requires(lease=True)
        connection = self.connect(short_lease=True)
        assert supports(connection, LeasingConnection), "Guarantees promise a lease, so there must be a keepalive."
        assert connection.lease < self.patience, f"Set short_lease: {connection.lease} s is too long to wait for."
        return connection
