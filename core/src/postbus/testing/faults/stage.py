"""The stage: producers and workers as real processes, and an account of what they do."""

from __future__ import annotations

import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Self

import msgspec

from postbus import Postbus
from postbus.queue_transport import QueueTransport
from postbus.testing.faults.account import Account
from postbus.testing.faults.deaths import Death
from postbus.testing.faults.ledger import Buried, Ledger, Reader
from postbus.testing.faults.roles import VARIABLE, Queues, Role
from postbus.testing.faults.watching import Job
from postbus.testing.subject import plugins_for
from postbus.transport import Connection, Counts, SupportsCount, SupportsSetup, supports

PATIENCE = 90.0
"""Seconds without any progress, or until a process has ended, after which something hangs."""

LONGEST = 300.0
"""Seconds after which something takes too long although there is progress."""

ARRANGEMENTS: Sequence[tuple[str, ...]] = ((), ("--concurrency", "4"), ("--processes", "2"))
"""Options of workers: the three ways in which one can be arranged."""

PORTION = 20
"""How many messages a producer is told to dispatch at a time."""

LOOK = 0.02
"""Seconds between two looks at the ledger."""


class Stage:
    """Runs producers and workers on one queue; when it is left, none of them is left running."""

    def __init__(self, folder: Path, queues: Queues, *, seed: int = 0) -> None:
        self.account = Account(queues.unanswered, queues.moving)
        self.wanted = math.inf
        """How many messages are to be dispatched in all."""
        self.under_way = 200
        """How many of them may be under way at a time."""
        self._folder = folder
        self._seed = seed
        self._chance = random.Random(seed)
        self._ledger = folder / "ledger"
        self._reader = Reader(self._ledger)
        self._workers: dict[str, Popen[str]] = {}
        self._producers: dict[str, Popen[str]] = {}
        self._processes: list[Popen[str]] = []
        self._doomed: set[str] = set()
        self._granted = 0
        self._read: dict[Path, int] = {}
        self._queues = queues
        self._app = Postbus(
            transports={"work": queues.work, "failed": queues.failed}, plugins=plugins_for(queues.plugin)
        )
        self._app.message("job")(Job)

    def __enter__(self) -> Self:
        for name in ("work", "failed"):
            connection = self._transport(name).connection
            if supports(connection, SupportsSetup):
                connection.setup()
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
        self._app.close()
        self._reader.close()

    # processes

    def start_worker(self, name: str, *options: str, death: Death | None = None) -> None:
        """Start what an operator would start; it may be told where to die."""
        command = ["postbus", "--app", "postbus.testing.faults.app:app", "consume", "work", "--time-limit", "15m"]
        self._workers[name] = self._start(name, [*command, *options], death=death)
        if death is not None:
            self._doomed.add(name)

    def start_producer(self, name: str) -> None:
        """Start a process that dispatches when it is told to."""
        self._producers[name] = self._start(
            name, ["postbus.testing.faults.producer", f"{self._seed}/{name}"], stdin=PIPE
        )

    def _start(
        self, name: str, command: list[str], *, stdin: int | None = None, death: Death | None = None
    ) -> Popen[str]:
        role = Role(name=name, ledger=str(self._ledger), queues=self._queues, death=death)
        environment = {
            VARIABLE: msgspec.json.encode(role).decode(),
            "POSTBUS_STATE_DIR": str(self._folder),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        with self._log_of(name).open("ab") as log:
            process = Popen(  # noqa: S603
                [sys.executable, "-m", *command],
                env=os.environ | environment,
                cwd=self._folder,
                stdin=stdin,
                stdout=log,
                stderr=log,
                text=True,
            )
        self._processes.append(process)
        return process

    def stop_worker(self, name: str) -> None:
        """Stop a worker as an operator would; it must end by itself, and well."""
        worker = self._workers.pop(name)
        worker.send_signal(signal.SIGTERM)
        self.until(lambda: worker.poll() is not None, f"{name} stopped")
        assert worker.returncode == 0, f"{name} has ended with {worker.returncode}. {self.state()}"

    def replace_producer(self, name: str, successor: str) -> None:
        """Kill a producer, and let another one go on. What it was told to dispatch and had not begun is forgotten."""
        producer = self._producers.pop(name)
        producer.kill()
        producer.wait()
        self.account.take(self._reader.news())
        self._granted = len(self.account.intended)
        self.start_producer(successor)

    def _log_of(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    # what goes on

    @property
    def workers(self) -> int:
        """How many there are."""
        return len(self._workers)

    def look(self) -> None:
        """Read what is new in the ledger, see that all processes are there, and let the producers go on."""
        for name, worker in list(self._workers.items()):
            if worker.poll() is not None:
                del self._workers[name]
                as_told = name in self._doomed and worker.returncode == -signal.SIGKILL
                assert as_told, f"{name} has ended with {worker.returncode}. {self.state()}"
        for name, producer in self._producers.items():
            assert not producer.poll(), f"{name} has ended with {producer.returncode}. {self.state()}"
        self.account.take(self._reader.news())
        while self._granted < self.wanted and self._granted - self.account.ended < self.under_way:
            producer = self._chance.choice(list(self._producers.values()))
            self._grant(producer, int(min(self.wanted - self._granted, PORTION)))

    @property
    def is_idle(self) -> bool:
        """Whether all that the producers were allowed to dispatch has come to its end."""
        return self.account.ended == self._granted

    def grant_all(self) -> None:
        """Let every producer dispatch something, however much is under way."""
        for producer in self._producers.values():
            self._grant(producer, PORTION)

    def _grant(self, producer: Popen[str], number: int) -> None:
        assert producer.stdin is not None
        producer.stdin.write(f"{number}\n")
        producer.stdin.flush()
        self._granted += number

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Go on until something is the case; a long time without any progress means that it never will be."""
        last, changed = self.account.progress, time.monotonic()
        end = changed + LONGEST
        while not condition():
            self.look()
            if self.account.progress != last:
                last, changed = self.account.progress, time.monotonic()
            if time.monotonic() > min(changed + PATIENCE, end):
                for process in [*self._workers.values(), *self._producers.values()]:
                    process.send_signal(signal.SIGUSR1)  # They write into their logs what they are doing.
                time.sleep(1)
                raise AssertionError(f"Not {what}, and it never will be, or not soon. {self.state()}")
            time.sleep(LOOK)

    def turn_page(self) -> None:
        """Forget what was logged so far."""
        self._read = {log: log.stat().st_size for log in self._folder.glob("*.log")}

    def workers_said(self, text: str) -> bool:
        """Say whether each worker has logged this."""
        return all(text in self._log_since(name) for name in self._workers)

    def until_workers_say(self, text: str) -> None:
        """Go on until each worker has logged this."""
        self.until(lambda: self.workers_said(text), f"logged: {text}")

    def workers_lost_work(self) -> bool:
        """Say whether each worker has lost its queue since the page was turned, or before and not found it again."""

        def has_lost(log: Path) -> bool:
            said = log.read_bytes()
            lost = said.rfind(b"Lost 'work'")
            return lost >= self._read.get(log, 0) or lost > said.rfind(b"Reached 'work' again")

        return all(has_lost(self._log_of(name)) for name in self._workers)

    def until_producers_say(self, text: str) -> None:
        """Go on until each producer has logged this."""
        self.until(lambda: all(text in self._log_since(name) for name in self._producers), f"logged: {text}")

    def _log_since(self, name: str) -> str:
        log = self._log_of(name)
        return log.read_bytes()[self._read.get(log, 0) :].decode()

    def until_all_workers_handle(self) -> None:
        """Go on until each has handled a message that was dispatched from now on, so that none is deaf."""
        self.look()
        self.account.ask_who_works()
        self.until(lambda: self._workers.keys() <= self.account.at_work, "every worker at work")

    def go_on_for(self, seconds: float) -> None:
        """Go on for so long."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end, "over")

    def finish(self) -> None:
        """Let everything come to an end, end the processes, and see what lies in the failure transport."""
        self.wanted = max(self._granted, 0 if self.wanted == math.inf else self.wanted)
        self.until(lambda: self._granted >= self.wanted, "everything begun")
        for producer in self._producers.values():
            assert producer.stdin is not None
            producer.stdin.close()
        self.until(lambda: all(producer.poll() == 0 for producer in self._producers.values()), "all dispatched")
        self.look()
        self.until(lambda: not self.account.open, "every message at its end")
        self.until(self._is_empty, "the queue empty")
        for worker in self._workers.values():
            worker.send_signal(signal.SIGTERM)
        for name, worker in self._workers.items():
            assert worker.wait(PATIENCE) == 0, f"{name} has ended with {worker.returncode}. {self.state()}"
        self._workers.clear()
        self.look()
        self._exhume()

    def _exhume(self) -> None:
        """Take everything out of the failure transport, and write it down before it is gone from there."""
        ledger, transport, missing = Ledger(self._ledger), self._transport("failed"), set(self.account.entombed)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            envelopes = transport.receive(100, 0.5)
            if not envelopes and not missing:
                break
            ids = [envelope.message.id for envelope in envelopes]
            ledger.write(Buried(ids))
            transport.ack(envelopes)
            missing -= set(ids)
        ledger.close()
        self.look()

    def _is_empty(self) -> bool:
        counts = self._counts()
        return not (counts.waiting or counts.delayed or counts.in_flight)

    def _counts(self) -> Counts:
        def count(connection: Connection) -> Counts:
            return connection.count() if supports(connection, SupportsCount) else Counts(0)

        return self._transport("work").call(count)

    def _transport(self, name: str) -> QueueTransport:
        transport = self._app.transport(name)
        assert isinstance(transport, QueueTransport)
        return transport

    def state(self) -> str:
        """Say where things stand, and how each log ends."""
        account = self.account
        lines = [
            f"Seed {self._seed}: {self._granted} granted, {len(account.dispatched)} dispatched, "
            f"{len(account.handled)} handled, {len(account.entombed)} buried, {len(account.open)} at no end: "
            f"{sorted(account.open)[:20]}. At risk: {dict(account.reasons)}.",
        ]
        for log in sorted(self._folder.glob("*.log")):
            lines += [f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-30:]]
        return "\n".join(lines)
