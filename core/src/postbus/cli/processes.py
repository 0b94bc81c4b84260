"""Several workers under one parent, which starts them, passes signals on, and replaces those that die.

Each child is a program of its own, started by the same command line. A process that is the first of a
container is such a parent too, of one child: nobody else would reap what its handlers leave behind, and
signals that it does not handle would come to nothing.
"""

from __future__ import annotations

import logging
import os
import random
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path

from msgspec import Struct

from postbus.cli import logs
from postbus.cli.output import count_of
from postbus.health import Health, Systemd
from postbus.signals import STOP_SIGNALS

logger = logging.getLogger(logs.ANNOUNCEMENTS)

VARIABLE = "POSTBUS_CHILD"
"""What tells a child that it is one: its number, and the pipe that ends when its parent does."""

REPLACE = 75
"""The exit code by which a child asks to be replaced, because it has grown too large; as in sysexits.h, try again."""

MISTAKE = 2
"""The exit code of what starting again does not mend."""


class Child(Struct):
    """One worker, whether it runs at present or not."""

    number: int
    pid: int | None = None
    started_at: float = 0.0
    start_at: float | None = 0.0
    """When to start it; None while it runs, and when it is over."""
    crashes: int = 0
    """How often in a row it died soon after it was started."""


class Parent:
    """Keeps a number of children running until it is told to stop, or they have all ended well."""

    SOON = 60.0
    """Seconds; a child that lived longer is started again at once."""
    LONGEST_PAUSE = 30.0
    LAST_GRACE = 10.0
    """Seconds, beyond their own, that children get to end before they are killed."""

    def __init__(self, number: int, *, grace: float, replaces: bool = True) -> None:
        self._children = [Child(number + 1) for number in range(number)]
        self._grace = grace
        self._replaces = replaces
        self._signals = 0
        self._kill_at: float | None = None
        self._worst = 0
        self._systemd = Systemd()
        # To systemd this process is the service, and its children are not.
        os.environ.pop("NOTIFY_SOCKET", None)

    def run(self) -> int:
        """Run the children; return the exit code: 0 if all have ended well."""
        wakeups, self._wakeup = os.pipe()
        life, self._life = os.pipe()
        for end in (wakeups, self._wakeup):
            os.set_blocking(end, False)
        self._child_end = life
        os.set_inheritable(life, True)
        before = {number: signal.signal(number, _note) for number in (*STOP_SIGNALS, signal.SIGCHLD)}
        wakeup_before = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        self._systemd.tell("READY=1")
        try:
            while self._is_needed():
                self._systemd.tell("WATCHDOG=1")
                self._start()
                select.select([wakeups], [], [], self._patience())
                self._hear(wakeups)
                self._reap()
                self._kill_if_late()
        finally:
            signal.set_wakeup_fd(wakeup_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            for end in (wakeups, self._wakeup, life, self._life):
                os.close(end)
        return self._worst

    def _is_needed(self) -> bool:
        return any(child.pid is not None or child.start_at is not None for child in self._children)

    def _start(self) -> None:
        for child in self._children:
            if child.start_at is not None and child.start_at <= time.monotonic():
                environment = {**os.environ, VARIABLE: f"{child.number}:{self._child_end}"}
                # A group of its own, so that Ctrl+C on a terminal comes to it once: from us.
                child.pid = os.posix_spawn(
                    sys.executable,
                    [sys.executable, *sys.orig_argv[1:]],
                    environment,
                    setpgroup=0,
                    setsigdef=[*STOP_SIGNALS, signal.SIGCHLD],
                )
                child.started_at, child.start_at = time.monotonic(), None
                logger.debug("Started worker %d as process %d.", child.number, child.pid)

    def _patience(self) -> float | None:
        times = [child.start_at for child in self._children if child.start_at is not None]
        if self._kill_at is not None:
            times.append(self._kill_at)
        if self._systemd.is_there:
            times.append(time.monotonic() + Health.INTERVAL)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _hear(self, wakeups: int) -> None:
        try:
            numbers = os.read(wakeups, 64)
        except BlockingIOError:
            return
        for number in numbers:
            if number in STOP_SIGNALS:
                self._stop(signal.Signals(number))

    def _stop(self, number: signal.Signals) -> None:
        """Pass a signal on; start nothing any more."""
        self._signals += 1
        if self._signals == 1:
            self._systemd.tell("STOPPING=1")
            logger.info("Stopping %s, because of %s.", count_of(len(self._children), "worker"), number.name)
            self._kill_at = time.monotonic() + self._grace + self.LAST_GRACE
        for child in self._children:
            child.start_at = None
            if child.pid is not None:
                os.kill(child.pid, number)

    def _kill_if_late(self) -> None:
        if self._kill_at is None or time.monotonic() < self._kill_at:
            return
        self._kill_at = None
        for child in self._children:
            if child.pid is not None:
                logger.error("Killing worker %d, which did not stop in time; its messages come again.", child.number)
                os.kill(child.pid, signal.SIGKILL)

    def _reap(self) -> None:
        """Bury the dead, also those that were adopted."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for child in self._children:
                if child.pid == pid:
                    child.pid = None
                    self._consider(child, os.waitstatus_to_exitcode(status))

    def _consider(self, child: Child, code: int) -> None:
        """Decide what follows the end of a child."""
        shown = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        if self._signals:
            # Killed by the signal itself, it had not begun to work.
            well = code in (0, REPLACE) or -code in STOP_SIGNALS
            self._worst = self._worst or (0 if well else code if code > 0 else 128 - code)
        elif code == 0:
            logger.info("Worker %d has ended.", child.number)
        elif code == REPLACE:
            logger.info("Replacing worker %d, which had grown too large.", child.number)
            child.start_at = 0.0
        elif code == MISTAKE or not self._replaces:
            self._worst = code if code > 0 else 128 - code
            self._stop(signal.SIGTERM)
        else:
            child.crashes = 0 if time.monotonic() - child.started_at > self.SOON else child.crashes + 1
            pause = min(2 ** (child.crashes - 2), self.LONGEST_PAUSE) * random.uniform(0.8, 1.2) if child.crashes else 0
            child.start_at = time.monotonic() + pause
            logger.error("Worker %d died (%s); starting it again in %.1f s.", child.number, shown, pause)


def _note(number: int, frame: object) -> None:
    """Do nothing: that the signal came stands in the pipe; without a handler, it would not."""


def number_of(environment: MutableMapping[str, str]) -> int | None:
    """Return the number of this process among its parent's children; None if it is none."""
    number, colon, _ = environment.get(VARIABLE, "").partition(":")
    return int(number) if colon else None


def own_file(file: Path | None, child: int | None) -> Path | None:
    """Return the file that a child has in place of one that all are given."""
    return file if file is None or child is None else file.with_name(f"{file.name}.{child}")


def files_of(file: Path) -> list[Path]:
    """Return that file, or those of the children that were given it."""
    return sorted(one for one in file.parent.glob(f"{file.name}.*") if one.suffix[1:].isdecimal()) or [file]


def adopt(environment: MutableMapping[str, str], stop: Callable[[str], None]) -> None:
    """As a child, stop when the parent is gone; what this process starts itself is no child of that parent."""
    _, _, pipe = environment.pop(VARIABLE).partition(":")
    os.set_inheritable(int(pipe), False)

    def wait() -> None:
        os.read(int(pipe), 1)
        stop("its parent is gone")

    threading.Thread(target=wait, name="postbus-parent", daemon=True).start()
