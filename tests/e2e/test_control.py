"""Workers as processes, each as on a machine of its own: paused, killed, resumed and stopped through a broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import Popen
from typing import Any
from uuid import uuid4

import pytest

from tests.brokers.server import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.once]

PATIENCE = 60.0
"""Seconds after which something that must happen counts as never happening."""

MESSAGES = 300

LEASE = 10
"""Seconds after which what a killed worker had comes again; enough for a busy machine to extend it."""

APP = """
import os
import time
from dataclasses import dataclass

from postbus import Postbus
from postbus.worker.listening import Listener

Listener.INTERVAL = 0.2

app = Postbus(
    transports={"tasks": os.environ["TASKS"], "others": os.environ["OTHERS"]},
    routing={"shop.Task": "tasks", "shop.Other": "others"},
    control=os.environ.get("CONTROL") or None,
    name=os.environ["NAME"],
)


@dataclass(frozen=True)
class Task:
    number: int


@dataclass(frozen=True)
class Other:
    number: int


@app.handler
def handle(message: Task | Other) -> None:
    time.sleep(0.005)
    while message.number >= 100 and os.path.exists("held"):
        time.sleep(0.02)
    with open("told", "a") as told:
        told.write(f"{type(message).__name__} {message.number} {os.getpid()}\\n")
