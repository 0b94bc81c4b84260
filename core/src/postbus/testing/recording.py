"""A transport for the tests of who sends messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from postbus import stamps
from postbus.envelope import Envelope


class RecordingTransport:
    """Keeps what is sent to it, in ``sent``, and delivers nothing.

    It needs no plugin and writes no bytes; to have messages handled too, use ``in-memory://``.
    """

    def __init__(self, name: str = "recording") -> None:
        self.name = name
        self.sent: list[Envelope] = []

    @property
    def messages(self) -> list[Any]:
        """The messages that were sent, oldest first, without their envelopes."""
        return [envelope.message for envelope in self.sent]

    def send(self, envelopes: Sequence[Envelope]) -> list[Envelope]:
        sent = [
            envelope.with_(stamps.Sent(self.name, str(number)))
            for number, envelope in enumerate(envelopes, start=len(self.sent) + 1)
        ]
        self.sent += sent
        return sent

    def reset(self) -> None:
        """Forget what was sent."""
        self.sent.clear()

    def close(self) -> None:
        """There is nothing to let go of."""
