"""What is done with one message: it goes through its bus, and if that fails, to `failures`."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NoReturn

from msgspec import Struct

from postbus.batches import Call, Collected, Collection, Item, conclude
from postbus.display import one_line
from postbus.envelope import Envelope
from postbus.errors import (
    Escaped,
    HandlerFailed,
    Interrupted,
    NotDecoded,
    Poisonous,
    StopWorker,
    TransportError,
    Unrecoverable,
    describe,
    leaves,
    presentable,
    text_of,
    traceback_of,
)
from postbus.event_loop import loop
from postbus.events import EventLoopBlocked, HandlerStuck, MessageHandled, MessageReceived, Observers
from postbus.failures import Failures, Settled, identifiers, label
from postbus.middleware import handling_together
from postbus.serialization import Undecodable
from postbus.threads import aside
from postbus.time_limits import TimedRun
from postbus.worker.deliveries import Deliveries

logger = logging.getLogger("postbus")


class Unstored(Struct, frozen=True):
    """Nobody takes a copy of a message that failed, so it is to be given back, after a rest."""

    reason: str


Outcome = Literal["handled", "failed", "postponed", "owed", "gone", "left"] | Unstored
"""What its worker has to do yet: acknowledge what was handled, and what is dealt with while that is owed; no more with
what is dealt with and settled, or sent on and settled, or not ours any more; let rest what is unstored; begin later
what was left.
"""


class Dispatcher:
    """Handles messages, each in the thread, or strand, that brings it; settles only those that failed."""

    def __init__(
        self,
        dispatch: Callable[[Envelope], Envelope],
        failures: Failures,
        observers: Observers,
        stop: Callable[[str], None],
        is_stopping: Callable[[], bool],
        was_signalled: Callable[[], bool],
        *,
        resets: bool = False,
    ) -> None:
        """Reset what batch handlers need after each batch, if it ``resets``; for others ``dispatch`` does so."""
        self._dispatch = dispatch
        self._failures = failures
        self._observers = observers
        self._stop = stop
        self._is_stopping = is_stopping
        self._was_signalled = was_signalled
        self._resets = resets
        self._process = _process
        self.exit: SystemExit | None = None
        """What the worker is to end by, because a handler raised it."""
        self._is_watched = False
        self._repeated: dict[int, tuple[Envelope, Envelope]] = {}
        """What is tried again at once, by identity: what came, and as what it is tried."""

    def look_who_watches(self) -> None:
        """Find out whether anybody wants to know; apart, because asking takes longer than dispatching."""
        self._is_watched = bool(self._observers) or logger.isEnabledFor(logging.INFO)

    def handle(self, deliveries: Deliveries, envelope: Envelope) -> Outcome:
        """Dispatch a message, and deal with its failure; return what its worker has to do yet."""
        if deliveries.may_be_early and (early := deliveries.early(envelope)):
            return aside(partial(self._postpone, deliveries, envelope, early), "whose message is early")
        attempt, repeats = envelope, 0
        if self._is_watched:
            self._observers.notify(MessageReceived(envelope, deliveries.name))
        while True:
            started = time.monotonic() if self._is_watched else 0.0
            try:
                if deliveries.suspects.are_there and (deaths := deliveries.suspects.deaths(envelope)):
                    raise Poisonous(f"{deaths} workers died, or lost it, while they had it in hand.")
                if isinstance(attempt.message, Undecodable):
                    raise NotDecoded(attempt.message.reason)
                try:
                    handled = self._dispatch(attempt)
                finally:
                    if _process is not self._process:
                        _end_forked()
            except Interrupted:
                raise
            except BaseException as problem:  # A border: whatever is raised is a failure of this message.
                interruption = self._interruption_behind(problem)
                if interruption is problem:
                    raise
                if interruption is not None:
                    raise interruption from problem
                seconds = time.monotonic() - started if started else 0.0
                deal_with = partial(
                    self._deal_with, self._failure(problem), deliveries, envelope, attempt, repeats, seconds
                )
                outcome = aside(deal_with, "whose message has failed")
                del deal_with  # Else it holds the error, which holds this frame.
                if not isinstance(outcome, Envelope):
                    self._repeated.pop(id(envelope), None)
                    return outcome
                attempt, repeats = outcome, repeats + 1
                self._repeated[id(envelope)] = (envelope, attempt)
            else:
                if repeats:
                    del self._repeated[id(envelope)]
                if deliveries.switch is not None:
                    deliveries.switch.note_handled()
                if self._is_watched:
                    self._tell_handled(deliveries, envelope, handled, time.monotonic() - started)
                return "handled"

    def handle_together(
        self, deliveries: Deliveries, envelopes: Sequence[Envelope], tell: Callable[[Envelope, Outcome], None]
    ) -> None:
        """Dispatch messages, each by itself, and have batch handlers called with all of them; deal with each failure.

        Tells what the worker has to do yet with each. None of them is told of before its batch handlers are done.
        """
        started, is_watched = time.monotonic(), self._is_watched
        collections: list[Collection] = []
        with Collected() as collected:
            for envelope in envelopes:
                if deliveries.may_be_early and (early := deliveries.early(envelope)):
                    tell(envelope, self._postpone(deliveries, envelope, early))
                    continue
                if is_watched:
                    self._observers.notify(MessageReceived(envelope, deliveries.name))
                collection = collected.collect(envelope, self._dispatch_here)
                if collection.error is not None:
                    self._let_out_interruption(collection.error)
                collections.append(collection)
        for call in collected.calls.values():
            size = call.handler.batch or 1
            for first in range(0, len(call.items), size):
                self._call(call, call.items[first : first + size])
        counts = True
        for collection in collections:
            envelope = collection.envelope
            problem = collection.error
            if problem is None or isinstance(problem, HandlerFailed):
                problem = collection.failure()
            if problem is None:
                if deliveries.switch is not None:
                    deliveries.switch.note_handled()
                if is_watched:
                    self._tell_handled(deliveries, envelope, collection.result(), time.monotonic() - started)
                tell(envelope, "handled")
                continue
            failure, seconds = self._failure(problem), time.monotonic() - started
            outcome = self._deal_with(failure, deliveries, envelope, envelope, None, seconds, counts=counts)
            assert not isinstance(outcome, Envelope)  # It comes again by itself, and not at once.
            counts = False
            tell(envelope, outcome)

    def _dispatch_here(self, envelope: Envelope) -> Envelope:
        """Dispatch a message, and come back in this process alone."""
        try:
            return self._dispatch(envelope)
        finally:
            if _process is not self._process:
                _end_forked()

    def _call(self, call: Call, items: Sequence[Item[Any]]) -> None:
        """Call a batch handler, and take note of what has come of each item."""
        error: Exception | None = None
        try:
            with handling_together([item.envelope for item in items]):
                handle = call.handler.handle_batch
                if self._resets and call.provided is not None:
                    handle = call.provided.reset_after(handle)
                handle(items, call.provided)
        except BaseException as problem:  # A border: whatever is raised is a failure of these messages.
            self._let_out_interruption(problem)
            error = self._failure(problem)
        finally:
            if _process is not self._process:
                _end_forked()
        conclude(items, call.handler, error)

    def _let_out_interruption(self, problem: BaseException) -> None:
        """Raise what interrupted a handler, if that is behind what it raised."""
        interruption = self._interruption_behind(problem)
        if interruption is problem:
            raise problem
        if interruption is not None:
            raise interruption from problem

    def report_blocked(self, now: float) -> None:
        """Tell, once, that an ``async def`` handler keeps all others waiting, and where it is; ask again and again."""
        where = loop.blocked(now)
        if where is not None:
            logger.warning(
                "The event loop of the async handlers has not gone on for %.0f s. Await what takes long, or make that "
                "handler a def one. It is here:\n%s",
                loop.BLOCKED,
                where,
            )
            self._observers.notify(EventLoopBlocked(loop.BLOCKED))

    def report_stuck(self, run: TimedRun, deliveries: Deliveries, envelopes: Sequence[Envelope]) -> None:
        """Tell, once, that a handler does not end although its time is over, and where it is."""
        if run.is_reported:
            return
        run.is_reported = True
        logger.error(
            "%s Ending this worker, for another to take its place; then %s%s has failed. The handler is here:\n%s",
            run.error("cannot be stopped"),
            label(envelopes[0]),
            f", with {len(envelopes) - 1} others," if len(envelopes) > 1 else "",
            run.where(),
            extra=identifiers(envelopes[0]),
        )
        for envelope in envelopes:
            self._observers.notify(HandlerStuck(envelope, deliveries.name, run.handler, run.seconds))

    def fail_stuck(
        self, run: TimedRun, deliveries: Deliveries, envelopes: Sequence[Envelope]
    ) -> Sequence[Outcome] | None:
        """Deal with what a handler has that does not end as with what failed; return None if it just has ended."""
        if not run.claim():
            return None
        error: Exception = run.error("could not be stopped")
        error.add_note(f"It was here:\n{run.where()}")
        outcomes: list[Outcome] = []
        for envelope in envelopes:
            of, again = self._repeated.get(id(envelope), (None, envelope))
            attempt = again if of is envelope else envelope
            failure = error
            if run.message is attempt.message or len(envelopes) > 1:
                failure = HandlerFailed(type(attempt.message).__qualname__, {run.handler: error}, run.succeeded)
            deliveries.unfinished += 1
            outcome = self._deal_with(failure, deliveries, envelope, attempt, None, run.seconds, counts=not outcomes)
            assert not isinstance(outcome, Envelope)
            outcomes.append(outcome)
        return outcomes

    def _failure(self, problem: BaseException) -> Exception:
        """Return what was raised, as a failure of its message; SystemExit ends the worker besides."""
        problem = presentable(problem)
        if isinstance(problem, Exception):
            return problem
        if isinstance(problem, SystemExit):
            self.exit = problem
            self._stop(f"a handler raised {describe(problem)}")
        failure = Escaped(f"What a handler raised is no Exception: {describe(problem)}")
        failure.__cause__ = problem
        return failure

    def _interruption_behind(self, error: BaseException) -> BaseException | None:
        """Return what interrupted a handler if that made it raise this: a library may stumble over it in its own way.

        A `KeyboardInterrupt` that no signal has caused is the handler's own, and interrupts nothing.
        """
        interruptions = (KeyboardInterrupt, Interrupted) if self._was_signalled() else Interrupted
        for leaf in leaves(presentable(error)):
            seen: set[int] = set()
            context: BaseException | None = leaf
            while context is not None and id(context) not in seen:
                if isinstance(context, interruptions):
                    return context
                seen.add(id(context))
                context = context.__context__
        return None

    def _tell_handled(self, deliveries: Deliveries, envelope: Envelope, handled: Envelope, seconds: float) -> None:
        if logger.isEnabledFor(logging.INFO):
            logger.info(
                "Handled %s from %r in %.3f s.",
                label(envelope),
                deliveries.name,
                seconds,
                extra={**identifiers(envelope), "seconds": seconds},
            )
        self._observers.notify(MessageHandled(handled, deliveries.name, seconds))

    def _deal_with(
        self,
        error: Exception,
        deliveries: Deliveries,
        envelope: Envelope,
        attempt: Envelope,
        repeats: int | None,
        seconds: float,
        *,
        counts: bool = True,
    ) -> Outcome | Envelope:
        """Deal with a failure of an attempt; return what has come of the message, or the next attempt at it.

        Of several that failed together, one ``counts`` for whether their transport is paused.
        """
        stop = next((leaf for leaf in leaves(error) if isinstance(leaf, StopWorker)), None)
        if stop is not None:
            self._stop(f"a handler asked for it: {one_line(text_of(stop))}")
        if deliveries.has_lost(envelope):
            return "gone"

        def store() -> Envelope | Settled:
            return self._failures.handle(attempt, error, seconds, repeats=repeats, is_stopping=self._is_stopping())

        outcome = self._store(store, deliveries, envelope)
        # What is wrong with one message by itself says nothing about the next.
        is_general = not all(isinstance(leaf, Unrecoverable) for leaf in leaves(error))
        if deliveries.switch is not None and counts and is_general and not isinstance(outcome, Envelope):
            deliveries.switch.note_failed()
        return outcome

    def _postpone(self, deliveries: Deliveries, envelope: Envelope, seconds: float) -> Outcome:
        """Send on a message that has come too early; no handler sees it, and it has not failed."""
        outcome = self._store(lambda: self._failures.postpone(envelope, seconds), deliveries, envelope)
        assert not isinstance(outcome, Envelope)
        return "postponed" if outcome == "failed" else outcome

    def _store(
        self, store: Callable[[], Envelope | Settled], deliveries: Deliveries, envelope: Envelope
    ) -> Outcome | Envelope:
        """Store a copy, which settles the message; return what has come of it, or the next attempt at it."""
        try:
            settled = store()
        except BaseException as problem:  # A border: whatever stands in the way, the broker keeps the original.
            if self._interruption_behind(problem) is not None:
                raise
            return Unstored(text_of(problem) if isinstance(problem, TransportError) else traceback_of(problem))
        if settled == "gone":
            deliveries.note_lost(envelope)
        return "failed" if settled == "settled" else settled


_process = object()
"""This process, as a forked one is another; asking the system for its number for each message takes too long."""


def _note_fork() -> None:
    global _process
    _process = object()


os.register_at_fork(after_in_child=_note_fork)


def exit_code(error: SystemExit) -> int:
    """Return the exit code with which Python ends a process for that: 1 if it says something else than a number."""
    if error.code is None:
        return 0
    return error.code if isinstance(error.code, int) else 1


def _end_forked() -> NoReturn:
    """End a process that a handler has forked, as it comes out of that handler: what is in hand is its parent's."""
    problem, code = sys.exception(), 0
    if isinstance(problem, SystemExit):
        code = exit_code(problem)
        if not isinstance(problem.code, int | None):
            logger.error("%s", problem.code)
    elif problem is not None:
        code = 1
        logger.error("A process that a handler has forked failed.", exc_info=problem)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code & 0xFF)
