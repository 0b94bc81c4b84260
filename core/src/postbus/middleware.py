"""The built-in middleware, in the order in which a bus has them; the user's own stand before `SendMessage`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from itertools import count
from random import Random
from time import time

from postbus import stamps
from postbus.bus import Next
from postbus.envelope import Envelope
from postbus.errors import DeferredFailed, HandlerFailed, NoHandler, NoRoute, TransportError
from postbus.handlers import Handlers, qualified_name
from postbus.routing import Router
from postbus.stamps import Stamp
from postbus.transport import Sender


class AddBusName:
    """Notes on which bus a message was first dispatched, which is the one that handles it."""

    def __init__(self, name: str) -> None:
        self._stamp = stamps.BusName(name)

    def __call__(self, envelope: Envelope, call_next: Next) -> Envelope:
        """Put the bus's name on an envelope that has none."""
        if envelope.has(stamps.BusName):
            return call_next(envelope)
        return call_next(envelope.with_(self._stamp))


class _Ids:
    """What `new_id` makes ids of: the millisecond, random bits drawn each millisecond, and a counter."""

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        """Draw everything anew, as a forked process must, or it would make its parent's ids."""
        # Apart from the global generator, because programs seed that one.
        self.random = Random()
        self.counter = count(self.random.randrange(1 << 44, 1 << 47))  # twelve hexadecimal digits, for years
        self.prefix, self.begins, self.ends = "", 0.0, 0.0

    def start_millisecond(self, now: float) -> None:
        """Make the part of the ids that stays the same until the next millisecond."""
        milliseconds = int(now * 1000)
        bits = self.random.getrandbits(26)
        digits = f"{milliseconds:012x}7{bits >> 14:03x}{0x8000 | bits & 0x3FFF:04x}"
        self.prefix = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:]}-"
        self.begins, self.ends = now, (milliseconds + 1) / 1000


_ids = _Ids()
os.register_at_fork(after_in_child=_ids.start_over)


def new_id() -> str:
    """Return a UUID of version 7 (RFC 9562, 5.7) as text."""
    now = time()
    if not _ids.begins <= now < _ids.ends:
        _ids.start_millisecond(now)
    return _ids.prefix + hex(next(_ids.counter))[2:]


_Identity = tuple[stamps.MessageId, stamps.Correlation]
_current: ContextVar[_Identity | None] = ContextVar("postbus_current", default=None)


def add_identity(envelope: Envelope, call_next: Next) -> Envelope:
    """Give a message its id, and say which conversation it belongs to and which message caused it.

    What a handler dispatches while this message is handled gets this one as its cause.
    """
    parent = _current.get()
    added: list[Stamp] = []
    message_id = envelope.last(stamps.MessageId)
    if message_id is None:
        message_id = stamps.MessageId(new_id())
        added.append(message_id)
        if parent is not None:
            added.append(stamps.Causation(parent[0].id))
    correlation = envelope.last(stamps.Correlation)
    if correlation is None:
        correlation = stamps.Correlation(parent[1].id if parent is not None else message_id.id)
        added.append(correlation)

    token = _current.set((message_id, correlation))
    try:
        return call_next(envelope.with_(*added))
    finally:
        _current.reset(token)


_deferred: ContextVar[list[tuple[Envelope, Next]] | None] = ContextVar("postbus_deferred", default=None)


def dispatch_after_current(envelope: Envelope, call_next: Next) -> Envelope:
    """Keep a message with `stamps.AfterCurrent` back until the one that is being handled has succeeded.

    Such a dispatch returns at once, with the envelope as it was given. The messages go on in the order in
    which they were dispatched, each with the rest of its own bus; if the outermost message fails they are
    forgotten. One that fails stops only what it deferred itself; then `DeferredFailed` is raised.
    """
    waiting = _deferred.get()
    if envelope.has(stamps.AfterCurrent):
        if waiting is not None:
            waiting.append((envelope, call_next))
            return envelope
        envelope = envelope.without(stamps.AfterCurrent)
    elif waiting is not None:
        return call_next(envelope)

    waiting = list[tuple[Envelope, Next]]()
    token = _deferred.set(waiting)
    try:
        result = call_next(envelope)
        errors: list[Exception] = []
        while waiting:
            deferred, rest = waiting.pop(0)
            before = len(waiting)
            try:
                rest(deferred.without(stamps.AfterCurrent))
            except Exception as error:  # A border: its neighbours were deferred by a message that succeeded.
                errors.append(error)
                del waiting[before:]
    finally:
        _deferred.reset(token)
    if errors:
        raise DeferredFailed(errors)
    return result


def restore_failed(envelope: Envelope, call_next: Next) -> Envelope:
    """Let a message that comes out of a failure transport be handled as if it came from where it failed first."""
    buried = envelope.last(stamps.Buried)
    if buried is None or not envelope.has(stamps.Received):
        return call_next(envelope)
    return call_next(envelope.with_(stamps.Received(buried.transport)))


