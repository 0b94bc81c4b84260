"""A batch is as large as promised, answered message by message, and truthful when it fails."""

from __future__ import annotations

import pytest

from postbus import stamps
from postbus.envelope import Envelope
from postbus.errors import MessageRefused, TransportError
from postbus.testing.promises import promise
from postbus.testing.subject import Note
from postbus.testing.workbench import Workbench
from postbus.transport import Connection, Outgoing

MOST_TO_TRY = 64 * 1024 * 1024
"""Bytes of a message that is to be refused, which takes less than one that is stored; or more, by `largest_to_try`."""


class Batches(Workbench):
    """A batch is as large as promised, answered message by message, and truthful when it fails."""

    @promise("batches-1", since="0.1")
    def test_publish_returns_an_id_for_each_message(self) -> None:
        """There are as many ids as messages; no two are the same, but a broker that gives none says None."""
        ids = self.publish(self.connect(), [Outgoing(b"%d" % number, {}) for number in range(5)])

        assert 5 == len(ids)
        given = [id for id in ids if id is not None]
        assert sorted(set(given)) == sorted(given)

    @promise("batches-2", since="0.1")
    def test_a_delivery_has_the_id_that_publish_returned(self) -> None:
        """The broker's id of a message is the same at both ends."""
        connection = self.connect()
        ids = self.publish(connection, [Outgoing(b"%d" % number, {}) for number in range(5)])
        if None in ids:
            pytest.skip("The broker gives no ids.")

        deliveries = self.take(connection, 5)

        assert {b"%d" % number: id for number, id in enumerate(ids)} == {d.body: d.id for d in deliveries}

    @promise("batches-3", since="0.1")
    def test_publish_takes_as_many_as_promised(self) -> None:
        """``publish_batch`` messages may be published in one call."""
        connection = self.connect()
        number = self.guarantees.publish_batch

        connection.publish([Outgoing(b"%d" % each, {}) for each in range(number)])

        assert number == len({delivery.body for delivery in self.take(connection, number)})

    @promise("batches-4", since="0.1")
    def test_a_transport_sends_more_than_one_batch(self) -> None:
        """Any number of envelopes may be sent at once; each comes back with the id of its own message."""
        transport, number = self.transport(), self.guarantees.publish_batch + 1

        sent = transport.send([Envelope.wrap(Note(str(each))) for each in range(number)])

        received = self.receive(transport, number)
        assert {str(each) for each in range(number)} == {envelope.message.text for envelope in received}
        ids = {envelope.message.text: _id(envelope, stamps.Received) for envelope in received}
        assert all(_id(envelope, stamps.Sent) in (None, ids[envelope.message.text]) for envelope in sent)

    @promise("batches-5", since="0.1")
    def test_fetch_returns_no_more_than_its_limit(self) -> None:
        """At most ``limit`` deliveries are returned; the others wait for the next fetch."""
        connection = self.connect()
        self.publish(connection, [Outgoing(b"%d" % number, {}) for number in range(5)])

        first = connection.fetch(3, self.patience)

        assert 1 <= len(first) <= 3
        connection.ack([delivery.tag for delivery in first])
        self.take(connection, 5 - len(first))

    @promise("batches-6", since="0.1")
    def test_fetch_may_be_asked_for_as_many_as_promised(self) -> None:
        """A limit of ``fetch_batch`` is none too large."""
        connection = self.connect()
        self.publish(connection, [Outgoing(b"%d" % number, {}) for number in range(5)])

        assert 1 <= len(connection.fetch(self.guarantees.fetch_batch, self.patience)) <= 5

    @promise("batches-7", since="0.1")
    def test_what_a_failed_batch_says_it_stored_is_stored(self) -> None:
        """Of a batch that the broker takes in part, ``stored`` names only what it has, under the right ids."""
        failure = self.make_partial_failure()
        if failure is None:
            pytest.skip("No way is known to make a batch fail in part: see make_partial_failure().")
        connection, batch = failure

        with pytest.raises(TransportError) as caught:
            connection.publish(batch)

        stored = caught.value.stored
        assert set(stored) < set(range(len(batch)))
        deliveries = {delivery.body: delivery.id for delivery in self.take(self.connect(), len(stored))}
        assert {batch[position].body for position in stored} <= set(deliveries)
        assert all(id in (None, deliveries[batch[position].body]) for position, id in stored.items())

    @promise("batches-8", since="0.1")
    def test_a_refused_message_is_refused_alone(self) -> None:
        """`MessageRefused` names it, by its position, and why; all others of its batch are stored, and told so."""
        if self.refused is None:
            pytest.skip("No message is known that the broker refuses: see refused.")
        connection = self.connect()

        self._see_refused_alone(connection, self.refused)

        connection.publish([Outgoing(b"next", {})])
        self.take_until(connection, b"next")

    @promise("batches-9", since="0.1")
    def test_a_message_that_is_too_large_is_refused_alone(self) -> None:
        """What is larger than ``largest_message`` costs neither its neighbours nor the connection anything."""
        largest = self.guarantees.largest_message
        if largest is None:
            pytest.skip("Guarantees set no limit to the size of a message.")
        if largest > max(MOST_TO_TRY, self.largest_to_try):
            pytest.skip(f"A message of {largest} bytes is too large to be tried.")

        self._see_refused_alone(self.connect(), Outgoing(b"0123456789abcdef" * (largest // 16 + 1), {}))

    def _see_refused_alone(self, connection: Connection, message: Outgoing) -> None:
        with pytest.raises(MessageRefused) as caught:
            connection.publish([Outgoing(b"before", {}), message, Outgoing(b"after", {})])

        assert [1] == list(caught.value.refused), "Positions other than that of the refused message are refused."
        assert caught.value.refused[1].strip(), "The reason is missing."
        assert {0, 2} == set(caught.value.stored), "Its neighbours are to be stored, and told so."
        self.take_all_of(connection, {b"before", b"after"})

    @promise("batches-10", since="0.1")
    def test_a_published_message_outlives_its_connection(self) -> None:
        """What `publish` has returned for is with the broker, and in nothing that closing could lose."""
        connection = self.connect()
        connection.publish([Outgoing(b"message", {})])

        connection.close()

        self.take(self.connect(), 1)


def _id(envelope: Envelope, type: type[stamps.Sent | stamps.Received]) -> str | None:
    stamp = envelope.last(type)
    assert stamp is not None
    return stamp.id
