"""The built-in middleware, in the order in which a bus has them; the user's own stand before `SendMessage`."""

from __future__ import annotations

import os
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import repeat
from random import Random
from time import time
from typing import Any

from msgspec import Struct, field

from postbus import stamps
from postbus.batches import leave_to_batch
from postbus.bus import Next, Step
from postbus.default_stamps import DefaultStamps
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
from postbus.keys import Keys
from postbus.provided import Provided
from postbus.routing import Router
from postbus.serialization import forget_changed
from postbus.stamps import Stamp
from postbus.threads import aside
from postbus.transport import Outgoing, Sender, SupportsEncode


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

    id: str | None
    """None of several that are handled at once: then, what is dispatched has no cause."""
    correlation: stamps.Correlation | None
    """None where these are of several conversations."""
    outermost: _Current | None
    """The message that all began with; None if it is this one."""
    deferred: list[tuple[Envelope, Next, _Current]] | None = None
    """What waits until this message, which is the outermost, has succeeded."""
    is_over: bool = False
    inherited: tuple[Stamp, ...] = ()
    """The stamps of this message that propagate."""

    def defer(self, envelope: Envelope, call_next: Next, current: _Current) -> None:
        if self.deferred is None:
            self.deferred = []
        self.deferred.append((envelope, call_next, current))


_NO_KINDS: dict[type, Any] = {}

_current: ContextVar[_Current | None] = ContextVar("postbus_current", default=None)


class BeginMessage(Step):
    """Gives a message what every one has: its bus, its id, its conversation and its cause.

    What a handler dispatches while a message is handled gets that one as its cause, and those of its stamps that
    propagate; then come the default stamps of its class. A message with `stamps.AfterCurrent` is kept back until the
    one that is being handled has succeeded: such a dispatch returns at once. The messages go on in the order in which
    they were dispatched, each with the rest of its own bus; if the outermost message fails they are forgotten. One that
    fails stops only what it deferred itself; then `DeferredFailed` is raised.

    One that comes out of a failure transport is handled as if it came from where it failed first. `stamps.Buried` is
    believed only there, and only if it names one of the ``origins``; from elsewhere it is no more than what a stranger
    wrote, and goes no further.
    """

    def __init__(
        self,
        bus: str,
        failure_transports: Collection[str] = (),
        origins: Collection[str] = (),
        defaults: DefaultStamps | None = None,
    ) -> None:
        """``origins`` are the other transports: those that a message can have come from when it failed."""
        self._bus = stamps.BusName(bus)
        self._defaults = defaults if defaults is not None else DefaultStamps()
        self._failure_transports = failure_transports
        self._origins = origins

    def link(self, call_next: Next) -> Next:
        """Put on what is missing, and take the message on as the current one, or keep it back."""
        own_bus, only_own_bus, current_is = self._bus, (self._bus,), _current
        declared, put_on, propagating = self._defaults.declared, self._defaults.put_on, stamps.propagating

        # All in one step, and by one look at the stamps, because every message goes through this.
        def begin(envelope: Envelope) -> Envelope:
            parent = current_is.get()
            # What comes from elsewhere has all that it is to have.
            if (declared or propagating) and not envelope.has(stamps.Received):
                if parent is not None and parent.inherited:
                    envelope = envelope.with_(*(one for one in parent.inherited if not envelope.has(type(one))))
                if declared:
                    envelope = put_on(envelope)
            came = envelope.stamps
            if came:
                kinds: dict[type, Any] = {type(stamp): stamp for stamp in came}
                message_id: stamps.MessageId | None = kinds.get(stamps.MessageId)
                correlation: stamps.Correlation | None = kinds.get(stamps.Correlation)
                added: tuple[Stamp, ...] = () if stamps.BusName in kinds else (own_bus,)
            else:
                kinds, message_id, correlation, added = _NO_KINDS, None, None, only_own_bus
            if message_id is None:
                message_id = stamps.MessageId(new_id())
                added += (
                    (message_id,) if parent is None or parent.id is None else (message_id, stamps.Causation(parent.id))
                )
            if correlation is None:
                correlation = parent.correlation if parent is not None else None
                if correlation is None:
                    correlation = stamps.Correlation(message_id.id)
                added += (correlation,)
            if added:
                envelope = Envelope(envelope.message, came + added)
            if stamps.Buried in kinds and stamps.Received in kinds:
                envelope = self._restored(envelope, kinds[stamps.Buried])

            is_deferred = stamps.AfterCurrent in kinds
            del kinds  # Else it lasts as long as the message, of which there may be thousands at once.
            outermost = None
            if parent is not None:
                outermost = parent.outermost or parent
                if outermost.is_over:
                    outermost = None  # A thread or task that outlived the handler which began it is on its own.
            current = _Current(message_id.id, correlation, outermost)
            if propagating:
                current.inherited = tuple(stamp for stamp in envelope.stamps if type(stamp) in propagating)
            if is_deferred:
                if outermost is not None:
                    outermost.defer(envelope, call_next, current)
                    return envelope
                envelope = envelope.without(stamps.AfterCurrent)
            token = current_is.set(current)
            try:
                result = call_next(envelope)
                if current.deferred:
                    aside(partial(_dispatch_deferred, current.deferred), "of what was deferred")
                return result
            finally:
                current_is.reset(token)
                current.is_over = True

        return begin

    def _restored(self, envelope: Envelope, buried: stamps.Buried) -> Envelope:
        """Note, as what counts from here on, that the message was received from where it failed first."""
        if _origin(envelope) not in self._failure_transports:
            return envelope.without(stamps.Buried)
        if buried.transport not in self._origins:
            return envelope
        return envelope.with_(stamps.Received(buried.transport))


