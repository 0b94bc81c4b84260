"""The thread that owns the connections: others hand it work, and wait for its answers.

pika's connections belong to one thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from postbus.errors import ConnectionLost, TransportError, describe
from postbus.event_loop import Claimable
from postbus_amqp.errors import again
from postbus_amqp.untyped import IOLoop


class Call(Claimable):
    """What one thread asks of another, and waits for; whoever claims it answers."""

    def __init__(self) -> None:
        super().__init__()
        self._pending = threading.Lock()
        self._pending.acquire()
        self._result: Any = None
        self._error: Exception | None = None

    def succeed(self, result: Any = None) -> None:
        """Hand over the result. Only the first answer counts."""
        if self.claim():
            self._result = result
            self._pending.release()

    def fail(self, error: Exception) -> None:
        """Let the one who waits raise."""
        if self.claim():
            self._error = error
            self._pending.release()

    def result(self, timeout: float) -> Any:
        """Wait for the answer; raise `TimeoutError` if it does not come in time."""
        if not self._pending.acquire(timeout=timeout):
            raise TimeoutError
        self._pending.release()
        if self._error is not None:
            raise self._error
        return self._result


class IoThread:
    """A thread that waits for the broker and for work; once it has ended, every call fails with the reason.

    ``peer`` is who does not answer if a call takes longer than ``patience`` seconds, unless it says otherwise;
    ``on_error`` is given, in the thread, what nobody has foreseen.
    """

    def __init__(self, name: str, peer: object, patience: float, on_error: Callable[[Exception], object]) -> None:
        self.loop = IOLoop()
        self.error: ConnectionLost | None = None
        """Why it is over, once it is."""
        self.on_end: list[Callable[[ConnectionLost], object]] = []
        """What is called when it is over, in the thread."""
        self.on_turn: list[Callable[[], object]] = []
        """What is called whenever something may have arrived, in the thread."""
        self.peer = peer
        self._patience = patience
        self._on_error = on_error
        self._work: deque[Callable[[], object]] = deque()
        self._is_signalled = False
        self._is_running = True
        self._calls: set[Call] = set()
        self._conditions: list[tuple[Callable[[], bool], Call]] = []
        self._thread = threading.Thread(target=self._run, name=f"postbus {name}", daemon=True)
        self._thread.start()

    @property
    def is_current(self) -> bool:
        """Whether this is the thread that asks."""
        return threading.current_thread() is self._thread

    # for other threads

    def post(self, work: Callable[[], object]) -> None:
        """Let the thread do some work soon, and do not wait for it."""
        self._work.append(work)
        if not self._is_signalled:
            self._is_signalled = True
            self.loop.add_callback_threadsafe(_nothing)

    def ask(self, start: Callable[[Call], object], patience: float | None = None) -> Any:
        """Let the thread start something that ends with an answer, and wait for that."""
        call = Call()
        self._calls.add(call)
        patience = patience or self._patience
        try:
            if self.error is not None:
                raise again(self.error)
            self.post(partial(self._begin, start, call))
            return call.result(patience)
        except TimeoutError:
            raise ConnectionLost(f"{self.peer} did not answer within {patience:g} s.") from None
        finally:
            self._calls.discard(call)

    def do(self, work: Callable[[], object], until: Callable[[], bool]) -> None:
        """Let the thread do some work, and wait until something is so; that is looked at in every turn."""

        def start(call: Call) -> None:
            work()
            self._conditions.append((until, call))

        self.ask(start)

    def join(self, timeout: float) -> bool:
        """Wait until it has stopped; tell whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # in the thread

    def call_later(self, seconds: float, work: Callable[[], object]) -> None:
        """Do some work when so much time has passed."""
        self.loop.call_later(seconds, work)

    def end(self, error: ConnectionLost) -> None:
        """Tell everybody who waits, and whoever comes, that it is over."""
        if self.error is not None:
            return
        self.error = error
        for tell in self.on_end:
            tell(error)
        for call in list(self._calls):
            call.fail(again(error))

    def stop(self) -> None:
        """Take no more turns."""
        self._is_running = False

    def _run(self) -> None:
        self.loop.activate_poller()
        try:
            while self._is_running:
                try:
                    self._take_turn()
                except Exception as error:  # A border: whatever goes wrong in here must reach those who wait for it.
                    self._on_error(error)
        finally:
            self.loop.deactivate_poller()
            self.loop.close()

    def _take_turn(self) -> None:
        self.loop.poll()
        self.loop.process_timeouts()
        self._is_signalled = False
        # What is handed over from now on waits for the next turn, which first reads what the broker has said: it may
        # have closed a channel.
        for _ in range(len(self._work)):
            self._work.popleft()()
        for tell in self.on_turn:
            tell()
        if self._conditions:
            self._conditions = [(is_so, call) for is_so, call in self._conditions if not _is_over(is_so, call)]

    def _begin(self, start: Callable[[Call], object], call: Call) -> None:
        try:
            start(call)
        except TransportError as error:
            call.fail(error)
        except Exception as error:  # A border: pika raises what it likes, and the thread must go on.
            lost = self.error
            call.fail(again(lost) if lost else TransportError(f"AMQP has no form for this: {describe(error)}."))


def _is_over(is_so: Callable[[], bool], call: Call) -> bool:
    if not is_so():
        return False
    call.succeed()
    return True


def _nothing() -> None:
    """Do nothing: to wake the thread is all."""
