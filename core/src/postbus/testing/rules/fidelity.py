"""What arrives is what was published, byte for byte."""

from __future__ import annotations

import pytest

from postbus import stamps
from postbus.envelope import Envelope
from postbus.testing.promises import promise
from postbus.testing.subject import Note
from postbus.testing.workbench import Workbench
from postbus.transport import Delivery, Outgoing

KIB = 1024


class Fidelity(Workbench):
    """What arrives is what was published, byte for byte."""

    @promise("fidelity-1", since="0.1")
    def test_a_body_may_be_empty(self) -> None:
        """A body of no bytes arrives as such."""
        [delivery] = self._there_and_back(Outgoing(b"", {"type": "note"}))

        assert b"" == delivery.body

    @promise("fidelity-2", since="0.1")
    def test_a_body_may_hold_every_byte(self) -> None:
        """A body is bytes, not text: 0x00, 0xFF and what is no UTF-8 arrive as they are."""
        self.requires(binary_body=True)
        body = b"\xff\xfe\x00" + bytes(range(256)) + b"\x00\xff"

        [delivery] = self._there_and_back(Outgoing(body, {}))

        assert body == delivery.body

    @promise("fidelity-3", since="0.1")
    def test_a_body_may_have_64_kib(self) -> None:
        """A body of 64 KiB arrives whole, unless that is more than the guarantees allow."""
        if self._largest_body < 64 * KIB:
            pytest.skip(f"Guarantees say largest_message={self.guarantees.largest_message}.")
        body = self._body(64 * KIB)

        [delivery] = self._there_and_back(Outgoing(body, {}))

        assert body == delivery.body

    @promise("fidelity-4", since="0.1")
    def test_a_body_may_be_as_large_as_promised(self) -> None:
        """A body of half of ``largest_message`` bytes arrives whole, or of a megabyte if there is no limit.

        It has no more than ``largest_to_try``.
        """
        body = self._body(self._largest_body)

        [delivery] = self._there_and_back(Outgoing(body, {}))

        assert body == delivery.body

    @promise("fidelity-5", since="0.1")
    def test_there_need_be_no_headers(self) -> None:
        """A message without headers arrives without headers."""
        [delivery] = self._there_and_back(Outgoing(b"body", {}))

        assert {} == delivery.headers

    @promise("fidelity-6", since="0.1")
    def test_there_may_be_many_headers(self) -> None:
        """Fifty headers arrive with the message."""
        headers = {f"X-Header-{number}": str(number) for number in range(50)}

        [delivery] = self._there_and_back(Outgoing(b"body", headers))

        assert headers == delivery.headers

    @promise("fidelity-7", since="0.1")
    def test_a_header_may_hold_any_text(self) -> None:
        """The value of a header may be empty, and may hold quotes, line breaks and characters of any script."""
        headers = {
            "empty": "",
            "quoted": "[\"a\", 'b', \\]",
            "lines": "one\ntwo\r\n",
            "scripts": "Grüße 你好 🚌 \u200f",
        }

        [delivery] = self._there_and_back(Outgoing(b"body", headers))

        assert headers == delivery.headers

    @promise("fidelity-8", since="0.1")
    def test_a_header_may_be_long(self) -> None:
        """A value of 8 KiB arrives whole: a buried message carries the traceback of its error."""
        headers = {"X-Message-Stamp-error": "ä" * (4 * KIB)}

        [delivery] = self._there_and_back(Outgoing(b"body", headers))

        assert headers == delivery.headers

    @promise("fidelity-9", since="0.1")
    def test_the_name_of_a_header_is_kept(self) -> None:
        """Names arrive in their own case, and with the characters that other systems use in them."""
        headers = {"type": "a", "Content-Type": "b", "X-Message-Stamp-App\\Stamp\\Tenant": "c", "x-UPPER_and.dots": "d"}

        [delivery] = self._there_and_back(Outgoing(b"body", headers))

        assert headers == delivery.headers

    @promise("fidelity-10", since="0.1")
    def test_a_batch_keeps_bodies_and_headers_together(self) -> None:
        """Each message of a batch arrives with its own headers."""
        deliveries = self._there_and_back(*[Outgoing(b"%d" % number, {"is": str(number)}) for number in range(20)])

        assert {str(number): b"%d" % number for number in range(20)} == {
            delivery.headers["is"]: delivery.body for delivery in deliveries
        }

    @promise("fidelity-11", since="0.1")
    def test_stamps_keep_their_order_and_repetitions(self) -> None:
        """Several stamps of one type arrive in their order, equal ones each for itself."""
        transport = self.transport()
        handlers = ["b", "a", "b"]

        transport.send([Envelope.wrap(Note("hello"), *map(stamps.Handled, handlers))])
        [received] = self.receive(transport, 1)

        assert handlers == [stamp.handler for stamp in received.all(stamps.Handled)]

    @promise("fidelity-12", since="0.1")
    def test_what_is_unknown_is_sent_on_unchanged(self) -> None:
        """Fields, stamps and headers that nobody here knows are the same, byte for byte, when they are sent on."""
        body = b'{"later": [1,  2],\n "text": "hello"}'
        headers = {
            "type": "note",
            "X-Message-Stamp-from-elsewhere": '[ {"b":  1, "a": "\\u00fc"} ]',
            "X-Other": " 1.0 ",
        }
        transport = self.transport()
        connection = transport.connection  # Another one might not be given what this one could fetch.
        connection.publish([Outgoing(body, headers)])
        [received] = self.receive(transport, 1)
        transport.ack([received])

        transport.send([received.without(stamps.Received)])
        [delivery] = self.take(connection, 1)

        assert body == delivery.body
        assert headers == {name: delivery.headers.get(name) for name in headers}

    @property
    def _largest_body(self) -> int:
        # The other half is for how it lies on the broker: with headers, and maybe written as base64.
        return min((self.guarantees.largest_message or 2_000_000) // 2, self.largest_to_try)

    def _body(self, size: int) -> bytes:
        some = bytes(range(256)) if self.guarantees.binary_body else b"0123456789abcdef"
        return (some * (size // len(some) + 1))[:size]

    def _there_and_back(self, *messages: Outgoing) -> list[Delivery]:
        connection = self.connect()
        self.publish(connection, messages)
        return self.take(connection, len(messages))
