"""When a worker stops by itself."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from pathlib import Path

from msgspec import Struct

from postbus.errors import ConfigurationError

GRACE = 25.0
"""Seconds for which a running handler may go on after the worker was told to stop; Kubernetes waits for 30."""

PREFETCH_BYTES = 32 * 2**20
"""Bytes of messages that a worker holds ahead of its handlers."""

STUCK = "a handler does not end within its time limit"
"""Why a worker stops that is to be replaced, because nothing else ends what runs in it."""


class Limits(Struct, frozen=True, kw_only=True):
    """How much a worker does before it stops; None for no limit."""

    messages: int | None = None
    """Messages taken in hand, whatever became of them."""
    failures: int | None = None
    """Messages that failed, those that are retried included."""
    time: float | None = None
    """Seconds since the start; running handlers are waited for."""
    memory: int | None = None
    """Bytes of resident memory."""
    idle: float | None = None
    """Seconds for which there has been nothing to do; 0 stops as soon as nothing is waiting on any transport.

    Messages whose delay is not over, or that other workers have in hand, are not waited for.
    """

    def __post_init__(self) -> None:
        problems = [
            f"Limit {name!r} must be {'at least' if name == 'idle' else 'more than'} 0, got {value!r}."
            for name in self.__struct_fields__
            if (value := getattr(self, name)) is not None and value <= 0 and (name, value) != ("idle", 0)
        ]
        if problems:
            raise ConfigurationError(*problems)


class Counters:
    """What a worker has done so far, held against its limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self.handled = 0
        self.failed = 0

    def note_failed(self) -> None:
        """Count a message that failed; in any thread."""
        with self._lock:
            self.failed += 1

    @property
    def left(self) -> int | None:
        """How many more messages may be taken in hand; None for any number."""
        return None if self._limits.messages is None else self._limits.messages - self.handled - self.failed

    def reached(self) -> str | None:
        """Return which limit is reached, as a sentence for the log; None while there is none."""
        limits = self._limits
        if limits.messages is not None and self.handled + self.failed >= limits.messages:
            return f"it has handled {self.handled + self.failed} messages"
        if limits.failures is not None and self.failed >= limits.failures:
            return f"{self.failed} messages have failed"
        if limits.time is not None and time.monotonic() - self._started >= limits.time:
            return f"it has run for {limits.time:g} s"
        return None

    def outgrown(self) -> str | None:
        """Return how the memory limit is reached; apart from the others because it takes longer to find out."""
        if self._limits.memory is not None and (used := resident_memory()) > self._limits.memory:
            return f"it uses {used // 2**20} MiB of memory"
        return None


class StopSignal:
    """A file that tells workers to stop, also those of other processes, and of other machines that share its folder.

    Only a change counts, so clocks that differ do not matter.
    """

    def __init__(self, path: Path | None) -> None:
        """``path`` is None where there is no place for it, so that nobody can send it."""
        self._path = path
        self._seen = self._changed_at()

    def send(self) -> None:
        """Tell every worker that runs now to stop after the messages in hand."""
        if self._path is None:
            raise ConfigurationError(
                "Workers cannot be told to stop, as this user has no home folder, in which they would look. Set "
                "POSTBUS_STATE_DIR to a folder, for the workers too."
            )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(f"{time.time_ns()}\n")
        except OSError as error:
            raise ConfigurationError(
                f"Workers cannot be told to stop, as {str(error.filename)!r} cannot be written: {error.strerror}. Set "
                "POSTBUS_STATE_DIR to a folder that can be, for the workers too."
            ) from error

    def was_sent(self) -> bool:
        """Say whether it was sent since this object was made."""
        return self._changed_at() != self._seen

    def _changed_at(self) -> tuple[int, int] | None:
        if self._path is None:
            return None
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino


class Stopping:
    """Whether a worker is to stop, why, and how long it may take over it.

    It can be told to from any thread and from a signal handler, so there is no lock here.
    """

    LOOK = 0.5
    """Seconds between two looks at what takes too long to be looked at after each message."""

    def __init__(self, stop_signal: StopSignal | None, grace: float | None) -> None:
        self._signal = stop_signal
        self._grace = grace
        self._look_at = 0.0
        self.told: str | None = None
        """Why it was told to stop, if it was; a limit does not tell."""
        self.outgrown: str | None = None
        """How the limit of memory was reached, if it was; that it may be less by now does not matter."""
        self.is_stuck = False
        """Whether it was told to because a handler does not end within its time limit."""
        self.deadline = math.inf
        """When what is running then is interrupted; a limit leaves it all the time that it takes."""

    def tell(self, reason: str, *, is_stuck: bool = False) -> None:
        """Stop; the first reason counts."""
        if self.told is None:
            self.is_stuck = is_stuck
            if self._grace is not None:
                self.deadline = time.monotonic() + self._grace
            self.told = reason

    def reason(self, counters: Counters) -> str | None:
        """Return why the worker is to stop, also by what it has done; None while it is not."""
        self.look(time.monotonic(), counters)
        return self.told or self.outgrown or counters.reached()

    def look(self, now: float, counters: Counters) -> None:
        """Find out what does not tell by itself; to be called again and again, in any thread, as long as it works."""
        if now < self._look_at:
            return
        self._look_at = now + self.LOOK
        if self._signal is not None and self._signal.was_sent():
            self.tell("all workers were told to")
        self.outgrown = self.outgrown or counters.outgrown()


def resident_memory() -> int:
    """Return the bytes of memory that this process holds now; its peak, where the system does not tell that."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        import resource  # noqa: PLC0415  Not on every system.

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")
