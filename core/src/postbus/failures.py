"""What is done with a message after its handling failed: it is retried, buried, or dropped."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from traceback import walk_tb
from typing import Literal

from msgspec import Struct

from postbus import stamps
from postbus.display import one_line, printable
from postbus.envelope import Envelope
from postbus.errors import (
    CUT,
    LONGEST_TEXT,
    LONGEST_TRACEBACK,
    ConnectionLost,
    HandlerFailed,
    MessageRefused,
    NoHandler,
    NotDecoded,
    Poisonous,
    Recoverable,
    TransportError,
    Unrecoverable,
    cut,
    describe,
    leaves,
    qualified_name,
    seconds_of,
    text_of,
    traceback_of,
)
from postbus.events import (
    MessageBuried,
    MessageDropped,
    MessageFailed,
    MessagePostponed,
    MessageRetried,
    MessageRetriedAtOnce,
    Observers,
)
from postbus.middleware import new_id
from postbus.queue_transport import QueueTransport
from postbus.retry import Backoff, RetryPolicy, attempts_of, immediate_retries, retries_of
from postbus.serialization import Undecodable, keep
from postbus.text import packed
from postbus.transport import LONGEST_DELAY, Receiver, Transport

logger = logging.getLogger("postbus")

PATIENCE = 60.0
"""Seconds until the next attempt after a `Recoverable` error that names no delay, once the policy has given up."""

REST = 3600.0
"""Seconds for which a message that fails again in the failure transport itself is left alone there."""

LONGEST_RETURN = 600.0
"""Seconds; a message that can be stored nowhere comes again after 1, 2, 4 and so on, and at last after so many."""

UNKNOWN_TYPE = Backoff(max_retries=3, delay=10.0, factor=6.0)
"""What holds for a message of an unknown type: while workers are replaced, another one may know it already."""

FALLBACK = Backoff()
"""What holds where a retry policy cannot be asked."""

LONGEST_WAY = 4
"""How many lines of code a log line names on which an error came."""

_OWN_FOLDER = os.path.join(os.path.dirname(__file__), "")

LONGEST_ID = 200
"""Characters that a log line shows of an id, which anybody may have chosen."""

MOST_ERRORS = 10
"""How many `stamps.ErrorDetails` a message carries at most: the first, and the newest."""

SHORTEST_TEXT = 200
"""Bytes that are left of the text of the newest error, where a message with all of them is refused."""

Settled = Literal["settled", "owed", "gone"]
"""A copy is stored, and the original is settled; or it is to be acknowledged yet; or it is somebody else's by now."""


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


class Rung(Struct, frozen=True):
    """One way to keep a message; the next one gives up more of it."""

    decision: Decision
    target: str
    copy: Callable[[], Envelope]
    given_up: str
    """What the copy does without, in comparison to what was decided."""