@contextmanager
def handling_together(envelopes: Sequence[Envelope]) -> Generator[None]:
    """Let what is dispatched meanwhile inherit what all of these messages have in common.

    What waits for the message that is being handled waits for the end of this, and is forgotten if it raises.
    """
    first, others = envelopes[0], envelopes[1:]
    message_id, correlation = first.last(stamps.MessageId), first.last(stamps.Correlation)
    current = _Current(
        message_id.id if message_id is not None and not others else None,
        correlation if all(one.last(stamps.Correlation) == correlation for one in others) else None,
        None,
        inherited=tuple(
            stamp
            for stamp in (first.stamps if stamps.propagating else ())
            if type(stamp) in stamps.propagating and all(stamp in one.stamps for one in others)
        ),
    )
    token = _current.set(current)
    try:
        yield
        if current.deferred:
            _dispatch_deferred(current.deferred)
    finally:
        _current.reset(token)
        current.is_over = True


def has_deferred() -> bool:
    """Say whether messages wait until the one that is being handled has succeeded, and are to be sent only then.

    They exist nowhere else: who settles a message before `BeginMessage` has sent them may lose them.
    """
    current = _current.get()
    return current is not None and bool((current.outermost or current).deferred)


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


class SendMessage(Step):
    """Sends a message to the transports that it is routed to; one that came from a transport goes on.

    A message without a route goes on too, unless the bus requires one.
    """

    def __init__(self, router: Router, *, allow_no_senders: bool = True, keys: Keys | None = None) -> None:
        self.router = router
        self.keys = keys if keys is not None else Keys()
        self.allow_no_senders = allow_no_senders

    def link(self, call_next: Next) -> Next:
        """Send, and return the envelope with `stamps.Sent` for each transport."""
        router, keys, found, send_to = self.router, self.keys, self.router.found, self.send

        def send(envelope: Envelope) -> Envelope:
            came = is_named = False
            for stamp in reversed(envelope.stamps):  # That it was received is put on last, and so found at once.
                kind = type(stamp)
                if kind is stamps.Received:
                    return call_next(envelope)
                if kind is stamps.Encoded:
                    came = True
                elif kind is stamps.TransportNames:
                    is_named = True
            # Nearly all are of a class that has been looked up before, and need no call.
            senders = router.senders_for(envelope) if is_named else found.get(envelope.message.__class__)
            if senders is None:
                senders = router.senders_for(envelope)
            if senders:
                if came:
                    envelope = forget_changed(envelope)
                # Once, here, so that all copies have the same key, whatever becomes of the message and its class.
                return send_to(keys.put_on(envelope) if keys else envelope, senders)
            if not self.allow_no_senders:
                raise NoRoute(
                    f"{qualified_name(type(envelope.message))} has no route, and this bus requires one. Add it to "
                    "routing, or set allow_no_senders on the bus."
                )
            return call_next(envelope)

        return send

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


