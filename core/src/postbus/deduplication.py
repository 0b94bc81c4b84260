"""`Deduplicate`, a middleware: while a message of a key is under way, no other one of that key is sent."""

from __future__ import annotations

import logging
import threading
import time
from typing import NamedTuple, Protocol

from postbus import stamps
from postbus.bus import Next
from postbus.envelope import Envelope
from postbus.errors import describe
from postbus.events import (
    Event,
    MessageBuried,
    MessageDropped,
    MessageHandled,
    MessagePostponed,
    MessageRetried,
    MessageRetriedAtOnce,
    MessageSent,
)
from postbus.middleware import current_batch
from postbus.stamps import Deduplication

logger = logging.getLogger("postbus")

SENDING = "sending:"
"""What the owner of a key is called, before the id of its message, until that is stored."""

LONGEST_SENDING = 10.0
"""Seconds after which a message that is being sent counts as not sent: its process may have died."""

PAUSE = 0.05
"""Seconds until it is looked again whether somebody else's message has been sent."""


class Store(Protocol):
    """Where keys are held, each by one owner, and for a time; each call is one atomic step. Used by several threads."""

    def acquire(self, key: str, owner: str, ttl: float) -> str | None:
        """Let an owner have a key for so many seconds from now, if it is free or theirs; else return who has it."""
        ...

    def renew(self, key: str, owner: str, ttl: float, successor: str) -> bool:
        """If an owner has a key, let its successor have it for so many seconds from now; say whether it was so."""
        ...

    def release(self, key: str, owner: str) -> None:
        """If an owner has a key, let it be free."""
        ...


