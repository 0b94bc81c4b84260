"""Who looks changes nothing; who deletes, deletes what was asked for and nothing else."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from postbus.testing.promises import promise
from postbus.testing.workbench import Workbench, unable
from postbus.transport import (
    Connection,
    Delivery,
    Outgoing,
    SupportsBrowse,
    SupportsFind,
    SupportsPurge,
    SupportsRemove,
    supports,
)


@runtime_checkable
class BrowsableConnection(Connection, SupportsBrowse, SupportsFind, SupportsRemove, Protocol):
    """A connection that can show messages, and delete single ones."""


@runtime_checkable
class PurgeableConnection(Connection, SupportsPurge, Protocol):
    """A connection that can delete everything."""


class Browsing(Workbench):
    """Who looks changes nothing; who deletes, deletes what was asked for and nothing else."""

    @promise("browsing-1", since="0.1")
    def test_browsing_delivers_nothing(self) -> None:
        """What was shown is delivered as if nobody had looked: to anybody, at once, for the first time."""
        connection = self._browsable_connection()
        self.publish(connection, [Outgoing(b"%d" % number, {}) for number in range(3)])

        connection.browse(10)

        deliveries = self.take(self.connect(), 3)
        assert not any(delivery.count and delivery.count > 1 for delivery in deliveries)

    @promise("browsing-2", since="0.1")
    def test_browsing_shows_messages_as_they_are(self) -> None:
        """Body and headers are shown as they were published, also where nobody can decode them."""
        connection = self._browsable_connection()
        headers = {"type": "unknown", "X-Message-Stamp-error": "no JSON: 你好"}
        body = b"\xff\x00" if self.guarantees.binary_body else b"{"
        connection.publish([Outgoing(body, headers)])

        [shown] = connection.browse(10)

        assert (body, headers) == (shown.body, shown.headers)

    @promise("browsing-3", since="0.1")
    def test_browsing_shows_what_is_delayed(self) -> None:
        """A message is shown although its delay is not over."""
        self.requires(delay=True)
        connection = self._browsable_connection()

        connection.publish([Outgoing(b"later", {}, self.long_delay)])

        assert [b"later"] == [shown.body for shown in connection.browse(10)]

    @promise("browsing-4", since="0.1")
    def test_browsing_shows_what_is_in_flight(self) -> None:
        """A message is shown although it was delivered, until it is settled."""
        connection = self._browsable_connection()
        connection.publish([Outgoing(b"message", {})])
        [delivery] = self.take(connection, 1)

        assert [b"message"] == [shown.body for shown in connection.browse(10)]

        connection.ack([delivery.tag])
        assert [] == list(connection.browse(10))

    @promise("browsing-5", since="0.1")
    def test_browsing_shows_no_more_than_its_limit(self) -> None:
        """At most ``limit`` messages are shown, the ones that come first."""
        connection = self._browsable_connection()
        self.publish(connection, [Outgoing(b"%d" % number, {}) for number in range(5)])

        first = connection.browse(2)

        assert [shown.id for shown in connection.browse(10)][:2] == [shown.id for shown in first]

    @promise("browsing-6", since="0.1")
    def test_browsing_goes_on_behind_an_id(self) -> None:
        """Page by page, each message is shown once."""
        connection = self._browsable_connection()
        self.publish(connection, [Outgoing(b"%d" % number, {}) for number in range(5)])

        pages: list[Delivery] = []
        while page := connection.browse(2, after=pages[-1].id if pages else None):
            pages += page
            assert len(pages) <= 5

        assert [shown.id for shown in connection.browse(10)] == [shown.id for shown in pages]

    @promise("browsing-7", since="0.1")
    def test_find_returns_the_message_with_an_id(self) -> None:
        """Any message that is shown can be found by its id, in whatever state it is."""
        connection = self._browsable_connection()
        self.publish(connection, [Outgoing(b"%d" % number, {}) for number in range(3)])
        self.take(connection, 1)

        for shown in connection.browse(10):
            assert shown.id is not None
            found = connection.find(shown.id)
            assert found is not None
            assert (shown.id, shown.body) == (found.id, found.body)

    @promise("browsing-8", since="0.1")
    def test_what_is_not_there_is_not_found(self) -> None:
        """An id that was settled, and one that no message ever had, whatever it looks like, finds None."""
        connection = self._browsable_connection()
        connection.publish([Outgoing(b"message", {})])
        [shown] = connection.browse(1)
        assert shown.id is not None
        connection.ack([self.take(connection, 1)[0].tag])

        assert [None, None, None] == [connection.find(id) for id in (shown.id, "no-such-id", "")]

    @promise("browsing-9", since="0.1")
    def test_a_removed_message_is_gone(self) -> None:
        """It is delivered to nobody, and settling it is quiet, whether it waited, was delayed or was in flight."""
        connection = self._browsable_connection()
        self.publish(connection, [Outgoing(b"message", {})] * 2)
        [in_flight] = self.take(connection, 1)
        if self.guarantees.delay:
            connection.publish([Outgoing(b"later", {}, self.long_delay)])

        removed = connection.remove([shown.id for shown in connection.browse(10) if shown.id])

        assert (3 if self.guarantees.delay else 2) == removed
        assert [] == list(connection.browse(10))
        connection.ack([in_flight.tag])
        self.assert_empty(connection)

    @promise("browsing-10", since="0.1")
    def test_remove_leaves_what_was_not_named(self) -> None:
        """Only the messages with these ids are deleted; ids that no message has are passed over, uncounted."""
        connection = self._browsable_connection()
        self.publish(connection, [Outgoing(b"%d" % number, {}) for number in range(3)])
        _, named, _ = connection.browse(10)
        assert named.id is not None

        assert 1 == connection.remove([named.id, "no-such-id"])

        left = {delivery.body for delivery in self.take(connection, 2)}
        assert {b"0", b"1", b"2"} - {named.body} == left

    @promise("browsing-11", since="0.1")
    def test_purge_deletes_everything(self) -> None:
        """It deletes what waits, what is delayed and what is in flight, and returns how many these were."""
        connection = self._purgeable_connection()
        self.publish(connection, [Outgoing(b"message", {})] * 2)
        self.take(connection, 1)
        if self.guarantees.delay:
            connection.publish([Outgoing(b"later", {}, self.long_delay)])

        assert (3 if self.guarantees.delay else 2) == connection.purge()

        assert 0 == connection.purge()
        self.assert_empty(connection)

    @promise("browsing-12", since="0.1")
    def test_a_purged_queue_goes_on(self) -> None:
        """Settling what was purged is quiet, and new messages come as ever."""
        connection = self._purgeable_connection()
        connection.publish([Outgoing(b"message", {})])
        [delivery] = self.take(connection, 1)
        connection.purge()

        connection.ack([delivery.tag])
        connection.publish([Outgoing(b"next", {})])

        self.take_until(connection, b"next")

    def _browsable_connection(self) -> BrowsableConnection:
        connection = self.connect()
        if not supports(connection, BrowsableConnection):
            unable(connection, SupportsBrowse)
        return connection

    def _purgeable_connection(self) -> PurgeableConnection:
        connection = self.connect()
        if not supports(connection, PurgeableConnection):
            unable(connection, SupportsPurge)
        return connection