_batch: ContextVar[CollectMessages | None] = ContextVar("postbus_batch", default=None)


def current_batch() -> object | None:
    """Return what stands for the batch in which a message is dispatched, and stored later; None outside of any."""
    return _batch.get()


class CollectMessages(SendMessage):
    """Stands in for `SendMessage` while many messages are dispatched: notes what is to be sent where, for `flush`.

    A message is encoded at once, so that one which cannot be written is found before anything behind it is sent.
    """

    def __init__(self, send_message: SendMessage) -> None:
        super().__init__(send_message.router, allow_no_senders=send_message.allow_no_senders, keys=send_message.keys)
        self.position = 0
        """Which of the messages is being dispatched."""
        self.stored: dict[int, str | None] = {}
        """The positions of those messages that all of their transports have stored, and the ids that they gave."""
        self.is_over = False
        """Whether nothing is collected any more, so that what was deferred until now is sent at once."""
        self._batches: dict[str, _Batch] = {}
        self._last: tuple[Mapping[str, Sender], _Batch] | None = None
        """Where the last one was to go that goes to one transport, as mostly the next goes there too."""

    @contextmanager
    def collecting(self) -> Generator[None]:
        """Let `current_batch` be this one."""
        token = _batch.set(self)
        try:
            yield
        finally:
            _batch.reset(token)

    def send(self, envelope: Envelope, senders: Mapping[str, Sender]) -> Envelope:
        """Note where the envelope is to go."""
        if self.is_over:
            return super().send(envelope, senders)
        if len(senders) == 1:  # In half the time.
            last = self._last
            if last is None or last[0] is not senders:
                ((name, sender),) = senders.items()
                last = self._last = senders, self._batch_for(name, sender)
            batch = last[1]
            if batch.encoder is not None:  # First, as it may raise; here, as each call takes as long as this.
                batch.outgoing.append(batch.encoder.encode(envelope))
            batch.positions.append(self.position)
            batch.envelopes.append(envelope)
        else:
            _add(self.position, envelope, [self._batch_for(name, sender) for name, sender in senders.items()])
        return envelope

    def _batch_for(self, name: str, sender: Sender) -> _Batch:
        batch = self._batches.get(name)
        if batch is None:
            batch = self._batches[name] = _Batch.of(sender)
        return batch

    def flush(self, envelopes: list[Envelope]) -> None:
        """Send what was collected, one batch for each transport, and put the new stamps on ``envelopes``.

        Raises `TransportError`, whose ``stored`` has the positions of those messages that all of their
        transports have stored, in earlier batches too. What was refused keeps nothing else from being sent.
        """
        batches, self._batches, self._last = list(self._batches.values()), {}, None
        ids: dict[int, str | None] = {}
        missing: set[int] = set()
        """The positions of what one of its transports has not stored."""
        refused: dict[int, str] = {}
        for number, batch in enumerate(batches, 1):
            try:
                sent = batch.send()
            except TransportError as error:
                stored = {batch.positions[index]: id for index, id in error.stored.items()}
                ids |= stored
                missing.update(set(batch.positions).difference(stored))
                if not isinstance(error, MessageRefused):
                    missing.update(*(later.positions for later in batches[number:]))
                    error.stored = self._store(ids, missing)
                    raise
                refused |= {batch.positions[index]: why for index, why in error.refused.items()}
                continue
            for position, envelope, result in zip(batch.positions, batch.envelopes, sent, strict=True):
                # Nearly always what was put on last says so, and the envelope is as it was collected.
                stamp, one = result.stamps[-1] if result.stamps else None, envelopes[position]
                ids[position] = stamp.id if type(stamp) is stamps.Sent else _id_of(result)
                envelopes[position] = result if one is envelope else merge(envelope, one, result)
        self._store(ids, missing)
        if refused:
            raise MessageRefused(refused, stored=self.stored)

    def _store(self, ids: dict[int, str | None], missing: Collection[int]) -> dict[int, str | None]:
        """Note, and return, what is stored everywhere."""
        self.stored |= {position: id for position, id in ids.items() if position not in missing} if missing else ids
        return self.stored