class MemoryStore:
    """A store in the memory of one process: for tests, and where that process both sends and handles."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def acquire(self, key: str, owner: str, ttl: float) -> str | None:
        with self._lock:
            holder = self._holder(key)
            if holder not in (None, owner):
                return holder
            if len(self._held) % 1000 == 999:
                now = time.monotonic()
                self._held = {key: held for key, held in self._held.items() if held[1] > now}
            self._held[key] = owner, time.monotonic() + ttl
        return None

    def renew(self, key: str, owner: str, ttl: float, successor: str) -> bool:
        with self._lock:
            is_theirs = self._holder(key) == owner
            if is_theirs:
                self._held[key] = successor, time.monotonic() + ttl
        return is_theirs

    def release(self, key: str, owner: str) -> None:
        with self._lock:
            if self._holder(key) == owner:
                del self._held[key]

    def _holder(self, key: str) -> str | None:
        owner, until = self._held.get(key, (None, 0.0))
        return owner if until > time.monotonic() else None


class _Sending(NamedTuple):
    """A message that this process is about to send, or to handle."""

    holder: str
    thread: int
    batch: object


class Deduplicate:
    """Sends no message with `stamps.Deduplication` while another one of its key is under way.

    A duplicate is neither sent nor handled; it comes back with `stamps.Duplicate`. The key is free again at the final
    outcome of the first one, when it is handled, buried or dropped, and is held on at each retry; or when its time is
    over, counted from the last sign of it. What is received is always handled: whoever sent it has had the key.

    A message is rather sent twice than not at all. So a key counts as taken only when its message is stored: a
    duplicate waits for that, and is sent if it does not come to it, as when the process of the first has died.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sending: dict[str, _Sending] = {}

    def __call__(self, envelope: Envelope, call_next: Next) -> Envelope:
        """Go on, unless it is a duplicate."""
        stamp = envelope.last(Deduplication)
        if stamp is None:
            return call_next(envelope)
        key, id = stamp.key, _id_of(envelope)
        if envelope.has(stamps.Received):
            self._hold_on(stamp, id)
            return call_next(envelope)

        holder = self._acquire(key, id)
        if holder == id:  # It is sent on by who handles it.
            return call_next(envelope)
        if holder is not None:
            return envelope.with_(stamps.Duplicate(holder))
        mine = self._sending[key] = _Sending(SENDING + id, threading.get_ident(), current_batch())
        is_collected = False
        try:
            result = call_next(envelope)
            if result.has(stamps.Handled):  # Here, also by a transport that does so.
                self._release(result)
            elif result.has(stamps.Sent):
                self._confirm(result)
            else:
                is_collected = current_batch() is not None
                if not is_collected:
                    self._store.release(key, SENDING + id)
            return result
        except BaseException:
            self._release(envelope)
            raise
        finally:
            if not is_collected and self._sending.get(key) is mine:
                self._sending.pop(key, None)

    def observe(self, event: Event) -> None:
        """Hold keys on, or release them, as what becomes of messages is told."""
        match event:
            case MessageHandled() | MessageBuried() | MessageDropped():
                self._release(event.envelope)
            case MessageRetried() | MessagePostponed():
                self._renew(event.envelope, event.delay)
            case MessageRetriedAtOnce():
                self._renew(event.envelope, 0.0)
            case MessageSent():
                if event.envelope.has(Deduplication):
                    self._confirm(event.envelope)
            case _:
                pass

    def _acquire(self, key: str, id: str) -> str | None:
        """Let the message have the key until it is sent; or return which one has it."""
        owner = SENDING + id
        until = time.monotonic() + LONGEST_SENDING
        while True:
            holder = self._store.acquire(key, owner, LONGEST_SENDING)
            if holder is None:
                return None
            first = holder.removeprefix(SENDING)
            if first == holder:
                return holder
            is_over = time.monotonic() >= until
            mine = self._sending.get(key)
            if mine is not None and mine.holder == holder:
                batch = mine.batch
                if (batch is None and mine.thread == threading.get_ident()) or (
                    batch is not None and batch is current_batch()
                ):
                    return first
                # A batch that is over, and of which the message was not stored.
                is_over = is_over or getattr(batch, "is_over", False)
            if is_over and self._store.renew(key, holder, LONGEST_SENDING, owner):
                return None
            time.sleep(PAUSE)

    def _confirm(self, envelope: Envelope) -> None:
        """Let a message that is stored have its key for as long as it says, from when it is due."""
        stamp, delay = envelope.last(Deduplication), envelope.last(stamps.Delay)
        assert stamp is not None
        owner, sending = _owners(envelope)
        # If it is not held so any more, it was received meanwhile, or even handled.
        self._store.renew(stamp.key, sending, stamp.ttl + (delay.seconds if delay is not None else 0.0), owner)
        mine = self._sending.get(stamp.key)
        if mine is not None and mine.holder == sending:
            self._sending.pop(stamp.key, None)

    def _hold_on(self, stamp: Deduplication, id: str) -> None:
        try:
            if self._store.acquire(stamp.key, id, stamp.ttl) == SENDING + id:
                self._store.renew(stamp.key, SENDING + id, stamp.ttl, id)
        except Exception as error:  # A border: whatever is wrong with the store, the message is to be handled.
            logger.warning("Handling %s without holding its key %r: %s", id, stamp.key, describe(error))

    def _release(self, envelope: Envelope) -> None:
        stamp = envelope.last(Deduplication)
        if stamp is not None:
            for owner in _owners(envelope):
                self._store.release(stamp.key, owner)

    def _renew(self, envelope: Envelope, delay: float) -> None:
        stamp = envelope.last(Deduplication)
        if stamp is not None:
            id = _id_of(envelope)
            self._store.renew(stamp.key, id, stamp.ttl + delay, id)


def _id_of(envelope: Envelope) -> str:
    stamp = envelope.last(stamps.MessageId)
    return stamp.id if stamp is not None else ""


def _owners(envelope: Envelope) -> tuple[str, str]:
    """Return who has the key of a message that is stored, and who has it until then."""
    id = _id_of(envelope)
    return id, SENDING + id
