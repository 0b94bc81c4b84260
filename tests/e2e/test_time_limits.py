"""Handlers in real processes that do not end: their process is replaced, and their message ends where it should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any
from uuid import uuid4

import pytest

from postbus import Postbus
from tests.brokers.server import wait_until as wait_for

pytestmark = [pytest.mark.slow, pytest.mark.broker, pytest.mark.once]

PATIENCE = 60.0
"""Seconds after which something that must happen counts as never happening."""

APP = """
import hashlib
import os
import threading
from dataclasses import dataclass

from postbus import Postbus, time_limits

time_limits.MERCY = 0.5

app = Postbus(
    transports={"tasks": os.environ["TASKS"], "failed": os.environ["TASKS"] + "-failed"},
    routing={"shop.*": "tasks"},
    failure_transport="failed",
    retry={"max_retries": 1, "delay": 0.1},
)


def tell(what, number):
    with open("told", "a") as told:
        told.write(f"{what} {number} {os.getpid()}\\n")


@app.message
@dataclass(frozen=True)
class Task:
    number: int


@app.message
@dataclass(frozen=True)
class Hang:
    number: int


@app.message
@dataclass(frozen=True)
class Hash:
    number: int


@app.handler
def handle(task: Task) -> None:
    tell("handled", task.number)


@app.handler(time_limit=0.3)
def hang(message: Hang) -> None:
    tell("begun", message.number)
    threading.Event().wait()


@app.handler(time_limit=0.3)
def compute(message: Hash) -> None:
    tell("begun", message.number)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


class Shop:
    """An app in a folder of its own, on a queue of Redis of its own, and processes that run the program on it."""

    def __init__(self, folder: Path, redis: str) -> None:
        self.folder = folder
        self.dsn = f"{redis}/limits-{uuid4().hex[:8]}"
        self.running: list[Popen[str]] = []
        (folder / "shop.py").write_text(APP)
        self.environment = {**os.environ, "TASKS": self.dsn, "POSTBUS_STATE_DIR": str(folder)}

    def consume(self, *arguments: str) -> Popen[str]:
        command = [sys.executable, "-m", "postbus", "--app", "shop:app", "consume", "tasks", *arguments]
        with (self.folder / "log").open("a") as log:
            process = Popen(
                command, cwd=self.folder, env=self.environment, text=True, stdin=subprocess.DEVNULL, stderr=log
            )
        self.running.append(process)
        return process

    def dispatch(self, *messages: str) -> None:
        code = f"import shop; from shop import *; app.dispatch_many([{', '.join(messages)}])"
        subprocess.run(
            [sys.executable, "-c", code], cwd=self.folder, env=self.environment, timeout=PATIENCE, check=True
        )

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def until(self, condition: Callable[[], bool]) -> None:
        wait_for(condition, "It never came to this.", PATIENCE)

    def told(self, what: str) -> list[int]:
        path = self.folder / "told"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [int(number) for word, number, _ in lines if word == what]

    def counts(self, queue: str = "") -> Any:
        """Return what waits, and what is in flight."""
        with Postbus(transports={"queue": self.dsn + queue}) as app:
            counts = app.transport("queue").connection.count()  # type: ignore[attr-defined]
            return counts.waiting + counts.delayed, counts.in_flight


@pytest.fixture
def shop(tmp_path: Path, redis_plain: Any) -> Iterator[Shop]:
    shop = Shop(tmp_path, redis_plain.dsn)
    yield shop
    for process in shop.running:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("Hang", ["--concurrency", "3"]), ("Hash", [])],
    ids=["in a thread", "in C code, one at a time"],
)
def test_a_process_is_replaced_whose_handler_does_not_end(shop: Shop, kind: str, options: list[str]) -> None:
    """Each time its message counts as failed, until it is buried; others are handled, and nothing is lost."""
    shop.dispatch("Task(1)", f"{kind}(2)", *(f"Task({number})" for number in range(3, 20)))
    parent = shop.consume("--processes", "1", *options)
    shop.until(lambda: shop.counts("-failed") == (1, 0))
    shop.until(lambda: sorted(shop.told("handled")) == [1, *range(3, 20)])
    shop.until(lambda: shop.counts() == (0, 0))
    assert [2, 2] == shop.told("begun")
    shop.until(lambda: shop.log.count("Replacing worker 1") == 2)
    parent.send_signal(signal.SIGTERM)
    assert 0 == parent.wait(PATIENCE), shop.log
    assert "could not be stopped" in shop.log
    assert "died" not in shop.log


def test_it_is_replaced_while_code_is_watched_too(shop: Shop) -> None:
    """With ``--watch`` it does not wait for a change."""
    pytest.importorskip("watchfiles")
    shop.dispatch("Hang(1)", "Task(2)")
    parent = shop.consume("--watch", "--concurrency", "2")
    shop.until(lambda: shop.counts("-failed") == (1, 0) and shop.told("handled") == [2])
    parent.send_signal(signal.SIGTERM)
    assert 0 == parent.wait(PATIENCE), shop.log


def test_a_worker_by_itself_asks_to_be_started_again(shop: Shop) -> None:
    """Without a parent it ends with exit code 75, for systemd, Kubernetes, or whoever has started it."""
    shop.dispatch("Hang(1)")
    worker = shop.consume("--concurrency", "3")
    assert 75 == worker.wait(PATIENCE), shop.log
    assert "Stopped, because a handler does not end within its time limit: 0 handled, 1 failed" in shop.log
    assert (1, 0) == shop.counts()


def test_a_signal_ends_it_well_all_the_same(shop: Shop) -> None:
    """In the main thread, a handler that waits is interrupted; nothing need be replaced."""
    shop.dispatch("Hang(1)", "Task(2)")
    worker = shop.consume()
    shop.until(lambda: shop.counts("-failed") == (1, 0) and shop.told("handled") == [2])
    worker.send_signal(signal.SIGTERM)
    assert 0 == worker.wait(PATIENCE), shop.log
    assert "was interrupted" in shop.log