class HandleMessage(Step):
    """Calls the handlers of a message; all of them, also after one has failed."""

    def __init__(
        self, handlers: Handlers, bus: str, *, allow_no_handlers: bool = False, provided: Provided | None = None
    ) -> None:
        self._handlers = handlers
        self._provided = provided
        self._bus = bus
        self._allow_no_handlers = allow_no_handlers

    def link(self, call_next: Next) -> Next:
        """Return the envelope with `stamps.Handled` and `stamps.Result`; raise `HandlerFailed` at the end."""
        group, bus, provided, allow_no_handlers = self._handlers, self._bus, self._provided, self._allow_no_handlers

        def handle(envelope: Envelope) -> Envelope:
            origin = _origin(envelope) if group.depend_on_transport else None
            handlers = group.handlers_for(envelope.message, bus, origin)
            if not handlers and not allow_no_handlers:
                raise NoHandler(_no_handler(envelope, bus))

            outcome = envelope
            errors: dict[str, Exception] = {}
            is_repeated = False
            for stamp in envelope.stamps:  # As `Envelope.has`, whose call takes longer than the look.
                if type(stamp) is stamps.Handled:
                    is_repeated = True
            for handler in handlers:
                if is_repeated and handler.handled in envelope.stamps:
                    continue
                try:
                    if handler.is_plain:  # Called from here, so that its traceback shows nothing between.
                        result = handler.function(envelope.message)
                        if result is not None:
                            result = handler.finished(result)
                    else:
                        if handler.batch is not None and leave_to_batch(handler, envelope, provided):
                            continue
                        succeeded = _succeeded(envelope, outcome) if handler.time_limit is not None else ()
                        result = handler.handle(envelope, succeeded, provided)
                except Exception as error:  # A border: what a handler raises is for the caller, or for `failures`.
                    errors[handler.name] = error
                    continue
                outcome = Envelope(outcome.message, outcome.stamps + (handler.handled,))  # noqa: RUF005  Twice as fast.
                if result is not None:
                    outcome = outcome.with_(stamps.Result(handler.name, result))
            if errors:
                try:
                    raise HandlerFailed(type(envelope.message).__qualname__, errors, _succeeded(envelope, outcome))
                finally:
                    # Else they hold this frame and it holds them, and the message waits for the garbage collector.
                    del errors
            return call_next(outcome)

        return handle


def _succeeded(envelope: Envelope, outcome: Envelope) -> list[str]:
    added = outcome.stamps[len(envelope.stamps) :]
    return [stamp.handler for stamp in added if isinstance(stamp, stamps.Handled)]


def merge(origin: Envelope, one: Envelope, other: Envelope) -> Envelope:
    """Return one envelope with those stamps put on that the other has got since both had the same origin."""
    if one is origin:
        return other
    known = {id(stamp) for stamp in origin.stamps}
    return one.with_(*(stamp for stamp in other.stamps if id(stamp) not in known))


def _id_of(sent: Envelope) -> str | None:
    stamp = sent.last(stamps.Sent)
    return stamp.id if stamp is not None else None


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
    kind: type[object] = envelope.message.__class__
    if isinstance(envelope.message, type):
        taken = envelope.message.__qualname__
        return f"{taken} is a class, and no message. Dispatch an object of it: {taken}(...)."
    if kind in (list, tuple, set, frozenset):
        return f"A {kind.__name__} is no message. Dispatch what is in it: app.dispatch_many(...)."
    if kind.__module__ == "builtins":
        return f"A {kind.__name__} is no message. Dispatch an object of a class of your own, such as a dataclass."
    return (
        f"{name} has neither a route nor a handler on bus {bus!r}. Add it to routing, or add a handler with "
        "@app.handler."
    )
