"""Where deliveries run out, they do so in time, are kept by who keeps them alive, and then belong to one only."""

from __future__ import annotations

import threading
import time
from typing import Protocol, runtime_checkable

from postbus.testing.rules.delays import CLOCKS_DIFFER
from postbus.testing.workbench import Workbench, in_background
from postbus.transport import Connection, Delivery, Outgoing, SupportsKeepalive

MESSAGE = Outgoing(b"message", {})


@runtime_checkable
class LeasingConnection(Connection, SupportsKeepalive, Protocol):
    """A connection that delivers on a lease."""


class Leases(Workbench):
    """Where deliveries run out, they do so in time, are kept by who keeps them alive, and then belong to one only."""

    def test_a_lost_lease_gives_the_message_to_another(self) -> None:
        """What is neither settled nor kept alive is delivered again, to a connection that waits for it."""
        self._one_on_lease()

        [again] = self.take(self._leasing_connection(), 1)

        assert MESSAGE.body == again.body

    def test_a_lease_does_not_run_out_early(self) -> None:
        """Nobody else gets the message before the lease has passed since it was fetched."""
        connection = self._leasing_connection()
        connection.publish([MESSAGE])
        fetched = time.monotonic()
        self.take(connection, 1)

        self.take(self._leasing_connection(), 1)

        assert time.monotonic() - fetched >= connection.lease - CLOCKS_DIFFER

    def test_keepalive_keeps_a_delivery(self) -> None:
        """As long as it is called, from any thread and while a fetch waits, nobody else gets the message."""
        connection, delivery = self._one_on_lease()
        stop = threading.Event()

        def keep() -> list[object]:
            lost: list[object] = []
            while not stop.wait(connection.lease / 4):
                lost += connection.keepalive([delivery.tag])
            return lost

        keeping = in_background(keep)
        others = connection.fetch(1, 3 * connection.lease)
        stop.set()

        assert [] == list(others)
        assert [] == self.in_time(keeping)
        connection.ack([delivery.tag])
        self.assert_empty(connection)

    def test_keepalive_tells_what_is_lost(self) -> None:
        """It returns the tags of deliveries that others have meanwhile, and of no others."""
        connection, delivery = self._one_on_lease()
        other = self._leasing_connection()
        [theirs] = self.take(other, 1)

        assert [delivery.tag] == list(connection.keepalive([delivery.tag]))
        assert [] == list(other.keepalive([theirs.tag]))

    def test_a_late_ack_is_quiet(self) -> None:
        """Who acks after a lost lease hears nothing; the other one, who has the message now, settles it as ever."""
        connection, delivery = self._one_on_lease()
        other = self._leasing_connection()
        [theirs] = self.take(other, 1)

        connection.ack([delivery.tag])

        other.ack([theirs.tag])
        self.assert_empty(other)

    def test_a_late_release_takes_nothing_from_another(self) -> None:
        """Who gives back after a lost lease does not give away what another one has now."""
        connection, delivery = self._one_on_lease()
        other = self._leasing_connection()
        [theirs] = self.take(other, 1)

        connection.release([delivery.tag])

        assert [] == list(other.keepalive([theirs.tag]))
        other.ack([theirs.tag])
        self.assert_empty(other)

    def _one_on_lease(self) -> tuple[LeasingConnection, Delivery]:
        connection = self._leasing_connection()
        connection.publish([MESSAGE])
        [delivery] = self.take(connection, 1)
        return connection, delivery

    def _leasing_connection(self) -> LeasingConnection:
        self.requires(lease=True)
        connection = self.connect(short_lease=True)
        assert isinstance(connection, LeasingConnection), "Guarantees promise a lease, so there must be a keepalive."
        assert connection.lease < self.patience, f"Set short_lease: {connection.lease} s is too long to wait for."
        return connection
