"""A transport on top of a connection: bytes become envelopes, and a lost broker is found again."""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

from postbus import stamps
from postbus.envelope import Envelope
from postbus.errors import ConnectionLost, Interrupted, MessageRefused, TransportError, describe
from postbus.events import MessageSent, TransportLost, TransportRestored
from postbus.serialization import (
    BROKEN,
    DESCRIBING,
    SERIALIZER,
    Encoded,
    SupportsSealing,
    Undecodable,
    keep,
    read_kept,
)
from postbus.text import PACKED, unpacked
from postbus.transport import (
    LONGEST_DELAY,
    Connection,
    Delivery,
    Outgoing,
    SupportsKeepalive,
    SupportsNotes,
    SupportsQueues,
    SupportsReplace,
    SupportsRevocation,
    TransportContext,
    supports,
    unmet_requirement,
)

logger = logging.getLogger("postbus")

T = TypeVar("T")


class QueueTransport:
    """A transport on top of a connection.

    It encodes and decodes, and it owns the connection: it opens it at the first use, again after a fork,
    and again, with backoff and jitter, after it was lost.
    """

    first_pause = 0.2
    longest_pause = 30.0
    steady = 5.0
    """Seconds for which a connection holds that was not lost at once after reconnecting."""
    most_relapses = 3
    """How many times running it may be lost at once before that is more than an outage."""
    most_in_doubt = 10_000
    """How many deliveries are remembered that were being settled when the connection was lost."""

    def __init__(self, connect: Callable[[], Connection], context: TransportContext) -> None:
        self.name = context.name
        self.guarantees = context.guarantees
        self.serializer = context.serializer
        self._sealing = context.serializer if isinstance(context.serializer, SupportsSealing) else None
        self._serializer_name = context.serializer_name
        self._serializers = context.serializers
        self._connect = connect
        self._observers = context.observers
        self._lock = threading.RLock()
        self._connection: Connection | None = None
        self._revoking: SupportsRevocation | None = None
        """The connection, if it hears of revocation: kept because it is often asked for, and found out in 15 µs."""
        self._inherited: list[Connection] = []
        self._pid = os.getpid()
        self.lost_since: float | None = None
        """When the broker was lost, by the monotonic clock; None while it can be reached, as far as is known."""
        self._found_at = -math.inf
        self._relapses = 0
        self._unsteady_since = 0.0
        self._pause = 0.0
        self._retry_at = 0.0
        self._closed = threading.Event()
        self._in_doubt: list[Any] = []
        """The tags of what was being settled when the connection was lost."""

    # sending

    def send(self, envelopes: Sequence[Envelope]) -> list[Envelope]:
        """Encode, publish in batches, and return the envelopes with `stamps.Sent`.

        A connection that turns out to be lost is replaced once, for what is in doubt; a second copy that
        this may leave has the same message id. What is refused, here already or by the broker, is so alone: the
        others are stored before `MessageRefused` is raised.
        """
        return self.store(envelopes, [self.encode(envelope) for envelope in envelopes])

    def store(self, envelopes: Sequence[Envelope], outgoing: Sequence[Outgoing]) -> list[Envelope]:
        """As `send`, for envelopes that are encoded already."""
        largest = self.guarantees.largest_message or math.inf
        refused: dict[int, str] = {}
        for position, one in enumerate(outgoing):
            # Most need not be asked about, which takes as long as all else that is done with them here.
            if one.delay or len(one.body) > largest or (stamps.demanding and _demands(one)):
                why = self.refusal(one)
                if why is not None:
                    refused[position] = why
        if refused or len(outgoing) > self.guarantees.publish_batch:
            ids = self._store_in_parts(outgoing, refused)
        else:
            ids = self._publish(outgoing)
        name = self.name
        sent = [
            Envelope(envelope.message, envelope.stamps + (stamps.Sent(name, id),))  # noqa: RUF005  Twice as fast.
            for envelope, id in zip(envelopes, ids, strict=True)
        ]
        if self._observers:
            for envelope in sent:
                self._observers.notify(MessageSent(envelope, name))
        return sent

    def _store_in_parts(self, outgoing: Sequence[Outgoing], refused: dict[int, str]) -> Sequence[str | None]:
        """Publish in batches what is not refused, and return the ids; raise `MessageRefused` if anything is."""
        accepted = [position for position in range(len(outgoing)) if position not in refused]
        stored: dict[int, str | None] = {}
        for start in range(0, len(accepted), self.guarantees.publish_batch):
            batch = accepted[start : start + self.guarantees.publish_batch]
            try:
                stored.update(zip(batch, self._publish([outgoing[position] for position in batch]), strict=True))
            except TransportError as error:
                stored |= {batch[position]: id for position, id in error.stored.items()}
                if not isinstance(error, MessageRefused):
                    error.stored = stored
                    raise
                refused |= {batch[position]: why for position, why in error.refused.items()}
        if refused:
            raise MessageRefused(refused, stored=stored)
        return list(stored.values())

    def encode(self, envelope: Envelope) -> Outgoing:
        """Return the envelope as bytes, ready to be published; raise `SerializationError` if it cannot be written.

        A delay that the broker cannot keep is carried along.
        """
        delay, original = 0.0, None
        for stamp in envelope.stamps:  # In one loop, as every message is asked for both.
            kind = type(stamp)
            if kind is stamps.Delay:
                delay = max(cast(stamps.Delay, stamp).seconds, 0.0)
            elif kind is stamps.Original:
                original = cast(stamps.Original, stamp)
        if original is not None:
            envelope = envelope.without(stamps.Original)
        longest = self.guarantees.longest_delay if delay else None
        if longest is not None and longest < delay <= LONGEST_DELAY:
            at = datetime.now(UTC) + timedelta(seconds=delay)
            envelope, delay = envelope.without(stamps.NotBefore).with_(stamps.NotBefore(at)), longest
        body, headers = self.serializer.encode(envelope) if original is None else self._copy(envelope, original)
        return Outgoing(body, headers, delay, envelope.stamps)

    def _copy(self, envelope: Envelope, original: stamps.Original) -> Encoded:
        """Return what came as it came, with the stamps that the envelope has now."""
        if original.serializer == self._serializer_name:
            encoded = self.serializer.encode(self._with_message(envelope, original))
            if encoded.body == original.body:
                described = {name: value for name, value in original.headers.items() if name in DESCRIBING}
                return Encoded(encoded.body, encoded.headers | described)
            if self._serializers is None:
                return encoded
        if self._serializers is None:
            return self.serializer.encode(envelope)
        kept = keep(envelope, original)
        return kept if self._sealing is None else self._sealing.seal(kept)

    def read_again(self, envelope: Envelope) -> Envelope:
        """Return an envelope with its message read anew from what came, whatever became of the object since."""
        original = envelope.last(stamps.Original)
        if original is None:
            original = stamps.Original(*self.serializer.encode(envelope), serializer="")
        return self._with_message(envelope.without(stamps.Original), original)

    def _with_message(self, envelope: Envelope, original: stamps.Original) -> Envelope:
        """Return an envelope with the message that came instead of the one that is in it."""
        if isinstance(envelope.message, Undecodable):
            return envelope
        again = self._read(original.body, original.headers, original.headers.get(SERIALIZER))
        return Envelope(again.message, envelope.without(stamps.Encoded).stamps).with_(*again.all(stamps.Encoded))

    def refusal(self, message: Outgoing) -> str | None:
        """Return why the guarantees say that this will never be taken, in a sentence; None if they do not."""
        promised = self.guarantees
        if (why := unmet_requirement(self.name, promised, message.stamps)) is not None:
            return why
        if message.delay:
            if message.delay > 0 and not promised.delay:
                return f"{self.name!r} cannot delay a message, and this one is to wait for {message.delay:g} s."
            if not message.delay <= LONGEST_DELAY:  # Not a number is neither more nor less.
                return f"{self.name!r} can delay a message for 100 years, not for {message.delay:g} s."
        # As few bytes as it can have there, so that nothing is refused here which the plugin could store.
        if promised.largest_message is not None and len(message.body) > promised.largest_message:
            return (
                f"{self.name!r} takes messages of up to {promised.largest_message} bytes, and the body of this one "
                f"alone has {len(message.body)}."
            )
        return None

    @property
    def carries_delays(self) -> bool:
        """Whether a message may carry a delay that is longer than the broker keeps one, and come too early."""
        longest = self.guarantees.longest_delay
        return longest is not None and longest < LONGEST_DELAY

    def early(self, envelope: Envelope) -> float:
        """Return for how many seconds more a message that came is to wait, because its broker could not; mostly 0."""
        if not self.carries_delays:
            return 0.0
        stamp = envelope.last(stamps.NotBefore)
        if stamp is None:
            return 0.0
        return min(max((stamp.at - datetime.now(UTC)).total_seconds(), 0.0), LONGEST_DELAY)

    def _publish(self, batch: Sequence[Outgoing]) -> Sequence[str | None]:
        connection = self._open()
        try:
            ids = connection.publish(batch)
        except ConnectionLost as error:
            self._discard(connection, error)
            stored = dict(error.stored)
        else:
            self._found()  # Nobody else finds out about a transport that is only sent to.
            return ids

        # Brokers and load balancers drop idle connections, so one fresh one is tried before the caller hears of it.
        doubtful = [position for position in range(len(batch)) if position not in stored]
        try:
            ids = self._attempt(lambda connection: connection.publish([batch[position] for position in doubtful]))
        except TransportError as error:
            error.stored = stored | {doubtful[position]: id for position, id in error.stored.items()}
            if isinstance(error, MessageRefused):
                error.refused = {doubtful[position]: why for position, why in error.refused.items()}
            raise
        stored.update(zip(doubtful, ids, strict=True))
        return [stored[position] for position in range(len(batch))]

    # receiving

    def receive(self, limit: int, wait: float, queues: Sequence[str] = ()) -> list[Envelope]:
        """Fetch and decode. What cannot be decoded comes as an `Undecodable` message.

        While the broker is away, waits and returns nothing; the observers and the log are told once.
        """
        limit = min(limit, self.guarantees.fetch_batch)
        longest = self.guarantees.longest_wait
        wait, rest = (wait, 0.0) if longest is None or longest >= wait else (longest, wait - longest)
        pause = self._retry_at - time.monotonic()
        if pause > 0:
            self._closed.wait(min(pause, wait))
            if pause > wait:
                return []
        connection = None
        try:
            connection = self._open()
            deliveries = self._fetch(connection, queues, limit, wait)
        except Exception as error:
            if isinstance(error, TransportError) and not isinstance(error, ConnectionLost):
                raise
            if self._closed.is_set():
                return []
            if not isinstance(error, ConnectionLost):  # A border: something of a message's has tripped up the plugin.
                logger.error("Fetching from %r failed.", self.name, exc_info=error)
                error = ConnectionLost(describe(error))
            self._discard(connection, error)
            self._pause = min(max(self._pause * 2, self.first_pause), self.longest_pause)
            self._retry_at = time.monotonic() + self._pause * random.uniform(0.8, 1.2)
            return []
        if rest and not deliveries:  # Else a broker that cannot wait would be asked without a pause.
            self._closed.wait(min(rest, self.first_pause))
        # Else another thread has found it lost, and closed it, which is why nothing came.
        if deliveries or self._connection is connection:
            self._found()
        return [self.decode(delivery) for delivery in deliveries]

    def _fetch(self, connection: Connection, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        if not queues:
            return connection.fetch(limit, wait)
        if supports(connection, SupportsQueues):
            return connection.fetch_from(queues, limit, wait)
        raise TransportError(
            f"Transport {self.name!r} has no queues to choose from. Leave out --queues, or consume it by itself."
        )

    def decode(self, delivery: Delivery) -> Envelope:
        """Return a delivery as an envelope."""
        body, headers = delivery.body, delivery.headers
        if PACKED in headers:
            headers = unpacked(headers)
        is_believed = self._serializers is not None
        if is_believed and self._sealing is not None:
            # Who can write here, and has no key, must not choose what reads it either.
            opened = self._sealing.opened(body, headers)
            is_believed = isinstance(opened, Encoded) and SERIALIZER in opened.headers
            if is_believed:
                body, headers = cast(Encoded, opened)
        name = headers.get(SERIALIZER)
        if name is not None and not is_believed:
            headers = {BROKEN + header if header == SERIALIZER else header: headers[header] for header in headers}
            name = None
        if delivery.problem is not None:
            envelope = Envelope(Undecodable(body, dict(headers), delivery.problem))
        else:
            try:
                envelope = self._read(body, headers, name)
            except (KeyboardInterrupt, Interrupted):
                raise
            except BaseException as error:  # A border: whatever a serializer trips over must not cost the message.
                envelope = Envelope(Undecodable(body, dict(headers), describe(error)))
        reader = name or self._serializer_name
        received = stamps.Received(
            self.name,
            delivery.tag,
            delivery.id,
            delivery.count,
            delivery.lease,
            delivery.group,
            None if reader is None else stamps.Original(body, headers, reader),
        )
        return Envelope(envelope.message, (*envelope.stamps, *delivery.stamps, received))

    def _read(self, body: bytes, headers: Mapping[str, str], name: str | None) -> Envelope:
        """Return a message as the serializer of this name reads it; None is the transport's own."""
        if name is None:
            return self.serializer.decode(body, headers)
        if name == self._serializer_name:
            return read_kept(body, headers, self.serializer)
        return read_kept(body, headers, self._serializers(name) if self._serializers is not None else None)

    # settling

    def ack(self, envelopes: Sequence[Envelope]) -> list[Envelope]:
        """Settle what was handled, in one call; return what is somebody else's by now."""
        return self._settle(envelopes, lambda connection, tags: connection.ack(tags))

    def reject(self, envelopes: Sequence[Envelope]) -> list[Envelope]:
        """Settle what is finished with, badly, in one call; return what is somebody else's by now."""
        return self._settle(envelopes, lambda connection, tags: connection.reject(tags))

    def release(self, envelopes: Sequence[Envelope]) -> list[Envelope]:
        """Give back what was not handled, in one call; return what is somebody else's by now."""
        return self._settle(envelopes, lambda connection, tags: connection.release(tags))

    @property
    def lease(self) -> float | None:
        """For how many seconds a delivery is ours without `keepalive`; None for as long as we are connected."""
        connection = self._open()
        return connection.lease if supports(connection, SupportsKeepalive) else None

    def keepalive(self, envelopes: Sequence[Envelope]) -> list[Envelope]:
        """Begin the leases of all of them anew; return those whose lease was lost already."""
        return self._settle(
            envelopes, lambda connection, tags: cast(SupportsKeepalive, connection).keepalive(tags), is_final=False
        )

    def revoked(self) -> Sequence[Any]:
        """Return the tags of deliveries of which the broker has said by itself that they are somebody else's by now."""
        if self._connection is None or self._revoking is None:  # Without a connection, nothing is heard of the broker.
            return ()
        return self._revoking.revoked()

    def _settle(
        self,
        envelopes: Sequence[Envelope],
        how: Callable[[Connection, Sequence[Any]], Sequence[Any]],
        *,
        is_final: bool = True,
    ) -> list[Envelope]:
        tags, tries = _tags(envelopes), 0

        def settle(connection: Connection) -> Sequence[Any]:
            nonlocal tries
            tries += 1
            return how(connection, tags)

        try:
            lost = self.call(settle)
        except ConnectionLost:
            if is_final:
                with self._lock:
                    self._in_doubt = [*self._in_doubt, *tags][-self.most_in_doubt :]
            raise
        if is_final and (tries > 1 or self._in_doubt):
            lost = self._without_doubtful(tags, lost, all_are=tries > 1)
        return [envelope for envelope, tag in zip(envelopes, tags, strict=True) if tag in lost] if lost else []

    def _without_doubtful(self, tags: Sequence[Any], lost: Sequence[Any], *, all_are: bool) -> Sequence[Any]:
        """Return what somebody else has by now, for certain, of deliveries that were settled; tell of the others.

        Of one that was settled before, while the connection was lost, the broker may know nothing any more because it
        has heard of that.
        """
        with self._lock:
            before, self._in_doubt = self._in_doubt, [tag for tag in self._in_doubt if tag not in tags]
        certain = [] if all_are else [tag for tag in lost if tag not in before]
        if len(certain) < len(lost):
            logger.warning(
                "The connection to %r was lost while %d messages were being settled; those that the broker had not "
                "heard of yet come again.",
                self.name,
                len(lost) - len(certain),
                extra={"transport": self.name},
            )
        return certain

    def replace(self, original: Envelope, copy: Envelope) -> bool:
        """Store the copy and settle the original in one step, where the broker can; say whether it could."""
        if not supports(self._open(), SupportsReplace):
            return False
        (tag,) = _tags([original])
        outgoing = self.encode(copy)
        why = self.refusal(outgoing)
        if why is not None:
            raise MessageRefused({0: why})
        # Once more on a fresh connection stores no second copy: the original is settled then, and that raises.
        self.call(lambda connection: cast(SupportsReplace, connection).replace(tag, outgoing))
        return True

    def has_lost(self, envelope: Envelope) -> bool:
        """Ask whether a delivery is settled, or somebody else's by now; no, where there are no leases."""
        return supports(self._open(), SupportsKeepalive) and bool(self.keepalive([envelope]))

    # notes

    def read_notes(self, names: Sequence[str], *, tells: bool = False) -> Sequence[str | None]:
        """Return what is noted under each name; ``tells``, as `receive` does, if the broker is lost, or back again."""

        def read(connection: Connection) -> Sequence[str | None]:
            return self._notes_of(connection).read_notes(names)

        return self._attempt(read) if tells else self.call(read)

    def write_note(self, name: str, text: str | None) -> None:
        """Note a text under a name; None removes it."""
        self.call(lambda connection: self._notes_of(connection).write_note(name, text))

    def _notes_of(self, connection: Connection) -> SupportsNotes:
        if not supports(connection, SupportsNotes):
            raise TransportError(f"{type(connection).__name__} of {self.name!r} keeps no notes.")
        return connection

    # the connection

    @property
    def connection(self) -> Connection:
        """The open connection; ask it with isinstance what else it can do."""
        return self._open()

    @property
    def away_since(self) -> float | None:
        """As `lost_since`, but for a broker that is lost at once after each reconnecting: since the first time."""
        is_steady = self.lost_since is None and time.monotonic() - self._found_at > self.steady
        return self.lost_since if is_steady or self._relapses < self.most_relapses else self._unsteady_since

    def call(self, operation: Callable[[Connection], T]) -> T:
        """Run an operation on the open connection; once more on a fresh one if it turns out to be lost."""
        connection = self._open()
        try:
            return operation(connection)
        except ConnectionLost as error:
            self._discard(connection, error)
        return self._attempt(operation)

    def close(self) -> None:
        """Close the connection, for good. A thread that waits in `receive` returns."""
        self._closed.set()
        if self._pid != os.getpid():
            self._forget_parents_connection()
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _attempt(self, operation: Callable[[Connection], T]) -> T:
        connection = None
        try:
            connection = self._open()
            result = operation(connection)
        except ConnectionLost as error:
            self._discard(connection, error)
            raise
        self._found()
        return result

    def _open(self) -> Connection:
        if self._closed.is_set():
            raise TransportError(
                f"Transport {self.name!r} is closed. Use it before app.close(), or enter the app again: with app."
            )
        if self._pid != os.getpid():
            self._forget_parents_connection()
        connection = self._connection
        if connection is not None:
            return connection
        with self._lock:
            if self._connection is None:
                self._connection = connection = self._connect()
                self._revoking = connection if supports(connection, SupportsRevocation) else None
            return self._connection

    def _forget_parents_connection(self) -> None:
        # The parent still talks through it: closing it here, or letting it be collected, would do so for the parent.
        if self._connection is not None:
            self._inherited.append(self._connection)
        self._connection = None
        self._lock = threading.RLock()
        self._pid = os.getpid()

    def _discard(self, connection: Connection | None, error: ConnectionLost) -> None:
        with self._lock:
            if self._connection is connection:  # else another thread has replaced it already
                self._connection = None
            first = self.lost_since is None
            if first:
                self.lost_since = now = time.monotonic()
                is_relapse = now - self._found_at <= self.steady
                self._relapses = self._relapses + 1 if is_relapse else 0
                self._unsteady_since = self._unsteady_since if is_relapse else now
        if connection is not None:
            try:
                connection.close()
            except Exception:  # A border: it is broken already, and there will be a new one.
                logger.debug("Closing the lost connection of %r failed.", self.name, exc_info=True)
        if first:
            reason = str(error).removesuffix(".")
            logger.warning("Lost %r: %s. Reconnecting.", self.name, reason, extra={"transport": self.name})
            if self._relapses == self.most_relapses:
                logger.error(
                    "Lost %r %d times running at once after reconnecting, so something makes it break: %s. It counts "
                    "as lost until it holds for %g s.",
                    self.name,
                    self._relapses,
                    reason,
                    self.steady,
                    extra={"transport": self.name},
                )
            self._observers.notify(TransportLost(self.name, error))

    def _found(self) -> None:
        if self.lost_since is None:
            return
        self.lost_since, self._pause, self._retry_at = None, 0.0, 0.0
        self._found_at = time.monotonic()
        # As loud as the loss: who was told of that waits for this.
        logger.warning("Reached %r again.", self.name, extra={"transport": self.name})
        self._observers.notify(TransportRestored(self.name))


def _demands(message: Outgoing) -> bool:
    for stamp in message.stamps:  # noqa: SIM110  A generator takes longer.
        if type(stamp) in stamps.demanding:
            return True
    return False


def _tags(envelopes: Sequence[Envelope]) -> list[Any]:
    return [received.tag for envelope in envelopes if (received := envelope.last(stamps.Received))]
