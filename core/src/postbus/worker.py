"""The worker: receives, dispatches, settles, until it is told to stop."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from postbus.envelope import Envelope
from postbus.errors import ConfigurationError, NotDecoded, StopWorker, TransportError, leaves
from postbus.events import MessageHandled, MessageReceived, Observers, WorkerStarted, WorkerStopped
from postbus.failures import Failures, identifiers, label
from postbus.limits import Counters, Limits, StopSignal
from postbus.serialization import Undecodable
from postbus.transport import Receiver

logger = logging.getLogger("postbus")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class FetchSize:
    """How many messages to fetch at once: as many as are handled in a fifth of a second, found out as it goes.

    So fast handlers get big batches, and slow ones keep nothing from other workers.
    """

    AHEAD = 0.2
    MOST = 500

    def __init__(self, fixed: int | None = None) -> None:
        self._fixed = fixed
        self.limit = fixed or 1

    def learn(self, messages: int, seconds: float) -> None:
        """Take note of how long a batch took; the size at most doubles each time."""
        if self._fixed is None:
            fitting = int(self.AHEAD * messages / seconds) if seconds > 0 else self.MOST
            self.limit = max(1, min(fitting, self.limit * 2, self.MOST))


class Worker:
    """Handles what arrives at some transports, one message after the other, in this thread.

    ``receivers`` are in order of priority: one gets its turn when those before it are empty. A message is
    settled after it was handled; several are settled together.
    """

    WAIT = 1.0
    """Seconds for which a receiver may wait, and so for which a signal to stop may have to."""

    SETTLE_AFTER = 0.1
    """Seconds after which what is done is settled, though the batch is not."""

    def __init__(
        self,
        receivers: Mapping[str, Receiver],
        dispatch: Callable[[Envelope], Envelope],
        failures: Failures,
        *,
        limits: Limits | None = None,
        queues: Sequence[str] = (),
        fetch_size: int | None = None,
        observers: Observers | None = None,
        stop_signal: StopSignal | None = None,
    ) -> None:
        if not receivers:
            raise ConfigurationError("There is no transport to consume. Name at least one.")
        self._receivers = receivers
        self._dispatch = dispatch
        self._failures = failures
        self._limits = limits or Limits()
        self._queues = queues
        self._sizes = {name: FetchSize(fetch_size) for name in receivers}
        self._observers = observers or Observers()
        self._stop_signal = stop_signal
        self._counters = Counters(self._limits)
        self._stop_reason: str | None = None
        self._busy = False
        self._is_watched = False
        self._in_trouble = False
        self._pause = 0.0

    def run(self) -> WorkerStopped:
        """Work until a limit is reached, a signal arrives or `stop` is called; return why, and how much was done.

        SIGTERM, SIGINT and SIGQUIT let the message in hand finish; a second one interrupts it. What was
        fetched and not begun is given back. Raises `TransportError` for what a new connection cannot mend.
        """
        self._counters = Counters(self._limits)
        logger.debug("Consuming %s.", ", ".join(map(repr, self._receivers)))
        self._observers.notify(WorkerStarted(tuple(self._receivers)))
        reason: str | None = None
        try:
            with self._stopping_on_signals():
                while (reason := self._reason_to_stop()) is None:
                    self._take_turn()
        except TransportError as error:
            reason = f"a transport failed: {error}"
            raise
        finally:
            stopped = WorkerStopped(reason or "it was interrupted", self._counters.handled, self._counters.failed)
            logger.debug("Stopping, because %s.", stopped.reason)
            self._observers.notify(stopped)
        return stopped

    def stop(self, reason: str = "it was told to") -> None:
        """Stop after the message in hand. From any thread, and from a signal handler."""
        self._stop_reason = self._stop_reason or reason

    def _take_turn(self) -> None:
        if self._in_trouble:
            self._in_trouble = False
            self._rest()
        # Alone, a receiver waits as long as a signal may. Several wait by turns, and only when all were empty.
        alone = len(self._receivers) == 1
        wait = self.WAIT if alone else 0.0 if self._busy else self.WAIT / 5 / len(self._receivers)
        for name, receiver in self._receivers.items():
            size = self._sizes[name]
            limit = size.limit if self._counters.left is None else min(size.limit, self._counters.left)
            envelopes = receiver.receive(limit, wait, self._queues)
            if envelopes:
                self._busy = True
                started = time.monotonic()
                handled = self._work_through(name, receiver, envelopes)
                size.learn(handled, time.monotonic() - started)
                return
        self._busy = False

    def _work_through(self, name: str, receiver: Receiver, envelopes: Sequence[Envelope]) -> int:
        """Handle a batch and settle it; return how many were handled before there was a reason to stop."""
        position = 0
        done: list[Envelope] = []
        settled_at = time.monotonic()
        self._is_watched = bool(self._observers) or logger.isEnabledFor(logging.INFO)
        try:
            for envelope in envelopes:
                if self._handle(name, receiver, envelope):
                    done.append(envelope)
                position += 1
                if self._in_trouble or self._stop_reason or self._counters.reached():
                    break
                if time.monotonic() - settled_at > self.SETTLE_AFTER:
                    self._acknowledge(name, receiver, done)
                    done, settled_at = [], time.monotonic()
        finally:
            self._acknowledge(name, receiver, done)
            self._release(name, receiver, envelopes[position:])
        return position

    def _handle(self, name: str, receiver: Receiver, envelope: Envelope) -> bool:
        """Dispatch one message; say whether it is to be acknowledged, or else it has been dealt with."""
        started = time.monotonic() if self._is_watched else 0.0
        if self._is_watched:
            self._observers.notify(MessageReceived(envelope, name))
        try:
            if isinstance(envelope.message, Undecodable):
                raise NotDecoded(envelope.message.reason)
            handled = self._dispatch(envelope)
        except Exception as error:  # A border: whatever a handler or a middleware raises is a failure of this message.
            self._counters.failed += 1
            self._deal_with_failure(name, receiver, envelope, error)
            return False
        self._counters.handled += 1
        self._pause = 0.0
        if self._is_watched:
            seconds = time.monotonic() - started
            if logger.isEnabledFor(logging.INFO):
                logger.info("Handled %s in %.3f s.", label(envelope), seconds, extra=identifiers(envelope))
            self._observers.notify(MessageHandled(handled, name, seconds))
        return True

    def _deal_with_failure(self, name: str, receiver: Receiver, envelope: Envelope, error: Exception) -> None:
        stop = next((leaf for leaf in leaves(error) if isinstance(leaf, StopWorker)), None)
        if stop is not None:
            self.stop(f"a handler asked for it: {stop}")
        try:
            self._failures.handle(envelope, error)
            self._pause = 0.0
        except Exception as problem:  # A border: while the copy cannot be stored, the broker keeps the original.
            self._in_trouble = True
            self._pause = min(max(1.0, self._pause * 2), 30.0)
            logger.error(
                "Giving %s back to its broker, because what is to become of it cannot be stored: %s",
                label(envelope),
                problem,
                exc_info=not isinstance(problem, TransportError),
                extra=identifiers(envelope),
            )
            self._release(name, receiver, [envelope])

    def _acknowledge(self, name: str, receiver: Receiver, envelopes: Sequence[Envelope]) -> None:
        try:
            if envelopes:
                receiver.ack(envelopes)
        except TransportError as error:
            logger.warning("Could not acknowledge %d messages of %r; they come again: %s", len(envelopes), name, error)

    def _release(self, name: str, receiver: Receiver, envelopes: Sequence[Envelope]) -> None:
        try:
            if envelopes:
                receiver.release(envelopes)
        except TransportError as error:
            logger.warning(
                "Could not give %d messages back to %r; they come again when their time is over: %s",
                len(envelopes),
                name,
                error,
            )

    def _reason_to_stop(self) -> str | None:
        """Look at everything, also what takes too long to be looked at after each message."""
        if self._stop_signal is not None and self._stop_signal.was_sent():
            self.stop("all workers were told to")
        return self._stop_reason or self._counters.reached() or self._counters.outgrown()

    def _rest(self) -> None:
        logger.warning("Pausing for %.0f s, with nothing in hand.", self._pause)
        # Not an event: a signal handler that sets one can meet the lock that this thread holds in waiting for it.
        end = time.monotonic() + self._pause
        while self._stop_reason is None and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))

    @contextmanager
    def _stopping_on_signals(self) -> Generator[None]:
        if threading.current_thread() is not threading.main_thread():  # Python leaves signals to the main thread.
            yield
            return

        asked = False

        def on_signal(number: int, frame: FrameType | None) -> None:
            nonlocal asked
            if asked:
                raise KeyboardInterrupt
            asked = True
            self.stop(f"it got {signal.Signals(number).name}")

        before = {number: signal.signal(number, on_signal) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
