"""Several transports, or several messages at once: this thread gives out the work that others do."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from postbus.envelope import Envelope
from postbus.events import Observers, WorkerStopping
from postbus.limits import STUCK, Counters, Stopping
from postbus.worker.handling import Handling, Unstored
from postbus.worker.health import Health
from postbus.worker.holdings import Holding
from postbus.worker.idleness import Idleness
from postbus.worker.last_chance import LastChance
from postbus.worker.receivers import WAIT, Arrived, FetchSize, WaitingReceiver
from postbus.worker.slots import Finished, Slots, Stuck
from postbus.worker.strategies import Turns

if TYPE_CHECKING:
    from postbus.worker.trials import Isolate, Trials

logger = logging.getLogger("postbus")


class Concurrent:
    """Asks receivers for messages, puts them into slots, and settles what comes out.

    All that is decided is decided in this thread, and everybody else puts what has happened in its inbox.
    """

    SETTLE_AFTER = 0.05
    """Seconds after which what is done is settled, if slots are still busy."""
    NEXT_IN_LINE = 0.02
    """Seconds' worth of messages that wait for a slot, so that none is idle while this thread settles."""
    GATHER = 0.002
    """Seconds in which what is finished gathers, as long as there are messages in line."""
    MERCY = 1.0
    """Seconds for which interrupted handlers may clear up before their messages are given away."""
    MOST_ON_TRIAL = 1000
    """How many messages may wait for a process of their own; nothing is fetched then."""
    LAST_ARRIVALS = 2.0
    """Seconds to wait, at the end, for what receivers may still bring; one that hangs brings nothing."""

    def __init__(
        self,
        holdings: Sequence[Holding],
        handling: Handling,
        stopping: Stopping,
        counters: Counters,
        observers: Observers,
        health: Health,
        turns: Turns,
        idleness: Idleness,
        *,
        queue_turns: Turns,
        concurrency: int,
        fetch_size: int | None,
        prefetch_bytes: float,
        isolate: Isolate | None = None,
    ) -> None:
        """Handle what workers may have died of in processes that ``isolate`` starts; without it, alone."""
        self._handling = handling
        self._stopping = stopping
        self._counters = counters
        self._observers = observers
        self._health = health
        self._turns = turns
        self._idleness = idleness
        self._queue_turns = queue_turns
        self._concurrency = concurrency
        self._size = FetchSize(fetch_size, prefetch_bytes)
        self._is_exact = turns.is_strict and len(holdings) > 1
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        self._slots = Slots(concurrency, handling, self._inbox)
        self._trials: Trials | None = None
        self._trial_slots: Slots | None = None
        if isolate is not None:
            from postbus.worker.trials import Trials  # noqa: PLC0415  Only a worker that starts processes needs it.

            self._trials = Trials(handling, isolate)
            self._trial_slots = Slots(min(concurrency, Trials.AT_ONCE), self._trials, self._inbox)
        for holding in holdings:
            holding.tries_suspects = isolate is not None
        self._receivers = {holding.name: WaitingReceiver(holding, self._inbox) for holding in holdings}
        self._seconds = 0.0
        """How long a message takes in its slot, of late."""
        self._finished_at = 0.0
        self._settle_at = 0.0
        self._arrivals_end = math.inf
        self._last_chance = LastChance()
        self._stuck: list[Stuck] = []

    def wake(self) -> None:
        """Look again at whether there is a reason to stop. From any thread, and from a signal handler."""
        self._inbox.put(None)

    def work(self) -> str:
        """Work until there is a reason to stop, finish what is running, and return the reason."""
        try:
            try:
                while (reason := self._stopping.reason(self._counters)) is None:
                    self._handling.look_who_watches()
                    if not self._last_chance.is_taken:
                        self._ask()
                        self._begin()
                    self._take_in(self._patience())
                    self._keep()
                    self._idleness.look()
                    self._health.turn()
            except (Exception, SystemExit) as error:  # The latter from an observer, for instance.
                self._stopping.tell(str(error))
                self._finish()
                raise
            self._observers.notify(WorkerStopping(reason))
            self._health.note_stopping()
            self._finish()
            return reason
        finally:
            self._abandon()

    # giving out

    def _ask(self) -> None:
        """Ask receivers for as much as there is room for, in the order of turns."""
        left = self._left()
        if left == 0 or self._last_chance.is_awaited or self._on_trial >= self.MOST_ON_TRIAL:
            return
        free = max(0, self._concurrency - self._slots.begun)
        bytes_left = self._size.most_bytes - self._bytes_ahead()
        for name in self._turns.order(self._receivers):
            receiver = self._receivers[name]
            waiting = len(receiver.holding.waiting)
            limit = self._size.limit_for(receiver.holding.size)
            room = min(free + limit - 1, math.inf if left is None else left) - waiting
            if receiver.holding.size:
                # One may be as large as it likes.
                room = min(room, max(bytes_left // receiver.holding.size, 0 if waiting else 1))
            # Not for each message by itself, unless one is needed now.
            if not receiver.is_asked and room > 0 and (waiting < free or 2 * room >= limit):
                receiver.ask(int(room), self._queue_turns.rotation())
                bytes_left -= room * (receiver.holding.size or 0.0)
            # What comes behind gets nothing before this is empty; by turns, that is so where nothing is fetched ahead.
            if (self._turns.is_strict or self._size.limit == 1) and receiver.has_next:
                return

    def _bytes_ahead(self) -> float:
        """Return how many bytes messages have, about, that no handler has: before it, after it, and on their way."""
        holdings = [receiver.holding for receiver in self._receivers.values()]
        ahead = sum(
            (receiver.holding.size or 0.0)
            * (len(receiver.holding.waiting) + len(receiver.holding.done) + receiver.asked)
            for receiver in self._receivers.values()
        )
        in_line = max(0, self._slots.begun - self._concurrency) + self._on_trial
        return ahead + in_line * max(holding.size or 0.0 for holding in holdings) if in_line else ahead

    def _begin(self) -> None:
        """Put messages into slots, and a few in line, each from the transport whose turn it is."""
        most = self._concurrency
        if not self._is_exact and self._seconds:
            ahead = self.NEXT_IN_LINE * self._concurrency / self._seconds
            most += int(min(ahead, self._size.limit - 1))
        left = self._left()
        if left is not None:
            most = min(most, self._slots.begun + left)
        receivers = self._receivers.values()
        while self._slots.begun < most:
            # A transport that may have more keeps its turn, although none of its messages is here yet.
            wanting = [name for name, one in self._receivers.items() if one.has_next]
            holding = self._receivers[self._turns.order(wanting)[0]].holding if wanting else None
            envelope = holding.next() if holding is not None else None
            if holding is None or envelope is None:
                return
            trial_slots = self._trial_slots_for(holding, envelope) if holding.has_suspects else None
            has_last_chance = holding.has_suspects and trial_slots is None and holding.has_last_chance(envelope)
            if has_last_chance and not self._last_chance.may_begin(receivers, is_busy=self._slots.begun > 0):
                return
            self._turns.next(wanting)
            holding.begin(envelope)
            if holding.lost and holding.has_lost(envelope, begun=False):
                continue
            if has_last_chance:
                self._give_back()
                self._last_chance.begin(envelope)
                most = 0
            if trial_slots is not None:
                trial_slots.begin(holding, envelope)
                if left is not None:
                    most -= 1
                continue
            if not self._slots.begun:
                self._finished_at = time.monotonic()
            self._slots.begin(holding, envelope)

    def _trial_slots_for(self, holding: Holding, envelope: Envelope) -> Slots | None:
        """Return where a message is handled that workers may have died of; None for all others."""
        if self._trials is None or not self._trials.is_possible:
            return None
        return self._trial_slots if holding.is_suspect(envelope) else None

    @property
    def _on_trial(self) -> int:
        return self._trial_slots.begun if self._trial_slots is not None else 0

    def _left(self) -> int | None:
        """Return how many more messages may be begun; None for any number."""
        left = self._counters.left
        return None if left is None else max(0, left - self._slots.begun - self._on_trial)

    # taking in

    def _take_in(self, patience: float) -> None:
        """Wait until something has happened, and take in all that has."""
        try:
            item = self._inbox.get(timeout=patience)
            if self._slots.begun > self._concurrency:  # None is idle, so what is finished may gather.
                time.sleep(self.GATHER)
            while True:
                if isinstance(item, Arrived):
                    self._take_in_arrived(item)
                elif isinstance(item, Finished):
                    self._take_in_finished(item)
                item = self._inbox.get_nowait()
        except Empty:
            return

    def _patience(self) -> float:
        """Return how long nothing need be done, as far as is known; all that is due is due within this."""
        if self._slots.begun or any(receiver.holding for receiver in self._receivers.values()):
            return self.SETTLE_AFTER
        return WAIT if all(receiver.is_empty for receiver in self._receivers.values()) else WaitingReceiver.PATIENCE

    def _take_in_arrived(self, arrived: Arrived) -> None:
        if arrived.error is not None:
            raise arrived.error
        arrived.receiver.take_in(arrived)

    def _take_in_finished(self, finished: Finished) -> None:
        if not finished.slots.finish(finished.holding, finished.envelope):
            return  # It came to its end too late, when it had been given up.
        if self._trials is not None and finished.slots is self._trial_slots:
            self._take_in_tried(self._trials)
        else:
            self._finished_at = time.monotonic()
        self._last_chance.end(finished.envelope)
        holding, envelope = finished.holding, finished.envelope
        if finished.outcome == "paused":
            holding.waiting.appendleft(envelope)
            return
        if finished.outcome == "handled":
            self._counters.handled += 1
            holding.done.append(envelope)
        elif finished.outcome is None:
            holding.give_up([envelope])
        elif isinstance(finished.outcome, Unstored):
            self._counters.failed += 1
            holding.rest(envelope, finished.outcome.reason)
        elif finished.outcome == "owed":
            self._counters.failed += 1
            holding.done.append(envelope)
        else:
            self._counters.failed += finished.outcome != "postponed"
            holding.lost.pop(id(envelope), None)
        if finished.error is not None:
            raise finished.error
        if finished.slots is self._slots:
            self._seconds += (finished.seconds - self._seconds) / (8 if self._seconds else 1)
            self._size.learn(self._concurrency, self._seconds)

    def _take_in_tried(self, trials: Trials) -> None:
        if not self._on_trial:
            trials.end()
        if not trials.is_possible:
            for receiver in self._receivers.values():
                receiver.holding.tries_suspects = False

    # keeping

    def _keep(self) -> None:
        """Settle what is done, and look after what is not."""
        now = time.monotonic()
        is_due = now >= self._settle_at or not self._slots.begun or self._is_much_done()
        if is_due:
            self._settle_at = now + self.SETTLE_AFTER
            self._look_for_stuck(now)
            self._handling.report_blocked(now)
        for receiver in self._receivers.values():
            holding = receiver.holding
            holding.note_revoked()
            if is_due:
                holding.settle()
            holding.extend_leases(now)
            holding.release_rested(now)
            if holding.is_paused:
                holding.release_waiting()
            if holding.release_overdue(now):
                self._size.learn(0, 0, given_back=True)
        if self._is_line_overdue(now) and all(receiver.holding.is_shared for receiver in self._receivers.values()):
            self._size.learn(0, 0, given_back=True)
            self._give_back()
        if self._last_chance.is_taken:
            self._give_back_waiting()

    def _is_much_done(self) -> bool:
        """Say whether what is done holds up what could be fetched, because it is large."""
        done = sum((one.holding.size or 0.0) * len(one.holding.done) for one in self._receivers.values())
        return done > self._size.most_bytes / 4

    def _is_line_overdue(self, now: float) -> bool:
        """Say whether the messages in line wait for too long: no slot was free for a while, or it will take a while."""
        line = self._slots.begun - self._concurrency
        took = max(now - self._finished_at, line * self._seconds / self._concurrency)
        return line > 0 and took > Holding.TOO_LONG

    def _give_back(self) -> None:
        """Give back all that is not begun."""
        on_trial = self._trial_slots.take_back() if self._trial_slots is not None else []
        for holding, envelope in reversed([*on_trial, *self._slots.take_back()]):
            holding.waiting.appendleft(envelope)
        self._give_back_waiting()

    def _give_back_waiting(self) -> None:
        for receiver in self._receivers.values():
            receiver.holding.release_waiting()

    def _look_for_stuck(self, now: float) -> None:
        """Find handlers that do not end although their time is over: their worker is to be replaced, with them."""
        self._stuck = self._slots.stuck(now)
        for stuck in self._stuck:
            self._handling.report_stuck(stuck.run, stuck.holding, stuck.envelope)
        if self._stuck and self._arrivals_end == math.inf:
            self._stopping.tell(STUCK, is_stuck=True)

    def _give_up_stuck(self) -> None:
        """Deal with the messages of these handlers, as late as can be, so that they are not tried again meanwhile."""
        for stuck in self._stuck:
            outcome = self._handling.give_up(stuck.run, stuck.holding, stuck.envelope)
            if outcome is None:
                continue
            self._slots.finish(stuck.holding, stuck.envelope)
            self._counters.failed += 1
            if isinstance(outcome, Unstored):
                stuck.holding.release([stuck.envelope], begun=True)
            elif outcome == "owed":
                stuck.holding.done.append(stuck.envelope)
        self._stuck = []

    # stopping

    def _finish(self) -> None:
        """Let what is running finish, as long as it may, and what is being fetched arrive; give back the rest."""
        self._stop_receivers()
        end = math.inf
        while self._slots.begun or self._on_trial or self._may_arrive():
            self._give_back()
            now = time.monotonic()
            self._stopping.look(now, self._counters)  # After a limit, which gives all the time, it may be told to.
            if end == math.inf and now >= self._stopping.deadline:
                are_tried = self._trials is not None and self._trials.interrupt()
                end = now + self.MERCY if self._slots.interrupt() or are_tried else now
            if now >= end and not self._may_arrive():
                break
            self._take_in_last(self._patience())
            self._keep()
            self._health.show(now)
            if self._slots.begun + self._on_trial == len(self._stuck) and not self._may_arrive():
                self._give_up_stuck()

    def _abandon(self) -> None:
        """Wait for no handler: settle what is done, and give back everything else."""
        self._stop_receivers()
        # As long as one of them waits, it might get back what is given back here.
        while self._may_arrive():
            self._take_in_last(WAIT)
        for receiver in self._receivers.values():
            receiver.abandon()
        self._take_in_last(0.0)
        self._give_back()
        self._give_up_stuck()
        for receiver in self._receivers.values():
            receiver.holding.release_rested(math.inf)
            receiver.holding.settle(last=True)
            receiver.holding.give_up(list(receiver.holding.begun.values()))
        self._slots.close()
        if self._trials is not None and self._trial_slots is not None:
            self._trials.interrupt()
            self._trial_slots.close()

    def _stop_receivers(self) -> None:
        if self._arrivals_end == math.inf:
            self._arrivals_end = time.monotonic() + self.LAST_ARRIVALS
            for receiver in self._receivers.values():
                receiver.stop()

    def _may_arrive(self) -> bool:
        """Say whether a receiver may still bring something; one that hangs does not."""
        all_ended = all(receiver.has_ended for receiver in self._receivers.values())
        return not all_ended and time.monotonic() < self._arrivals_end

    def _take_in_last(self, patience: float) -> None:
        try:
            self._take_in(patience)
        except Exception as error:  # A border: there is one reason to stop, and this is only the second.
            logger.error("While the worker ended: %s", error)