class Failures:
    """Decides what becomes of a message whose handling failed, and does it.

    The copy is always stored before the original is settled, so that a message may come twice but is
    never lost. A copy that is refused is stored otherwise, with less, or elsewhere, so that no message is in the way
    of others. A transport that is lost is left alone for a while, and nothing else waits.
    """

    FIRST_PAUSE = 1.0
    LONGEST_PAUSE = 30.0

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
        self._pauses: dict[str, tuple[float, float]] = {}
        """The transports that were lost: for how long each is left alone, and until when."""
        self._without_delay: set[str] = set()
        """The transports of which it was said that they cannot delay."""

    def handle(
        self,
        envelope: Envelope,
        error: Exception,
        seconds: float = 0.0,
        *,
        repeats: int | None = None,
        is_stopping: bool = False,
    ) -> Envelope | Settled:
        """Retry, bury or drop a received message, and settle it; raise `TransportError` if no copy can be stored.

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
        if isinstance(decision, RetryAtOnce) and not is_stopping:
            try:
                return self._retry_at_once(envelope, error)
            except Exception as problem:  # A border: what cannot be written cannot be read anew.
                logger.warning("Cannot try %s again at once: %s", label(envelope), describe(problem))
        if isinstance(decision, Drop):
            return self._drop(envelope, error)
        return self._keep(envelope, error, decision)

    def decide(self, envelope: Envelope, error: Exception, repeats: int | None = None) -> Decision:
        """Return what is to be done; changes nothing."""
        transport = _origin(envelope)
        # What is hopeless does not matter as long as another handler's failure is not.
        hopeful = [
            leaf for leaf in leaves(error) if isinstance(leaf, Exception) and not isinstance(leaf, Unrecoverable)
        ]
        named = [delay for leaf in hopeful if isinstance(leaf, Recoverable) and (delay := _delay_of(leaf)) is not None]
        if named:
            return Retry(max(named))
        policy = self._policy_for(transport)
        retries = [retry for leaf in hopeful if (retry := self._retry_by(policy, envelope, leaf, repeats)) is not None]
        if retries:
            waits = [retry.delay for retry in retries if isinstance(retry, Retry)]
            return Retry(max(waits)) if waits else RetryAtOnce()
        if isinstance(envelope.message, Undecodable) and envelope.message.is_of_unknown_type:
            delay = UNKNOWN_TYPE.next_delay(envelope, error)
            if delay is not None:
                return Retry(delay)
        failure_transport = self._failure_transport_for(transport)
        return Drop() if failure_transport is None else Bury(failure_transport)

    def postpone(self, envelope: Envelope, delay: float) -> Settled:
        """Send on a received message that came too early, to come again after so many seconds; as `handle`."""
        transport = _origin(envelope)
        copy = as_it_came(envelope).without(stamps.Delay, stamps.NotBefore).with_(stamps.Delay(delay))
        settled = self._store(transport, copy, envelope)
        logger.debug("Postponing %s for %.0f s.", label(envelope), delay, extra=identifiers(envelope))
        self._observers.notify(MessagePostponed(envelope, transport, delay))
        return settled

    def _retry_by(
        self, policy: RetryPolicy, envelope: Envelope, error: Exception, repeats: int | None
    ) -> Decision | None:
        """Return what a policy wants for one error; None if no retry."""
        try:
            if repeats is not None and repeats < immediate_retries(policy, envelope, error):
                return RetryAtOnce()
            delay = policy.next_delay(envelope, error)
            if delay is not None and seconds_of(delay) is None:
                raise TypeError(f"next_delay() returned {delay!r}, which is no number of seconds")
        except Exception as problem:  # A border: a policy may be anybody's.
            logger.error(
                "The retry policy of %r failed, so the default one decides about %s: %s",
                _origin(envelope),
                label(envelope),
                describe(problem),
                extra=identifiers(envelope),
            )
            delay = FALLBACK.next_delay(envelope, error)
        if delay is None and isinstance(error, Recoverable):
            delay = PATIENCE
        return None if delay is None else Retry(_possible(seconds_of(delay) or 0.0))

    def _retry_at_once(self, envelope: Envelope, error: Exception) -> Envelope:
        """Return the message as a copy of it would come: read anew, knowing what has succeeded and what went wrong."""
        origin = self._transports[_origin(envelope)]
        copy = _counted(_copy(envelope, error), immediate=1)
        if isinstance(origin, QueueTransport):
            copy = origin.read_again(copy)
        self._tell_retry(envelope, error, "at once", attempts_of(copy))
        self._observers.notify(MessageRetriedAtOnce(envelope, origin.name, error))
        return copy.with_(*envelope.all(stamps.Received))

    def _drop(self, envelope: Envelope, error: Exception) -> Settled:
        transport = self._transports[_origin(envelope)]
        logger.critical(
            "Dropping %s, because %r has no failure transport: %s. The message was: %s",
            label(envelope),
            transport.name,
            _last_reason(envelope, error),
            _whole(envelope, transport),
            exc_info=_news(envelope, error),
            extra=identifiers(envelope),
        )
        if isinstance(transport, Receiver):
            transport.reject([envelope])
        self._observers.notify(MessageDropped(envelope, transport.name, error))
        return "settled"

    # the ladder

    def _keep(self, envelope: Envelope, error: Exception, decision: Decision) -> Settled:
        """Store a copy as was decided, or as near to that as it is taken, and settle the original."""
        transport = _origin(envelope)
        blamed: set[str] = set()
        refusal = ""
        for rung in self._rungs(envelope, error, decision):
            if rung.target in blamed:
                continue
            if refusal:
                logger.warning(
                    "Storing %s in %r without %s, because it cannot be stored otherwise: %s",
                    label(envelope),
                    rung.target,
                    rung.given_up,
                    refusal,
                    extra=identifiers(envelope),
                )
            try:
                settled = self._store(rung.target, rung.copy(), envelope)
            except MessageRefused as problem:
                refusal = text_of(problem)
            except TransportError as problem:
                # It is to blame, and perhaps it has the copy: to give it another one would only make more of them.
                if rung.target == transport:
                    raise
                blamed.add(rung.target)
                refusal = text_of(problem)
            except Exception as problem:  # A border: what cannot be written may fail in any way.
                refusal = describe(problem)
            else:
                if settled != "gone":
                    self._tell(envelope, error, rung.decision)
                return settled
        raise TransportError(f"no transport takes a copy. {refusal}")

    def _rungs(self, envelope: Envelope, error: Exception, decision: Decision) -> Iterator[Rung]:
        """Yield the ways to keep a message, the best one first."""
        origin = _origin(envelope)
        failure_transport = self._failure_transport_for(origin)
        if isinstance(decision, RetryAtOnce):  # By another worker, as this one stops.
            make = partial(_copy_to_retry, envelope, error, 0.0, immediate=1)
            yield Rung(decision, origin, make, "")
        if isinstance(decision, Retry):
            delay = self._kept_delay(origin, decision.delay)
            yield Rung(Retry(delay), origin, partial(_copy_to_retry, envelope, error, delay), "")
            if delay > 0:
                yield Rung(Retry(0.0), origin, partial(_copy_to_retry, envelope, error, 0.0), "its delay")
            make = partial(_copy_to_retry, envelope, error, delay)
            yield Rung(Retry(delay), origin, partial(_with_less, make), "most of what its errors say")
        if isinstance(decision, Bury):
            failure_transport = decision.transport
        if failure_transport is not None:
            bury = Bury(failure_transport)
            make = partial(copy_to_bury, envelope, error, failure_transport)
            yield Rung(bury, failure_transport, make, "a retry")
            yield Rung(bury, failure_transport, partial(_with_less, make), "most of what its errors say")
            alone = partial(_alone, envelope, self._transports[origin], failure_transport)
            yield Rung(bury, failure_transport, alone, "anything but its body and its headers")
        delay = min(2.0 ** min(retries_of(envelope), 30), LONGEST_RETURN)
        again = partial(_copy_to_return, envelope, delay)
        yield Rung(Retry(delay), origin, again, "what its errors say, to come again later")

    def _kept_delay(self, transport: str, delay: float) -> float:
        """Return the delay that a transport can keep: this one, or none; that is said once."""
        origin = self._transports[transport]
        if not isinstance(origin, QueueTransport) or origin.guarantees.delay or not delay:
            return delay
        if transport not in self._without_delay:
            self._without_delay.add(transport)
            logger.warning("Retrying messages of %r without a delay, because it cannot delay any.", transport)
        return 0.0

    def _store(self, target: str, copy: Envelope, original: Envelope) -> Settled:
        """Store a copy and settle its original; raise what the transport raises, or raised a moment ago."""
        pause, until = self._pauses.get(target, (0.0, 0.0))
        if time.monotonic() < until and self._is_lost(target):
            raise ConnectionLost(f"{target!r} was lost, and is left alone for {until - time.monotonic():.0f} s.")
        try:
            settled = self._replace(target, copy, original)
            if settled is None:
                # The copy is stored first: if this raises, the broker still has the original.
                self._transports[target].send([copy])
                settled = self._acknowledge(original)
        except ConnectionLost:
            pause = min(max(pause * 2, self.FIRST_PAUSE), self.LONGEST_PAUSE)
            self._pauses[target] = pause, time.monotonic() + pause
            raise
        if pause:
            self._pauses.pop(target, None)
        return settled

    def _is_lost(self, target: str) -> bool:
        """Say whether a transport that was lost still is, as far as is known: who fetches from it may have found it."""
        transport = self._transports[target]
        return not isinstance(transport, QueueTransport) or transport.lost_since is not None

    def _replace(self, target: str, copy: Envelope, original: Envelope) -> Settled | None:
        """Put the copy in the place of its original, where the broker can in one step; None if it cannot."""
        origin = self._transports[_origin(original)]
        if target != origin.name or not isinstance(origin, QueueTransport):
            return None
        try:
            return "settled" if origin.replace(original, copy) else None
        except (ConnectionLost, MessageRefused):
            raise
        except TransportError:
            if origin.has_lost(original):
                return "gone"
            raise

    def _acknowledge(self, original: Envelope) -> Settled:
        origin = self._transports[_origin(original)]
        if not isinstance(origin, Receiver):
            return "settled"
        try:
            origin.ack([original])
        except Exception:  # A border: the copy is stored, so there is no reason for another one.
            return "owed"
        return "settled"

    # what is told of it

    def _tell(self, envelope: Envelope, error: Exception, decision: Decision) -> None:
        transport = _origin(envelope)
        if not isinstance(decision, Bury):
            delay = decision.delay if isinstance(decision, Retry) else None
            when = "in another worker, because this one stops" if delay is None else f"in {delay:.1f} s"
            self._tell_retry(envelope, error, when, attempts_of(envelope) + 1)
            self._observers.notify(MessageRetried(envelope, transport, error, delay or 0.0))
            return
        logger.error(
            "Burying %s in %r: %s",
            label(envelope),
            decision.transport,
            _last_reason(envelope, error),
            exc_info=_news(envelope, error),
            extra=identifiers(envelope),
        )
        self._observers.notify(MessageBuried(envelope, transport, error, decision.transport))

    def _tell_retry(self, envelope: Envelope, error: Exception, when: str, attempts: int) -> None:
        logger.warning(
            "Retrying %s %s (attempt %d): %s",
            label(envelope),
            when,
            attempts + 1,
            _reason(error),
            exc_info=_news(envelope, error),
            extra=identifiers(envelope),
        )


# --- copies ----------------------------------------------------------------------------------------


def copy_to_bury(envelope: Envelope, error: Exception, failure_transport: str) -> Envelope:
    """Return what a failure transport is to keep of a received message that finally failed."""
    transport = _origin(envelope)
    buried = envelope.last(stamps.Buried) or stamps.Buried(transport)
    copy = _copy(envelope, error, with_traceback=True).without(stamps.Retried, stamps.Buried).with_(buried)
    # Whoever consumes the failure transport would otherwise get it back at once, and again, and again.
    return copy.with_(stamps.Delay(REST)) if failure_transport == transport else copy


def as_it_came(envelope: Envelope) -> Envelope:
    """Return a received envelope as it is to be stored: as what came, even if a handler has changed its message.

    One that another program sent keeps the group in which its broker had it.
    """
    received = envelope.last(stamps.Received)
    copy = envelope.without(stamps.Received)
    if received is None:
        return copy
    if received.group is not None and not copy.has(stamps.Key):
        copy = copy.with_(stamps.Key(received.group))
    return copy if received.original is None else copy.with_(received.original)


def _copy_to_retry(envelope: Envelope, error: Exception, delay: float, *, immediate: int = 0) -> Envelope:
    counted = _counted(_copy(envelope, error), delayed=0 if immediate else 1, immediate=immediate)
    return counted.with_(stamps.Delay(delay))


def _copy_to_return(envelope: Envelope, delay: float) -> Envelope:
    """Return the message as it came, counted, so that it comes later each time."""
    copy = as_it_came(envelope).without(stamps.Delay, stamps.NotBefore)
    return _counted(copy, delayed=1).with_(stamps.Delay(delay))


def _with_less(make: Callable[[], Envelope]) -> Envelope:
    """Return the copy that this makes, with little more of its errors than the class of the newest one."""
    copy = make()
    last = copy.last(stamps.ErrorDetails)
    if last is None:
        return copy
    short = stamps.ErrorDetails(last.type, cut(last.message, SHORTEST_TEXT), last.at, last.handler)
    return copy.without(stamps.ErrorDetails).with_(short)


def _alone(envelope: Envelope, origin: Transport, failure_transport: str) -> Envelope:
    """Return the body and the headers that came, the latter as one, whatever is in their names; and where from."""
    came = as_it_came(envelope)
    original = came.last(stamps.Original)
    if original is not None:
        body, headers = keep(came.without(stamps.Original), original)
    elif isinstance(origin, QueueTransport):
        body, headers = origin.serializer.encode(came)
    else:
        raise TransportError(f"{origin.name!r} has no bytes of it")
    buried = envelope.last(stamps.Buried) or stamps.Buried(origin.name)
    alone = Envelope(Undecodable(body, packed(headers), "it is kept as body and headers alone"), (buried,))
    return alone.with_(stamps.Delay(REST)) if failure_transport == origin.name else alone


def label(envelope: Envelope) -> str:
    """Return what a log line calls a message: its type, and its id."""
    message_id = envelope.last(stamps.MessageId)
    received = envelope.last(stamps.Received)
    id = message_id.id if message_id is not None else received.id if received is not None else None
    kind = type(envelope.message).__qualname__
    if isinstance(envelope.message, Undecodable) and (named := envelope.message.headers.get("type")):
        kind = f"{kind} {one_line(named, LONGEST_ID)}"
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
    details = [_short(one) for one in envelope.all(stamps.ErrorDetails)]
    details += [_details(one, handler or None, with_traceback) for handler, one in errors.items()]
    kept = details[:1] + details[1:][-(MOST_ERRORS - 1) :]

    copy = as_it_came(envelope).without(
        stamps.Sent,
        stamps.Result,
        stamps.Delay,
        stamps.NotBefore,
        stamps.AfterCurrent,
        stamps.ErrorDetails,
    )
    if not copy.has(stamps.MessageId):  # It came from somebody else. From now on it can be followed.
        copy = copy.with_(stamps.MessageId(new_id()))
    return copy.with_(*(stamps.Handled(name) for name in done), *kept)


def _counted(copy: Envelope, *, delayed: int = 0, immediate: int = 0) -> Envelope:
    """Return a copy that has been retried once more."""
    before = copy.last(stamps.Retried) or stamps.Retried(0, _now())
    after = stamps.Retried(before.count + delayed, _now(), before.immediate + immediate)
    return copy.without(stamps.Retried).with_(after)


def _details(error: Exception, handler: str | None, with_traceback: bool) -> stamps.ErrorDetails:
    return stamps.ErrorDetails(
        type=qualified_name(type(error)),
        message=text_of(error),
        at=_now(),
        handler=handler,
        traceback=traceback_of(error) if with_traceback else None,
    )


def _short(details: stamps.ErrorDetails) -> stamps.ErrorDetails:
    """Return what somebody wrote of an error, as long as we would have."""
    traceback = details.traceback
    if len(details.message) <= LONGEST_TEXT // 4 and len(traceback or "") <= LONGEST_TRACEBACK // 4:
        return details
    return stamps.ErrorDetails(
        details.type,
        cut(details.message, LONGEST_TEXT),
        details.at,
        details.handler,
        None if traceback is None else cut(traceback, LONGEST_TRACEBACK, keeps_end=True),
    )


# --- what is asked of an error ---------------------------------------------------------------------


def _delay_of(error: Recoverable) -> float | None:
    """Return the seconds that an error names; None if it names none, or nothing that is a time, which is said."""
    try:
        given: object = error.delay
        if given is None:
            return None
        seconds = seconds_of(given)
        problem = f"it is {given!r}, which is no number of seconds"
    except Exception as raised:  # A border: a subclass may have made anything of it.
        seconds, problem = None, f"it cannot be told: {describe(raised)}"
    if seconds is None:
        name = type(error).__name__
        logger.warning("Leaving the delay of %s to the retry policy, because %s.", name, cut(problem, SHORTEST_TEXT))
        return None
    return _possible(seconds)


def _possible(delay: float) -> float:
    return min(max(delay, 0.0), LONGEST_DELAY)


def _whole(envelope: Envelope, transport: Transport) -> str:
    """Return all of a message, for a log that is the last to see it."""
    encoded: object = envelope
    try:
        if isinstance(transport, QueueTransport):
            outgoing = transport.encode(as_it_came(envelope))
            encoded = outgoing.body, dict(outgoing.headers)
        return repr(encoded)
    except Exception as error:  # A border: what can be told of it, is told.
        received = envelope.last(stamps.Received)
        came = received.original if received is not None else None
        body = repr(came.body) if came is not None else "unknown"
        return f"(it cannot be written: {text_of(error)}) {body}"


def _reason(error: Exception) -> str:
    return describe(leaves(error)[0])


# --- what logs show of where an error was raised ----------------------------------------------------


def _news(envelope: Envelope, error: Exception) -> Exception | None:
    """Return what is to be logged with its traceback: the first failure of a message, if it is not ours."""
    if envelope.has(stamps.ErrorDetails) or isinstance(error, NoHandler | NotDecoded | Poisonous):
        return None
    errors = list(error.errors.values()) if isinstance(error, HandlerFailed) else [error]
    return errors[0] if len(errors) == 1 else ExceptionGroup(f"{len(errors)} handlers failed", errors)


def _last_reason(envelope: Envelope, error: Exception) -> str:
    """Return why a message finally failed; and where, unless its traceback follows."""
    way = way_of(leaves(error)[0]) if _news(envelope, error) is None else []
    return f"{_reason(error)} ({', '.join(way)})" if way else _reason(error)


def way_of(error: BaseException) -> list[str]:
    """Return the lines on which an error came out of code that is not of Postbus: the first, and the last ones."""
    codes = [(frame.f_code, line) for frame, line in walk_tb(error.__traceback__)]
    way = [
        one_line(f"{os.path.basename(code.co_filename)}:{line} in {code.co_name}")
        for code, line in codes
        if not code.co_filename.startswith(_OWN_FOLDER)
    ]
    return way if len(way) <= LONGEST_WAY else [way[0], CUT, *way[2 - LONGEST_WAY :]]


def _show_traceback(record: logging.LogRecord) -> bool:
    """Write the traceback of a record as all formatters are to show it, whatever its error does when it is asked."""
    if record.exc_info and record.exc_info[1] is not None and record.exc_text is None:
        record.exc_text = printable(traceback_of(record.exc_info[1])).rstrip()
    return True


logger.addFilter(_show_traceback)


def _now() -> datetime:
    return datetime.now(UTC)
