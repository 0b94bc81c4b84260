"""What is done with a message after its handling failed: it is retried, buried, or dropped."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from msgspec import Struct

from postbus import stamps
from postbus.envelope import Envelope
from postbus.errors import HandlerFailed, Recoverable, Unrecoverable, describe, leaves, qualified_name
from postbus.events import MessageBuried, MessageDropped, MessageFailed, MessageRetried, Observers
from postbus.middleware import new_id
from postbus.retry import RetryPolicy, retries_of
from postbus.transport import QueueTransport, Receiver, Transport

logger = logging.getLogger("postbus")

PATIENCE = 60.0
"""Seconds until the next attempt after a `Recoverable` error that names no delay, once the policy has given up."""

REST = 3600.0
"""Seconds for which a message that fails again in the failure transport itself is left alone there."""

LONGEST_TRACEBACK = 8000
"""Characters; of a longer one the end is kept."""

MOST_ERRORS = 10
"""How many `stamps.ErrorDetails` a message carries at most: the first, and the newest."""


class Retry(Struct, frozen=True):
    """Send a copy to where it came from, to be delivered after so many seconds."""

    delay: float


class Bury(Struct, frozen=True):
    """Send a copy to the failure transport."""

    transport: str


class Drop(Struct, frozen=True):
    """Forget the message: nobody wants to keep it."""


Decision = Retry | Bury | Drop


class Failures:
    """Decides what becomes of a message whose handling failed, and does it.

    The copy is always stored before the original is settled, so that a message may come twice but is
    never lost.
    """

    def __init__(
        self,
        transports: Mapping[str, Transport],
        policies: Callable[[str], RetryPolicy],
        failure_transports: Callable[[str], str | None],
        observers: Observers,
    ) -> None:
        self._transports = transports
        self._policy_for = policies
        self._failure_transport_for = failure_transports
        self._observers = observers

    def handle(self, envelope: Envelope, error: Exception, seconds: float = 0.0) -> None:
        """Retry, bury or drop a received message, and settle it; raise `TransportError` if a copy cannot be stored.

        ``seconds`` is how long it took to fail.
        After a raise the original is as it was: neither settled nor given back.
        """
        transport = _origin(envelope)
        self._observers.notify(MessageFailed(envelope, transport, error, seconds))
        decision = self.decide(envelope, error)
        if isinstance(decision, Retry):
            self._retry(envelope, error, decision.delay)
        elif isinstance(decision, Bury):
            self._bury(envelope, error, decision.transport)
        else:
            self._drop(envelope, error)

    def decide(self, envelope: Envelope, error: Exception) -> Decision:
        """Return what is to be done; changes nothing."""
        transport = _origin(envelope)
        causes = leaves(error)
        recoverable = [cause for cause in causes if isinstance(cause, Recoverable)]
        hopeless = all(isinstance(cause, Unrecoverable) for cause in causes)

        if recoverable or not hopeless:
            delay = self._policy_for(transport).next_delay(envelope, error)
            if recoverable:
                wanted = [cause.delay for cause in recoverable if cause.delay is not None]
                return Retry(max(wanted) if wanted else PATIENCE if delay is None else delay)
            if delay is not None:
                return Retry(delay)

        failure_transport = self._failure_transport_for(transport)
        return Drop() if failure_transport is None else Bury(failure_transport)

    def _retry(self, envelope: Envelope, error: Exception, delay: float) -> None:
        transport = _origin(envelope)
        count = retries_of(envelope) + 1
        copy = _copy(envelope, error).without(stamps.Retried)
        copy = copy.with_(stamps.Retried(count, _now()), stamps.Delay(delay))
        self._store(transport, copy, envelope)
        logger.warning(
            "Retrying %s in %.1f s (attempt %d): %s",
            label(envelope),
            delay,
            count + 1,
            _reason(error),
            extra=identifiers(envelope),
        )
        self._observers.notify(MessageRetried(envelope, transport, error, delay))

    def _bury(self, envelope: Envelope, error: Exception, failure_transport: str) -> None:
        transport = _origin(envelope)
        buried = envelope.last(stamps.Buried) or stamps.Buried(transport)
        copy = _copy(envelope, error, with_traceback=True).without(stamps.Retried, stamps.Buried).with_(buried)
        if failure_transport == transport:
            # Whoever consumes the failure transport would otherwise get it back at once, and again, and again.
            copy = copy.with_(stamps.Delay(REST))
        self._store(failure_transport, copy, envelope)
        logger.error(
            "Burying %s in %r: %s",
            label(envelope),
            failure_transport,
            _reason(error),
            extra=identifiers(envelope),
        )
        self._observers.notify(MessageBuried(envelope, transport, error, failure_transport))

    def _drop(self, envelope: Envelope, error: Exception) -> None:
        transport = self._transports[_origin(envelope)]
        encoded = transport.serializer.encode(envelope) if isinstance(transport, QueueTransport) else envelope
        logger.critical(
            "Dropping %s, because %r has no failure transport: %s. The message was: %r",
            label(envelope),
            transport.name,
            _reason(error),
            encoded,
            extra=identifiers(envelope),
        )
        if isinstance(transport, Receiver):
            transport.reject([envelope])
        self._observers.notify(MessageDropped(envelope, transport.name, error))

    def _store(self, target: str, copy: Envelope, original: Envelope) -> None:
        origin = self._transports[_origin(original)]
        if target == origin.name and isinstance(origin, QueueTransport) and origin.replace(original, copy):
            return
        # The copy is stored first: if this raises, the broker still has the original.
        self._transports[target].send([copy])
        if isinstance(origin, Receiver):
            origin.ack([original])


def label(envelope: Envelope) -> str:
    """Return what a log line calls a message: its type, and its id."""
    message_id = envelope.last(stamps.MessageId)
    received = envelope.last(stamps.Received)
    id = message_id.id if message_id is not None else received.id if received is not None else None
    kind = type(envelope.message).__qualname__
    return f"{kind} {id}" if id is not None else kind


def identifiers(envelope: Envelope) -> dict[str, str]:
    """Return what a structured log line says about a message beside its text."""
    message_id = envelope.last(stamps.MessageId)
    correlation = envelope.last(stamps.Correlation)
    received = envelope.last(stamps.Received)
    found = {
        "message_type": qualified_name(type(envelope.message)),
        "message_id": message_id.id if message_id is not None else None,
        "correlation_id": correlation.id if correlation is not None else None,
        "transport": received.transport if received is not None else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _origin(envelope: Envelope) -> str:
    received = envelope.last(stamps.Received)
    if received is None:
        raise ValueError(f"{label(envelope)} did not come from a transport, so there is nowhere to put it.")
    return received.transport


def _copy(envelope: Envelope, error: Exception, *, with_traceback: bool = False) -> Envelope:
    """Return what is stored in place of an envelope: without the traces of this journey, and saying what went wrong."""
    errors: dict[str, Exception] = {"": error}
    done: tuple[str, ...] = ()
    if isinstance(error, HandlerFailed):
        errors, done = dict(error.errors), error.succeeded
    details = envelope.all(stamps.ErrorDetails)
    details += [_details(one, handler or None, with_traceback) for handler, one in errors.items()]
    kept = details[:1] + details[1:][-(MOST_ERRORS - 1) :]

    copy = envelope.without(
        stamps.Received, stamps.Sent, stamps.Result, stamps.Delay, stamps.AfterCurrent, stamps.ErrorDetails
    )
    if not copy.has(stamps.MessageId):  # It came from somebody else. From now on it can be followed.
        copy = copy.with_(stamps.MessageId(new_id()))
    return copy.with_(*(stamps.Handled(name) for name in done), *kept)


def _details(error: Exception, handler: str | None, with_traceback: bool) -> stamps.ErrorDetails:
    return stamps.ErrorDetails(
        type=qualified_name(type(error)),
        message=_writable(str(error)),
        at=_now(),
        handler=handler,
        traceback=_writable("".join(traceback.format_exception(error))[-LONGEST_TRACEBACK:])
        if with_traceback
        else None,
    )


def _writable(text: str) -> str:
    """Return a text that UTF-8 has a form for: that of an error may hold half a character, such as of a file's name."""
    return text.encode("utf-8", "backslashreplace").decode()


def _reason(error: Exception) -> str:
    return describe(leaves(error)[0])


def _now() -> datetime:
    return datetime.now(UTC)
