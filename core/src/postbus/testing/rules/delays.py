"""A delayed message comes when its delay is over: not before, and without being asked for again."""

from __future__ import annotations

import time

import pytest

from postbus import stamps
from postbus.envelope import Envelope
from postbus.errors import MessageRefused
from postbus.testing.promises import promise
from postbus.testing.subject import Note
from postbus.testing.workbench import Workbench, in_background, punctual
from postbus.transport import Connection, Outgoing, SupportsCount, supports

DAY = 86_400.0


class Delays(Workbench):
    """A delayed message comes when its delay is over: not before, and without being asked for again."""

    @promise("delays-1", since="0.1")
    @punctual
    def test_a_delayed_message_is_never_early(self) -> None:
        """It is delivered when its delay has passed since `publish` was called, or later."""
        connection = self._delaying_connection()
        published = time.monotonic()
        connection.publish([Outgoing(b"later", {}, self.short_delay)])

        self.assert_not_early(connection, published, self.short_delay)

    @promise("delays-2", since="0.1")
    def test_a_fetch_returns_when_a_delay_is_over(self) -> None:
        """A fetch that waits already returns then; so it does for what was published after it began to wait."""
        connection = self._delaying_connection()
        waiting = in_background(lambda: connection.fetch(1, 3 * self.patience))
        self.assert_still_waiting(waiting)

        self.connect().publish([Outgoing(b"later", {}, self.short_delay)])

        assert [b"later"] == [delivery.body for delivery in self.in_time(waiting)]

    @promise("delays-3", since="0.1")
    def test_several_delays_may_be_over_at_once(self) -> None:
        """All of them come, not only the first."""
        connection = self._delaying_connection()
        self.publish(connection, [Outgoing(b"%d" % number, {}, self.short_delay) for number in range(5)])

        assert {b"%d" % number for number in range(5)} == {delivery.body for delivery in self.take(connection, 5)}

    @promise("delays-4", since="0.1")
    def test_a_delayed_message_holds_up_nobody(self) -> None:
        """What was published after it, without a delay, comes at once."""
        connection = self._delaying_connection()
        connection.publish([Outgoing(b"later", {}, self.long_delay)])
        connection.publish([Outgoing(b"now", {})])

        [delivery] = self.take(connection, 1)

        assert b"now" == delivery.body

    @promise("delays-5", since="0.1")
    def test_a_delay_of_zero_is_no_delay(self) -> None:
        """A message that was given a delay of no seconds comes at once."""
        transport = self.transport()

        transport.send([Envelope.wrap(Note("now"), stamps.Delay(0))])

        self.receive(transport, 1)

    @promise("delays-6", since="0.1")
    def test_a_far_delay_is_kept(self) -> None:
        """A message that is delayed by a day, or as long as can be, is not delivered now, and counts as delayed."""
        connection = self._delaying_connection()

        connection.publish([Outgoing(b"tomorrow", {}, min(DAY, self.guarantees.longest_delay or DAY))])

        self.assert_quiet(connection)
        if supports(connection, SupportsCount):
            self.until(connection, waiting=0, delayed=1, in_flight=0)

    @promise("delays-7", since="0.1")
    def test_a_delay_that_cannot_be_kept_is_refused(self) -> None:
        """A broker that cannot wait, or not so long, says so, and takes all others of the batch."""
        longest = self.guarantees.longest_delay if self.guarantees.delay else 0.0
        if longest is None:
            pytest.skip("Guarantees set no limit to a delay.")
        connection = self.connect()

        with pytest.raises(MessageRefused) as caught:
            connection.publish([Outgoing(b"too late", {}, longest + 60), Outgoing(b"now", {})])

        assert ([0], [1]) == (list(caught.value.refused), list(caught.value.stored))
        [delivery] = self.take(connection, 1)
        assert b"now" == delivery.body
        connection.ack([delivery.tag])
        self.assert_quiet(connection)

    def _delaying_connection(self) -> Connection:
        self.requires(delay=True)
        return self.connect()
