"""Frozen records of what happened. Observers see them and cannot change any outcome."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import dataclass_transform

from msgspec import Struct

from postbus.bus import says_that_it_never_blocks
from postbus.envelope import Envelope
from postbus.errors import Interrupted, traceback_of

logger = logging.getLogger("postbus")


@dataclass_transform(frozen_default=True)
class Event(Struct, frozen=True):
    """Something that happened."""


Observer = Callable[[Event], None]


class Observers:
    """Those who are told of events, in the order in which they were added.

    One that raises is logged and stops nobody: neither the next observer nor the message. It is told in the
    thread in which something happened; a worker that handles several messages at once does so in several.
    """

    def __init__(self) -> None:
        self._observers: list[Observer] = []
        self.never_block = True
        """Whether all of them say that they never block."""

    def add(self, observer: Observer) -> None:
        """Tell this one of every event from now on."""
        self._observers.append(observer)
        self.never_block = self.never_block and says_that_it_never_blocks(observer)

    def remove(self, observer: Observer) -> None:
        """Tell this one of no more events."""
        self._observers.remove(observer)

    def __bool__(self) -> bool:
        return bool(self._observers)

    def notify(self, event: Event) -> None:
        """Tell everybody."""
        for observer in self._observers:
            try:
                observer(event)
            except (KeyboardInterrupt, Interrupted):
                raise
            except BaseException as error:  # A border: what an observer does wrong is no reason to fail a message.
                _log(observer, event, error)


def _log(observer: Observer, event: Event, error: BaseException) -> None:
    kind = type(event).__name__
    try:
        logger.error("Observer %r failed on %s; the message goes on.", observer, kind, exc_info=error)
    except RecursionError:  # It has errors in it nested too deep for `logging`, which lets this one out.
        logger.error("Observer %r failed on %s; the message goes on.\n%s", observer, kind, traceback_of(error))


class MessageSent(Event):
    """A transport has stored a message that was dispatched."""

    envelope: Envelope
    transport: str


class MessageReceived(Event):
    """A worker is about to handle a message."""

    envelope: Envelope
    transport: str


class MessageHandled(Event):
    """Every handler succeeded; ``seconds`` is how long they took together. The message is acknowledged next."""

    envelope: Envelope
    transport: str
    seconds: float


class MessageFailed(Event):
    """Handling failed, after ``seconds``; what is done about it is told by the event that follows."""

    envelope: Envelope
    transport: str
    error: Exception
    seconds: float = 0.0


class MessageRetriedAtOnce(Event):
    """It stays in the worker's hands and is tried once more, next; nothing was stored or settled."""

    envelope: Envelope
    transport: str
    error: Exception


class MessageRetried(Event):
    """A copy was stored, to be delivered after ``delay`` seconds, and the original is settled."""

    envelope: Envelope
    transport: str
    error: Exception
    delay: float


class MessageBuried(Event):
    """A copy was stored in the failure transport, and the original is settled."""

    envelope: Envelope
    transport: str
    error: Exception
    failure_transport: str


class MessageDropped(Event):
    """The message finally failed and there was no failure transport; the log has all of it."""

    envelope: Envelope
    transport: str
    error: Exception


class MessagePostponed(Event):
    """It came too early, and was sent on with the ``delay`` that is left; see `postbus.stamps.NotBefore`."""

    envelope: Envelope
    transport: str
    delay: float


class MessageReleased(Event):
    """A message was given back to its broker, uncounted; ``begun`` says whether a handler was interrupted for that."""

    envelope: Envelope
    transport: str
    begun: bool


class MessagesAcknowledged(Event):
    """Messages that were handled are gone from their broker."""

    transport: str
    number: int


class LeasesExtended(Event):
    """Messages that take long, or wait for one that does, stay with this worker."""

    transport: str
    number: int


class LeaseLost(Event):
    """The lease of a message ran out although it was here, so it comes again, and nothing is settled here."""

    envelope: Envelope
    transport: str


class HandlerStuck(Event):
    """A handler does not end although its time limit is over, after ``seconds``, and nothing can interrupt it.

    Its worker ends, for another to take its place; that the message has failed is told then.
    """

    envelope: Envelope
    transport: str
    handler: str
    seconds: float


class EventLoopBlocked(Event):
    """An ``async def`` handler computes, or waits without ``await``, for ``seconds`` so far; all others wait for it.

    Told once, until the event loop goes on.
    """

    seconds: float


class TransportLost(Event):
    """A broker cannot be reached; told once, until it is back."""

    transport: str
    error: Exception


class TransportRestored(Event):
    """A broker that was lost can be reached again."""

    transport: str


class TransportPaused(Event):
    """A worker fetches nothing from a transport for so many seconds, because too many of its messages failed.

    Or because somebody has paused it for all workers; ``seconds`` is infinite then.
    """

    transport: str
    seconds: float
    reason: str


class TransportProbed(Event):
    """The pause of a transport is over, and one message of it is tried."""

    transport: str


class TransportResumed(Event):
    """A transport is consumed as before: the message that was tried has been handled, or somebody has resumed it."""

    transport: str


class WorkerStarted(Event):
    """A worker begins to receive, and to handle up to ``concurrency`` messages at once."""

    transports: tuple[str, ...]
    concurrency: int = 1


class WorkerStopping(Event):
    """A worker receives no more; what runs may finish."""

    reason: str


class WorkerStopped(Event):
    """A worker has stopped, and why."""

    reason: str
    handled: int
    failed: int
    outgrown: bool = False
    """It had reached its limit of memory, so another is to take its place."""
    stuck: bool = False
    """A handler of it did not end within its time limit, so another is to take its place."""
    interrupted: bool = False
    """It had not come to its end when it was stopped at once, by a second signal for instance."""
