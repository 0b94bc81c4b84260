"""What others put on the broker comes as it is, and hurts nobody else.

These rules apply where `Workbench.put_foreign` puts it there.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from postbus import stamps
from postbus.envelope import Envelope
from postbus.serialization import Undecodable
from postbus.testing.promises import promise
from postbus.testing.subject import Note
from postbus.testing.workbench import Workbench
from postbus.transport import Connection, Delivery, Outgoing, SupportsBrowse, supports

FOREIGN = {
    "nothing": b"",
    "words": b"Order 13 was placed.",
    "half of a JSON object": b'{"order_id": 1',
    "JSON nested 2000 deep": b"[" * 2000 + b"]" * 2000,
    "a number of 5000 digits": b"9" * 5000,
    "a number that is none": b"1e999",
    "half of a surrogate": b'{"order_id": "\\ud800"}',
    "a list in place of a map": b'[{"order_id": 13}]',
    "text of another time": "Größe".encode("latin-1"),
    "bytes": bytes(range(256)),
}
"""Bodies that other programs write, by what they are."""

HEADERS: Mapping[str, object] = {
    "tenant": 5,
    "big": 2**62,
    "share": 0.25,
    "urgent": True,
    "nothing": None,
    "tags": ["a", "b"],
    "trace": {"id": "0198", "flags": [1, 2]},
    "deep": [[[[[[[[["down"]]]]]]]]],
    "X-Message-Stamp-retried": 7,
    "type": 13,
}
"""Headers that other programs write; here a header is text."""


class Foreign(Workbench):
    """What others put on the broker comes as it is, and hurts nobody else."""

    @promise("foreign-1", since="0.1")
    @pytest.mark.parametrize("kind", FOREIGN)
    def test_what_others_wrote_comes_as_it_is(self, kind: str) -> None:
        """A message without any header of ours is delivered, with the bytes that came, between those around it."""
        body = FOREIGN[kind]
        connection = self._between_good_ones(body)

        foreign = self._foreign_one(connection)

        assert body == foreign.body, f"What came of {kind} is not what was put there."

    @promise("foreign-2", since="0.1")
    def test_headers_of_others_are_text(self) -> None:
        """Numbers, lists and maps in headers cost neither the message nor its neighbours; here they are text."""
        connection = self._between_good_ones(b"foreign", HEADERS)

        foreign = self._foreign_one(connection)

        assert b"foreign" == foreign.body
        odd = {name: value for name, value in foreign.headers.items() if type(value) is not str}
        assert {} == odd, "These headers should be text, or be in a stamp of the plugin."

    @promise("foreign-3", since="0.1")
    @pytest.mark.parametrize("verb", ["ack", "reject"])
    def test_what_others_wrote_is_settled_as_ever(self, verb: str) -> None:
        """Whether it could be read or not, it is gone once it is settled, and comes again if it is given back."""
        self._put(b"\xff[")
        connection = self.connect()
        [delivery] = self.take(connection, 1)
        connection.release([delivery.tag])
        [again] = self.take(connection, 1)

        getattr(connection, verb)([again.tag])

        self.assert_empty(connection)

    @promise("foreign-4", since="0.1")
    def test_what_others_wrote_can_be_buried(self) -> None:
        """It is received as `Undecodable`, with the reason; sent to another queue, it is the same there."""
        self._put(b"Order 13 was placed.", HEADERS)
        transport, failed = self.transport(), self.transport(self.dsn())
        [received] = self.receive(transport, 1)
        assert isinstance(received.message, Undecodable), "It has no type, so nobody can have decoded it."
        assert received.message.reason, "The reason says why it could not be read."

        failed.send([received.without(stamps.Received)])

        [buried] = self.receive(failed, 1)
        assert isinstance(buried.message, Undecodable)
        assert (received.message.body, received.message.headers) == (buried.message.body, buried.message.headers)

    @promise("foreign-5", since="0.1")
    def test_what_others_wrote_is_shown(self) -> None:
        """Who browses sees it, and what is behind it."""
        connection = self._between_good_ones(b"[" * 2000)
        if not supports(connection, SupportsBrowse):
            pytest.skip("The connection shows nothing.")

        assert [b"before", b"[" * 2000, b"after"] == [shown.body for shown in connection.browse(10)]

    @promise("foreign-6", since="0.1")
    def test_a_transport_goes_on_behind_what_it_cannot_read(self) -> None:
        """Of a batch with something foreign in it, all others are received as they were sent."""
        transport = self.transport()
        transport.send([Envelope.wrap(Note("before"))])
        for body in FOREIGN.values():
            self._put(body)
        transport.send([Envelope.wrap(Note("after"))])

        received = self.receive(transport, 2 + len(FOREIGN))

        assert {"before", "after"} == {one.message.text for one in received if isinstance(one.message, Note)}

    def _put(self, body: bytes, headers: Mapping[str, object] | None = None) -> None:
        self.connect()  # So that there is a queue.
        if not self.put_foreign(body, headers):
            self.unproven("put_foreign()", "No way is known to put a foreign message on the broker")

    def _between_good_ones(self, body: bytes, headers: Mapping[str, object] | None = None) -> Connection:
        connection = self.connect()
        connection.publish([Outgoing(b"before", {})])
        self._put(body, headers)
        connection.publish([Outgoing(b"after", {})])
        return connection

    def _foreign_one(self, connection: Connection) -> Delivery:
        deliveries = self.take(connection, 3)
        good = [delivery for delivery in deliveries if delivery.body in (b"before", b"after")]
        assert 2 == len(good), "Its neighbours have not come as they were sent."
        [foreign] = [delivery for delivery in deliveries if delivery not in good]
        connection.ack([delivery.tag for delivery in deliveries])
        return foreign
