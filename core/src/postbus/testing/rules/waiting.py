"""A fetch waits as long as it was told to, for anything that turns up, and stands in nobody's way."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

import pytest

from postbus.errors import ConnectionLost
from postbus.testing.promises import promise
from postbus.testing.workbench import Workbench, in_background
from postbus.transport import Connection, Delivery, Outgoing

MESSAGE = Outgoing(b"message", {})


class Waiting(Workbench):
    """A fetch waits as long as it was told to, for anything that turns up, and stands in nobody's way."""

    @promise("waiting-1", since="0.1")
    def test_a_fetch_waits_for_a_message(self) -> None:
        """With nothing to deliver, it does not return before its time."""
        waiting = self._begin_to_wait(self.connect())

        self.assert_still_waiting(waiting)

    @promise("waiting-2", since="0.1")
    def test_a_fetch_ends_when_its_wait_is_over(self) -> None:
        """With nothing to deliver, it returns nothing."""
        connection = self.connect()

        waiting = in_background(partial(self.fetch, connection, 10, self.quiet))

        assert 0 == len(self.in_time(waiting))

    @promise("waiting-3", since="0.1")
    def test_a_fetch_returns_when_a_message_arrives(self) -> None:
        """It does not wait for more, nor for its time to be over."""
        waiting = self._begin_to_wait(self.connect())
        self.assert_still_waiting(waiting)

        self.connect().publish([MESSAGE])

        assert [MESSAGE.body] == [delivery.body for delivery in self.in_time(waiting)]

    @promise("waiting-4", since="0.1")
    def test_a_fetch_returns_when_a_message_is_released(self) -> None:
        """What another worker gives back counts as arriving."""
        if self.guarantees.release == "own":
            pytest.skip("Guarantees say release='own'.")
        other = self.connect()
        other.publish([MESSAGE])
        [delivery] = self.take(other, 1)
        waiting = self._begin_to_wait(self.connect())
        self.assert_still_waiting(waiting)

        other.release([delivery.tag])

        assert [MESSAGE.body] == [delivery.body for delivery in self.in_time(waiting)]

    @promise("waiting-5", since="0.1")
    def test_closing_ends_a_wait(self) -> None:
        """The thread that waits returns with nothing, or hears that the connection is lost."""
        self.requires(wait_ends_early=True)
        connection = self.connect()
        waiting = self._begin_to_wait(connection)
        self.assert_still_waiting(waiting)

        self.in_time(in_background(connection.close))

        with contextlib.suppress(ConnectionLost):
            assert 0 == len(self.in_time(waiting))

    @promise("waiting-6", since="0.1")
    def test_settling_works_while_a_fetch_waits(self) -> None:
        """Another thread settles on the same connection meanwhile, without waiting for the fetch."""
        connection = self.connect()
        connection.publish([MESSAGE])
        [delivery] = self.take(connection, 1)
        waiting = self._begin_to_wait(connection)
        self.assert_still_waiting(waiting)

        self.in_time(in_background(lambda: connection.ack([delivery.tag])))

        self.assert_still_waiting(waiting)
        connection.close()
        self.assert_empty(self.connect())

    @promise("waiting-7", since="0.1")
    def test_publishing_works_while_a_fetch_waits(self) -> None:
        """Another thread publishes on the same connection meanwhile, and the fetch returns the message."""
        connection = self.connect()
        waiting = self._begin_to_wait(connection)
        self.assert_still_waiting(waiting)

        self.in_time(in_background(lambda: connection.publish([MESSAGE])))

        assert [MESSAGE.body] == [delivery.body for delivery in self.in_time(waiting)]

    def _begin_to_wait(self, connection: Connection) -> Future[Sequence[Delivery]]:
        # Long enough that only what the rule is about can end it in time.
        return in_background(partial(self.fetch, connection, 10, 3 * self.patience))
