"""The thread that decides: it gives out the work that slots do, and settles what comes of it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from postbus.envelope import Envelope
from postbus.event_loop import loop
from postbus.events import Observers, WorkerStopping
from postbus.handlers import Handler
from postbus.limits import STUCK, Counters, Stopping
from postbus.serialization import Undecodable
from postbus.worker.deliveries import Deliveries, all_of
from postbus.worker.dispatching import Dispatcher, Unstored
from postbus.worker.fetching import WAIT, Arrived, Fetcher, FetchSize
from postbus.worker.gathering import Gathering
from postbus.worker.health import Health
from postbus.worker.idleness import Idleness
from postbus.worker.options import Options
from postbus.worker.quarantine import Quarantine
from postbus.worker.signals import StopSignals
from postbus.worker.slots import Finished, Line, Run, Slots, Strands, Stuck
from postbus.worker.strategies import Turns

if TYPE_CHECKING:
    from postbus.worker.trials import Isolate, Trials

logger = logging.getLogger("postbus")


class Controller:
    """Asks fetchers for messages, puts them into the line, and settles what slots have made of them.

    All that is decided is decided in its thread, and everybody else puts what has happened in its inbox. What is in
    the worker's hands belongs to that thread, too: see `Deliveries`.
    """

    SETTLE_AFTER = 0.05
    """Seconds after which what is done is settled, if slots are still busy."""
    NEXT_IN_LINE = 0.02
    """Seconds' worth of messages in line, so that no slot is idle while this thread settles."""
    MERCY = 1.0
    """Seconds for which interrupted handlers may clear up before their messages are given away."""
    MOST_ON_TRIAL = 1000
    """How many messages may wait for a process of their own; nothing is fetched then."""
    LAST_ARRIVALS = 2.0
    """Seconds to wait, at the end, for what fetchers may still bring; one that hangs brings nothing."""

    def __init__(
        self,
        all_deliveries: Sequence[Deliveries],
        options: Options,
        dispatcher: Dispatcher,
        stopping: Stopping,
        counters: Counters,
        observers: Observers,
        health: Health,
        signals: StopSignals,
        abandon: Callable[[str | None], None],
        *,
        never_blocks: Callable[[Envelope], bool] | None = None,
        batch_handlers_for: Callable[[Envelope], Sequence[Handler]] | None = None,
        isolate: Isolate | None = None,
    ) -> None:
        """Handle what workers may have died of in processes that ``isolate`` starts; without it, alone.

        Several messages at once of which ``never_blocks`` says so are handled on the event loop, the others in threads.
        Those that have batch handlers, which ``batch_handlers_for`` tells, are gathered, and handled together.
        ``abandon`` is told why the worker ends if the main thread is held in a handler that is not ours any more.
        """
        self._dispatcher = dispatcher
        self._stopping = stopping
        self._counters = counters
        self._observers = observers
        self._health = health
        self._signals = signals
        self._call_abandon = abandon
        names = [deliveries.name for deliveries in all_deliveries]
        self._turns = Turns(names, options.strategy, options.weights)
        self._queue_turns = Turns(options.queues, options.strategy, options.weights)
        self._idleness = Idleness(options.limits.idle, all_deliveries, counters, stopping, counts=not options.queues)
        self._concurrency = options.concurrency
        self._size = FetchSize(options.fetch_size, options.prefetch_bytes)
        self._is_alone = len(all_deliveries) == 1
        """Whether there is but one transport, so that nothing can come before what is in line."""
        self._is_exact = self._turns.is_strict and not self._is_alone
        self._inbox: SimpleQueue[Arrived | None] = SimpleQueue()
        line = Line(self._wake, self._note_failed)
        self._slots = Slots(options.concurrency, dispatcher, line, signals.nudge if options.concurrency == 1 else None)
        self._strands: Strands | None = None
        self._never_blocks = never_blocks
        self._batch_handlers_for = batch_handlers_for
        if never_blocks is not None and options.concurrency > 1 and loop.strands is not None:
            self._strands = Strands(options.concurrency, dispatcher, Line(self._wake, self._note_failed))
        self._trials: Trials | None = None
        self._trial_slots: Slots | None = None
        if isolate is not None and not (self._is_alone and options.concurrency == 1):
            from postbus.worker.trials import Trials  # noqa: PLC0415  Only a worker that starts processes needs it.

            self._trials = Trials(dispatcher, isolate)
            line = Line(self._wake, self._note_failed)
            self._trial_slots = Slots(min(options.concurrency, Trials.AT_ONCE), self._trials, line)
        self._own_slots: list[Slots] = [self._slots] if self._strands is None else [self._slots, self._strands]
        self._all_slots = [*self._own_slots, *([self._trial_slots] if self._trial_slots is not None else [])]
        for deliveries in all_deliveries:
            deliveries.suspects.are_tried = self._trials is not None
            # One slot handles everything in order; nothing may overtake what is in another one, or gathered.
            deliveries.keeps_groups = deliveries.has_groups and (
                options.concurrency > 1 or self._trials is not None or batch_handlers_for is not None
            )
            if batch_handlers_for is not None:
                deliveries.gathers = partial(self._gathering_for, deliveries)
        self._all_deliveries = all_deliveries
        self._fetchers = {
            deliveries.name: Fetcher(deliveries, self._inbox, is_alone=self._is_alone) for deliveries in all_deliveries
        }
        self._seconds = 0.0
        """How long a message takes in its slot, of late."""
        self._learned = (0, 0.0)
        """How many messages have left their slots since the size was learned last, and the seconds they were there."""
        self._has_given_back = False
        self._keeps_gathered = False
        """Whether what was gathered is handled yet, while all else that is not begun is given back."""
        self._settle_at = 0.0
        self._arrivals_end = math.inf
        self._quarantine = Quarantine()
        self._stuck: list[Stuck] = []
        self._is_abandoned = False
        self._reason: str | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="postbus-controller", daemon=True)
        # Not `Thread.join`, which takes a thread for ended if a signal interrupts it (CPython 3.11.7, bpo-45274).
        self._is_over = threading.Event()

    def work(self) -> str:
        """Work until there is a reason to stop, finish what is running, and return the reason; or raise why not.

        In this thread handlers run, one at a time; or it waits for the others.
        """
        try:
            self._thread.start()
            if self._slots.main is not None:
                self._slots.main.work(self._dispatcher.handle, self._dispatcher.handle_together)
            self._is_over.wait()
        except BaseException:  # What a signal raises, mostly: nothing is waited for any more.
            self._is_abandoned = True
            self._wake()
            raise
        finally:
            if self._thread.ident is not None:
                self._is_over.wait()
        if self._error is not None:
            raise self._error
        assert self._reason is not None
        return self._reason

    def look(self) -> None:
        """See whether there is a reason to stop, and begin nothing before. From any thread, and a signal handler."""
        self._close_lines()
        self._wake()

    def nudged(self) -> None:
        """Interrupt what the main thread handles, if that is to be; called in it."""
        if self._slots.main is not None and self._slots.main.thread == threading.get_ident():
            self._slots.main.nudged()

    def _wake(self) -> None:
        self._inbox.put(None)

    def _note_failed(self) -> bool:
        self._counters.note_failed()
        if self._stopping.reason(self._counters) is None:
            return False
        self._close_lines()
        return True

    def _close_lines(self) -> None:
        for slots in self._own_slots:
            slots.line.is_open = False

    def _run(self) -> None:
        try:
            self._reason = self._control()
        except BaseException as error:  # A border: it comes out in the thread that runs the worker.
            self._error = error
        finally:
            try:
                self._let_go()
            except BaseException as error:  # A border, as above.
                self._error = self._error or error
            finally:
                for slots in self._own_slots:
                    slots.close()
        try:
            self._free_main_thread()
        except BaseException as error:  # A border, as above.
            self._error = self._error or error
        finally:
            self._is_over.set()

    def _control(self) -> str | None:
        """Work until there is a reason to stop, and return it; None if nothing is waited for."""
        reason: str | None = None
        try:
            while not self._is_abandoned and (reason := self._stopping.reason(self._counters)) is None:
                self._dispatcher.look_who_watches()
                if not self._quarantine.is_taken:
                    self._ask()
                    self._begin()
                if self._take_in(self._patience()) and self._begins_at_once():
                    self._take_in(self._patience())
                self._keep()
                self._idleness.look()
                self._health.turn()
        except Exception as error:
            self._stopping.tell(str(error))
            self._finish()
            raise
        if reason is not None:
            self._observers.notify(WorkerStopping(reason))
            self._health.note_stopping()
            self._keeps_gathered = True
            self._finish()
        return reason

    # giving out

    def _ask(self) -> None:
        """Ask fetchers for as much as there is room for, in the order of turns."""
        left = self._left()
        if left == 0 or self._quarantine.is_awaited or self._on_trial >= self.MOST_ON_TRIAL:
            return
        free = max(0, self._concurrency - self._begun)
        bytes_left = self._size.most_bytes - self._bytes_ahead()
        for name in self._turns.order(self._fetchers):
            fetcher = self._fetchers[name]
            waiting = len(fetcher.deliveries.waiting) + (self._in_line if self._is_alone else 0)
            limit = self._size.limit_for(fetcher.deliveries.size)
            wanted = free + limit - 1
            if free and not self._size.is_fixed:  # Else the first batches would come one by one.
                wanted = max(wanted, fetcher.deliveries.missing)
            room = min(wanted, math.inf if left is None else left) - waiting
            if fetcher.deliveries.size:
                # One may be as large as it likes.
                room = min(room, max(bytes_left // fetcher.deliveries.size, 0 if waiting else 1))
            # Not for each message by itself, unless one is needed now; and one slot that is slow gets no more before it
            # has done with all.
            is_much = 2 * room >= limit and (self._concurrency > 1 or limit >= FetchSize.MANY)
            if not fetcher.is_asked and room > 0 and (waiting < free or is_much):
                fetcher.ask(int(room), self._queue_turns.rotation())
                bytes_left -= room * (fetcher.deliveries.size or 0.0)
            # What comes behind gets nothing before this is empty; by turns, that is so where nothing is fetched ahead.
            if (self._turns.is_strict or self._size.limit == 1) and fetcher.has_next:
                return

    def _bytes_ahead(self) -> float:
        """Return how many bytes messages have, about, that no handler has: before it, after it, and on their way."""
        ahead = sum(
            (fetcher.deliveries.size or 0.0)
            * (len(fetcher.deliveries.waiting) + len(fetcher.deliveries.done) + fetcher.asked)
            for fetcher in self._fetchers.values()
        )
        in_line = self._in_line + self._on_trial
        return (
            ahead + in_line * max(deliveries.size or 0.0 for deliveries in self._all_deliveries) if in_line else ahead
        )

    def _begin(self) -> None:
        """Put messages in line, each from the transport whose turn it is."""
        if self._batch_handlers_for is not None and not self._begin_gathered(are_last=self._left() == 0):
            return
        most: float = self._concurrency
        if self._is_alone and self._concurrency == 1:
            most = math.inf  # A signal reaches this slot before its next message.
        elif not self._is_exact and self._seconds:
            ahead = self.NEXT_IN_LINE * self._concurrency / self._seconds
            most += int(min(ahead, self._size.limit - 1))
        left = self._left()
        if left is not None:
            most = min(most, self._begun + left)
        if self._is_alone and not self._all_deliveries[0].is_delicate:
            self._begin_runs(self._all_deliveries[0], most)
            return
        now = time.monotonic()
        while self._begun < most:
            # A transport that may have more keeps its turn, although none of its messages is here yet.
            wanting = [name for name, one in self._fetchers.items() if one.has_next]
            deliveries = self._fetchers[self._turns.order(wanting)[0]].deliveries if wanting else None
            envelope = deliveries.next() if deliveries is not None else None
            if deliveries is None or envelope is None:
                if self._batch_handlers_for is not None:
                    self._begin_gathered()  # It may be in the way of all that waits.
                return
            suspects = deliveries.suspects
            trial_slots = self._trial_slots_for(deliveries, envelope) if suspects.are_there else None
            has_last_chance = suspects.are_there and trial_slots is None and suspects.has_last_chance(envelope)
            if has_last_chance and not self._may_be_alone():
                return
            gathers = deliveries.gathers
            gathering = gathers(envelope) if gathers is not None and not (trial_slots or has_last_chance) else None
            if gathering is not None and gathering.is_full:
                if not self._begin_together(deliveries, gathering):
                    return
                continue  # This one may have to wait for the end of those.
            slots = trial_slots or (self._slots_for(envelope) if gathering is None else self._slots)
            if slots is None:
                return
            self._turns.next(wanting)
            deliveries.begin(envelope)
            if deliveries.lost and deliveries.has_lost(envelope, begun=False):
                continue
            if has_last_chance:
                self._give_back()
                self._quarantine.begin(envelope)
                most = 0
            if gathering is not None:
                gathering.add(envelope, now)
            else:
                slots.begin(deliveries, [envelope])
            if (trial_slots is not None or gathering is not None) and left is not None:
                most -= 1

    def _begins_at_once(self) -> bool:
        """Begin what has come, if all slots are free, before anything is looked after; say whether any was begun."""
        if not self._begun:
            self._begin()
            return self._begun > 0
        return False

    def _begin_runs(self, deliveries: Deliveries, most: float) -> None:
        """Put messages in line that need not be looked at one by one: for one slot in runs, which takes less time."""
        waiting = deliveries.waiting
        if self._batch_handlers_for is not None:
            self._begin_runs_and_gather(deliveries, most)
            return
        longest = max(1, self._size.limit // 2) if self._concurrency == 1 else 1
        while waiting and (begun := self._begun) < most and (slots := self._slots_for(waiting[0])) is not None:
            number = int(min(longest, len(waiting), most - begun))
            slots.begin(deliveries, [waiting.popleft() for _ in range(number)])

    def _begin_runs_and_gather(self, deliveries: Deliveries, most: float) -> None:
        """Do the same where there are batch handlers, so that each message must be looked at."""
        waiting, now = deliveries.waiting, time.monotonic()
        while waiting and self._begun < most:
            gathering = self._gathering_for(deliveries, waiting[0])
            if gathering is None:
                slots = self._slots_for(waiting[0])
                if slots is None:
                    return
                slots.begin(deliveries, [waiting.popleft()])
                continue
            if gathering.is_full and not self._begin_together(deliveries, gathering):
                return
            gathering.add(waiting.popleft(), now)
            most -= 1

    def _gathering_for(self, deliveries: Deliveries, envelope: Envelope) -> Gathering | None:
        """Return where a message waits for others, to be handled together with them; None if it is handled alone."""
        if self._batch_handlers_for is None or isinstance(envelope.message, Undecodable):
            return None
        try:
            handlers = self._batch_handlers_for(envelope)
        except Exception:  # A border: what a message does when it is looked at is a failure of that message.
            return None
        return deliveries.gathering_of(handlers) if handlers else None

    def _begin_gathered(self, *, are_last: bool = False) -> bool:
        """Begin what was gathered for long enough, or all; say whether there was a slot for that.

        ``are_last`` says that nothing is to be waited for any more.
        """
        now = math.inf if are_last else time.monotonic()
        return all(
            self._begin_together(deliveries, gathering)
            for deliveries in self._all_deliveries
            if not deliveries.is_paused
            for gathering in deliveries.gathered_by(now)
        )

    def _begin_together(self, deliveries: Deliveries, gathering: Gathering) -> bool:
        """Begin what was gathered, if a slot is free for it, or soon will be; say so.

        One batch may be in line, unless there are strands, which know nothing of it: see `_slots_for`.
        """
        if self._begun >= self._concurrency + (self._strands is None):
            return False
        self._slots.begin_together(deliveries, gathering, is_last=self._keeps_gathered)
        return True

    def _slots_for(self, envelope: Envelope) -> Slots | None:
        """Return where a message is handled; None if it must wait until less is in hand.

        Threads and strands know nothing of each other, so both have no more in line than may be handled at once.
        """
        if self._strands is None or self._never_blocks is None:
            return self._slots
        try:
            needs_thread = not self._never_blocks(envelope)
        except Exception:  # A border: what a message does when it is looked at is a failure of that message.
            needs_thread = True
        chosen, other = (self._slots, self._strands) if needs_thread else (self._strands, self._slots)
        return None if other.begun and self._begun >= self._concurrency else chosen

    def _may_be_alone(self) -> bool:
        """Say whether a message may have the worker to itself; a single slot is waited for, as there is no other."""
        is_busy = self._begun > 0
        if is_busy and self._concurrency == 1:
            return False
        return self._quarantine.may_begin(self._fetchers.values(), is_busy=is_busy)

    def _trial_slots_for(self, deliveries: Deliveries, envelope: Envelope) -> Slots | None:
        """Return where a message is handled that workers may have died of; None for all others."""
        if self._trials is None or not self._trials.is_possible:
            return None
        return self._trial_slots if deliveries.suspects.is_suspect(envelope) else None

    @property
    def _begun(self) -> int:
        """How many messages are in slots, or in line, but for those on trial."""
        return sum([slots.begun for slots in self._own_slots])

    @property
    def _in_line(self) -> int:
        """How many messages wait for a slot, about."""
        return max(0, self._begun - self._concurrency)

    @property
    def _on_trial(self) -> int:
        return self._trial_slots.begun if self._trial_slots is not None else 0

    @property
    def _gathered(self) -> int:
        """How many messages wait for others, to be handled together with them."""
        return sum([deliveries.gathered for deliveries in self._all_deliveries])

    def _left(self) -> int | None:
        """Return how many more messages may be begun; None for any number."""
        left = self._counters.left
        if left is None:
            return None
        begun = sum([len(deliveries.begun) + len(deliveries.together) for deliveries in self._all_deliveries])
        return max(0, left - begun - self._gathered)

    # taking in

    def _take_in(self, patience: float) -> bool:
        """Wait until something has happened, take in all that has, and say whether messages have come."""
        for slots in self._all_slots:
            slots.line.low = max(1, len(slots.line) // 2)
        has_come = False
        try:
            item = self._inbox.get(timeout=patience)
            while True:
                if item is not None:
                    self._take_in_arrived(item)
                    has_come = has_come or bool(item.envelopes)
                item = self._inbox.get_nowait()
        except Empty:
            pass
        for slots in self._all_slots:
            self._take_in_all_finished(slots)
        return has_come

    def _take_in_all_finished(self, slots: Slots) -> None:
        line = slots.line
        line.is_woken = False  # First, so that what is told meanwhile is not overlooked.
        if slots.main is not None and (run := slots.main.run) is not None:
            self._take_in_done(slots, run)
        while line.finished:
            self._take_in_finished(slots, line.finished.popleft())
        ended = all_of(line.ended)
        for run in ended:
            self._take_in_done(slots, run)
            slots.end(run)
            if slots is not self._trial_slots:
                self._learn(run)
        if any(run.waiting for run in ended):
            self._take_back()  # What is behind it, first.
            for run in reversed(ended):
                self._note_left(slots.put_back(run))
        if ended and self._trials is not None and slots is self._trial_slots:
            self._take_in_tried(self._trials)
        if line.error is not None:
            error, line.error = line.error, None
            raise error

    def _take_in_done(self, slots: Slots, run: Run) -> None:
        """Take in what was handled."""
        deliveries, done = run.deliveries, run.done[:]
        del run.done[: len(done)]
        finished = slots.finish_all(run, done)
        deliveries.done.extend(finished)
        self._counters.handled += len(finished)
        if self._quarantine.is_taken:
            for envelope in finished:
                self._quarantine.end(envelope)

    def _patience(self) -> float:
        """Return how long nothing need be done, as far as is known; all that is due is due within this."""
        if self._begun or any(self._all_deliveries):
            return min(self.SETTLE_AFTER, self._until_due()) if self._batch_handlers_for else self.SETTLE_AFTER
        return WAIT if all(fetcher.is_empty for fetcher in self._fetchers.values()) else Fetcher.PATIENCE

    def _until_due(self) -> float:
        """Return in how many seconds something that was gathered is late; what is, waits for a slot, which wakes."""
        now = time.monotonic()
        due = [gathering.late_at - now for one in self._all_deliveries for gathering in one.gatherings.values()]
        return min((seconds for seconds in due if seconds > 0), default=math.inf)

    def _take_in_arrived(self, arrived: Arrived) -> None:
        if arrived.error is not None:
            raise arrived.error
        arrived.fetcher.take_in(arrived)

    def _take_in_finished(self, slots: Slots, finished: Finished) -> None:
        deliveries, envelope, outcome = finished.deliveries, finished.envelope, finished.outcome
        if not slots.finish(deliveries, envelope):
            return  # As above.
        self._quarantine.end(envelope)
        if outcome == "left":
            deliveries.waiting.appendleft(envelope)
        elif isinstance(outcome, Unstored):
            deliveries.rest(envelope, outcome.reason)
        elif outcome == "owed":
            deliveries.done.append(envelope)
        elif outcome is None:
            deliveries.release_unfinished([envelope])
        else:
            if outcome == "gone":
                self._note_failed()
            deliveries.lost.pop(id(envelope), None)

    def _learn(self, run: Run) -> None:
        """Take note of how long messages take; in one slot, whenever as many were handled as are fetched at once."""
        number, seconds = self._learned[0] + run.number, self._learned[1] + run.seconds
        self._learned = number, seconds
        if not number or (self._concurrency == 1 and number < self._size.limit and self._begun):
            return
        self._seconds += (seconds / number - self._seconds) * (min(1.0, number / 8) if self._seconds else 1.0)
        self._size.learn(self._concurrency, self._seconds, given_back=self._has_given_back)
        self._learned, self._has_given_back = (0, 0.0), False

    def _take_in_tried(self, trials: Trials) -> None:
        if not self._on_trial:
            trials.end()
        if not trials.is_possible:
            for deliveries in self._all_deliveries:
                deliveries.suspects.are_tried = False

    # keeping

    def _keep(self) -> None:
        """Settle what is done, and look after what is not."""
        now = time.monotonic()
        self._signals.look()
        is_due = now >= self._settle_at or not self._begun or self._is_much_done()
        if is_due:
            self._settle_at = now + self.SETTLE_AFTER
            self._look_for_stuck(now)
            self._dispatcher.report_blocked(now)
        for deliveries in self._all_deliveries:
            try:
                self._keep_one(deliveries, now, is_due=is_due)
            except Exception:  # A border: without this, the leases of the others would run out.
                logger.exception("Keeping what is in hand failed; trying again.")
        if self._quarantine.is_taken:
            self._give_back_waiting()

    def _keep_one(self, deliveries: Deliveries, now: float, *, is_due: bool) -> None:
        deliveries.note_revoked()
        if is_due:
            deliveries.settle()
        deliveries.extend_leases(now)
        deliveries.release_rested(now)
        if deliveries.is_paused:
            self._take_back()
            deliveries.scatter()
            deliveries.release_waiting()
        if now >= deliveries.look_at and deliveries.is_shared:
            # What is in line waits as well; it gets there again at once, unless it is given back.
            self._take_back()
            deliveries.scatter(deliveries.gathered_by(now))  # What was not begun because no slot is free.
            if deliveries.release_overdue(now):
                self._size.learn(0, 0, given_back=True)
                self._has_given_back = True

    def _is_much_done(self) -> bool:
        """Say whether what is done holds up what could be fetched, because it is large."""
        done = sum((one.size or 0.0) * len(one.done) for one in self._all_deliveries)
        return done > self._size.most_bytes / 4

    def _give_back(self) -> None:
        """Give back all that is not begun."""
        self._take_back()
        self._give_back_waiting()

    def _take_back(self) -> None:
        """Take out of the line what no slot has begun."""
        for slots in self._all_slots:
            self._note_left(slots.take_back())

    def _note_left(self, envelopes: Sequence[Envelope]) -> None:
        """Let others begin again, if it was one of these that was to have the worker to itself."""
        if self._quarantine.is_taken:
            for envelope in envelopes:
                self._quarantine.end(envelope)

    def _give_back_waiting(self) -> None:
        for deliveries in self._all_deliveries:
            if not self._keeps_gathered:
                deliveries.scatter()
            deliveries.release_waiting()

    def _look_for_stuck(self, now: float) -> None:
        """Find handlers that do not end although their time is over: their worker is to be replaced, with them."""
        self._stuck = [stuck for slots in self._own_slots for stuck in slots.enforce_time_limits(now)]
        for stuck in self._stuck:
            self._dispatcher.report_stuck(stuck.run, stuck.batch.deliveries, stuck.envelopes)
        if self._stuck and self._arrivals_end == math.inf:
            self._stopping.tell(STUCK, is_stuck=True)

    def _fail_stuck(self) -> None:
        """Deal with the messages of these handlers, as late as can be, so that they are not tried again meanwhile."""
        for stuck in self._stuck:
            deliveries = stuck.batch.deliveries
            outcomes = self._dispatcher.fail_stuck(stuck.run, deliveries, stuck.envelopes)
            if outcomes is None:
                continue
            for envelope, outcome in zip(stuck.envelopes, outcomes, strict=True):
                stuck.slots.finish(deliveries, envelope)
                self._counters.note_failed()
                if isinstance(outcome, Unstored):
                    deliveries.release([envelope], begun=True)
                elif outcome == "owed":
                    deliveries.done.append(envelope)
            stuck.slots.end(stuck.batch)
        self._stuck = []

    # stopping

    def _finish(self) -> None:
        """Let what is running finish, as long as it may, and what is being fetched arrive; give back the rest."""
        self._stop_fetchers()
        self._give_back()
        for slots in self._own_slots:
            slots.line.is_cleared.set()
        end = math.inf
        while (self._begun or self._on_trial or self._gathered or self._may_arrive()) and not self._is_abandoned:
            self._give_back()
            self._begin_gathered(are_last=True)
            now = time.monotonic()
            self._stopping.look(now, self._counters)  # After a limit, which gives all the time, it may be told to.
            if now >= self._stopping.deadline or self._signals.is_second:
                self._keeps_gathered = False
                if end == math.inf:
                    is_any = sum(slots.interrupt(surely=self._signals.is_second) for slots in self._own_slots) > 0
                    are_tried = self._trials is not None and self._trials.interrupt()
                    end = now + self.MERCY if is_any or are_tried else now
                self._slots.press()  # At each look, because a signal may come to nothing: see `StopSignals`.
            if now >= end and not self._may_arrive():
                break
            self._take_in_last(self._patience())
            self._keep()
            self._health.show(now)
            if self._begun + self._on_trial == len(self._stuck) and not self._may_arrive():
                self._fail_stuck()

    def _let_go(self) -> None:
        """Wait for no handler: settle what is done, and give back everything else."""
        self._stop_fetchers()
        # As long as one of them waits, it might get back what is given back here.
        while self._may_arrive():
            self._take_in_last(WAIT)
        for fetcher in self._fetchers.values():
            fetcher.abandon()
        self._keeps_gathered = False
        self._take_in_last(0.0)
        self._give_back()
        self._fail_stuck()
        for deliveries in self._all_deliveries:
            deliveries.release_rested(math.inf)
            deliveries.settle(last=True)
            deliveries.release_unfinished([*deliveries.begun.values(), *deliveries.together.values()])
        if self._trials is not None and self._trial_slots is not None:
            self._trials.interrupt()
            self._trial_slots.close()

    def _free_main_thread(self) -> None:
        """Get the main thread out of a handler whose message is somebody else's by now, or say that it cannot be."""
        slot, end = self._slots.main, time.monotonic()
        if not self._stopping.is_stuck:  # Else it was interrupted for long.
            end += self.MERCY
        if slot is None or slot.is_free:
            return
        self._slots.interrupt(surely=True)
        while not slot.is_free:
            self._signals.look()
            self._slots.press()
            if time.monotonic() >= end:
                end = math.inf
                self._slots.interrupt(surely=True)
                self._call_abandon(None if self._signals.is_second else self._stopping.told)
            time.sleep(self.SETTLE_AFTER)

    def _stop_fetchers(self) -> None:
        if self._arrivals_end == math.inf:
            self._arrivals_end = time.monotonic() + self.LAST_ARRIVALS
            for fetcher in self._fetchers.values():
                fetcher.stop()

    def _may_arrive(self) -> bool:
        """Say whether a fetcher may still bring something; one that hangs does not."""
        all_ended = all(fetcher.has_ended for fetcher in self._fetchers.values())
        return not all_ended and time.monotonic() < self._arrivals_end

    def _take_in_last(self, patience: float) -> None:
        try:
            self._take_in(patience)
        except Exception as error:  # A border: there is one reason to stop, and this is only the second.
            logger.error("While the worker ended: %s", error)
