"""The built-in middleware, in the order in which a bus has them; the user's own stand before `SendMessage`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from itertools import repeat
from random import Random
from time import time

from msgspec import Struct, field

from postbus import stamps
from postbus.bus import Next
from postbus.envelope import Envelope
from postbus.errors import (
    DeferredFailed,
    HandlerFailed,
    MessageRefused,
    NoHandler,
    NoRoute,
    TransportError,
    qualified_name,
)
from postbus.handlers import Handlers
from postbus.provided import Provided
from postbus.routing import Router
from postbus.serialization import forget_changed
from postbus.stamps import Stamp
from postbus.transport import Outgoing, Sender, SupportsEncode


class AddBusName:
    """Notes on which bus a message was first dispatched, which is the one that handles it."""

    def __init__(self, name: str) -> None:
        self._stamp = stamps.BusName(name)

    def __call__(self, envelope: Envelope, call_next: Next) -> Envelope:
        """Put the bus's name on an envelope that has none."""
        if envelope.has(stamps.BusName):
            return call_next(envelope)
        return call_next(Envelope(envelope.message, (*envelope.stamps, self._stamp)))


class _Ids:
    """What `new_id` takes ids from: the beginning and the ending of each that is left in this millisecond."""

    ENDINGS = tuple(f"{number:03x}" for number in range(0x1000))

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        """Draw everything anew, as a forked process must, or it would make its parent's ids."""
        # Apart from the global generator, because programs seed that one.
        self._random = Random()
        self._milliseconds = 0
        self.ends = 0.0
        self.left: Iterator[tuple[str, str]] = iter(())

    def refill(self, now: float) -> None:
        """Begin a millisecond: its ids share the time and 62 random bits, and differ in their endings."""
        # Never one again, whatever the clock does: so the ids of a process are in order.
        milliseconds = self._milliseconds = max(int(now * 1000), self._milliseconds + 1)
        bits = self._random.getrandbits(62)
        digits = f"{milliseconds:012x}7{bits >> 50:03x}{0x8000 | bits >> 36 & 0x3FFF:04x}{bits & 0xFFFFFFFFF:09x}"
        start = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
        # Iterators written in C, from which two threads never take the same.
        self.left = zip(repeat(start), self.ENDINGS, strict=False)
        self.ends = (milliseconds + 1) / 1000


_ids = _Ids()
os.register_at_fork(after_in_child=_ids.start_over)


def new_id() -> str:
    """Return a UUID of version 7 (RFC 9562, 5.7) as text."""
    now = time()
    if now >= _ids.ends:
        _ids.refill(now)
    for start, ending in _ids.left:
        return start + ending
    _ids.refill(now)  # All were taken within this millisecond.
    return new_id()


class _Current(Struct):
    """The message that is being dispatched, as those see it that its handlers dispatch."""

    id: str
    correlation: stamps.Correlation
    outermost: _Current | None
    """The message that all began with; None if it is this one."""
    deferred: list[tuple[Envelope, Next, _Current]] | None = None
    """What waits until this message, which is the outermost, has succeeded."""
    is_over: bool = False


_current: ContextVar[_Current | None] = ContextVar("postbus_current", default=None)


def add_identity(envelope: Envelope, call_next: Next) -> Envelope:
    """Give a message its id, and say which conversation it belongs to and which message caused it.

    What a handler dispatches while this message is handled gets this one as its cause.
    """
    parent = _current.get()
    added: tuple[Stamp, ...] = ()
    message_id = envelope.last(stamps.MessageId)
    if message_id is None:
        message_id = stamps.MessageId(new_id())
        added = (message_id,) if parent is None else (message_id, stamps.Causation(parent.id))
    correlation = envelope.last(stamps.Correlation)
    if correlation is None:
        correlation = stamps.Correlation(message_id.id) if parent is None else parent.correlation
        added += (correlation,)

    outermost = None if parent is None else parent.outermost or parent
    if outermost is not None and outermost.is_over:
        outermost = None  # A thread or task that outlived the handler which began it is on its own.
    current = _Current(message_id.id, correlation, outermost)
    token = _current.set(current)
    try:
        return call_next(Envelope(envelope.message, envelope.stamps + added) if added else envelope)
    finally:
        _current.reset(token)
        current.is_over = True


def dispatch_after_current(envelope: Envelope, call_next: Next) -> Envelope:
    """Keep a message with `stamps.AfterCurrent` back until the one that is being handled has succeeded.

    Such a dispatch returns at once, with the envelope as it was given. The messages go on in the order in
    which they were dispatched, each with the rest of its own bus; if the outermost message fails they are
    forgotten. One that fails stops only what it deferred itself; then `DeferredFailed` is raised.
    Stands behind `add_identity`, which knows which message is outermost.
    """
    current = _current.get()
    if current is None:
        return call_next(envelope)
    if envelope.has(stamps.AfterCurrent):
        if current.outermost is not None:
            if current.outermost.deferred is None:
                current.outermost.deferred = []
            current.outermost.deferred.append((envelope, call_next, current))
            return envelope
        envelope = envelope.without(stamps.AfterCurrent)
    result = call_next(envelope)
    if current.deferred:
        _dispatch_deferred(current.deferred)
    return result


