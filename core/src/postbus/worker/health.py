"""Whether a worker really turns: what it tells Kubernetes by a file, and systemd by a socket."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import msgspec
from msgspec import Struct, field

from postbus.display import sentence
from postbus.errors import TransportError
from postbus.worker.deliveries import Deliveries

logger = logging.getLogger("postbus")


class Report(Struct, frozen=True):
    """What the file says; times are seconds since 1970."""

    pid: int
    turned_at: float
    """When the loop last turned: no fetch had been hanging since before that."""
    in_hand: int
    """How many messages there were in hand."""
    away: dict[str, float] = field(default_factory=dict[str, float])
    """The transports whose broker could not be reached, and since when."""
    paused: dict[str, float | None] = field(default_factory=dict[str, float | None])
    """The transports that are paused, and until when: because too many of their messages failed; or, where that is
    None, because somebody has paused them for all workers, until they are resumed.
    """


class Health:
    """Takes note of each turn of a worker's loop, and gives up when a broker has been away for too long.

    Its file and its signs of life stop when a fetch hangs, whatever else still moves.
    """

    INTERVAL = 1.0
    """Seconds between two signs of life."""

    def __init__(
        self,
        all_deliveries: Sequence[Deliveries],
        is_told_to_stop: Callable[[], bool] = lambda: False,
        *,
        file: Path | None,
        max_outage: float | None,
    ) -> None:
        self._all_deliveries = all_deliveries
        self._is_told_to_stop = is_told_to_stop
        self._file = file
        self._max_outage = max_outage
        self._systemd = Systemd()
        self._next = 0.0
        self._is_stopping = False

    def turn(self) -> None:
        """Take note of a turn; raise `TransportError` if a broker has been away, or silent, for too long."""
        now = time.monotonic()
        self.show(now)
        if self._max_outage is None:
            return
        for deliveries in self._all_deliveries:
            since = min(deliveries.lost_since or now, deliveries.fetching_since or now)
            if now - since > self._max_outage:
                raise TransportError(
                    f"Transport {deliveries.name!r} could not be reached for {self._max_outage:g} s. Look whether its "
                    "broker runs, or allow for a longer outage."
                )

    def show(self, now: float) -> None:
        """Give a sign of life, unless there was one just now; say at once that the worker is to stop, if it is."""
        if self._is_told_to_stop():
            self.note_stopping()
        if now < self._next:
            return
        self._next = now + self.INTERVAL
        turned_at = min([now, *(deliveries.fetching_since or now for deliveries in self._all_deliveries)])
        if now - turned_at < 2 * self.INTERVAL:
            self._systemd.tell("WATCHDOG=1")
        if self._file is not None:
            offset = time.time() - now
            away = {one.name: one.lost_since + offset for one in self._all_deliveries if one.lost_since is not None}
            paused: dict[str, float | None] = {
                one.name: one.switch.paused_until + offset if one.switch is not None and not one.held else None
                for one in self._all_deliveries
                if one.is_paused
            }
            self._write(Report(os.getpid(), turned_at + offset, sum(map(len, self._all_deliveries)), away, paused))

    def note_stopping(self) -> None:
        """Tell systemd, once, that the worker receives no more, though handlers may run for a while."""
        if not self._is_stopping:
            self._is_stopping = True
            self._systemd.tell("STOPPING=1")

    def __enter__(self) -> Health:
        self._systemd.tell("READY=1")
        self.show(time.monotonic())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.note_stopping()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)

    def _write(self, report: Report) -> None:
        assert self._file is not None
        new = self._file.with_name(f"{self._file.name}.{os.getpid()}.new")
        try:
            new.write_bytes(msgspec.json.encode(report))
            new.replace(self._file)
        except OSError as error:
            logger.warning("Cannot write the health file %s: %s.", self._file, error.strerror)


class Systemd:
    """The socket on which systemd wants to hear of a service (sd_notify(3)), if it started this process."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    @property
    def is_there(self) -> bool:
        """Whether somebody wants to hear."""
        return bool(self._address)

    def tell(self, state: str) -> None:
        """Send a line, such as ``READY=1``; without systemd, do nothing."""
        if not self._address:
            return
        import socket  # noqa: PLC0415  Only a service of systemd's needs it.

        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.sendto(state.encode(), self._address)
        except OSError as error:
            logger.warning("Cannot tell systemd %s: %s.", state, error.strerror)


def ailment(file: Path, max_age: float) -> str | None:
    """Return what is wrong with the worker that writes this file, as a sentence; None if it turns."""
    try:
        report = msgspec.json.decode(file.read_bytes(), type=Report)
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}. Does the worker run with --health-file?"
    except msgspec.DecodeError as error:
        return f"{file} is no health file: {sentence(str(error))}"
    now = time.time()
    if now - report.turned_at > max_age:
        return f"The worker (process {report.pid}) has not fetched for {now - report.turned_at:.0f} s."
    for name, since in report.away.items():
        if now - since > max_age:
            return f"The worker (process {report.pid}) has not reached {name!r} for {now - since:.0f} s."
    return None