class SendMessage:
    """Sends a message to the transports that it is routed to; one that came from a transport goes on.

    A message without a route goes on too, unless the bus requires one.
    """

    def __init__(self, router: Router, *, allow_no_senders: bool = True) -> None:
        self.router = router
        self._allow_no_senders = allow_no_senders

    def __call__(self, envelope: Envelope, call_next: Next) -> Envelope:
        """Send, and return the envelope with `stamps.Sent` for each transport."""
        if envelope.has(stamps.Received):
            return call_next(envelope)
        senders = self.senders_for(envelope)
        if not senders:
            return call_next(envelope)
        result = envelope
        for sender in senders.values():
            (sent,) = sender.send([envelope])
            result = result.with_(*added_stamps(envelope, sent))
        return result

    def senders_for(self, envelope: Envelope) -> Mapping[str, Sender]:
        """Return where to send it; nowhere means that it is handled here."""
        senders = self.router.senders_for(envelope)
        if not senders and not self._allow_no_senders:
            raise NoRoute(
                f"{qualified_name(type(envelope.message))} has no route, and this bus requires one. Add it to routing, "
                "or set allow_no_senders on the bus."
            )
        return senders


class CollectMessages:
    """Stands in for `SendMessage` while many messages are dispatched: notes what is to be sent where, for `flush`."""

    def __init__(self, send_message: SendMessage) -> None:
        self._senders_for = send_message.senders_for
        self._collected: dict[str, tuple[Sender, list[tuple[int, Envelope]]]] = {}
        self.position = 0
        """Which of the messages is being dispatched."""

    def __call__(self, envelope: Envelope, call_next: Next) -> Envelope:
        """Note where the envelope is to go, or hand it on if it is handled here."""
        senders = self._senders_for(envelope)
        if not senders:
            return call_next(envelope)
        for name, sender in senders.items():
            self._collected.setdefault(name, (sender, []))[1].append((self.position, envelope))
        return envelope

    def flush(self, envelopes: list[Envelope]) -> None:
        """Send what was collected, one batch for each transport, and put the new stamps on ``envelopes``."""
        collected, self._collected = self._collected, {}
        for sender, entries in collected.values():
            try:
                sent = sender.send([envelope for _, envelope in entries])
            except TransportError as error:
                error.stored = {entries[index][0]: id for index, id in error.stored.items()}
                raise
            for (position, envelope), result in zip(entries, sent, strict=True):
                envelopes[position] = envelopes[position].with_(*added_stamps(envelope, result))


class HandleMessage:
    """Calls the handlers of a message; all of them, also after one has failed."""

    def __init__(self, handlers: Handlers, bus: str, *, allow_no_handlers: bool = False) -> None:
        self._handlers = handlers
        self._bus = bus
        self._allow_no_handlers = allow_no_handlers

    def __call__(self, envelope: Envelope, call_next: Next) -> Envelope:
        """Return the envelope with `stamps.Handled` and `stamps.Result`; raise `HandlerFailed` at the end."""
        received = envelope.last(stamps.Received)
        handlers = self._handlers.handlers_for(envelope.message, self._bus, received.transport if received else None)
        if not handlers and not self._allow_no_handlers:
            raise NoHandler(_no_handler(envelope, self._bus, received))

        done = [handled.handler for handled in envelope.all(stamps.Handled)]
        outcome: list[Stamp] = []
        errors: dict[str, Exception] = {}
        for handler in handlers:
            if handler.name in done:
                continue
            try:
                result = handler.handle(envelope)
            except Exception as error:  # A border: what a handler raises is for the caller, or for `failures`.
                errors[handler.name] = error
                continue
            outcome.append(stamps.Handled(handler.name))
            if result is not None:
                outcome.append(stamps.Result(handler.name, result))
        if errors:
            succeeded = [stamp.handler for stamp in outcome if isinstance(stamp, stamps.Handled)]
            raise HandlerFailed(type(envelope.message).__qualname__, errors, succeeded)
        return call_next(envelope.with_(*outcome))


def added_stamps(before: Envelope, after: Envelope) -> Sequence[Stamp]:
    """Return the stamps that were put on between the two."""
    known = {id(stamp) for stamp in before.stamps}
    return [stamp for stamp in after.stamps if id(stamp) not in known]


def _no_handler(envelope: Envelope, bus: str, received: stamps.Received | None) -> str:
    name = qualified_name(type(envelope.message))
    if received is not None:
        return (
            f"No handler on bus {bus!r} takes {name} from {received.transport!r}. Add one with @app.handler, and let "
            "the worker import its module."
        )
    return (
        f"{name} has neither a route nor a handler on bus {bus!r}. Add it to routing, or add a handler with "
        "@app.handler."
    )