def _dispatch_deferred(deferred: list[tuple[Envelope, Next, _Current]]) -> None:
    errors: list[Exception] = []
    while deferred:
        envelope, call_next, current = deferred.pop(0)
        before = len(deferred)
        token = _current.set(current)
        try:
            call_next(envelope.without(stamps.AfterCurrent))
        except Exception as error:  # A border: its neighbours were deferred by a message that succeeded.
            errors.append(error)
            del deferred[before:]
        finally:
            _current.reset(token)
    if errors:
        raise DeferredFailed(errors)


class RestoreFailed:
    """Lets a message that comes out of a failure transport be handled as if it came from where it failed first.

    `stamps.Buried` is believed only there, and only if it names one of the ``origins``; from elsewhere it is no
    more than what a stranger wrote, and goes no further.
    """

    def __init__(self, failure_transports: Collection[str], origins: Collection[str]) -> None:
        """``origins`` are the other transports: those that a message can have come from when it failed."""
        self._failure_transports = failure_transports
        self._origins = origins

    def __call__(self, envelope: Envelope, call_next: Next) -> Envelope:
        """Note, as what counts from here on, that the message was received from where it failed first."""
        buried = envelope.last(stamps.Buried)
        if buried is None or not envelope.has(stamps.Received):
            return call_next(envelope)
        if _origin(envelope) not in self._failure_transports:
            return call_next(envelope.without(stamps.Buried))
        if buried.transport not in self._origins:
            return call_next(envelope)
        return call_next(envelope.with_(stamps.Received(buried.transport)))


class SendMessage:
    """Sends a message to the transports that it is routed to; one that came from a transport goes on.

    A message without a route goes on too, unless the bus requires one.
    """

    def __init__(self, router: Router, *, allow_no_senders: bool = True) -> None:
        self.router = router
        self.allow_no_senders = allow_no_senders

    def __call__(self, envelope: Envelope, call_next: Next) -> Envelope:
        """Send, and return the envelope with `stamps.Sent` for each transport."""
        if envelope.has(stamps.Received):
            return call_next(envelope)
        senders = self.router.senders_for(envelope)
        if senders:
            return self.send(forget_changed(envelope), senders)
        if not self.allow_no_senders:
            raise NoRoute(
                f"{qualified_name(type(envelope.message))} has no route, and this bus requires one. Add it to routing, "
                "or set allow_no_senders on the bus."
            )
        return call_next(envelope)

    def send(self, envelope: Envelope, senders: Mapping[str, Sender]) -> Envelope:
        """Send the envelope with each of these, or none if one cannot write it; what one puts on it no other sees."""
        if len(senders) == 1:
            (sender,) = senders.values()
            (sent,) = sender.send([envelope])
            return sent

        result = envelope
        batches = [_Batch.of(sender) for sender in senders.values()]
        _add(0, envelope, batches)
        for batch in batches:
            (sent,) = batch.send()
            result = merge(envelope, result, sent)
        return result


class _Batch(Struct):
    """What one sender is to send: the envelopes with their positions, and as bytes if it makes them beforehand."""

    sender: Sender
    encoder: SupportsEncode | None
    positions: list[int] = field(default_factory=list[int])
    envelopes: list[Envelope] = field(default_factory=list[Envelope])
    outgoing: list[Outgoing] = field(default_factory=list[Outgoing])

    @classmethod
    def of(cls, sender: Sender) -> _Batch:
        return cls(sender, sender if isinstance(sender, SupportsEncode) else None)

    def add(self, position: int, envelope: Envelope, outgoing: Outgoing | None) -> None:
        self.positions.append(position)
        self.envelopes.append(envelope)
        if outgoing is not None:
            self.outgoing.append(outgoing)

    def encode(self, envelope: Envelope) -> Outgoing | None:
        return self.encoder.encode(envelope) if self.encoder is not None else None

    def send(self) -> list[Envelope]:
        if self.encoder is not None:
            return self.encoder.store(self.envelopes, self.outgoing)
        return self.sender.send(self.envelopes)


def _add(position: int, envelope: Envelope, batches: Sequence[_Batch]) -> None:
    """Put an envelope into each of these batches, or into none if it cannot be written for one of them."""
    encoded = [batch.encode(envelope) for batch in batches]
    for batch, outgoing in zip(batches, encoded, strict=True):
        batch.add(position, envelope, outgoing)


