"""One transport, one message at a time: all in the thread of the worker, with a keeper beside it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from postbus.errors import Interrupted
from postbus.event_loop import interrupt, is_called_off
from postbus.events import Observers, WorkerStopping
from postbus.limits import STUCK, Counters, Stopping
from postbus.time_limits import expire, is_any_timed, stuck
from postbus.worker.handling import Handling, Unstored
from postbus.worker.health import Health
from postbus.worker.holdings import Holding
from postbus.worker.idleness import Idleness
from postbus.worker.keeper import Keeper
from postbus.worker.receivers import WAIT, FetchSize
from postbus.worker.signals import StopSignals
from postbus.worker.strategies import Turns


class Sequential:
    """Fetches a batch, handles one message after the other, settles what is done together."""

    SETTLE_AFTER = 0.1
    """Seconds after which what is done is settled, though the batch is not."""

    MERCY = 1.0
    """Seconds for which an interrupted handler may clear up before its message is given away."""

    def __init__(
        self,
        holding: Holding,
        handling: Handling,
        stopping: Stopping,
        counters: Counters,
        signals: StopSignals,
        observers: Observers,
        health: Health,
        abandon: Callable[[str | None], None],
        idleness: Idleness,
        *,
        queue_turns: Turns,
        fetch_size: int | None,
        prefetch_bytes: float,
    ) -> None:
        self._holding = holding
        self._handling = handling
        self._stopping = stopping
        self._counters = counters
        self._signals = signals
        self._observers = observers
        self._health = health
        self._abandon = abandon
        self._idleness = idleness
        self._queue_turns = queue_turns
        self._size = FetchSize(fetch_size, prefetch_bytes)
        self._thread = threading.current_thread()
        self._can_be_interrupted = False
        self._is_to_be_interrupted = False
        self._interrupt_at = -math.inf
        self._is_given_up = False

    def work(self) -> str:
        """Work until there is a reason to stop, and return it; raise `Interrupted` if the grace is over before."""
        try:
            with Keeper(self._holding, self._look) as keeper:
                while (reason := self._stopping.reason(self._counters)) is None:
                    self._take_turn(keeper)
        finally:
            self._holding.release_waiting()
            self._holding.release_rested(math.inf)
            self._holding.settle(last=True)
        self._observers.notify(WorkerStopping(reason))
        return reason

    def interrupt(self) -> None:
        """Raise `Interrupted` in a handler that is to be; called in the thread in which it runs."""
        if not self._can_be_interrupted:
            return
        if self._is_to_be_interrupted and self._holding.begun:
            self._is_to_be_interrupted = False
            raise Interrupted
        if self._is_given_up:
            self._can_be_interrupted = False
            raise Interrupted
        if expire():
            raise Interrupted

    def _take_turn(self, keeper: Keeper) -> None:
        left = self._counters.left
        limit = self._size.limit_for(self._holding.size)
        limit = limit if left is None else min(limit, left)
        envelopes, since = self._holding.fetch(limit, WAIT, self._queue_turns.rotation())
        self._health.turn()
        self._holding.settle()  # What could not be, because the broker was away.
        self._keep_resting(time.monotonic())
        if not envelopes:
            self._idleness.look()
            return
        self._holding.take_in(envelopes, since)
        self._holding.is_busy = True
        keeper.wake()
        self._handling.look_who_watches()
        started = time.monotonic()
        begun = self._work_through()
        given_back = begun < len(envelopes)
        self._size.learn(begun, time.monotonic() - started, given_back=given_back)

    def _work_through(self) -> int:
        """Handle what is held, and settle it; return how many messages were begun."""
        holding, counters, stopping = self._holding, self._counters, self._stopping
        waiting, begun, done = holding.waiting, holding.begun, holding.done
        lost, has_suspects = holding.lost, holding.has_suspects
        handle = self._handling.handle
        number = 0
        is_paused = False
        settle_at = time.monotonic() + self.SETTLE_AFTER
        self._can_be_interrupted = True
        try:
            while True:
                try:
                    envelope = waiting.popleft()
                except IndexError:  # The batch is done, or the keeper has given the rest of it back.
                    break
                number += 1
                if lost and holding.has_lost(envelope, begun=False):
                    continue
                begun[0] = envelope
                if has_suspects and holding.has_last_chance(envelope):
                    holding.settle()
                    holding.release_waiting()
                outcome = handle(holding, envelope)
                if outcome == "handled":
                    done.append(envelope)
                    counters.handled += 1
                elif outcome != "postponed":
                    counters.failed += 1
                    is_paused = holding.is_paused
                    if isinstance(outcome, Unstored):
                        holding.rest(envelope, outcome.reason)
                    elif outcome == "owed":
                        done.append(envelope)
                begun.clear()
                if stopping.told or counters.reached() or is_paused:
                    break
                if time.monotonic() > settle_at:
                    holding.settle()
                    settle_at = time.monotonic() + self.SETTLE_AFTER
        finally:
            self._can_be_interrupted = False  # Or some of the following might be left out.
            if done and done[-1] is begun.get(0):  # The signal came right behind its end.
                begun.clear()
            holding.settle()
            holding.give_up(list(begun.values()))
            begun.clear()
            holding.release_waiting()
            holding.is_busy = False
        return number

    def _keep_resting(self, now: float) -> None:
        """Keep what rests, and give it back in time; while a batch is worked through, the keeper does."""
        if self._holding.resting:
            self._holding.extend_leases(now)
            self._holding.release_rested(now)

    # in the thread of the keeper

    def _look(self, now: float) -> None:
        """Give a sign of life, and on stopping what waits; interrupt a handler when the grace, or its time, is over.

        One that nothing can interrupt keeps its message no longer.
        """
        self._signals.look()
        if self._is_given_up:
            return
        self._health.show(now)
        self._handling.report_blocked(now)
        self._holding.release_rested(now)
        self._stopping.look(now, self._counters)
        if self._stopping.told is not None:
            self._holding.release_waiting()
        is_over = now >= self._stopping.deadline or self._signals.is_second
        if not is_over:
            self._look_for_stuck(now)
        if not is_over or not self._holding.begun or not self._can_be_interrupted:
            return
        ident = self._thread.ident or 0
        if now >= self._interrupt_at:
            if self._holding.given_up:
                self._is_given_up = True
                self._abandon(None if self._signals.is_second else self._stopping.told)
            elif self._interrupt_at > -math.inf:
                self._holding.give_up(list(self._holding.begun.values()))
            else:
                interrupt(ident)  # An async handler, which is waited for while it clears up.
            # And again after a while, because what is raised may be swallowed.
            self._is_to_be_interrupted, self._interrupt_at = True, now + self.MERCY
        if is_called_off(ident) and not self._holding.given_up and not self._signals.is_second:
            return
        # Again at each look, because a signal may come to nothing: see `StopSignals`.
        if self._is_to_be_interrupted and not self._signals.nudge():
            self._is_to_be_interrupted = False
            interrupt(ident)

    def _look_for_stuck(self, now: float) -> None:
        """Deal with the message of a handler that does not end although its time is over, and end in its place."""
        ident = self._thread.ident or 0
        run = stuck(ident, now, self._signals.nudge) if is_any_timed() else None
        envelope = self._holding.begun.get(0)
        if run is None or envelope is None:
            return
        self._stopping.tell(STUCK, is_stuck=True)
        self._handling.report_stuck(run, self._holding, envelope)
        self._holding.release_waiting()
        self._holding.settle(last=True)
        # First, so that the worker does not give it back, should the handler end now.
        self._holding.begun.pop(0, None)
        outcome = self._handling.give_up(run, self._holding, envelope)
        if outcome is None:
            return
        self._is_given_up = True
        self._counters.failed += 1
        if isinstance(outcome, Unstored):
            self._holding.release([envelope], begun=True)
        elif outcome == "owed":
            self._holding.done.append(envelope)
            self._holding.settle(last=True)
        self._abandon(self._stopping.told)
        self._signals.nudge()
