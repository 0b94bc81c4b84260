"""Failed messages, tried again here or sent back to where they came from; a batch of them at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct, field

from postbus import stamps
from postbus.app import Postbus
from postbus.cli.failed_messages import FailedMessage, FailedMessages
from postbus.envelope import Envelope
from postbus.errors import ConnectionLost, PostbusError, TransportError, describe, leaves, presentable
from postbus.events import MessageBuried, MessageFailed, MessageHandled, MessageReceived
from postbus.failures import as_it_came, copy_to_bury


class Result(Struct):
    """What came of one message, by its id.

    ``result`` is "handled"; "not removed", though it was handled, or sent back; "failed" again, and kept under
    ``new_id``; "sent back" to ``transport``, under that id; "unreadable", and left as it was; "kept" as it was; or,
    if it was not tried, "skipped", "deleted", "not found".
    """

    id: str
    kind: str | None = field(name="class")
    result: str
    error: str | None = None
    new_id: str | None = None
    transport: str | None = None


class _Tried(Struct):
    """A message that was tried, and is still where it was."""

    message: FailedMessage
    result: Result
    copy: Envelope | None = None
    """What is to be stored of it, if it was not handled."""
    target: str = ""
    """The transport that stores it."""
    error: Exception | None = None
    is_stored: bool = False

    def note_stored(self, id: str | None) -> None:
        """Take note that a transport has the copy, under this id."""
        self.is_stored, self.result.new_id = True, id

    def note(self, problem: PostbusError, *, instead: str) -> None:
        """Take note of what came between, and what the result is instead."""
        before = f"{self.result.error}; and then: " if self.result.error else ""
        self.result.result, self.result.error = instead, f"{before}{problem}"


class Retrying:
    """Tries messages again, and settles those that it is through with, together, as a worker does.

    Copies are stored first, then the originals are removed. So whatever ends it, each message is handled, or there;
    of what was handled in the last moments, some may be there as well. ``report`` is given each result once it holds.
    """

    BATCH = 100
    """How many messages are held before they are settled."""
    SETTLE_AFTER = 0.1
    """Seconds that one of them waits for that, at most, while the next ones are handled."""

    def __init__(self, app: Postbus, messages: FailedMessages, report: Callable[[Result], None]) -> None:
        self._app = app
        self._messages = messages
        self._report = report
        self._tried: list[_Tried | Result] = []

    def run(self, messages: Iterable[FailedMessage | Result], *, send_back: bool = False) -> None:
        """Handle each message here and now, or send it back; one that has a result already is only reported."""
        try_one = self._send_back if send_back else self._handle
        settle_at = time.monotonic() + self.SETTLE_AFTER
        try:
            for message in messages:
                self._tried.append(message if isinstance(message, Result) else try_one(message))
                is_due = not send_back and time.monotonic() > settle_at
                if is_due or len(self._tried) == self.BATCH:
                    self._settle()
                    settle_at = time.monotonic() + self.SETTLE_AFTER
        finally:  # Also if a handler is interrupted: those before it are through.
            self._settle()

    def _handle(self, message: FailedMessage) -> _Tried | Result:
        envelope, observers, name = message.envelope, self._app.observers, self._messages.name
        if message.unreadable is not None:
            return Result(message.id, message.kind, "unreadable", message.unreadable)
        observers.notify(MessageReceived(envelope, name))
        started = time.monotonic()
        try:
            handled = self._app.handle(envelope)
        except Exception as error:  # A border: whatever a handler raises is a failure of this message.
            error = presentable(error)  # By the same name, which Python forgets: else they hold each other.
            observers.notify(MessageFailed(envelope, name, error, time.monotonic() - started))
            reason = "; ".join(map(describe, leaves(error)))
            result = Result(message.id, message.kind, "failed", reason)
            return _Tried(message, result, copy_to_bury(envelope, error, name), name, error)
        observers.notify(MessageHandled(handled, name, time.monotonic() - started))
        return _Tried(message, Result(message.id, message.kind, "handled"))

    def _send_back(self, message: FailedMessage) -> _Tried | Result:
        if message.unreadable is not None:
            return Result(message.id, message.kind, "unreadable", message.unreadable)
        origin = message.origin
        if origin is None:
            return Result(message.id, message.kind, "kept", "it does not say where it came from")
        if origin not in self._app.origins:
            is_known = origin in self._app.transports
            why = f"{origin!r} is a failure transport" if is_known else f"there is no transport {origin!r} any more"
            return Result(message.id, message.kind, "kept", why)
        copy = as_it_came(message.envelope).without(stamps.Buried, stamps.Retried, stamps.Delay)
        return _Tried(message, Result(message.id, message.kind, "sent back", transport=origin), copy, origin)

    def _settle(self) -> None:
        tried, self._tried = self._tried, []
        attempts = [one for one in tried if isinstance(one, _Tried)]
        for target in dict.fromkeys(one.target for one in attempts if one.copy is not None):
            self._store(target, [one for one in attempts if one.copy is not None and one.target == target])
        self._remove([one for one in attempts if one.copy is None or one.is_stored])
        for one in tried:
            self._report(one if isinstance(one, Result) else one.result)

    def _store(self, target: str, tried: Sequence[_Tried]) -> None:
        """Store copies, together; one that cannot be stored keeps no other from it."""
        try:
            sent = self._app.transport(target).send([one.copy for one in tried if one.copy is not None])
        except PostbusError as error:
            if isinstance(error, TransportError):
                for position, id in error.stored.items():
                    tried[position].note_stored(id)
            rest = [one for one in tried if not one.is_stored]
            if len(tried) > 1 and not isinstance(error, ConnectionLost):
                for one in rest:
                    self._store(target, [one])
                return
            for one in rest:
                one.note(error, instead="failed" if one.error is not None else "kept")
            return
        for one, envelope in zip(tried, sent, strict=True):
            stamp = envelope.last(stamps.Sent)
            one.note_stored(stamp.id if stamp is not None else None)

    def _remove(self, tried: Sequence[_Tried]) -> None:
        if not tried:
            return
        try:
            self._messages.remove([one.message.id for one in tried])
        except PostbusError as error:
            for one in tried:
                one.note(error, instead="failed" if one.error is not None else "not removed")
        name = self._messages.name
        for one in tried:
            if one.error is not None:
                self._app.observers.notify(MessageBuried(one.message.envelope, name, one.error, name))
