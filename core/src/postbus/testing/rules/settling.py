"""A delivery is settled once, alone, and for everybody."""

from __future__ import annotations

import contextlib

import pytest

from postbus.errors import ConnectionLost
from postbus.testing.promises import promise
from postbus.testing.workbench import Workbench
from postbus.transport import Connection, Delivery, Outgoing

MESSAGE = Outgoing(b"message", {"type": "note"})


class Settling(Workbench):
    """A delivery is settled once, alone, and for everybody."""

    @promise("settling-1", since="0.1")
    def test_an_acked_message_is_gone(self) -> None:
        """What was acked is delivered to nobody any more."""
        connection, delivery = self._one_in_flight()

        connection.ack([delivery.tag])

        self.assert_empty(connection)

    @promise("settling-2", since="0.1")
    def test_a_rejected_message_is_gone(self) -> None:
        """What was rejected is delivered to nobody any more."""
        connection, delivery = self._one_in_flight()

        connection.reject([delivery.tag])

        self.assert_empty(connection)

    @promise("settling-3", since="0.1")
    def test_a_batch_is_settled_whole(self) -> None:
        """Every delivery whose tag is given is settled, not only the first."""
        connection = self.connect()
        self.publish(connection, [MESSAGE] * 5)

        connection.ack([delivery.tag for delivery in self.take(connection, 5)])

        self.assert_empty(connection)

    @promise("settling-4", since="0.1")
    def test_acking_one_leaves_the_others(self) -> None:
        """Only the delivery whose tag is given is settled, not those that were delivered before or after it."""
        connection = self.connect()
        self.publish(connection, [Outgoing(b"%d" % number, {}) for number in range(3)])
        before, acked, after = self.take(connection, 3)

        connection.ack([acked.tag])
        connection.release([before.tag, after.tag])

        reader = connection if self.guarantees.release == "own" else self.connect()
        assert {before.body, after.body} == {delivery.body for delivery in self.take(reader, 2)}

    @promise("settling-5", since="0.1")
    def test_a_delivery_is_in_one_hand(self) -> None:
        """What is in flight on one connection is delivered neither to another nor a second time to this one."""
        connection, _ = self._one_in_flight()

        self.assert_quiet(self.connect())
        self.assert_quiet(connection)

    @promise("settling-6", since="0.1")
    def test_a_released_message_is_for_others_at_once(self) -> None:
        """Another connection gets what was released, while the one that released it is idle."""
        if self.guarantees.release == "own":
            pytest.skip("Guarantees say release='own'.")
        connection, delivery = self._one_in_flight()

        connection.release([delivery.tag])

        [again] = self.take(self.connect(), 1)
        assert delivery.body == again.body

    @promise("settling-7", since="0.1")
    def test_a_released_message_comes_back(self) -> None:
        """Who gives a message back, and goes on, gets it again: nobody else is there."""
        connection, delivery = self._one_in_flight()

        connection.release([delivery.tag])

        [again] = self.take(connection, 1)
        assert delivery.body == again.body
        connection.ack([again.tag])
        self.assert_empty(connection)

    @promise("settling-8", since="0.1")
    def test_settling_says_nothing_of_what_it_settled(self) -> None:
        """`ack`, `reject` and `release` return the tags that they did not settle, and so none of these."""
        connection = self.connect()
        self.publish(connection, [MESSAGE] * 3)
        acked, rejected, released = self.take(connection, 3)

        lost = [connection.ack([acked.tag]), connection.reject([rejected.tag]), connection.release([released.tag])]

        assert [[], [], []] == [list(tags) for tags in lost], "Tags that were settled count as lost."

    @promise("settling-9", since="0.1")
    def test_a_batch_is_released_whole(self) -> None:
        """Every delivery whose tag is given is given back, not only the first."""
        connection = self.connect()
        self.publish(connection, [MESSAGE] * 5)

        connection.release([delivery.tag for delivery in self.take(connection, 5)])

        self.take(connection if self.guarantees.release == "own" else self.connect(), 5)

    @promise("settling-10", since="0.1")
    def test_settling_twice_is_quiet(self) -> None:
        """A tag that was settled before is ignored, whichever way it was settled."""
        connection, delivery = self._one_in_flight()

        connection.ack([delivery.tag])
        connection.ack([delivery.tag])
        connection.reject([delivery.tag])

        self.assert_empty(connection)

    @promise("settling-11", since="0.1")
    def test_a_settled_message_cannot_be_released(self) -> None:
        """Releasing what was settled is ignored; it does not bring the message back."""
        connection, delivery = self._one_in_flight()
        connection.ack([delivery.tag])

        connection.release([delivery.tag])

        self.assert_empty(connection)

    @promise("settling-12", since="0.1")
    def test_settling_nothing_is_quiet(self) -> None:
        """No tags at all are no error."""
        connection, delivery = self._one_in_flight()

        connection.ack([])
        connection.reject([])
        connection.release([])

        connection.ack([delivery.tag])
        self.assert_empty(connection)

    @promise("settling-13", since="0.1")
    def test_a_tag_of_an_earlier_connection_is_quiet(self) -> None:
        """Its message is settled, or the tag is returned and it comes again; the connection goes on as before."""
        earlier, delivery = self._one_in_flight()
        earlier.close()
        connection = self.connect()

        lost = list(connection.ack([delivery.tag]))

        assert lost in ([], [delivery.tag])
        connection.publish([Outgoing(b"next", {})])
        if not self.guarantees.lease:
            self.take_all_of(connection, {b"next", delivery.body} if lost else {b"next"})
        else:
            connection.ack([self.take_until(connection, b"next").tag])

    @promise("settling-14", since="0.1")
    def test_a_tag_of_an_earlier_connection_settles_nothing_else(self) -> None:
        """Tags of two connections are never taken for each other."""
        earlier, delivery = self._one_in_flight()
        earlier.close()
        connection = self.connect()
        connection.publish([Outgoing(b"other", {})])
        other = self.take_until(connection, b"other")

        connection.ack([delivery.tag])

        connection.release([other.tag])
        self.take_until(connection, b"other")

    @promise("settling-15", since="0.1")
    def test_settling_after_close_is_quiet_or_a_lost_connection(self) -> None:
        """Who settles on a closed connection hears nothing, or `ConnectionLost`, and tries the next one."""
        connection, delivery = self._one_in_flight()
        connection.close()

        with contextlib.suppress(ConnectionLost):
            connection.ack([delivery.tag])

    @promise("settling-16", since="0.1")
    def test_closing_twice_is_quiet(self) -> None:
        """A second `close` does nothing."""
        connection = self.connect()

        connection.close()
        connection.close()

    def _one_in_flight(self) -> tuple[Connection, Delivery]:
        connection = self.connect()
        connection.publish([MESSAGE])
        [delivery] = self.take(connection, 1)
        return connection, delivery
