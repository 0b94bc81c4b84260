"""What a worker has of a transport: fetched, and neither settled nor given back."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from msgspec import Struct

from postbus import stamps
from postbus.control import Pause
from postbus.envelope import Envelope
from postbus.errors import ConnectionLost, TransportError, describe
from postbus.events import (
    LeaseLost,
    LeasesExtended,
    MessageReleased,
    MessagesAcknowledged,
    Observers,
    TransportPaused,
    TransportResumed,
)
from postbus.failures import identifiers, label
from postbus.handlers import Handler
from postbus.queue_transport import QueueTransport
from postbus.transport import Receiver
from postbus.worker.gathering import Gathering
from postbus.worker.kill_switch import KillSwitch, Switch
from postbus.worker.poison import Suspects, received_of

logger = logging.getLogger("postbus")

T = TypeVar("T")


class Owed(Struct, frozen=True):
    """Messages that are given back as soon as their broker can be reached again."""

    envelopes: Sequence[Envelope]
    begun: bool


class Gate(Protocol):
    """What says how many messages of a transport may be fetched."""

    def allowed(self) -> int:
        """Return how many there may be now."""
        ...

    def wait(self) -> float:
        """Return in how many seconds there may be one, if there may be none now."""
        ...

    def take(self, number: int) -> int:
        """Return how many of so many that were fetched may be kept; the others are given back."""
        ...


class Deliveries:
    """The deliveries of one transport that are in a worker's hands.

    They belong to the thread of the controller, so there is no lock; others read, and say what is `lost`.
    """

    SETTLE_AGAIN_AFTER = 5.0
    """Seconds after which it is tried again, where nobody else finds out whether the broker is back."""
    FIRST_REST = 1.0
    LONGEST_REST = 300.0
    MOST_RESTING = 1000
    """How many messages rest at most; then no more are fetched, until one of them is given back."""
    FIRST_LOOK = 0.5
    """Seconds for which a fetch waits at least to hear whether the transport is paused, before that is known."""
    TOO_LONG = 0.8
    """Seconds after which what waits behind a slow message is given back to the broker, for other workers."""

    def __init__(
        self,
        name: str,
        receiver: Receiver,
        observers: Observers | None = None,
        *,
        patient: bool = False,
        rate: Gate | None = None,
        kill_switch: KillSwitch | None = None,
    ) -> None:
        """Hold nothing yet. Who is patient fetches much on purpose, and gives it back only if no message is begun."""
        self.name = name
        self.receiver = receiver
        self._observers = observers if observers is not None else Observers()
        self._patient = patient
        self.switch = Switch(name, kill_switch, self.__len__, self._observers) if kill_switch is not None else None
        # In this order, so that nothing of a rate is used up by what is given back all the same.
        self._gates: list[Gate] = [gate for gate in (self.switch, rate) if gate is not None]
        self.held: list[Pause] = []
        """That somebody has paused the transport for all workers; empty if nobody has."""
        self.may_fetch = threading.Event()
        """Whether that is known not to be so; whoever listens to it says so."""
        self.may_fetch.set()
        self._resumed_at = 0.0
        self.waiting: deque[Envelope] = deque()
        """Not begun, the next one first."""
        self.begun: dict[int, Envelope] = {}
        """In line, or in a slot, by identity."""
        self.gatherings: dict[int, Gathering] = {}
        """What waits for others, to be handled together with them; by the identity of its handlers."""
        self.gathers: Callable[[Envelope], Gathering | None] | None = None
        """What tells where a message waits for others; None if nothing is gathered."""
        self.together: dict[int, Envelope] = {}
        """In line, or in a slot, together with others; by identity."""
        self.done: deque[Envelope] = deque()
        """Handled, and not yet acknowledged."""
        self.resting: dict[int, tuple[float, Envelope]] = {}
        """Failed and stored nowhere: what is to be given back, and when, by identity. Nobody else waits for it."""
        self._rests: dict[str | None, float] = {}
        """How long messages rested last, by their ids."""
        self.lost: dict[int, Envelope] = {}
        """Somebody else's by now, although it is here; by identity."""
        self.unfinished = 0
        """How many messages were given back that a handler had begun, and may still be busy with."""
        self.asked_in_vain_at: float | None = None
        """When the last fetch began, if it waited for a message and there was none; None if there may be some."""
        self.fetching_since: float | None = None
        """When the fetch began that is under way, by the monotonic clock; None if there is none."""
        self.size: float | None = None
        """How many bytes a message has, about: as many as the largest of late. None before the first has come."""
        self._guarantees = receiver.guarantees if isinstance(receiver, QueueTransport) else None
        # What is given back to nobody else need not be given back so that others get it.
        self.is_shared = self._guarantees is None or self._guarantees.release != "own"
        self.has_groups = self.keeps_groups = self._guarantees is not None and self._guarantees.groups
        self.suspects = Suspects(self._guarantees, self.waiting)
        self._owed: deque[Owed] = deque()
        self.may_be_early = isinstance(receiver, QueueTransport) and receiver.carries_delays
        """Whether there may be messages among them that came too early."""
        self._lease: float | None = math.nan
        self._shortest = math.inf
        """The shortest lease that a delivery has of its own."""
        self._leased_at = 0.0
        self._extend_at = 0.0
        self._mark: Envelope | None = None
        self.look_at = 0.0
        """When it is to be asked next whether what waits does so for too long."""
        self._is_owed = False
        self._settle_again_at = 0.0

    def __len__(self) -> int:
        number = len(self.begun) + len(self.waiting) + len(self.done)
        return number + len(self.together) + self.gathered if self.gatherings else number

    @property
    def gathered(self) -> int:
        """How many messages wait for others, to be handled together with them."""
        return sum([len(gathering.envelopes) for gathering in self.gatherings.values()])

    @property
    def is_paused(self) -> bool:
        """Whether its transport is paused, so that what is not begun is to be given back."""
        return bool(self.held) or (self.switch is not None and self.switch.is_open)

    @property
    def is_delicate(self) -> bool:
        """Whether it must be looked at each message that waits, and not only at the next one, before it is begun."""
        return bool(self.suspects.are_there or self.keeps_groups or self.lost)

    def bars(self, envelope: Envelope) -> bool:
        """Say whether a message must not be begun: its transport is paused, or somebody else has the message."""
        return self.is_paused or id(envelope) in self.lost

    def hold(self, pause: Pause | None) -> None:
        """Take note that somebody has paused the transport for all workers, or nobody; in the thread that hears it."""
        before = bool(self.held)
        self.held[:] = [pause] if pause is not None else []
        if pause is not None:
            self.may_fetch.clear()
            if not before:
                logger.warning(
                    "Pausing %r, which was paused for all workers %s, until: postbus resume %s.",
                    self.name,
                    pause,
                    self.name,
                    extra={"transport": self.name},
                )
                self._observers.notify(TransportPaused(self.name, math.inf, f"it was paused {pause}"))
            return
        if before:
            self._resumed_at = time.monotonic()
            logger.warning("Consuming %r as before, because it was resumed.", self.name, extra={"transport": self.name})
            self._observers.notify(TransportResumed(self.name))
        self.may_fetch.set()

    @property
    def lost_since(self) -> float | None:
        """Since when the broker cannot be reached for longer than a moment, by the monotonic clock; None if it can."""
        since = self.receiver.away_since if isinstance(self.receiver, QueueTransport) else None
        # Nobody has looked for it during a pause.
        if since is None or self.is_paused:
            return None
        return max(since, self._resumed_at, self.switch.paused_until if self.switch is not None else 0.0)

    @property
    def _broker_lost_since(self) -> float | None:
        return self.receiver.lost_since if isinstance(self.receiver, QueueTransport) else None

    def fetch(self, limit: int, wait: float, queues: Sequence[str]) -> tuple[Sequence[Envelope], float]:
        """Receive messages, which `take_in` is to hold; return them, and when their leases began at the earliest.

        In whatever thread, but in one at a time.
        """
        self.fetching_since = since = time.monotonic()
        try:
            limit = self._allowed(limit, wait)
            envelopes = self._granted(self.receiver.receive(limit, wait, queues)) if limit else ()
            is_empty = limit and wait and not envelopes and self._broker_lost_since is None
            self.asked_in_vain_at = since if is_empty else None
            return envelopes, since
        finally:
            self.fetching_since = None

    def _allowed(self, limit: int, wait: float) -> int:
        """Return how many may be fetched now; nothing is handled, and so no attempt is spent, before it is allowed."""
        if not self.may_fetch.is_set():
            # Before the first look, it is as a broker that has not answered yet, so that it keeps its turn.
            self.may_fetch.wait(wait if self.held else max(wait, self.FIRST_LOOK))
            if not self.may_fetch.is_set():
                return 0
        if self.resting:
            limit = min(limit, self.MOST_RESTING - len(self.resting))
            if limit <= 0:
                time.sleep(wait)
                return 0
        for gate in self._gates:
            limit = min(limit, gate.allowed())
            if limit == 0:
                time.sleep(min(wait, gate.wait()))
                return 0
        return limit

    def _granted(self, envelopes: Sequence[Envelope]) -> Sequence[Envelope]:
        """Return what may be kept; the rest is given back."""
        if self.held:  # It was paused while this fetch waited.
            self.release(envelopes)
            return ()
        if not self._gates:
            return envelopes
        granted = len(envelopes)
        for gate in self._gates:
            granted = gate.take(granted) if granted else 0
        self.release(envelopes[granted:])
        return envelopes[:granted]

    def take_in(self, envelopes: Sequence[Envelope], since: float) -> None:
        """Hold what was fetched; its leases began at this time or later."""
        if not self and not self.resting:
            self._known_lease()  # As long as it can be asked for: see `_is_ours`.
            self.lost.clear()
            self.suspects.forget()
            self._shortest = math.inf
            self._leased_at = self._extend_at = since
            self._mark = envelopes[min(1, len(envelopes) - 1)] if self._patient else envelopes[-1]
            self.look_at = time.monotonic() + self.TOO_LONG
        self._look_into(envelopes, since)
        self.waiting.extend(envelopes)

    def _look_into(self, envelopes: Sequence[Envelope], since: float) -> None:
        """Learn what is told of the deliveries, and how large messages are.

        That is the bodies of all, and the headers of one, as these are alike and take long.
        """
        largest, original, last_chance = 0, None, self.suspects.last_chance
        for envelope in envelopes:
            received = envelope.stamps[-1] if envelope.stamps else None
            if type(received) is not stamps.Received:
                continue
            if received.original is not None:
                original = received.original
                size = len(original.body)
                if size > largest:
                    largest = size
            if received.count is not None and received.count >= last_chance:
                self.suspects.are_there = True
            if received.lease is not None and received.lease < self._shortest:
                self._shortest = received.lease
                self._extend_at = min(self._extend_at, since + received.lease / 3)
        if original is not None:
            largest += sum(map(len, original.headers.values()))
        known = self.size or 0.0
        self.size = largest if largest >= known else known + (largest - known) / 16

    # groups

    def next(self) -> Envelope | None:
        """Return what is to be begun next, and leave it where it is; None if all that waits has to.

        A message waits as long as another one of its group is begun; others overtake it. One that fails does not hold
        up its group: it is another message that comes later. As long as one of its group is gathered, only those may
        begin that get into the same batch, which `gathers` tells.
        """
        if not self.keeps_groups:
            return self.waiting[0] if self.waiting else None
        busy = {received_of(one).group for one in (*self.begun.values(), *self.together.values())} - {None}
        filling = {
            received_of(one).group: gathering for gathering in self.gatherings.values() for one in gathering.envelopes
        }
        passed = {*busy}
        for envelope in self.waiting:
            group = received_of(envelope).group
            if group is None or (group not in passed and self._fits(envelope, filling.get(group))):
                return envelope
            passed.add(group)  # What is behind it does not overtake it.
        return None

    def _fits(self, envelope: Envelope, filling: Gathering | None) -> bool:
        """Say whether a message may begin while ``filling`` has others of its group: in there, it comes after them."""
        return filling is None or (self.gathers is not None and self.gathers(envelope) is filling)

    def begin(self, envelope: Envelope) -> None:
        """Take out what `next` returned, because it begins now."""
        if self.waiting[0] is envelope:
            self.waiting.popleft()
        else:
            self.waiting.remove(envelope)

    # what is handled together

    def gathering_of(self, handlers: Sequence[Handler]) -> Gathering:
        """Return where messages wait for others that have the same batch handlers."""
        gathering = self.gatherings.get(id(handlers))
        if gathering is None:
            gathering = self.gatherings[id(handlers)] = Gathering(handlers)
        return gathering

    @property
    def missing(self) -> int:
        """How many messages more would fill what has most to be filled; 0 if nothing was gathered."""
        return max([gathering.missing for gathering in self.gatherings.values()], default=0) if self.gatherings else 0

    def gathered_by(self, now: float) -> list[Gathering]:
        """Return what is to be begun by this time: because it is full, or late, or nothing else is coming."""
        if not self.gatherings:
            return []
        # What waits may wait for the end of what was gathered, and is not to wait for others that come behind it.
        is_in_the_way = bool(self.waiting) and self.keeps_groups and self.next() is None
        all_gathered = [one for one in self.gatherings.values() if one.envelopes]
        return [one for one in all_gathered if is_in_the_way or one.is_due(now, self.asked_in_vain_at)]

    def scatter(self, gatherings: Sequence[Gathering] | None = None) -> None:
        """Let messages that were gathered wait each by itself again: all, or those that find no slot."""
        for gathering in reversed(list(self.gatherings.values()) if gatherings is None else gatherings):
            self.waiting.extendleft(reversed(gathering.take_all()))

    # what comes too early

    def early(self, envelope: Envelope) -> float:
        """Return for how many seconds more a message is to wait; mostly 0."""
        return self.receiver.early(envelope) if isinstance(self.receiver, QueueTransport) else 0.0

    # what is stored nowhere

    def rest(self, envelope: Envelope, reason: str) -> None:
        """Keep a message that failed and of which nobody takes a copy; give it back later, each time twice as late.

        To give it back at once would be to get it again at once: some brokers deliver such a message first.
        """
        key = _id_of(envelope)
        if len(self._rests) > 10 * self.MOST_RESTING:
            self._rests.clear()
        seconds = self._rests[key] = min(max(self._rests.pop(key, 0.0) * 2, self.FIRST_REST), self.LONGEST_REST)
        self.resting[id(envelope)] = (time.monotonic() + seconds, envelope)
        logger.error(
            "Giving %s back to its broker in %.0f s, because what is to become of it cannot be stored: %s",
            label(envelope),
            seconds,
            reason,
            extra=identifiers(envelope),
        )
        if len(self.resting) == self.MOST_RESTING:
            logger.error(
                "Fetching no more of %r, because %d of its messages cannot be stored.", self.name, self.MOST_RESTING
            )

    def release_rested(self, now: float) -> None:
        """Give back those that have rested for long enough."""
        if not self.resting:
            return
        due = [key for key, (until, _) in self.resting.copy().items() if until <= now]
        rested = [found[1] for key in due if (found := self.resting.pop(key, None)) is not None]
        self.release([envelope for envelope in rested if not self.has_lost(envelope)], begun=True)

    # settling

    def settle(self, *, last: bool = False) -> None:
        """Acknowledge what is done, but not what somebody else has meanwhile; give back what could not be before.

        If the connection is lost, that is tried again, as long as nobody else can have the messages; unless
        this is the last time.
        """
        if not self.done and not self._owed:
            return
        if self._is_owed and not last and not self._may_be_back():
            return
        self._is_owed = False
        for owed in all_of(self._owed):
            self.release(owed.envelopes, begun=owed.begun, last=last)
        if self.done:
            self._acknowledge(last=last)

    def _acknowledge(self, *, last: bool) -> None:
        done = all_of(self.done)
        try:
            if time.monotonic() - self._leased_at > self._known_lease():
                self._note_lost(done)
            if self.lost:
                done = [envelope for envelope in done if not self.has_lost(envelope)]
            if not done:
                return
            unsettled = self.receiver.ack(done)
        except Exception as error:  # A border: what is wrong with one of them must not end the worker.
            if not self._is_to_be_tried_again(error, last=last):
                _warn(error, "Could not acknowledge %d messages of %r; they come again", len(done), self.name)
                return
            self.done.extendleft(reversed(done))
            return
        if self._observers and len(unsettled) < len(done):
            self._observers.notify(MessagesAcknowledged(self.name, len(done) - len(unsettled)))
        for envelope in unsettled:
            logger.warning(
                "%s was handled, but not settled, so it comes again: its broker has taken it back.",
                label(envelope),
                extra=identifiers(envelope),
            )
            self._observers.notify(LeaseLost(envelope, self.name))

    def _is_to_be_tried_again(self, error: Exception, *, last: bool) -> bool:
        """Say whether to settle later what could not be now, and see to that."""
        if last or not isinstance(error, ConnectionLost) or not self._is_ours():
            return False
        self._is_owed, self._settle_again_at = True, time.monotonic() + self.SETTLE_AGAIN_AFTER
        return True

    def _may_be_back(self) -> bool:
        """Say whether the broker can be reached, or is to be tried: who fetches finds that out, if somebody does."""
        if self._broker_lost_since is None:
            return True
        return self.fetching_since is None and time.monotonic() >= self._settle_again_at

    def _is_ours(self) -> bool:
        """Say whether all that is held is on a lease that is not over, so that losing the connection loses nothing."""
        return time.monotonic() - self._leased_at < self._known_lease() < math.inf

    def release(self, envelopes: Sequence[Envelope], *, begun: bool = False, last: bool = False) -> None:
        """Give back what was not handled; ``begun`` says whether a handler had it.

        If the connection is lost, that is done when the broker is back: see `settle`.
        """
        if not envelopes:
            return
        if self._is_owed and self._owed and not last:  # In the order in which they are to come again.
            self._owed.append(Owed(envelopes, begun))
            return
        try:
            lost = self.receiver.release(envelopes)
        except Exception as error:  # A border, as in acknowledging.
            if self._is_to_be_tried_again(error, last=last):
                self._owed.append(Owed(envelopes, begun))
                return
            if not begun:
                self.suspects.note_survived(envelopes)
            what = "Could not give %d messages back to %r; they come again when their time is over"
            _warn(error, what, len(envelopes), self.name)
            return
        if lost:
            self._take_note_of_lost(lost, begun=begun)
        if self._observers:
            for envelope in envelopes:
                if not any(envelope is one for one in lost):
                    self._observers.notify(MessageReleased(envelope, self.name, begun))

    def _take_note_of_lost(self, lost: Sequence[Envelope], *, begun: bool) -> None:
        """Tell of what was somebody else's when it was to be given back; it comes again all the same."""
        logger.info("%d messages of %r were not ours any more when they were to be given back.", len(lost), self.name)
        if not begun:
            self.suspects.note_survived(lost)
        for envelope in lost:
            self.lost.pop(id(envelope), None)
            self._observers.notify(LeaseLost(envelope, self.name))

    def release_waiting(self) -> int:
        """Give back what was not begun; return how many messages that were."""
        waiting = all_of(self.waiting)
        self.release(waiting)
        for gathering in self.gatherings.values():
            gathering.forget()
        return len(waiting)

    def release_overdue(self, now: float) -> bool:
        """Give back what waits, if it does so for too long; say whether that was done."""
        if now < self.look_at or not self.is_shared:
            return False
        self.look_at = now + self.TOO_LONG
        waiting = self.waiting.copy()
        is_overdue = self._mark is not None and any(envelope is self._mark for envelope in waiting)
        self._mark = waiting[0 if self._patient else -1] if waiting else None
        if not is_overdue or not (number := self.release_waiting()):
            return False
        logger.info(
            "Giving %d messages back to %r, for other workers, because those before them take long.", number, self.name
        )
        return True

    # leases

    def extend_leases(self, now: float) -> None:
        """Begin all leases anew, once a third of their time is over."""
        if now < self._extend_at or not (self or self.resting):
            return
        lease = self._known_lease()
        due = self._leased_at + lease / 3
        if now < due:
            # Soon again, as it may be that the broker could not be asked how long a lease is.
            self._extend_at = min(due, now + self.TOO_LONG)
            return
        held = self._held()
        if self._shortest < math.inf:
            self._shortest = min((one for e in held if (one := received_of(e).lease) is not None), default=math.inf)
        try:
            self._note_lost(held)
            self._observers.notify(LeasesExtended(self.name, len(held)))
            self._leased_at, self._extend_at = now, now + lease / 3
        except Exception as error:  # A border, as in acknowledging.
            _warn(error, "Could not extend the leases of %d messages of %r", len(held), self.name)
            self._extend_at = now + lease / 12

    def note_revoked(self) -> None:
        """Take note of what the broker has given to somebody else, so that nothing of it is begun here any more."""
        tags = self.receiver.revoked() if isinstance(self.receiver, QueueTransport) else ()
        if tags:
            held = self._held()
            self.lost.update({id(envelope): envelope for envelope in held if received_of(envelope).tag in tags})

    def note_lost(self, envelope: Envelope) -> None:
        """Take note that somebody else has a message, and write it down."""
        self.lost[id(envelope)] = envelope
        self.has_lost(envelope)

    def has_lost(self, envelope: Envelope, *, begun: bool = True) -> bool:
        """Say whether somebody else has the message by now, and write it down, once."""
        if self.lost.pop(id(envelope), None) is None:
            return False
        if not begun:
            self.suspects.note_survived([envelope])
        logger.warning(
            "Lost the lease of %s, so it comes again; what has come of it here is not settled.",
            label(envelope),
            extra=identifiers(envelope),
        )
        self._observers.notify(LeaseLost(envelope, self.name))
        return True

    def release_unfinished(self, begun: Sequence[Envelope]) -> None:
        """Give back what a handler has not finished, whatever comes of it here; what is lost already is not ours."""
        begun = [envelope for envelope in begun if id(envelope) not in self.lost]
        self.lost.update({id(envelope): envelope for envelope in begun})
        for envelope in begun:
            logger.warning(
                "Giving %s back unfinished, because the worker ends; it comes again.",
                label(envelope),
                extra=identifiers(envelope),
            )
        self.unfinished += len(begun)
        self.release(begun, begun=True, last=True)

    def _held(self) -> list[Envelope]:
        resting = [envelope for _, envelope in self.resting.copy().values()]
        gathered = [envelope for gathering in self.gatherings.values() for envelope in gathering.envelopes]
        begun = [*self.begun.copy().values(), *self.together.values()]
        return [*begun, *gathered, *self.waiting.copy(), *self.done.copy(), *resting]

    def _note_lost(self, envelopes: Sequence[Envelope]) -> None:
        assert isinstance(self.receiver, QueueTransport)
        # One that was settled meanwhile counts as lost, which does no harm: nobody asks for it any more.
        self.lost.update({id(envelope): envelope for envelope in self.receiver.keepalive(envelopes)})

    def _known_lease(self) -> float:
        """Return the seconds of a lease; infinite where there is none, or the broker cannot be asked now."""
        if self._lease is not None and math.isnan(self._lease):
            try:
                self._lease = self.receiver.lease if isinstance(self.receiver, QueueTransport) else None
            except TransportError:
                return math.inf
        return math.inf if self._lease is None else min(self._lease, self._shortest)


def _id_of(envelope: Envelope) -> str | None:
    message_id, received = envelope.last(stamps.MessageId), envelope.last(stamps.Received)
    return message_id.id if message_id is not None else received.id if received is not None else None


def _warn(error: Exception, what: str, number: int, name: str) -> None:
    is_foreseen = isinstance(error, TransportError)
    text = f"{what}: %s"
    logger.warning(text, number, name, error if is_foreseen else describe(error), exc_info=not is_foreseen)


def all_of(envelopes: deque[T]) -> list[T]:
    """Take everything out, each in one piece, so that of two who do this at once only one gets it.

    From the end, so that who takes the next one meanwhile overtakes none.
    """
    taken: deque[T] = deque()
    while True:
        try:
            taken.appendleft(envelopes.pop())
        except IndexError:
            return list(taken)
