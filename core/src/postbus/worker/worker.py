"""The worker: receives, dispatches, settles, until it is told to stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from postbus.control import Control
from postbus.envelope import Envelope
from postbus.errors import ConfigurationError, Interrupted, TransportError
from postbus.events import Observers, WorkerStarted, WorkerStopped
from postbus.failures import Failures
from postbus.handlers import Handler
from postbus.limits import Counters, Stopping, StopSignal
from postbus.transport import Receiver
from postbus.worker.controller import Controller
from postbus.worker.deliveries import Deliveries
from postbus.worker.dispatching import Dispatcher
from postbus.worker.health import Health
from postbus.worker.hooks import Hooks
from postbus.worker.listening import Listeners
from postbus.worker.options import Options
from postbus.worker.signals import StopSignals
from postbus.worker.strategies import check

if TYPE_CHECKING:
    from postbus.worker.trials import Isolate

logger = logging.getLogger("postbus")


class Worker:
    """Handles what arrives at some transports.

    A thread of its own controls it; with a concurrency of 1, messages are handled in the thread that calls `run`, one
    after the other, and otherwise in threads, up to so many at once; ``async def`` handlers on one event loop. The
    strategy says which transport has its turn, if several have messages. A message is settled after it was handled;
    several are settled together.
    """

    def __init__(
        self,
        receivers: Mapping[str, Receiver],
        dispatch: Callable[[Envelope], Envelope],
        failures: Failures,
        options: Options,
        *,
        observers: Observers | None = None,
        stop_signal: StopSignal | None = None,
        control: Control | None = None,
        hooks: Hooks | None = None,
        never_blocks: Callable[[Envelope], bool] | None = None,
        batch_handlers_for: Callable[[Envelope], Sequence[Handler]] | None = None,
    ) -> None:
        """``never_blocks`` says whether a message may be dispatched on the event loop; without it, none is.

        ``batch_handlers_for`` says for which batch handlers a message may wait for others; without it, none does.
        """
        if not receivers:
            raise ConfigurationError("There is no transport to consume. Name at least one.")
        check(options.strategy, options.weights, [*receivers, *options.queues])
        self._receivers = receivers
        self._dispatch = dispatch
        self._failures = failures
        self._options = options
        self._observers = observers if observers is not None else Observers()
        self._stopping = Stopping(stop_signal, options.grace)
        self._control = control
        self._counters = Counters(options.limits)
        self._all_deliveries: list[Deliveries] = []
        self._controller: Controller | None = None
        self._abandon: Callable[[WorkerStopped], object] | None = None
        self._hooks = hooks
        self._never_blocks = never_blocks
        self._batch_handlers_for = batch_handlers_for
        self._is_prepared = False

    def run(
        self, *, abandon: Callable[[WorkerStopped], object] | None = None, isolate: Isolate | None = None
    ) -> WorkerStopped:
        """Work until a limit is reached, a signal arrives or `stop` is called; return why, and how much was done.

        SIGTERM, SIGINT, SIGQUIT and SIGHUP let running handlers finish, for as long as the grace allows; a
        second one interrupts them. A hangup that was ignored when the process began, or that the app has a handler
        for, stays as it is. What was fetched and not begun is given back. Raises `TransportError` for what
        a new connection cannot mend, and for a broker that has been away for longer than ``max_outage``.

        A handler that nothing can interrupt, although its time limit or the grace is over, may keep this from
        returning. Once its message is dealt with, ``abandon`` is called, in another thread, and may end the process.

        A worker that handles several messages at once handles those that workers may have died of in processes that
        ``isolate`` starts, one after the other. Without it, such a message has the worker to itself.

        A handler that raises `SystemExit` has failed; the worker stops, and raises it.
        """
        self.prepare()
        self._is_prepared = False
        self._counters = Counters(self._options.limits)
        self._abandon = abandon
        logger.debug("Consuming %s.", ", ".join(map(repr, self._receivers)))
        self._observers.notify(WorkerStarted(tuple(self._receivers), self._options.concurrency))
        reason: str | None = None
        patient = self._options.fetch_size is not None
        self._all_deliveries = all_deliveries = [
            Deliveries(
                name,
                receiver,
                self._observers,
                patient=patient,
                rate=self._options.rates.get(name),
                kill_switch=self._options.kill_switches.get(name),
            )
            for name, receiver in self._receivers.items()
        ]
        signals = StopSignals(self.stop, self._nudged)
        resets = self._options.reset and self._hooks is not None and self._hooks.provided.are_reset
        dispatcher = Dispatcher(
            self._hooks.provided.reset_after(self._dispatch) if self._hooks is not None and resets else self._dispatch,
            self._failures,
            self._observers,
            self.stop,
            lambda: self._stopping.reason(self._counters) is not None,
            signals.have_come,
            resets=resets,
        )
        try:
            with (
                signals,
                Health(
                    all_deliveries,
                    lambda: self._stopping.told is not None,
                    file=self._options.health_file,
                    max_outage=self._options.max_outage,
                ) as health,
                Listeners(self._control, all_deliveries, self.stop),
            ):
                self._controller = Controller(
                    all_deliveries,
                    self._options,
                    dispatcher,
                    self._stopping,
                    self._counters,
                    self._observers,
                    health,
                    signals,
                    self._be_abandoned,
                    never_blocks=self._never_blocks,
                    batch_handlers_for=self._batch_handlers_for,
                    isolate=isolate,
                )
                try:
                    reason = self._controller.work()
                except Interrupted:  # A handler came to its end when it had been given up.
                    reason = self._stopping.told
            if dispatcher.exit is not None:
                raise dispatcher.exit
        except TransportError as error:
            reason = f"a transport failed: {error}"
            raise
        finally:
            stopped = self._tell_stopped(reason)
            if self._hooks is not None:
                self._hooks.stop()
        return stopped

    def prepare(self) -> None:
        """Make what handlers need, and run the start hooks, once before `run`, which does it if nobody has.

        Raises `StartFailed`. Until it is done, signals are not the worker's.
        """
        if not self._is_prepared and self._hooks is not None:
            self._hooks.start()
        self._is_prepared = True

    @property
    def has_unfinished(self) -> bool:
        """Whether handlers were interrupted; what they have started, threads for instance, may still run."""
        return any(deliveries.unfinished for deliveries in self._all_deliveries)

    @property
    def grace_left(self) -> float:
        """The seconds of the grace that are left; infinite if it was not told to stop."""
        return self._stopping.deadline - time.monotonic()

    def stop(self, reason: str = "it was told to") -> None:
        """Stop after the messages in hand. From any thread, and from a signal handler."""
        self._stopping.tell(reason)
        if self._controller is not None:
            self._controller.look()

    def _tell_stopped(self, reason: str | None) -> WorkerStopped:
        stopped = WorkerStopped(
            reason or "it was interrupted",
            self._counters.handled,
            self._counters.failed,
            reason is not None and reason == self._stopping.outgrown,
            self._stopping.is_stuck,
            interrupted=reason is None,
        )
        logger.debug("Stopping, because %s.", stopped.reason)
        self._observers.notify(stopped)
        return stopped

    def _be_abandoned(self, reason: str | None) -> None:
        if self._abandon is not None:
            self._abandon(self._tell_stopped(reason))

    def _nudged(self) -> None:
        if self._controller is not None:
            self._controller.nudged()