"""


class Shop:
    """An app in a folder, and processes of it that share nothing but the broker."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment, "NAME": uuid4().hex}
        self.workers: list[Popen[str]] = []
        (folder / "shop.py").write_text(APP)

    def run(self, *arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "postbus", "--app", "shop:app", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self._machine(), text=True, capture_output=True, timeout=PATIENCE, check=False
        )
        assert code == done.returncode, done.stdout + done.stderr
        return done.stdout

    def start(self, *options: str) -> int:
        """Start a worker of all transports, and wait until it turns; return its number."""
        number = len(self.workers)
        command = [sys.executable, "-m", "postbus", "--app", "shop:app", "consume", "--all", *options]
        with (self.folder / f"log{number}").open("w") as log:
            worker = Popen(
                [*command, "--health-file", f"health{number}"],
                cwd=self.folder,
                env=self._machine(),
                text=True,
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        self.workers.append(worker)
        self.until(lambda: self.health(number) is not None, f"worker {number} turns")
        return number

    def _machine(self) -> dict[str, str]:
        return {**self.environment, "POSTBUS_STATE_DIR": str(self.folder / uuid4().hex)}

    def dispatch(self, kind: str, *numbers: int) -> None:
        code = f"import shop; shop.app.dispatch_many(map(shop.{kind}, {list(numbers)}))"
        subprocess.run(
            [sys.executable, "-c", code], cwd=self.folder, env=self.environment, timeout=PATIENCE, check=True
        )

    def health(self, number: int) -> Any:
        with suppress(OSError, ValueError):
            return json.loads((self.folder / f"health{number}").read_text())
        return None

    def pauses(self, number: int) -> bool:
        """Say whether a worker knows that the tasks are paused, and has none of them."""
        health = self.health(number)
        return health is not None and health["paused"] == {"tasks": None} and health["in_hand"] == 0

    def log(self, number: int) -> str:
        return (self.folder / f"log{number}").read_text()

    def told(self, kind: str = "Task") -> Counter[int]:
        path = self.folder / "told"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return Counter(int(number) for what, number, _ in lines if what == kind)

    def until(self, condition: Callable[[], object], what: str) -> None:
        try:
            wait_until(condition, what, PATIENCE)
        except TimeoutError:
            logs = [self.log(number) for number in range(len(self.workers))]
            raise AssertionError(f"It never came to this: {what}. Logs: {logs}") from None


@pytest.fixture(params=["sqlite", "redis", "postgresql", "a store beside RabbitMQ"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    """Workers on each kind of broker; on one that keeps no notes, these lie in a folder."""
    name = f"control_{uuid4().hex[:8]}"
    pattern = ""
    if request.param == "sqlite":
        pattern = f"sqlite:///{tmp_path}/shop.db?queue_name={{}}&redeliver_timeout={LEASE}"
    elif request.param == "redis":
        dsn = request.getfixturevalue("redis_plain").dsn
        pattern = f"{dsn}/{name}-{{}}?redeliver_timeout={LEASE}&claim_interval=100"
    elif request.param == "postgresql":
        dsn = request.getfixturevalue("postgresql").dsn
        pattern = f"{dsn}?table_name={name}&queue_name={{}}&redeliver_timeout={LEASE}"
    dsns = {"TASKS": pattern.format("tasks"), "OTHERS": pattern.format("others")}
    if request.param == "a store beside RabbitMQ":
        dsn = request.getfixturevalue("rabbitmq").dsn
        dsns = {"TASKS": f"{dsn}/{name}", "OTHERS": f"filesystem://{tmp_path}/others", "CONTROL": "others"}
    shop = Shop(tmp_path, dsns)
    shop.run("setup")
    yield shop
    for worker in shop.workers:
        if worker.poll() is None:
            worker.kill()
        worker.wait(PATIENCE)
    shop.run("purge", "others", "--force")


def test_a_pause_holds_for_all_workers_and_loses_nothing(shop: Shop) -> None:
    """Also for those that start later, and through the death of one that was there; other transports go on.

    Then all go on, every message is handled, and all are told to stop.
    """
    held = shop.folder / "held"
    held.touch()
    first, second = shop.start(), shop.start("--concurrency", "4")
    shop.dispatch("Task", *range(MESSAGES))
    shop.until(lambda: len(shop.told()) == 100, "both are in the middle")
    shop.run("pause", "tasks")
    shop.until(lambda: all("Pausing 'tasks'" in shop.log(number) for number in (first, second)), "both hear of it")
    held.unlink()
    shop.until(lambda: shop.pauses(first) and shop.pauses(second), "both are done with what they had begun")
    handled = shop.told()
    assert 100 <= len(handled) <= 105

    shop.workers[first].send_signal(signal.SIGKILL)
    shop.workers[first].wait(PATIENCE)
    third = shop.start()
    shop.until(lambda: shop.pauses(third), "one that starts later is paused")
    shop.dispatch("Other", 1)
    shop.until(lambda: shop.told("Other") == Counter([1]), "other transports go on")
    assert handled == shop.told()
    assert "Paused: tasks, by " in shop.run("stats", "tasks")

    shop.run("resume", "tasks")
    shop.until(lambda: shop.told().keys() == {*range(MESSAGES)}, "all were handled")
    # Whoever was killed had settled all, and others have had no message for longer than its lease.
    assert set(shop.told().values()) == {1}

    assert "on all machines those of " in shop.run("stop-workers")
    for number in (second, third):
        assert 0 == shop.workers[number].wait(PATIENCE), shop.log(number)
        assert "Stopped, because all workers were told to" in shop.log(number)
    fourth = shop.start()
    shop.dispatch("Task", MESSAGES)
    shop.until(lambda: shop.told()[MESSAGES], "one that starts later is not stopped")
    assert shop.workers[fourth].poll() is None


@pytest.mark.parametrize("shop", ["sqlite", "redis"], indirect=True)
def test_a_worker_that_is_killed_as_it_pauses_loses_nothing(shop: Shop) -> None:
    """At whatever moment: what it had in hand comes again when the pause is over."""
    shop.dispatch("Task", *range(MESSAGES))
    for killing in range(3):
        number = shop.start("--concurrency", str(1 + 3 * (killing % 2)))
        shop.until(lambda: len(shop.told()) > (killing + 1) * 20, "it is under way")  # noqa: B023
        shop.run("pause", "tasks")
        if killing < 2:
            # Just as it hears of it, perhaps; what happens is told by the log.
            shop.until(lambda: "Pausing 'tasks'" in shop.log(number), "it pauses")  # noqa: B023
        shop.workers[number].send_signal(signal.SIGKILL)
        shop.workers[number].wait(PATIENCE)
        shop.run("resume", "tasks")
    shop.start("--concurrency", "4")
    shop.until(lambda: shop.told().keys() == {*range(MESSAGES)}, "all were handled")