class CollectMessages(SendMessage):
    """Stands in for `SendMessage` while many messages are dispatched: notes what is to be sent where, for `flush`.

    A message is encoded at once, so that one which cannot be written is found before anything behind it is sent.
    """

    def __init__(self, send_message: SendMessage) -> None:
        super().__init__(send_message.router, allow_no_senders=send_message.allow_no_senders)
        self.position = 0
        """Which of the messages is being dispatched."""
        self.stored: dict[int, str | None] = {}
        """The positions of those messages that all of their transports have stored, and the ids that they gave."""
        self.is_over = False
        """Whether nothing is collected any more, so that what was deferred until now is sent at once."""
        self._batches: dict[str, _Batch] = {}

    def send(self, envelope: Envelope, senders: Mapping[str, Sender]) -> Envelope:
        """Note where the envelope is to go."""
        if self.is_over:
            return super().send(envelope, senders)
        batches = [self._batches.get(name) or self._begin(name, sender) for name, sender in senders.items()]
        if len(batches) == 1:  # In half the time.
            batches[0].add(self.position, envelope, batches[0].encode(envelope))
        else:
            _add(self.position, envelope, batches)
        return envelope

    def _begin(self, name: str, sender: Sender) -> _Batch:
        batch = self._batches[name] = _Batch.of(sender)
        return batch

    def flush(self, envelopes: list[Envelope]) -> None:
        """Send what was collected, one batch for each transport, and put the new stamps on ``envelopes``.

        Raises `TransportError`, whose ``stored`` has the positions of those messages that all of their
        transports have stored, in earlier batches too. What was refused keeps nothing else from being sent.
        """
        batches, self._batches = self._batches, {}
        owed = Counter(position for batch in batches.values() for position in batch.positions)
        refused: dict[int, str] = {}

        def store(position: int, id: str | None) -> None:
            owed[position] -= 1
            if not owed[position]:
                self.stored[position] = id

        for batch in batches.values():
            try:
                sent = batch.send()
            except TransportError as error:
                for index, id in error.stored.items():
                    store(batch.positions[index], id)
                if not isinstance(error, MessageRefused):
                    error.stored = self.stored
                    raise
                refused |= {batch.positions[index]: why for index, why in error.refused.items()}
                continue
            for position, envelope, result in zip(batch.positions, batch.envelopes, sent, strict=True):
                last = result.last(stamps.Sent)
                store(position, last.id if last is not None else None)
                envelopes[position] = merge(envelope, envelopes[position], result)
        if refused:
            raise MessageRefused(refused, stored=self.stored)


class HandleMessage:
    """Calls the handlers of a message; all of them, also after one has failed."""

    def __init__(
        self, handlers: Handlers, bus: str, *, allow_no_handlers: bool = False, provided: Provided | None = None
    ) -> None:
        self._handlers = handlers
        self._provided = provided
        self._bus = bus
        self._allow_no_handlers = allow_no_handlers

    def __call__(self, envelope: Envelope, call_next: Next) -> Envelope:
        """Return the envelope with `stamps.Handled` and `stamps.Result`; raise `HandlerFailed` at the end."""
        origin = _origin(envelope) if self._handlers.depend_on_transport else None
        handlers = self._handlers.handlers_for(envelope.message, self._bus, origin)
        if not handlers and not self._allow_no_handlers:
            raise NoHandler(_no_handler(envelope, self._bus))

        outcome = envelope
        errors: dict[str, Exception] = {}
        for handler in handlers:
            handled = stamps.Handled(handler.name)
            if handled in envelope.stamps:
                continue
            try:
                succeeded = _succeeded(envelope, outcome) if handler.time_limit is not None else ()
                result = handler.handle(envelope, succeeded, self._provided)
            except Exception as error:  # A border: what a handler raises is for the caller, or for `failures`.
                errors[handler.name] = error
                continue
            outcome = Envelope(outcome.message, (*outcome.stamps, handled))
            if result is not None:
                outcome = outcome.with_(stamps.Result(handler.name, result))
        if errors:
            try:
                raise HandlerFailed(type(envelope.message).__qualname__, errors, _succeeded(envelope, outcome))
            finally:
                # Else they hold this frame and it holds them, and the message waits for the garbage collector.
                del errors
        return call_next(outcome)


def _succeeded(envelope: Envelope, outcome: Envelope) -> list[str]:
    added = outcome.stamps[len(envelope.stamps) :]
    return [stamp.handler for stamp in added if isinstance(stamp, stamps.Handled)]


def merge(origin: Envelope, one: Envelope, other: Envelope) -> Envelope:
    """Return one envelope with those stamps put on that the other has got since both had the same origin."""
    if one is origin:
        return other
    known = {id(stamp) for stamp in origin.stamps}
    return one.with_(*(stamp for stamp in other.stamps if id(stamp) not in known))


def _origin(envelope: Envelope) -> str | None:
    received = envelope.last(stamps.Received)
    return received.transport if received is not None else None


def _no_handler(envelope: Envelope, bus: str) -> str:
    name = qualified_name(type(envelope.message))
    origin = _origin(envelope)
    if origin is not None:
        return (
            f"No handler on bus {bus!r} takes {name} from {origin!r}. Add one with @app.handler, and let "
            "the worker import its module."
        )
    return (
        f"{name} has neither a route nor a handler on bus {bus!r}. Add it to routing, or add a handler with "
        "@app.handler."
    )
