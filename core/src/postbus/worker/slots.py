"""The slots of a worker: threads, each of which handles one message at a time."""

from __future__ import annotations

import logging
import threading
import time
from contextvars import Context, copy_context
from queue import Empty, SimpleQueue
from typing import Any, Literal, Protocol

from msgspec import Struct

from postbus.envelope import Envelope
from postbus.errors import Interrupted
from postbus.event_loop import interrupt
from postbus.time_limits import TimedRun, is_any_timed, stuck
from postbus.worker.handling import Outcome
from postbus.worker.holdings import Holding

logger = logging.getLogger("postbus")


class Handles(Protocol):
    """What handles a message in a slot."""

    def handle(self, holding: Holding, envelope: Envelope) -> Outcome | Literal["paused"] | None:
        """Return what is to be done with it: see `Finished`."""
        ...


class Finished(Struct, frozen=True):
    """A message has left its slot."""

    slots: Slots
    holding: Holding
    envelope: Envelope
    outcome: Outcome | Literal["paused"] | None
    """None if it was interrupted; "paused" if it was not begun, because its transport is, and waits on."""
    seconds: float
    error: BaseException | None = None
    """What is no failure of the message, but the end of the worker."""


class Stuck(Struct, frozen=True):
    """A message whose handler does not end although its time is over."""

    holding: Holding
    envelope: Envelope
    run: TimedRun


class Slots:
    """Handles up to so many messages at once, and puts each in the inbox of the worker when it is finished.

    An ``async def`` handler runs on the event loop, and its slot waits for it: so a message takes the same
    way through the bus whatever its handlers are. A message sees the context variables of the worker, and
    what it changes in them nobody else sees. Threads are started as they are needed.
    """

    def __init__(self, number: int, handling: Handles, inbox: SimpleQueue[Any]) -> None:
        self._number = number
        self._handling = handling
        self._inbox = inbox
        self._ready: SimpleQueue[tuple[Holding, Envelope] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._context = copy_context()
        self._current: dict[int, tuple[Holding, Envelope]] = {}
        """What each thread handles at present."""
        self.begun = 0
        """How many messages are in slots, or next in line for one."""

    def begin(self, holding: Holding, envelope: Envelope) -> None:
        """Handle a message as soon as a slot is free."""
        holding.begun[id(envelope)] = envelope
        self.begun += 1
        self._ready.put((holding, envelope))
        if len(self._threads) < min(self.begun, self._number):
            self._start_thread()

    def finish(self, holding: Holding, envelope: Envelope) -> bool:
        """Take note that a slot is free again, or was given up; say whether that is news."""
        if holding.begun.pop(id(envelope), None) is None:
            return False
        self.begun -= 1
        return True

    def take_back(self) -> list[tuple[Holding, Envelope]]:
        """Return what no slot has begun yet; it stays with its holding, as if it had never been given away."""
        taken: list[tuple[Holding, Envelope]] = []
        try:
            while work := self._ready.get_nowait():
                taken.append(work)
        except Empty:
            pass
        for holding, envelope in taken:
            del holding.begun[id(envelope)]
        self.begun -= len(taken)
        return taken

    def interrupt(self) -> bool:
        """Cancel every ``async def`` handler, and say whether there is any; a thread cannot be interrupted."""
        return sum(interrupt(thread.ident or 0) for thread in self._threads) > 0

    def stuck(self, now: float) -> list[Stuck]:
        """Cancel what is over its time limit; return what cannot be cancelled, or has not ended all the same."""
        if not is_any_timed():
            return []
        current = self._current.copy().items()
        found = [(work, stuck(thread, now, lambda: False)) for thread, work in current]
        return [Stuck(*work, run) for work, run in found if run is not None]

    def close(self) -> None:
        """Let the threads end, each once it is free."""
        for _ in self._threads:
            self._ready.put(None)

    def _start_thread(self) -> None:
        name = f"postbus-slot-{len(self._threads) + 1}"
        thread = threading.Thread(target=self._run, args=(self._context,), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            if not self._threads:
                raise
            self._number = len(self._threads)
            logger.error("Handling no more than %d messages at once from now on: %s.", self._number, error)
        else:
            self._threads.append(thread)

    def _run(self, context: Context) -> None:
        handle, inbox, current, me = self._handling.handle, self._inbox, self._current, threading.get_ident()
        while (work := self._ready.get()) is not None:
            holding, envelope = work
            if holding.is_paused:
                inbox.put(Finished(self, holding, envelope, "paused", 0.0))
                continue
            current[me] = work
            outcome: Outcome | Literal["paused"] | None = None
            error: BaseException | None = None
            started = time.monotonic()
            try:
                outcome = context.copy().run(handle, holding, envelope)
            except Interrupted:
                pass
            except BaseException as problem:  # A border: it comes out in the thread of the worker.
                error = problem
            del current[me]
            inbox.put(Finished(self, holding, envelope, outcome, time.monotonic() - started, error))
            del work, envelope, holding, error
