"""Several workers under one parent, which starts them, passes signals on, and replaces those that die.

Each child is a program of its own, started by the same command line. A process that is the first of a
container is such a parent too, of one child: nobody else would reap what its handlers leave behind, and
signals that it does not handle would come to nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import random
import select
import signal
import sys
import time
from pathlib import Path

from msgspec import Struct, field

from postbus.cli import logs
from postbus.cli.children import REPLACE, VARIABLE, own_file
from postbus.cli.output import count_of
from postbus.cli.scaling import Backlog
from postbus.cli.watching import Changes
from postbus.worker.health import Health, Systemd
from postbus.worker.signals import STOP_SIGNALS, taken_signals

logger = logging.getLogger(logs.ANNOUNCEMENTS)

MISTAKE = 2
"""The exit code of what starting again does not mend."""


class Child(Struct):
    """One worker, whether it runs at present or not."""

    number: int
    pid: int | None = None
    started_at: float = 0.0
    start_at: float | None = 0.0
    """When to start it; None while it runs, and when it is over."""
    kill_at: float = math.inf
    """When to kill it, because it was told to stop and has not."""
    told: set[signal.Signals] = field(default_factory=set[signal.Signals])
    """The signals that it was sent."""
    crashes: int = 0
    """How often in a row it died soon after it was started."""
    is_restarting: bool = False
    """Whether it was told to stop only to be started again."""
    is_leaving: bool = False
    """Whether it was told to stop because there are too many."""


class Parent:
    """Keeps a number of children running until it is told to stop, or they have all ended well."""

    SOON = 60.0
    """Seconds; a child that lived longer is started again at once."""
    LONGEST_PAUSE = 30.0
    LAST_GRACE = 10.0
    """Seconds, beyond their own, that children get to end before they are killed."""

    def __init__(
        self,
        number: int,
        *,
        grace: float,
        replaces: bool = True,
        backlog: Backlog | None = None,
        changes: Changes | None = None,
        health_file: Path | None = None,
    ) -> None:
        """Keep so many, as long as the backlog wants no other number; start all anew at each change.

        Without ``replaces``, the first that dies takes its parent along.
        """
        self._children = [Child(number + 1) for number in range(number)]
        self._grace = grace
        self._replaces = replaces
        self._backlog = backlog
        self._changes = changes
        self._wanted = number
        self._changed: str | None = None
        self._health_file = health_file
        self._told: signal.Signals | None = None
        self._signals = 0
        self._is_stopping = False
        self._code = 0
        self._systemd = Systemd()
        # To systemd this process is the service, and its children are not.
        os.environ.pop("NOTIFY_SOCKET", None)

    def stop(self, number: signal.Signals) -> None:
        """Take note of a signal that came before `run` could see to them; then it starts nothing."""
        self._told = number

    def run(self) -> int:
        """Run the children; return the exit code: 0 if all have ended well."""
        wakeups, self._wakeup = os.pipe()
        life, self._life = os.pipe()
        for end in (wakeups, self._wakeup):
            os.set_blocking(end, False)
        self._child_end = life
        os.set_inheritable(life, True)
        # The pipe first: a signal that is handled and not written into it would come to nothing.
        wakeup_before = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        before = {number: signal.signal(number, _note) for number in (*taken_signals(), signal.SIGCHLD)}
        if self._told is not None:
            self._heed(self._told)
        if self._backlog is not None:
            self._backlog.watch(self._want)
        if self._changes is not None:
            self._changes.watch(self._note_change)
        self._systemd.tell("READY=1")
        try:
            while self._is_needed():
                self._systemd.tell("WATCHDOG=1")
                self._start()
                select.select([wakeups], [], [], self._patience())
                self._hear(wakeups)
                self._reap()
                self._restart()
                self._scale()
                self._kill_late()
        finally:
            for watcher in (self._backlog, self._changes):
                if watcher is not None:
                    watcher.close()
            signal.set_wakeup_fd(wakeup_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            wakeup, self._wakeup = self._wakeup, -1
            for end in (wakeups, wakeup, life, self._life):
                os.close(end)
        return self._code

    # in other threads

    def _want(self, number: int) -> None:
        self._wanted = number
        self._wake()

    def _note_change(self, file: str) -> None:
        self._changed = file
        self._wake()

    def _wake(self) -> None:
        # It may be over by now, or be so busy that it need not be woken.
        with contextlib.suppress(OSError):
            os.write(self._wakeup, b"\0")

    # in its own

    def _is_needed(self) -> bool:
        is_any_there = any(child.pid is not None or child.start_at is not None for child in self._children)
        # While code is being written, it may well be that none starts.
        return is_any_there or (self._changes is not None and not self._is_stopping)

    def _start(self) -> None:
        for child in self._children:
            if child.start_at is not None and child.start_at <= time.monotonic():
                environment = {**os.environ, VARIABLE: f"{child.number}:{self._child_end}"}
                child.started_at, child.start_at = time.monotonic(), None
                child.told.clear()
                try:
                    # A group of its own, so that Ctrl+C on a terminal comes to it once: from us.
                    child.pid = os.posix_spawn(
                        sys.executable,
                        [sys.executable, *sys.orig_argv[1:]],
                        environment,
                        setpgroup=0,
                        # What we pass on waits until it is handled: see `Standby`.
                        setsigmask=STOP_SIGNALS,
                        setsigdef=[*STOP_SIGNALS, signal.SIGCHLD],
                    )
                except OSError as error:  # For want of memory or of processes, as a rule; others go on.
                    self._start_later(child, f"could not be started ({error.strerror})")
                    continue
                logger.debug("Started worker %d as process %d.", child.number, child.pid)

    def _patience(self) -> float | None:
        times = [child.kill_at for child in self._children if child.kill_at < math.inf]
        times += [child.start_at for child in self._children if child.start_at is not None]
        if self._systemd.is_there:
            times.append(time.monotonic() + Health.INTERVAL)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _hear(self, wakeups: int) -> None:
        try:
            numbers = os.read(wakeups, 64)
        except BlockingIOError:
            return
        for number in numbers:
            if number in STOP_SIGNALS and signal.getsignal(number) is _note:
                self._heed(signal.Signals(number))

    def _heed(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP and self._signals:  # As in `StopSignals`, it is no second one.
            return
        self._signals += 1
        self._stop(number)

    def _stop(self, number: signal.Signals) -> None:
        """Pass a signal on; start nothing any more."""
        running = [child for child in self._children if child.pid is not None]
        if not self._is_stopping:
            self._is_stopping = True
            self._systemd.tell("STOPPING=1")
            if running:
                logger.info("Stopping %s, because of %s.", count_of(len(running), "worker"), number.name)
        for child in self._children:
            child.start_at = None
        for child in running:
            # One that was told already would take it for the second signal.
            if self._signals > 1 or child.kill_at == math.inf:
                self._tell(child, number)

    def _tell(self, child: Child, number: signal.Signals) -> None:
        if child.pid is not None:
            child.kill_at = min(child.kill_at, time.monotonic() + self._grace + self.LAST_GRACE)
            # Each time another one: for the same again, see `StopSignals`.
            number = next((one for one in (number, *STOP_SIGNALS) if one not in child.told), number)
            child.told.add(number)
            os.kill(child.pid, number)

    def _kill_late(self) -> None:
        for child in self._children:
            if child.pid is not None and time.monotonic() >= child.kill_at:
                child.kill_at = math.inf
                logger.error("Killing worker %d, which did not stop in time; its messages come again.", child.number)
                os.kill(child.pid, signal.SIGKILL)

    def _restart(self) -> None:
        """Start all anew, if code has changed."""
        file, self._changed = self._changed, None
        if file is None or self._is_stopping:
            return
        logger.info("Restarting, because %s has changed.", file)
        for child in self._children:
            if child.pid is None:
                child.start_at = 0.0
            elif not child.is_restarting:
                child.is_restarting = True
                self._tell(child, signal.SIGTERM)

    def _scale(self) -> None:
        """Start or stop children, if there are to be more or fewer."""
        if self._backlog is None or self._is_stopping:
            return
        staying = [child for child in self._children if not child.is_leaving]
        for child in staying[self._wanted :]:
            logger.info("Stopping worker %d, because little is waiting.", child.number)
            child.is_leaving, child.start_at = True, None
            self._tell(child, signal.SIGTERM)
        numbers = {child.number for child in self._children}
        free = (number for number in itertools.count(1) if number not in numbers)
        for number in itertools.islice(free, max(0, self._wanted - len(staying))):
            logger.info("Starting worker %d, because much is waiting.", number)
            self._children.append(Child(number))

    def _reap(self) -> None:
        """Bury the dead, also those that were adopted."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            for child in self._children:
                if child.pid == pid:
                    child.pid, child.kill_at = None, math.inf
                    self._consider(child, os.waitstatus_to_exitcode(status))
        self._children = [child for child in self._children if child.pid is not None or not child.is_leaving]

    def _consider(self, child: Child, code: int) -> None:
        """Decide what follows the end of a child."""
        is_restarting, child.is_restarting = child.is_restarting, False
        if self._is_stopping:
            # Killed by the signal itself, it had not begun to work.
            is_well = code in (0, REPLACE) or -code in STOP_SIGNALS
            self._code = self._code or (0 if is_well else _as_shells_say(code))
        elif child.is_leaving:
            if (file := own_file(self._health_file, child.number)) is not None:
                file.unlink(missing_ok=True)  # It may have been killed, and is missed by nobody.
        elif is_restarting:
            child.start_at = 0.0
        elif code == REPLACE:
            logger.info("Replacing worker %d, which asked for it.", child.number)
            child.start_at = 0.0
        elif self._changes is not None and code != 0:
            logger.error("Worker %d has ended (%s); starting it again at the next change.", child.number, _shown(code))
        elif code == 0:
            logger.info("Worker %d has ended.", child.number)
        elif code == MISTAKE or not self._replaces:
            self._code = _as_shells_say(code)
            self._stop(signal.SIGTERM)
        else:
            self._start_later(child, f"died ({_shown(code)})")

    def _start_later(self, child: Child, what: str) -> None:
        child.crashes = 0 if time.monotonic() - child.started_at > self.SOON else child.crashes + 1
        pause = min(2 ** (child.crashes - 2), self.LONGEST_PAUSE) * random.uniform(0.8, 1.2) if child.crashes else 0
        child.start_at = time.monotonic() + pause
        logger.error("Worker %d %s; starting it again in %.1f s.", child.number, what, pause)


def _shown(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def _as_shells_say(code: int) -> int:
    return code if code >= 0 else 128 - code


def _note(number: int, frame: object) -> None:
    """Do nothing: that the signal came stands in the pipe; without a handler, it would not."""
