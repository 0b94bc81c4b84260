"""A message that failed is neither lost nor doubled on its way to its next try, or to where it is kept."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

import pytest

from postbus import stamps
from postbus.envelope import Envelope
from postbus.errors import MessageRefused, TransportError
from postbus.testing.promises import promise
from postbus.testing.subject import Note
from postbus.testing.workbench import Workbench, unable
from postbus.transport import Connection, Delivery, Outgoing, SupportsReplace, supports

COPY = Outgoing(b"copy", {"type": "note", "try": "2"})


@runtime_checkable
class ReplacingConnection(Connection, SupportsReplace, Protocol):
    """A connection that can replace."""


class Failures(Workbench):
    """A message that failed is neither lost nor doubled on its way to its next try, or to where it is kept."""

    @promise("failures-1", since="0.1")
    def test_a_retry_copy_is_the_same_message(self) -> None:
        """The copy has the body and the id of the original, and tells that it is a second try."""
        transport = self.transport()
        transport.send([Envelope.wrap(Note("hello"), stamps.MessageId("0198-note"))])
        [original] = self.receive(transport, 1)

        transport.send([original.without(stamps.Received).with_(stamps.Retried(1, datetime.now(UTC)))])
        transport.ack([original])

        [copy] = self.receive(transport, 1)
        assert original.message == copy.message
        assert original.last(stamps.MessageId) == copy.last(stamps.MessageId)
        assert original.last(stamps.Encoded) == copy.last(stamps.Encoded)
        assert [1] == [retried.count for retried in copy.all(stamps.Retried)]
        transport.ack([copy])
        self.assert_empty(transport.connection)

    @promise("failures-2", since="0.1")
    def test_a_buried_copy_is_in_the_other_queue_alone(self) -> None:
        """A queue gets nothing of what is sent to another; what was buried in one is found there."""
        transport, failed = self.transport(), self.transport(self.dsn())
        transport.send([Envelope.wrap(Note("hello"), stamps.MessageId("0198-note"))])
        [original] = self.receive(transport, 1)

        failed.send([original.without(stamps.Received).with_(stamps.Buried("contract"))])
        transport.ack([original])

        self.assert_empty(transport.connection)
        [buried] = self.receive(failed, 1)
        assert original.message == buried.message
        assert original.last(stamps.MessageId) == buried.last(stamps.MessageId)
        assert stamps.Buried("contract") == buried.last(stamps.Buried)

    @promise("failures-3", since="0.1")
    def test_replace_stores_the_copy_and_settles_the_original(self) -> None:
        """Afterwards there is the copy, once, and nothing else."""
        connection, original = self._one_to_replace()

        connection.replace(original.tag, COPY)

        [copy] = self.take(connection, 1)
        assert (COPY.body, COPY.headers) == (copy.body, copy.headers)
        connection.ack([copy.tag])
        self.assert_empty(connection)

    @promise("failures-4", since="0.1")
    def test_replace_returns_the_id_of_the_copy(self) -> None:
        """The id is the one that the copy is delivered with, where the broker gives ids."""
        connection, original = self._one_to_replace()

        id = connection.replace(original.tag, COPY)

        [copy] = self.take(connection, 1)
        assert id in (None, copy.id)

    @promise("failures-5", since="0.1")
    def test_a_copy_may_be_delayed(self) -> None:
        """A copy waits for its next try as any other message does."""
        self.requires(delay=True)
        connection, original = self._one_to_replace()

        connection.replace(original.tag, Outgoing(b"later", {}, self.long_delay))

        self.assert_quiet(connection)

    @promise("failures-6", since="0.1")
    def test_what_is_settled_cannot_be_replaced(self) -> None:
        """It raises `TransportError`, and stores no copy."""
        connection, original = self._one_to_replace()
        connection.ack([original.tag])

        with pytest.raises(TransportError):
            connection.replace(original.tag, COPY)

        self.assert_empty(connection)

    @promise("failures-7", since="0.1")
    def test_what_went_to_another_cannot_be_replaced(self) -> None:
        """After a lost lease it raises `TransportError`, stores no copy, and leaves the other's delivery alone."""
        self.requires(lease=True)
        connection, original = self._one_to_replace(short_lease=True)
        other = self.connect(short_lease=True)
        [theirs] = self.take(other, 1)

        with pytest.raises(TransportError):
            connection.replace(original.tag, COPY)

        other.release([theirs.tag])
        [again] = self.take(other if self.guarantees.release == "own" else connection, 1)
        assert original.body == again.body

    @promise("failures-8", since="0.1")
    def test_a_copy_that_is_refused_leaves_the_original(self) -> None:
        """`MessageRefused` leaves the original in flight, so that it can be given back."""
        if self.refused is None:
            pytest.skip("No message is known that the broker refuses: see refused.")
        connection, original = self._one_to_replace()

        with pytest.raises(MessageRefused):
            connection.replace(original.tag, self.refused)

        connection.release([original.tag])
        [again] = self.take(connection, 1)
        assert original.body == again.body

    def _one_to_replace(self, *, short_lease: bool = False) -> tuple[ReplacingConnection, Delivery]:
        connection = self.connect(short_lease=short_lease)
        if not supports(connection, ReplacingConnection):
            unable(connection, SupportsReplace)
        connection.publish([Outgoing(b"original", {})])
        [delivery] = self.take(connection, 1)
        return connection, delivery
