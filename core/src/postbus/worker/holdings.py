"""What a worker holds of a transport: fetched, and neither settled nor given back."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from postbus import stamps
from postbus.envelope import Envelope
from postbus.errors import ConnectionLost, TransportError
from postbus.events import LeaseLost, LeasesExtended, MessageReleased, MessagesAcknowledged, Observers
from postbus.failures import identifiers, label
from postbus.transport import QueueTransport, Receiver
from postbus.worker.kill_switch import KillSwitch, Switch

logger = logging.getLogger("postbus")


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


class Holding:
    """The deliveries of one transport that are in a worker's hands.

    One thread takes messages in and begins them. It may share the holding with one other, which keeps it
    meanwhile: settles, extends leases, gives back what waits. So each message is moved by one operation
    that Python does in one piece, and there is no lock between the two.
    """

    LAST_CHANCE = 3
    """The delivery at which a message has a worker to itself, because two may have died of it."""
    LAST_CHANCE_COUNTED = 20
    """The same where the broker counts, too, what was only given back; there it shares the worker."""
    SETTLE_AGAIN_AFTER = 5.0
    """Seconds after which it is tried again, where nobody else finds out whether the broker is back."""
    FIRST_REST = 1.0
    LONGEST_REST = 300.0
    MOST_RESTING = 1000
    """How many messages rest at most; then no more are fetched, until one of them is given back."""
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
        self.waiting: deque[Envelope] = deque()
        """Not begun, the next one first. Who keeps the holding takes from its end."""
        self.is_busy = False
        """Whether somebody who has a keeper works through it."""
        self.begun: dict[int, Envelope] = {}
        """In a handler's hands, by whatever its worker knows each by."""
        self.done: deque[Envelope] = deque()
        """Handled, and not yet acknowledged."""
        self.resting: dict[int, tuple[float, Envelope]] = {}
        """Failed and stored nowhere: what is to be given back, and when, by identity. Nobody else waits for it."""
        self._rests: dict[str | None, float] = {}
        """How long messages rested last, by their ids."""
        self.lost: dict[int, Envelope] = {}
        """Somebody else's by now, although it is here; by identity."""
        self.has_suspects = False
        """Whether there may be messages among them that workers died of."""
        self.given_up = 0
        """How many messages were given back that a handler had begun, and may still be busy with."""
        self.fetching_since: float | None = None
        """When the fetch began that is under way, by the monotonic clock; None if there is none."""
        self._guarantees = receiver.guarantees if isinstance(receiver, QueueTransport) else None
        self.may_be_early = self._guarantees is not None and self._guarantees.longest_delay is not None
        """Whether there may be messages among them that came too early."""
        self._lease: float | None = math.nan
        self._leased_at = 0.0
        self._extend_at = 0.0
        self._mark: Envelope | None = None
        self._look_at = 0.0
        self._is_owed = False
        self._settle_again_at = 0.0

    def __len__(self) -> int:
        return len(self.begun) + len(self.waiting) + len(self.done)

    @property
    def is_paused(self) -> bool:
        """Whether its transport is paused, so that what is not begun is to be given back."""
        return self.switch is not None and self.switch.is_open

    @property
    def lost_since(self) -> float | None:
        """Since when the broker cannot be reached for longer than a moment, by the monotonic clock; None if it can."""
        since = self.receiver.away_since if isinstance(self.receiver, QueueTransport) else None
        if since is None or self.switch is None:
            return since
        # Nobody has looked for it during a pause.
        return None if self.switch.is_open else max(since, self.switch.paused_until)

    @property
    def _broker_lost_since(self) -> float | None:
        return self.receiver.lost_since if isinstance(self.receiver, QueueTransport) else None

    def fetch(self, limit: int, wait: float, queues: Sequence[str]) -> tuple[Sequence[Envelope], float]:
        """Receive messages, which the holding is to take in; return them, and when their leases began at the earliest.

        In whatever thread, but in one at a time.
        """
        self.fetching_since = since = time.monotonic()
        try:
            if self.resting:
                limit = min(limit, self.MOST_RESTING - len(self.resting))
                if limit <= 0:
                    time.sleep(wait)
                    return (), since
            if self._gates:
                return self._fetch_through_gates(limit, wait, queues), since
            return self.receiver.receive(limit, wait, queues), since
        finally:
            self.fetching_since = None

    def _fetch_through_gates(self, limit: int, wait: float, queues: Sequence[str]) -> Sequence[Envelope]:
        """Receive what is allowed; nothing is handled, and so no attempt is spent, before it is."""
        for gate in self._gates:
            limit = min(limit, gate.allowed())
            if limit == 0:
                time.sleep(min(wait, gate.wait()))
                return ()
        envelopes = self.receiver.receive(limit, wait, queues)
        granted = len(envelopes)
        for gate in self._gates:
            granted = gate.take(granted) if granted else 0
        self.release(envelopes[granted:])
        return envelopes[:granted]

    def take_in(self, envelopes: Sequence[Envelope], since: float) -> None:
        """Hold what was fetched; its leases began at this time or later."""
        if not self and not self.resting:
            self.lost.clear()
            self.has_suspects = False
            self._leased_at = self._extend_at = since
            self._mark = envelopes[min(1, len(envelopes) - 1)] if self._patient else envelopes[-1]
            self._look_at = time.monotonic() + self.TOO_LONG
        if self._guarantees is not None and self._guarantees.delivery_count:
            self._look_for_suspects(envelopes)
        self.waiting.extend(envelopes)

    # what workers die of

    def has_last_chance(self, envelope: Envelope) -> bool:
        """Say whether a message is to be handled with nothing else in hand."""
        return _deliveries_of(envelope) == self.LAST_CHANCE and not self._counts_releases

    def deaths(self, envelope: Envelope) -> int | None:
        """Return how many workers had a message when they died, if these were too many."""
        most = self.LAST_CHANCE_COUNTED if self._counts_releases else self.LAST_CHANCE
        count = _deliveries_of(envelope)
        return count - 1 if count > most else None

    @property
    def _counts_releases(self) -> bool:
        return self._guarantees is not None and self._guarantees.release == "counted"

    def _look_for_suspects(self, envelopes: Sequence[Envelope]) -> None:
        for envelope in envelopes:
            received = envelope.stamps[-1]
            if type(received) is stamps.Received and received.count and received.count >= self.LAST_CHANCE:
                self.has_suspects = True

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
        """Acknowledge what is done, but not what somebody else has meanwhile.

        If the connection is lost, that is tried again, as long as nobody else can have the messages; unless
        this is the last time.
        """
        if not self.done or (self._is_owed and not last and not self._may_be_back()):
            return
        self._is_owed = False
        done = _all_of(self.done)
        try:
            if time.monotonic() - self._leased_at > self._known_lease():
                self._note_lost(done)
            if self.lost:
                done = [envelope for envelope in done if not self.has_lost(envelope)]
            if not done:
                return
            self.receiver.ack(done)
            if self._observers:
                self._observers.notify(MessagesAcknowledged(self.name, len(done)))
        except TransportError as error:
            if isinstance(error, ConnectionLost) and not last and self._is_ours():
                self._is_owed, self._settle_again_at = True, time.monotonic() + self.SETTLE_AGAIN_AFTER
                self.done.extendleft(reversed(done))
                return
            logger.warning("Could not acknowledge %d messages of %r; they come again: %s", len(done), self.name, error)

    def _may_be_back(self) -> bool:
        """Say whether the broker can be reached, or is to be tried: who fetches finds that out, if somebody does."""
        if self._broker_lost_since is None:
            return True
        return self.fetching_since is None and time.monotonic() >= self._settle_again_at

    def _is_ours(self) -> bool:
        """Say whether all that is held is on a lease that is not over, so that losing the connection loses nothing."""
        return time.monotonic() - self._leased_at < self._known_lease() < math.inf

    def release(self, envelopes: Sequence[Envelope], *, begun: bool = False) -> None:
        """Give back what was not handled; ``begun`` says whether a handler had it."""
        try:
            if envelopes:
                self.receiver.release(envelopes)
            if self._observers:
                for envelope in envelopes:
                    self._observers.notify(MessageReleased(envelope, self.name, begun))
        except TransportError as error:
            logger.warning(
                "Could not give %d messages back to %r; they come again when their time is over: %s",
                len(envelopes),
                self.name,
                error,
            )

    def release_waiting(self) -> int:
        """Give back what was not begun; return how many messages that were."""
        waiting = _all_of(self.waiting)
        self.release(waiting)
        return len(waiting)

    def release_overdue(self, now: float) -> bool:
        """Give back what waits, if it does so for too long; say whether that was done."""
        if now < self._look_at:
            return False
        self._look_at = now + self.TOO_LONG
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
        resting = [envelope for _, envelope in self.resting.copy().values()]
        held = [*self.begun.copy().values(), *self.waiting.copy(), *self.done.copy(), *resting]
        try:
            self._note_lost(held)
            self._observers.notify(LeasesExtended(self.name, len(held)))
            self._leased_at, self._extend_at = now, now + lease / 3
        except TransportError as error:
            logger.warning("Could not extend the leases of %d messages of %r: %s", len(held), self.name, error)
            self._extend_at = now + lease / 12

    def note_lost(self, envelope: Envelope) -> None:
        """Take note that somebody else has a message, and write it down."""
        self.lost[id(envelope)] = envelope
        self.has_lost(envelope)

    def has_lost(self, envelope: Envelope) -> bool:
        """Say whether somebody else has the message by now, and write it down, once."""
        if self.lost.pop(id(envelope), None) is None:
            return False
        logger.warning(
            "Lost the lease of %s, so it comes again; what has come of it here is not settled.",
            label(envelope),
            extra=identifiers(envelope),
        )
        self._observers.notify(LeaseLost(envelope, self.name))
        return True

    def give_up(self, begun: Sequence[Envelope]) -> None:
        """Give back what a handler has not finished, whatever comes of it here; what is lost already is not ours."""
        begun = [envelope for envelope in begun if id(envelope) not in self.lost]
        self.lost.update({id(envelope): envelope for envelope in begun})
        for envelope in begun:
            logger.warning(
                "Giving %s back unfinished, because the worker ends; it comes again.",
                label(envelope),
                extra=identifiers(envelope),
            )
        self.given_up += len(begun)
        self.release(begun, begun=True)

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
        return math.inf if self._lease is None else self._lease


def _id_of(envelope: Envelope) -> str | None:
    message_id, received = envelope.last(stamps.MessageId), envelope.last(stamps.Received)
    return message_id.id if message_id is not None else received.id if received is not None else None


def _deliveries_of(envelope: Envelope) -> int:
    received = envelope.last(stamps.Received)
    return received.count or 0 if received is not None else 0


def _all_of(envelopes: deque[Envelope]) -> list[Envelope]:
    """Take everything out, each in one piece, so that of two who do this at once only one gets it.

    From the end, so that who takes the next one meanwhile overtakes none.
    """
    taken: deque[Envelope] = deque()
    while True:
        try:
            taken.appendleft(envelopes.pop())
        except IndexError:
            return list(taken)
