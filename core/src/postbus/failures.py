"""What is done with a message after its handling failed: it is retried, buried, or dropped."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime

from msgspec import Struct

from postbus import stamps
from postbus.display import one_line
from postbus.envelope import Envelope
from postbus.errors import HandlerFailed, Recoverable, Unrecoverable, describe, leaves, qualified_name
from postbus.events import (
    MessageBuried,
    MessageDropped,
    MessageFailed,
    MessageRetried,
    MessageRetriedAtOnce,
    Observers,
)
from postbus.middleware import new_id
from postbus.retry import RetryPolicy, attempts_of, immediate_retries
from postbus.transport import QueueTransport, Receiver, Transport

logger = logging.getLogger("postbus")

PATIENCE = 60.0
"""Seconds until the next attempt after a `Recoverable` error that names no delay, once the policy has given up."""

REST = 3600.0
"""Seconds for which a message that fails again in the failure transport itself is left alone there."""

LONGEST_TRACEBACK = 8000
"""Characters; of a longer one the end is kept."""

LONGEST_ID = 200
"""Characters that a log line shows of an id, which anybody may have chosen."""

MOST_ERRORS = 10
"""How many `stamps.ErrorDetails` a message carries at most: the first, and the newest."""


class RetryAtOnce(Struct, frozen=True):
    """Keep it and try once more, now; see `postbus.retry`."""


class Retry(Struct, frozen=True):
    """Send a copy to where it came from, to be delivered after so many seconds."""

    delay: float


class Bury(Struct, frozen=True):
    """Send a copy to the failure transport."""

    transport: str


class Drop(Struct, frozen=True):
    """Forget the message: nobody wants to keep it."""


Decision = RetryAtOnce | Retry | Bury | Drop


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
        *,
        all_failure_transports: Collection[str],
    ) -> None:
        self._transports = transports
        self._policy_for = policies
        self._failure_transport_for = failure_transports
        self._observers = observers
        self._failure_transports = all_failure_transports

    def handle(
        self,
        envelope: Envelope,
        error: Exception,
        seconds: float = 0.0,
        *,
        repeats: int | None = None,
        is_stopping: bool = False,
    ) -> Envelope | None:
        """Retry, bury or drop a received message, and settle it; raise `TransportError` if a copy cannot be stored.

        ``seconds`` is how long it took to fail. ``repeats`` is how often it was tried again at once since it was
        delivered; None where that cannot be done. If it is to be done now, nothing is settled, and the message is
        returned as it is to be handled next; a worker that ``is_stopping`` sends it to the others instead.
        After a raise the original is as it was: neither settled nor given back.
        """
        transport = _origin(envelope)
        if transport not in self._failure_transports:  # Then it was never buried, whatever it says.
            envelope = envelope.without(stamps.Buried)
        self._observers.notify(MessageFailed(envelope, transport, error, seconds))
        decision = self.decide(envelope, error, repeats)
        if isinstance(decision, RetryAtOnce):
            if not is_stopping:
                return self._retry_at_once(envelope, error)
            self._hand_over(envelope, error)
        elif isinstance(decision, Retry):
            self._retry(envelope, error, decision.delay)
        elif isinstance(decision, Bury):
            self._bury(envelope, error, decision.transport)
        else:
            self._drop(envelope, error)
        return None

    def decide(self, envelope: Envelope, error: Exception, repeats: int | None = None) -> Decision:
        """Return what is to be done; changes nothing."""
        transport = _origin(envelope)
        # What is hopeless does not matter as long as another handler's failure is not.
        hopeful = [
            leaf for leaf in leaves(error) if isinstance(leaf, Exception) and not isinstance(leaf, Unrecoverable)
        ]
        named = [leaf.delay for leaf in hopeful if isinstance(leaf, Recoverable) and leaf.delay is not None]
        if named:
            return Retry(max(named))
        policy = self._policy_for(transport)
        retries = [retry for leaf in hopeful if (retry := _retry_by(policy, envelope, leaf, repeats)) is not None]
        if retries:
            waits = [retry.delay for retry in retries if isinstance(retry, Retry)]
            return Retry(max(waits)) if waits else RetryAtOnce()
        failure_transport = self._failure_transport_for(transport)
        return Drop() if failure_transport is None else Bury(failure_transport)

    def _retry_at_once(self, envelope: Envelope, error: Exception) -> Envelope:
        """Return the message as a copy of it would come: read anew, knowing what has succeeded and what went wrong."""
        origin = self._transports[_origin(envelope)]
        copy = _counted(_copy(envelope, error), immediate=1)
        if isinstance(origin, QueueTransport):
            copy = origin.read_again(copy)
        self._tell(envelope, error, "at once", copy)
        self._observers.notify(MessageRetriedAtOnce(envelope, origin.name, error))
        return copy.with_(*envelope.all(stamps.Received))

    def _hand_over(self, envelope: Envelope, error: Exception) -> None:
        """Send a message to the other workers that this one, which is stopping, would have tried again at once."""
        transport = _origin(envelope)
        copy = _counted(_copy(envelope, error), immediate=1).with_(stamps.Delay(0.0))
        self._store(transport, copy, envelope)
        self._tell(envelope, error, "in another worker, because this one stops", copy)
        self._observers.notify(MessageRetried(envelope, transport, error, 0.0))

    def _retry(self, envelope: Envelope, error: Exception, delay: float) -> None:
        transport = _origin(envelope)
        copy = _counted(_copy(envelope, error), delayed=1).with_(stamps.Delay(delay))
        self._store(transport, copy, envelope)
        self._tell(envelope, error, f"in {delay:.1f} s", copy)
        self._observers.notify(MessageRetried(envelope, transport, error, delay))

    def _tell(self, envelope: Envelope, error: Exception, when: str, copy: Envelope) -> None:
        logger.warning(
            "Retrying %s %s (attempt %d): %s",
            label(envelope),
            when,
            attempts_of(copy) + 1,
            _reason(error),
            extra=identifiers(envelope),
        )

    def _bury(self, envelope: Envelope, error: Exception, failure_transport: str) -> None:
        transport = _origin(envelope)
        self._store(failure_transport, copy_to_bury(envelope, error, failure_transport), envelope)
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
        outgoing = transport.encode(as_it_came(envelope)) if isinstance(transport, QueueTransport) else None
        logger.critical(
            "Dropping %s, because %r has no failure transport: %s. The message was: %r",
            label(envelope),
            transport.name,
            _reason(error),
            envelope if outgoing is None else (outgoing.body, dict(outgoing.headers)),
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


def copy_to_bury(envelope: Envelope, error: Exception, failure_transport: str) -> Envelope:
    """Return what a failure transport is to keep of a received message that finally failed."""
    transport = _origin(envelope)
    buried = envelope.last(stamps.Buried) or stamps.Buried(transport)
    copy = _copy(envelope, error, with_traceback=True).without(stamps.Retried, stamps.Buried).with_(buried)
    # Whoever consumes the failure transport would otherwise get it back at once, and again, and again.
    return copy.with_(stamps.Delay(REST)) if failure_transport == transport else copy


def as_it_came(envelope: Envelope) -> Envelope:
    """Return a received envelope as it is to be stored: as what came, even if a handler has changed its message."""
    received = envelope.last(stamps.Received)
    original = received.original if received is not None else None
    copy = envelope.without(stamps.Received)
    return copy if original is None else copy.with_(original)


def label(envelope: Envelope) -> str:
    """Return what a log line calls a message: its type, and its id."""
    message_id = envelope.last(stamps.MessageId)
    received = envelope.last(stamps.Received)
    id = message_id.id if message_id is not None else received.id if received is not None else None
    kind = type(envelope.message).__qualname__
    return f"{kind} {one_line(id, LONGEST_ID)}" if id is not None else kind


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
    return {key: one_line(value, LONGEST_ID) for key, value in found.items() if value is not None}


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

    copy = as_it_came(envelope).without(
        stamps.Sent, stamps.Result, stamps.Delay, stamps.AfterCurrent, stamps.ErrorDetails
    )
    if not copy.has(stamps.MessageId):  # It came from somebody else. From now on it can be followed.
        copy = copy.with_(stamps.MessageId(new_id()))
    return copy.with_(*(stamps.Handled(name) for name in done), *kept)


def _counted(copy: Envelope, *, delayed: int = 0, immediate: int = 0) -> Envelope:
    """Return a copy that has been retried once more."""
    before = copy.last(stamps.Retried) or stamps.Retried(0, _now())
    after = stamps.Retried(before.count + delayed, _now(), before.immediate + immediate)
    return copy.without(stamps.Retried).with_(after)


def _retry_by(policy: RetryPolicy, envelope: Envelope, error: Exception, repeats: int | None) -> Decision | None:
    """Return what a policy wants for one error; None if no retry."""
    if repeats is not None and repeats < immediate_retries(policy, envelope, error):
        return RetryAtOnce()
    delay = policy.next_delay(envelope, error)
    if delay is None and isinstance(error, Recoverable):
        delay = PATIENCE
    return None if delay is None else Retry(delay)


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
