"""The signals that stop a worker."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any, ClassVar

from postbus.stacks import current_frames

IS_DEAF_TO_HANGUP = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
"""Whether who started this process wants it to outlive its terminal, as nohup(1) does."""

STOP_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    *(() if IS_DEAF_TO_HANGUP else (signal.SIGHUP,)),
)

NUDGE = signal.SIGURG
"""What one thread sends the main thread to interrupt it; to everybody who does not handle it, it means nothing."""


class StopSignals:
    """Tells a worker to stop at the first signal, and ends it with `KeyboardInterrupt` at the second.

    Python runs the handler of a signal in the main thread, once that gets back to it: which may be at the end
    of a call that waits, if the signal came at its very beginning. So each signal is written into a pipe as
    well, where another thread sees it. In a worker outside of the main thread this does nothing.
    """

    counts_repeats: ClassVar[bool] = True
    """Whether the same signal again is a second one.

    Not in a child: systemd sends a signal to all processes of a service, and the parent passes the same one on.
    """

    def __init__(self, tell: Callable[[str], None], nudged: Callable[[], None]) -> None:
        """``tell`` is told the reason to stop, in any thread; ``nudged`` is called by `nudge`, in the main thread."""
        self._tell = tell
        self._nudged = nudged
        self._is_main = threading.current_thread() is threading.main_thread()
        # Those of gevent are greenlets, of which the system knows nothing: to signal one ends badly.
        self._has_threads = threading.get_ident() in current_frames()
        self._numbers: Sequence[signal.Signals] = ()
        self._before: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._wakeup_before = -1
        self._told: list[int] = []
        self._answered = 1
        self._looking = threading.RLock()

    def __enter__(self) -> StopSignals:
        if self._is_main:
            self._pipe = os.pipe()
            for end in self._pipe:
                os.set_blocking(end, False)
            self._wakeup_before = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            self._numbers = taken_signals()
            self._before = {number: signal.signal(number, self._handle) for number in (*self._numbers, NUDGE)}
            _installed.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pipe is not None:
            _installed.remove(self)
            self.uninstall()

    def uninstall(self) -> None:
        """Leave signals to whoever had them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            signal.set_wakeup_fd(self._wakeup_before)
            for end in pipe:
                os.close(end)

    def look(self) -> None:
        """Take note of what has come. From any thread."""
        pipe = self._pipe
        if pipe is None:
            return
        # As one: else the main thread, called because of a signal, could find it neither in the pipe nor noted. A lock
        # that this thread may have already, as a signal may come while it does this.
        with self._looking:
            try:
                numbers = os.read(pipe[0], 64)
            except OSError:  # Nothing has come, or it is over.
                return
            for number in numbers:
                self._note(number)

    def _note(self, number: int) -> None:
        # A hangup comes from the shell and from the terminal that is closed, or right after systemd's SIGTERM.
        is_no_news = bool(self._told) if number == signal.SIGHUP else number in self._told and not self.counts_repeats
        if number in self._numbers and not is_no_news:
            self._told.append(number)
            self._tell(f"it got {signal.Signals(number).name}")

    @property
    def is_second(self) -> bool:
        """Whether a second one has come, though the main thread may not have got round to it."""
        return len(self._told) > 1

    def have_come(self) -> bool:
        """Say whether one has come to this thread, so that a `KeyboardInterrupt` in it may be due to that."""
        self.look()
        return bool(self._told) and threading.current_thread() is threading.main_thread()

    def nudge(self) -> bool:
        """Interrupt what the main thread does, if a worker runs in it; say so."""
        if self._pipe is None or not self._has_threads:
            return False
        signal.pthread_kill(threading.main_thread().ident or 0, NUDGE)
        return True

    def _is_bypassed(self) -> bool:
        """Say whether a handler has had signals written elsewhere, as event loops do, which leave that to nobody."""
        if self._pipe is None:
            return False
        end = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        if end not in (-1, self._pipe[1]):  # That loop runs yet, and needs it.
            signal.set_wakeup_fd(end, warn_on_full_buffer=False)
        return end != self._pipe[1]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        before = len(self._told)
        self.look()
        if self._is_bypassed() and len(self._told) == before:
            self._note(number)
        # Python may call this for two signals that have come together, one right after the other.
        if len(self._told) > self._answered:
            self._answered = len(self._told)
            raise KeyboardInterrupt
        if number == NUDGE and not self.is_second:
            self._nudged()


def taken_signals() -> Sequence[signal.Signals]:
    """Return those that a worker takes: not a hangup at which the app does something of its own, such as to reload."""
    handler = signal.getsignal(signal.SIGHUP)
    is_free = handler == signal.SIG_DFL or isinstance(getattr(handler, "__self__", None), Standby)
    return [number for number in STOP_SIGNALS if is_free or number != signal.SIGHUP]


class Standby:
    """Has the signals that stop a worker while there is none yet, and when there is none any more.

    Nothing is in hand then, so at a signal the process may end, and well. One that comes before `hand_over` raises
    `SystemExit`, wherever the main thread is; of any later one the worker is told, to which it may be no news.
    Outside of the main thread this does nothing.
    """

    ENOUGH = 3
    """At how many signals the process ends at once, because something keeps it from ending well."""

    def __init__(self, *, for_good: bool) -> None:
        """``for_good`` says that the process ends with this: nobody gets the signals back, and none spoils its exit."""
        self._for_good = for_good
        self._tell: Callable[[signal.Signals], object] | None = None
        self._before: dict[int, Any] = {}
        self._count = 0
        self.called_off: signal.Signals | None = None
        """The signal because of which there will be no worker."""

    def __enter__(self) -> Standby:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        _installed.append(self)
        if self._for_good:
            atexit.register(self._ignore)  # Before what the app registers, and so called after it.
        # Who has started this process may have blocked them, until it can handle them: see `Parent`.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._tell = self._tell or _is_no_news
        if self._before and not self._for_good:
            _installed.remove(self)
            self.uninstall()

    def uninstall(self) -> None:
        """Leave signals to whoever had them before."""
        before, self._before = self._before, {}
        for number, handler in before.items():
            signal.signal(number, handler)

    def hand_over(self, tell: Callable[[signal.Signals], object]) -> None:
        """Tell this one of every signal from now on; in the main thread, and also when it has ended."""
        self._tell = tell
        if self.called_off is not None:  # Something has swallowed the exception.
            raise SystemExit(0)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._count == self.ENOUGH:
            os._exit(130)
        if self._tell is not None:
            self._tell(signal.Signals(number))
            return
        self.called_off = signal.Signals(number)
        raise SystemExit(0)

    def _ignore(self) -> None:
        # Soon after this, Python gives signals that it handles their default action back, which is to kill.
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)


def _is_no_news(number: signal.Signals) -> None:
    """Do nothing about a signal: what it asks for is being done."""


_installed: list[StopSignals | Standby] = []
_masks: list[set[signal.Signals | int]] = []


# A process that a handler forks is no worker: what is sent to it must neither stop its parent, whose pipe it has,
# nor be taken for a wish to stop after the message in hand. And it may be sent to it at once.


def _hold_back() -> None:
    _masks.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS) if _installed else ()))


def _go_on() -> None:
    mask = _masks.pop()
    if _installed:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _forget() -> None:
    mask = _masks.pop()
    _masks.clear()
    if _installed:
        while _installed:
            _installed.pop().uninstall()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


os.register_at_fork(before=_hold_back, after_in_parent=_go_on, after_in_child=_forget)
