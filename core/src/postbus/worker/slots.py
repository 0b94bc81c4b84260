"""The line of messages that may be begun, and the slots, which take from it: each handles one message at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Protocol

from msgspec import Struct, field

from postbus.envelope import Envelope
from postbus.errors import Interrupted
from postbus.event_loop import Waiting, interrupt, loop
from postbus.time_limits import TimedRun, enforce, expire, is_any_timed
from postbus.worker.deliveries import Deliveries, all_of
from postbus.worker.dispatching import Outcome, Unstored
from postbus.worker.gathering import Gathering

logger = logging.getLogger("postbus")


HandleTogether = Callable[[Deliveries, Sequence[Envelope], Callable[[Envelope, Outcome], None]], None]
"""Handles several messages at once, and tells what is to be done with each."""


class Handles(Protocol):
    """What handles messages in a slot."""

    def handle(self, deliveries: Deliveries, envelope: Envelope) -> Outcome | None:
        """Return what is to be done with it; None if it was interrupted, "left" if it was not begun."""
        ...

    def handle_together(
        self, deliveries: Deliveries, envelopes: Sequence[Envelope], tell: Callable[[Envelope, Outcome], None]
    ) -> None:
        """Tell what is to be done with each of several."""
        ...


class Run(Struct, eq=False, gc=False):
    """Messages of one transport that a slot takes at once, and handles one after the other.

    The slot takes from the beginning of ``waiting``; the controller may take back what is there yet, from its end.
    """

    deliveries: Deliveries
    waiting: deque[Envelope]
    done: list[Envelope] = field(default_factory=list[Envelope])
    """What was handled; the slot adds to its end, the controller takes from its beginning."""
    number: int = 0
    """Once it has ended: how many messages a handler had."""
    seconds: float = 0.0
    """And how long that took."""
    gathering: Gathering | None = None
    """What they were gathered in, if they are to be handled together, and not one after the other."""
    is_last: bool = False
    """Whether they may be begun although the line is closed."""
    is_over: bool = False
    """Of what is handled together: whether it has left its slot, or never got there."""


class Finished(Struct, frozen=True):
    """What a slot tells of a message that was not simply handled."""

    deliveries: Deliveries
    envelope: Envelope
    outcome: Outcome | None

    @property
    def has_failed(self) -> bool:
        """Whether its handler has failed; one that was given up before has not."""
        return isinstance(self.outcome, Unstored) or self.outcome in ("failed", "owed")


class Stuck(Struct, frozen=True):
    """A message, or several, whose handler does not end although its time is over."""

    slots: Slots
    batch: Run
    """What the slot has taken from the line."""
    envelopes: Sequence[Envelope]
    run: TimedRun


class Line:
    """What slots are told, and what they tell: runs of messages that may be begun, in order, and what came of them.

    A slot takes the next run by itself, and wakes nobody before the line runs low. What is in line, or in a slot, is
    in the ``begun`` of its deliveries, which is the controller's: so nothing is lost, wherever a slot ends.
    """

    def __init__(self, wake: Callable[[], None], note_failed: Callable[[], bool]) -> None:
        """``wake`` wakes the controller; ``note_failed`` counts a failure, and says whether it was one too many."""
        self._wake = wake
        self._note_failed = note_failed
        self._runs: SimpleQueue[Run | None] = SimpleQueue()
        self.put = self._runs.put
        """Let a slot take a run; one that gets None ends."""
        self.take = self._runs.get
        """Wait for the next run, and return it."""
        self.finished: deque[Finished] = deque()
        self.ended: deque[Run] = deque()
        """Runs that a slot has done with; it may have left some of their messages."""
        self.is_open = True
        """Whether messages may be begun; at once, also for what is in a slot."""
        self.is_cleared = threading.Event()
        """Set once nothing is in a closed line but what is handled last."""
        self.low = 0
        """How many runs are left in line when the controller is woken."""
        self.is_woken = False
        """Whether it has been, and does not know yet."""
        self.error: BaseException | None = None
        """What ended a slot, and is to end the worker."""

    def __len__(self) -> int:
        return self._runs.qsize()

    def take_now(self) -> Run | None:
        """Return the next run; None if there is none."""
        try:
            return self._runs.get_nowait()
        except Empty:
            return None

    def take_back(self) -> list[Run]:
        """Return the runs that no slot has taken."""
        taken: list[Run] = []
        try:
            while run := self._runs.get_nowait():
                taken.append(run)
        except Empty:
            pass
        return taken

    def tell(self, finished: Finished) -> None:
        """Take note of what has come of a message; in the thread of its slot."""
        self.finished.append(finished)
        if finished.has_failed and self._note_failed():
            self.is_open = False
        self._call()

    def end(self, run: Run) -> None:
        """Take note of the end of a run; in the thread of its slot."""
        self.ended.append(run)
        if self._runs.qsize() <= self.low:
            self._call()

    def break_off(self, slot: Slot, error: BaseException) -> None:
        """Take note of the end of a slot; in its thread."""
        run = slot.run
        if run is not None:
            self.finished.extend(Finished(run.deliveries, envelope, None) for envelope in slot.in_hand)
        if run is not None:
            self.ended.append(run)
        self.error = error
        self._call()

    def _call(self) -> None:
        if not self.is_woken:
            self.is_woken = True
            self._wake()


class Slot:
    """One thread, or one strand, that handles messages, one after the other."""

    def __init__(self, line: Line, take: Callable[[], Run | None], *, stays: bool = True) -> None:
        """One that ``stays`` waits, once the line is closed, for what is handled last."""
        self._line = line
        self._take = take
        self._stays = stays
        self.thread: Waiting = 0
        self.run: Run | None = None
        """What it has taken from the line."""
        self.current: Envelope | None = None
        """What it handles at present, of that run; of several that are handled together, the first."""
        self._together: dict[int, Envelope] = {}
        """What it handles together at present, and has not told of, by identity."""
        self.is_over = False
        """Whether it handles nothing any more."""
        self._is_to_be_interrupted = False

    def work(
        self,
        handle: Callable[[Deliveries, Envelope], Outcome | None],
        handle_together: HandleTogether,
    ) -> None:
        """Handle what is in line, in this thread or strand, until nothing comes of taking.

        What a handler lets out, or a signal raises here, ends this too; but `Interrupted` that message alone. Once the
        line is closed, there is nothing in it but what is handled last.
        """
        line, take, monotonic = self._line, self._take, time.monotonic
        self.thread = loop.here()
        try:
            while (line.is_open or (self._stays and line.is_cleared.wait())) and (run := take()) is not None:
                self.run = run
                if run.gathering is not None:
                    self._work_together(run, handle_together)
                    del run
                    continue
                deliveries, waiting, done, number = run.deliveries, run.waiting, run.done, 0
                lost, held, may_pause = deliveries.lost, deliveries.held, deliveries.switch is not None
                envelope: Envelope | None = None
                started = monotonic()
                while waiting and line.is_open:
                    try:
                        envelope = waiting.popleft()
                    except IndexError:  # The controller has taken it back.
                        break
                    if (lost or held or may_pause) and deliveries.bars(envelope):
                        waiting.appendleft(envelope)
                        break
                    number += 1
                    self.current = envelope
                    try:
                        outcome = handle(deliveries, envelope)
                    except Interrupted:  # The controller gives the message back.
                        outcome = None
                    self.current = None
                    if outcome == "handled":
                        done.append(envelope)
                    else:
                        line.tell(Finished(deliveries, envelope, outcome))
                run.number, run.seconds = number, monotonic() - started
                line.end(run)
                self.run = None
                del run, waiting, done, envelope  # Else they would be kept until the next ones come.
        finally:
            self.is_over = True

    def _work_together(self, run: Run, handle_together: HandleTogether) -> None:
        """Handle the messages of a run together, but for those that must not be begun; tell of each."""
        line, deliveries, started = self._line, run.deliveries, time.monotonic()
        envelopes = all_of(run.waiting)
        barred = [one for one in envelopes if not (line.is_open or run.is_last) or deliveries.bars(one)]
        if barred:
            run.waiting.extend(barred)
            envelopes = [envelope for envelope in envelopes if not any(envelope is one for one in barred)]
        if envelopes:
            together = self._together = {id(envelope): envelope for envelope in envelopes}
            self.current = envelopes[0]

            def tell(envelope: Envelope, outcome: Outcome) -> None:
                if outcome == "handled":
                    run.done.append(envelope)
                else:
                    line.tell(Finished(deliveries, envelope, outcome))
                del together[id(envelope)]

            try:
                handle_together(deliveries, envelopes, tell)
            except Interrupted:  # The controller gives back those of which nothing was told.
                for envelope in together.values():
                    line.tell(Finished(deliveries, envelope, None))
            self.current, self._together = None, {}
        run.number, run.seconds = len(envelopes), time.monotonic() - started
        line.end(run)
        self.run = None

    @property
    def in_hand(self) -> Sequence[Envelope]:
        """What it handles at present, and has not told of."""
        if self.run is not None and self.run.gathering is not None:
            return list(self._together.copy().values())
        return [self.current] if self.current is not None else []

    @property
    def is_free(self) -> bool:
        """Whether no handler runs in it."""
        return self.current is None or self.is_over

    def nudged(self) -> None:
        """Raise `Interrupted` in a handler that is to be interrupted; called in its thread, by a signal."""
        if self.is_free:
            return
        if self._is_to_be_interrupted or expire():
            self._is_to_be_interrupted = False
            raise Interrupted

    def interrupt(self, nudge: Callable[[], bool], *, surely: bool) -> bool:
        """Interrupt its handler, if that is possible; say so. One that is cancelled may clear up, unless ``surely``.

        ``nudge`` has its thread call `nudged`, which may come to nothing: so `press` is to be called again and again.
        """
        if self.is_free:
            return False
        is_cancelled = interrupt(self.thread)
        if is_cancelled and not surely:
            return True
        self._is_to_be_interrupted = True
        return nudge() or is_cancelled

    def press(self, nudge: Callable[[], bool]) -> None:
        """Nudge its thread again, if it has not been interrupted yet."""
        if self._is_to_be_interrupted and not self.is_free:
            nudge()


class Slots:
    """Handles up to so many messages at once.

    One slot is the thread that made this, so that a signal can interrupt what it handles; several are threads of their
    own, started as they are needed. An ``async def`` handler runs on the event loop, and its slot waits for it: so a
    message takes the same way through the bus whatever its handlers are. Beside others, a message sees the context
    variables of the worker, and what it changes in them nobody else sees.
    """

    def __init__(self, number: int, dispatcher: Handles, line: Line, nudge: Callable[[], bool] | None = None) -> None:
        """``nudge`` has the main thread call `Slot.nudged`; with it, that thread is the one slot, and is to `work`."""
        self._number = number
        self.line = line
        self._nudge = nudge or (lambda: False)
        self.main = Slot(line, line.take) if nudge is not None else None
        self._all = {self.main} if self.main is not None else set[Slot]()
        context, handle = copy_context(), dispatcher.handle
        self._handle: Callable[[Deliveries, Envelope], Outcome | None] = lambda deliveries, envelope: (
            context.copy().run(handle, deliveries, envelope)
        )
        together = dispatcher.handle_together
        self._handle_together: HandleTogether = lambda deliveries, envelopes, tell: context.copy().run(
            together, deliveries, envelopes, tell
        )
        self.begun = 0
        """How many messages are in slots, or in line; several that are handled together count as one."""

    def begin(self, deliveries: Deliveries, envelopes: Sequence[Envelope]) -> None:
        """Handle messages, one after the other, as soon as a slot is free."""
        begun = deliveries.begun
        for envelope in envelopes:
            begun[id(envelope)] = envelope
        self.begun += len(envelopes)
        self.line.put(Run(deliveries, deque(envelopes)))
        if len(self._all) < min(self.begun, self._number):
            self._start()

    def begin_together(self, deliveries: Deliveries, gathering: Gathering, *, is_last: bool = False) -> None:
        """Handle messages that were gathered together, as soon as a slot is free; one slot is enough for all."""
        envelopes = gathering.take()
        if deliveries.lost:
            envelopes = [envelope for envelope in envelopes if not deliveries.has_lost(envelope, begun=False)]
        if not envelopes:
            return
        deliveries.together.update({id(envelope): envelope for envelope in envelopes})
        self.begun += 1
        self.line.put(Run(deliveries, deque(envelopes), gathering=gathering, is_last=is_last))
        if len(self._all) < min(self.begun, self._number):
            self._start()

    def finish(self, deliveries: Deliveries, envelope: Envelope) -> bool:
        """Take note that a message has left its slot, or was given up; say whether that is news."""
        if deliveries.begun.pop(id(envelope), None) is None:
            return deliveries.together.pop(id(envelope), None) is not None
        self.begun -= 1
        return True

    def finish_all(self, run: Run, envelopes: Sequence[Envelope]) -> Sequence[Envelope]:
        """Take note of that for many of a run, in less time; return those of which it is news."""
        if run.gathering is not None:
            pop = run.deliveries.together.pop
            return [envelope for envelope in envelopes if pop(id(envelope), None) is not None]
        pop = run.deliveries.begun.pop
        finished = [envelope for envelope in envelopes if pop(id(envelope), None) is not None]
        self.begun -= len(finished)
        return finished

    def end(self, run: Run) -> None:
        """Take note that what was handled together has left its slot, or was given up."""
        if run.gathering is not None and not run.is_over:
            run.is_over = True
            self.begun -= 1

    def take_back(self) -> Sequence[Envelope]:
        """Let what no slot has begun yet wait again, as if it had never been given away; return it."""
        runs = self.line.take_back()
        for run in runs:
            self.end(run)
        if self.main is not None and self.main.run is not None:
            runs.insert(0, self.main.run)
        return [envelope for run in reversed(runs) for envelope in self.put_back(run)]

    def put_back(self, run: Run) -> Sequence[Envelope]:
        """Let what a run has not begun wait again; return it."""
        left = self.finish_all(run, all_of(run.waiting))
        if run.gathering is not None:
            run.gathering.put_back(left)
        else:
            run.deliveries.waiting.extendleft(reversed(left))
        return left

    def interrupt(self, *, surely: bool = False) -> bool:
        """Interrupt what can be, as `Slot.interrupt` does, and say whether there is anything; most threads cannot."""
        return sum([slot.interrupt(self._nudge, surely=surely) for slot in self._all.copy()]) > 0

    def press(self) -> None:
        """Interrupt what was to be, and has not been yet."""
        if self.main is not None:
            self.main.press(self._nudge)

    def enforce_time_limits(self, now: float) -> list[Stuck]:
        """Interrupt what is over its time limit; return what cannot be, or has not ended all the same."""
        if not is_any_timed():
            return []
        found: list[Stuck] = []
        for slot in self._all.copy():
            run, envelopes = slot.run, slot.in_hand
            if run is not None and envelopes and (timed := enforce(slot.thread, now, self._nudge)):
                found.append(Stuck(self, run, envelopes, timed))
        return found

    def close(self) -> None:
        """Let the threads end, each once it is free."""
        self.line.is_open = False
        for _ in self._all.copy():
            self.line.put(None)
        self.line.is_cleared.set()

    def _start(self) -> None:
        slot = Slot(self.line, self.line.take)
        name = f"postbus-slot-{len(self._all) + 1}"
        thread = threading.Thread(target=self._run, args=(slot,), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            if not self._all:
                raise
            self._number = len(self._all)
            logger.error("Handling no more than %d messages at once from now on: %s.", self._number, error)
        else:
            self._all.add(slot)

    def _run(self, slot: Slot) -> None:
        try:
            slot.work(self._handle, self._handle_together)
        except BaseException as error:  # A border: it comes out in the thread of the controller.
            self.line.break_off(slot, error)


class Strands(Slots):
    """Slots without threads: each is a strand on the event loop, which takes what is in line and ends with it.

    For messages for which nothing is called that blocks. Slots begin and end on the loop alone, so no lock is needed.
    """

    AT_ONCE = 100
    """How many begin before the loop goes on with others."""

    def __init__(self, number: int, dispatcher: Handles, line: Line) -> None:
        super().__init__(number, dispatcher, line)
        self._take = line.take_now
        self._is_called = False

    def _start(self) -> None:
        if not self._is_called:
            self._is_called = True
            loop.call(self._start_all)

    def _start_all(self) -> None:
        self._is_called = False  # First, so that nothing is overlooked that comes meanwhile.
        run_one = self._run_one
        for _ in range(self.AT_ONCE):
            if not self.line.is_open or not len(self.line) or len(self._all) >= self._number:
                return
            loop.enter(run_one)
        self._start()

    def _run_one(self) -> None:
        slot = Slot(self.line, self._take, stays=False)
        self._all.add(slot)
        self._run(slot)
        self._all.discard(slot)
        if len(self.line):  # It was put there when this one was counted, but had found nothing.
            self._start()
