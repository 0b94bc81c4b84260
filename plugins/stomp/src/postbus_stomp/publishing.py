"""Messages that go: many in one transaction, so that ActiveMQ waits for its disk once, and has all of them or none."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from postbus.errors import MessageRefused, TransportError
from postbus.transport import Outgoing
from postbus_stomp.link import Link
from postbus_stomp.messages import DELAY, size_of, write
from postbus_stomp.options import Settings

PROBE_DELAY = 500
"""Milliseconds."""


class Publisher:
    """A connection that is only sent on: ActiveMQ stops reading from who sends while its disk or memory is full."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._link = Link(settings, self._take)
        self._probing = threading.Lock()
        self._schedules: bool | None = None
        self._probed: list[bytes] = []
        self._probe_is_over = threading.Event()

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Store all of them, but those that can never be."""
        frames = [(write(message, self._settings.destination), message.body) for message in messages]
        refused = {
            number: reason for number, frame in enumerate(frames) if (reason := self._refusal(*frame)) is not None
        }
        taken = [frame for number, frame in enumerate(frames) if number not in refused]
        if len(taken) == 1:
            self._link.ask("SEND", *taken[0])
        elif taken:
            self._send_together(taken)
        if refused:
            stored = dict.fromkeys(number for number in range(len(frames)) if number not in refused)
            raise MessageRefused(refused, stored=stored)

    def refusal_of(self, message: Outgoing) -> str | None:
        """Return why the broker would never take a message; None if it does."""
        return self._refusal(write(message, self._settings.destination), message.body)

    def close(self) -> None:
        """Let go of it."""
        self._link.close()

    def _refusal(self, headers: dict[str, str], body: bytes) -> str | None:
        size, limit = size_of(headers, body), self._settings.options.max_frame_size
        if size > limit:
            return f"A message of {size} bytes is larger than the {limit} that ActiveMQ takes (max_frame_size)."
        if DELAY in headers and not self._has_scheduler():
            return f"{self._settings.where} delays nothing. Set schedulerSupport in its activemq.xml."
        return None

    def _send_together(self, frames: Sequence[tuple[dict[str, str], bytes]]) -> None:
        transaction = {"transaction": f"publish-{self._link.name()}"}
        receipts = [self._link.name() for _ in frames]
        answers = self._link.expect(receipts)
        self._link.send("BEGIN", transaction)
        for receipt, (headers, body) in zip(receipts, frames, strict=True):
            self._link.send("SEND", {**headers, **transaction, "receipt": receipt}, body)
        # All are asked about before any is stored: what is refused would be missing without a word.
        for reason in self._link.wait(answers).values():
            self._link.ask("ABORT", transaction)
            raise TransportError(f"{self._settings.where} does not take this: {reason}")
        self._link.ask("COMMIT", transaction)

    def _has_scheduler(self) -> bool:
        """Tell whether the broker delays what is to be. One without a scheduler delivers it at once and says nothing.

        So it is tried, once, with a message that is to come a little later than another, in a queue of our own that
        goes with the connection.
        """
        with self._probing:
            if self._schedules is None:
                queue = {"destination": "/temp-queue/postbus-probe"}
                self._link.ask("SUBSCRIBE", {**queue, "id": "probe", "ack": "auto"})
                self._link.ask("SEND", {**queue, "content-length": "5", DELAY: str(PROBE_DELAY)}, b"later")
                self._link.ask("SEND", {**queue, "content-length": "3"}, b"now")
                if not self._probe_is_over.wait(self._settings.options.confirm_timeout):
                    raise TransportError(f"{self._settings.where} does not deliver what it took.")
                self._schedules = self._probed[0] == b"now"
            return self._schedules

    def _take(self, frame: Any) -> None:
        self._probed.append(frame.body)
        self._probe_is_over.set()
