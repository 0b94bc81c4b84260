"""Batches on real brokers: killed workers, leases, and workers in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from postbus import Batch, Limits, Postbus
from tests.brokers.server import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.once]

PATIENCE = 30.0
"""Seconds after which something that must happen counts as never happening."""

LONG = 10 * PATIENCE
"""Seconds that no test takes."""

BROKERS = ["sqlite", "redis"]

SHOP = """
import os
from dataclasses import dataclass
from pathlib import Path
from postbus import Postbus

app = Postbus(
    transports={{"pages": {dsn!r}, "failed": {grave!r}}},
    routing={{"*": "pages"}},
    failure_transport="failed",
    retry={{"max_retries": 0}},
)


@app.message("page")
@dataclass(frozen=True)
class Page:
    number: int


@app.message("link")
@dataclass(frozen=True)
class Link:
    number: int


def note(line):
    with Path({told!r}).open("a") as file:
        file.write(line + "\\n")


@app.handler(batch=10, wait={wait})
def index(pages: list[Page]) -> None:
    numbers = [page.number for page in pages]
    note("batch " + " ".join(map(str, numbers)))
    if 13 in numbers:
        os.kill(os.getpid(), 9)
    for number in numbers:
        note(f"page {{number}}")


@app.handler
def follow(link: Link) -> None:
    note("link")
"""


@dataclass(frozen=True)
class Task:
    number: int


@pytest.fixture
def dsn_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., str]:
    """Return the DSN of a queue of this test's own on a broker."""
    name = f"batches-{uuid4().hex[:8]}"

    def dsn_of(broker: str, lease: float) -> str:
        if broker == "sqlite":
            return f"sqlite:///{tmp_path}/{name}.db?redeliver_timeout={lease}"
        return f"{request.getfixturevalue('redis_plain').dsn}/{name}?redeliver_timeout={lease}&claim_interval=100"

    return dsn_of


class Shop:
    """An app in a module, its workers in processes, and what its handlers have noted."""

    def __init__(self, folder: Path, dsn: str, wait: float) -> None:
        self._folder = folder
        self._told = folder / "told"
        self._told.touch()
        grave = f"sqlite:///{folder}/grave.db"
        (folder / "shop.py").write_text(SHOP.format(dsn=dsn, grave=grave, told=str(self._told), wait=wait))
        self.processes: list[subprocess.Popen[bytes]] = []

    def dispatch(self, *messages: str) -> None:
        program = f"from shop import *; app.dispatch_many([{', '.join(messages)}])"
        subprocess.run([sys.executable, "-c", program], cwd=self._folder, check=True)

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "postbus", "--app", "shop:app", "consume", "pages", *options]
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=self._folder, stderr=log)
        self.processes.append(process)
        return process

    def told(self, what: str) -> list[str]:
        return [line for line in self._told.read_text().splitlines() if line.startswith(what)]

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    def await_told(self, what: str, number: int = 1) -> None:
        wait_until(lambda: len(self.told(what)) >= number, PATIENCE)


@pytest.fixture
def make_shop(tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    shops: list[Shop] = []

    def make_shop(dsn: str, wait: float = LONG) -> Shop:
        shops.append(Shop(tmp_path, dsn, wait))
        return shops[-1]

    yield make_shop
    for shop in shops:
        for process in shop.processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("broker", BROKERS)
def test_a_worker_that_is_killed_with_half_a_batch_loses_none(
    broker: str, dsn_of: Callable[..., str], make_shop: Callable[..., Shop]
) -> None:
    """Nothing is acknowledged before its batch: what was gathered comes again, and is handled by the next worker."""
    shop = make_shop(dsn_of(broker, 2))
    # The links keep the transport from being idle, so that the batch waits.
    shop.dispatch(*(f"Page({n})" for n in range(6)), *("Link(1)",) * 3)
    first = shop.start()
    shop.await_told("link", 3)
    first.kill()
    first.wait()
    before = shop.told("page")
    second = shop.start("--idle-limit", "5")  # Longer than the lease of what the first one had.
    assert 0 == second.wait(PATIENCE)
    assert {f"page {n}" for n in range(6)} == {*shop.told("page")}
    assert len(shop.told("page")) <= 6 + len(before)


@pytest.mark.parametrize("broker", BROKERS)
def test_a_batch_that_kills_buries_but_the_one_that_does(
    broker: str, dsn_of: Callable[..., str], make_shop: Callable[..., Shop]
) -> None:
    """After the death of their worker the messages of a batch come one by one, so only one of them kills again."""
    shop = make_shop(dsn_of(broker, 1))
    shop.dispatch(*(f"Page({n})" for n in range(10, 20)))
    code, starts = 1, 0
    while code != 0:
        process = shop.start("--idle-limit", "3")
        code, starts = process.wait(PATIENCE), starts + 1
        assert starts < 8, shop.log
    batches = shop.told("batch")
    assert f"batch {' '.join(map(str, range(10, 20)))}" == batches[0]
    assert {f"page {n}" for n in range(10, 20) if n != 13} == {*shop.told("page")}
    assert all(" " not in line.removeprefix("batch ") for line in batches[1:])
    assert "Poisonous" in shop.log


@pytest.mark.parametrize("broker", BROKERS)
def test_sigterm_has_half_a_batch_handled(
    broker: str, dsn_of: Callable[..., str], make_shop: Callable[..., Shop]
) -> None:
    """A signal begins what was gathered, and the process ends with 0."""
    shop = make_shop(dsn_of(broker, 60))
    shop.dispatch("Page(1)", "Page(2)", "Link(1)")
    process = shop.start("--fetch-size", "3")
    shop.await_told("link")
    process.send_signal(signal.SIGTERM)
    assert 0 == process.wait(PATIENCE)
    assert ["batch 1 2"] == shop.told("batch")
    left = shop.start("--until-empty")
    assert 0 == left.wait(PATIENCE)
    assert ["page 1", "page 2"] == shop.told("page")


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("broker", BROKERS)
def test_leases_are_kept_while_a_batch_fills_and_runs(
    broker: str, concurrency: int, dsn_of: Callable[..., str]
) -> None:
    """No message comes twice although its batch waits, and runs, for longer than a lease lasts."""
    app = Postbus(transports={"tasks": dsn_of(broker, 1)}, routing={Task: "tasks"}, retry={"max_retries": 0})
    seen: Counter[int] = Counter()

    @app.handler(batch=8, wait=LONG)
    def handle(tasks: Batch[Task]) -> None:
        time.sleep(1.5)
        seen.update(task.number for task in tasks.messages)
        for item in tasks:
            item.ack()

    app.dispatch_many(Task(n) for n in range(4))
    worker = app.worker("tasks", limits=Limits(messages=16), concurrency=concurrency)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    for number in range(4, 16):
        time.sleep(0.2)  # Shorter than what takes a transport for idle.
        app.dispatch(Task(number))
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert dict.fromkeys(range(16), 1) == seen
    app.close()
