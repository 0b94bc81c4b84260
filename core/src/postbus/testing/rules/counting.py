"""Numbers are true: how often a message was delivered, how many there are, and how old."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

from postbus.testing.promises import promise
from postbus.testing.workbench import Workbench, hear, unable
from postbus.transport import Connection, Outgoing, SupportsCount, supports

MESSAGE = Outgoing(b"message", {})

# A broker may keep the time of a message in whole seconds.
ROUNDED = 1.0


@runtime_checkable
class CountingConnection(Connection, SupportsCount, Protocol):
    """A connection that can count."""


class Counting(Workbench):
    """Numbers are true: how often a message was delivered, how many there are, and how old."""

    @promise("counting-1", since="0.1")
    def test_the_first_delivery_is_number_one(self) -> None:
        """A message that was never delivered before comes with a count of 1."""
        self.requires(delivery_count=True)
        connection = self.connect()
        connection.publish([MESSAGE])

        [delivery] = self.take(connection, 1)

        assert 1 == delivery.count

    @promise("counting-2", since="0.1")
    def test_a_lost_delivery_is_counted(self) -> None:
        """A message whose worker vanished comes with a count of 2: so one that kills its workers is found out."""
        self.requires(delivery_count=True)
        connection = self.connect(short_lease=True)
        connection.publish([MESSAGE])
        if self.guarantees.lease:
            self.take(connection, 1)
        else:
            self.requires(shared=True, redelivery_on_crash=True)
            with self.child("fetch", 1) as child:
                assert "fetched 1" == hear(child)

        [again] = self.take(self.connect(short_lease=True), 1)

        assert 2 == again.count

    @promise("counting-3", since="0.1")
    def test_a_released_delivery_is_not_counted(self) -> None:
        """A message that was given back comes with the same count as before."""
        self.requires(delivery_count=True, release="uncounted")

        assert 1 == self._count_after_release()

    @promise("counting-4", since="0.1")
    def test_a_release_is_counted_where_the_guarantees_say_so(self) -> None:
        """A message that was given back comes with a count of one more."""
        self.requires(delivery_count=True, release="counted")

        assert 2 == self._count_after_release()

    @promise("counting-5", since="0.1")
    def test_count_tells_what_waits(self) -> None:
        """``waiting`` are those that a fetch would deliver now."""
        connection = self._counting_connection()

        self.publish(connection, [MESSAGE] * 3)

        self.until(connection, waiting=3, delayed=0, in_flight=0)

    @promise("counting-6", since="0.1")
    def test_count_tells_what_is_delayed(self) -> None:
        """``delayed`` are those whose delay is not over."""
        self.requires(delay=True)
        connection = self._counting_connection()

        later = Outgoing(b"later", {}, self.long_delay)
        self.publish(connection, [MESSAGE, later, later])

        self.until(connection, waiting=1, delayed=2, in_flight=0)

    @promise("counting-7", since="0.1")
    def test_count_tells_what_is_in_flight(self) -> None:
        """``in_flight`` are those that were delivered and not settled."""
        connection = self._counting_connection()
        self.publish(connection, [MESSAGE] * 3)

        first, *_ = self.take(connection, 3)
        self.until(connection, waiting=0, in_flight=3)

        connection.ack([first.tag])
        self.until(connection, waiting=0, in_flight=2)

    @promise("counting-8", since="0.1")
    def test_age_begins_when_a_message_could_be_delivered(self) -> None:
        """``oldest_age`` is the time since the oldest waiting message was due; a delayed one does not age."""
        self.requires(delay=True)
        connection = self._counting_connection()
        published = time.monotonic()

        connection.publish([Outgoing(b"later", {}, self.long_delay)])
        assert self.until(connection, waiting=0, delayed=1).oldest_age in (None, 0)

        connection.publish([MESSAGE])
        age = self.until(connection, waiting=1).oldest_age
        assert age is None or 0 <= age <= time.monotonic() - published + ROUNDED

    def _count_after_release(self) -> int | None:
        connection = self.connect()
        connection.publish([MESSAGE])
        [delivery] = self.take(connection, 1)
        connection.release([delivery.tag])
        [again] = self.take(connection, 1)
        return again.count

    def _counting_connection(self) -> CountingConnection:
        connection = self.connect()
        if not supports(connection, CountingConnection):
            unable(connection, SupportsCount)
        return connection
