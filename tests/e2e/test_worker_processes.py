"""Workers in real processes that are stopped, killed, and paused, with messages in a real file: nothing is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.once]

PATIENCE = 60.0
"""Seconds after which something that must happen counts as never happening."""

APP = """
import asyncio
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

from postbus import Postbus

app = Postbus(
    transports={
        "orders": "sqlite:///shop.db?queue_name=orders&redeliver_timeout=1",
        "mails": "sqlite:///shop.db?queue_name=mails&redeliver_timeout=1",
        "failed": "sqlite:///shop.db?queue_name=failed",
    },
    routing={"shop.Mail": "mails", "*": "orders"},
    failure_transport="failed",
    retry={"max_retries": 0},
)


def tell(what, number):
    with open("told", "a") as told:
        told.write(f"{what} {number} {os.getpid()}\\n")


@dataclass(frozen=True)
class Order:
    number: int


@dataclass(frozen=True)
class Wait:
    number: int


@dataclass(frozen=True)
class Mail:
    number: int


@dataclass(frozen=True)
class Grow:
    number: int


@app.handler
def handle(order: Order | Mail) -> None:
    tell("handled", order.number)


@app.handler
def grow(message: Grow) -> None:
    grow.held = bytearray(200_000_000)
    tell("handled", message.number)


def is_told_to_go_on():
    return Path("go on").exists()
"""

WAITING = {
    "sleeps": """
@app.handler
def wait(message: Wait) -> None:
    tell("begun", message.number)
    while not is_told_to_go_on():
        threading.Event().wait(0.02)
    tell("handled", message.number)
""",
    "computes": """
@app.handler
def wait(message: Wait) -> None:
    tell("begun", message.number)
    while not is_told_to_go_on():
        sum(range(10_000))
    tell("handled", message.number)
""",
    "awaits": """
@app.handler
async def wait(message: Wait) -> None:
    tell("begun", message.number)
    while not is_told_to_go_on():
        await asyncio.sleep(0.02)
    tell("handled", message.number)
""",
}

IN_C_CODE = """
import hashlib

@app.handler
def wait(message: Wait) -> None:
    tell("begun", message.number)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


IN_A_POOL = """
from concurrent.futures import ThreadPoolExecutor

def wait_here(number):
    tell("begun", number)
    while not is_told_to_go_on():
        threading.Event().wait(0.02)

@app.handler
def wait(message: Wait) -> None:
    ThreadPoolExecutor().submit(wait_here, message.number).result()
"""

EXITS = """
@app.handler
def wait(message: Wait) -> None:
    tell("begun", message.number)
    raise SystemExit(message.number)
"""


class Shop:
    """An app in a folder of its own, and processes that run the program on it."""

    def __init__(self, folder: Path, waiting: str = "sleeps") -> None:
        self.folder = folder
        self.running: list[Popen[str]] = []
        (folder / "shop.py").write_text(APP + WAITING[waiting])

    def start(self, *arguments: str, before: tuple[str, ...] = (), python: str = sys.executable) -> Popen[str]:
        environment = {**os.environ, "POSTBUS_STATE_DIR": str(self.folder)}
        command = [*before, python, "-m", "postbus", "--app", "shop:app", *arguments]
        with (self.folder / f"log{len(self.running)}").open("w") as log:
            process = Popen(command, cwd=self.folder, env=environment, text=True, stdin=subprocess.DEVNULL, stderr=log)
        self.running.append(process)
        return process

    def worker(self, *arguments: str, **options: Any) -> Popen[str]:
        """Start a worker, and wait until it has begun."""
        worker = self.start("consume", *arguments, **options)
        self.until(lambda: "a second one at once" in self.log(worker), "the worker has begun")
        return worker

    def log(self, process: Popen[str]) -> str:
        return (self.folder / f"log{self.running.index(process)}").read_text()

    def dispatch(self, kind: str, *numbers: int) -> None:
        code = f"import shop; shop.app.dispatch_many(map(shop.{kind}, {numbers}))"
        subprocess.run([sys.executable, "-c", code], cwd=self.folder, timeout=PATIENCE, check=True)

    def told(self, what: str) -> Counter[int]:
        """Return how often handlers told this of each number."""
        return Counter(number for number, _ in self._lines(what))

    def tellers(self, what: str) -> set[int]:
        """Return the processes in which handlers told this."""
        return {process for _, process in self._lines(what)}

    def _lines(self, what: str) -> list[tuple[int, int]]:
        path = self.folder / "told"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(int(number), int(process)) for word, number, process in lines if word == what]

    def go_on(self) -> None:
        (self.folder / "go on").touch()

    def left(self, queue: str = "orders") -> tuple[int, int]:
        """Return how many messages wait, and how many are in flight."""
        with closing(sqlite3.connect(self.folder / "shop.db")) as database:
            [row] = database.execute(
                "SELECT count(*) - count(delivered_at), count(delivered_at) FROM messenger_messages "
                "WHERE queue_name = ?",
                (queue,),
            )
        return int(row[0]), int(row[1])

    def until(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"It never came to this: {what}. Logs: {list(map(self.log, self.running))}"
            time.sleep(0.02)

    def end(self, process: Popen[str], code: int = 0) -> None:
        assert code == process.wait(PATIENCE), self.log(process)
        # But for those of handlers, which stand behind what becomes of their messages.
        assert "Traceback" not in re.sub(r"( (Retrying|Burying|Dropping) .*\n)Traceback", r"\1", self.log(process))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    for process in shop.running:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE)


ARRANGEMENTS = pytest.mark.parametrize("options", [(), ("--concurrency", "3")], ids=["one", "three"])


@pytest.mark.parametrize(
    "options", [(), ("--concurrency", "3"), ("--processes", "1")], ids=["one", "three", "under a parent"]
)
@pytest.mark.parametrize("kind", list(WAITING))
def test_after_the_grace_the_message_goes_back_and_the_exit_is_clean(
    shop: Shop, kind: str, options: tuple[str, ...]
) -> None:
    """A handler that goes on for longer than ``--grace`` is interrupted: exit code 0, no failure, nothing counted."""
    (shop.folder / "shop.py").write_text(APP + WAITING[kind])
    shop.dispatch("Wait", 1)
    worker = shop.worker("orders", "--grace", "0.3", *options)
    shop.until(lambda: shop.told("begun"), "the handler runs")
    worker.terminate()

    shop.end(worker)
    assert (1, 0) == shop.left()
    assert (0, 0) == shop.left("failed")
    assert "comes again" in shop.log(worker)
    assert "0 handled, 0 failed" in shop.log(worker)


@pytest.mark.parametrize(
    ("signals", "grace", "code"),
    [([signal.SIGTERM], "0.3", 0), ([signal.SIGTERM, signal.SIGINT], "60", 130)],
    ids=["after the grace", "at the second signal"],
)
def test_c_code_keeps_no_worker_from_ending(shop: Shop, signals: list[int], grace: str, code: int) -> None:
    """A handler that is in C code when it is to be interrupted ends with its process, and its message goes back."""
    (shop.folder / "shop.py").write_text(APP + IN_C_CODE)
    shop.dispatch("Wait", 1)
    worker = shop.worker("orders", "--grace", grace)
    shop.until(lambda: shop.told("begun"), "the handler runs")
    for number in signals:
        worker.send_signal(number)

    shop.end(worker, code)
    assert (1, 0) == shop.left()
    assert "comes again" in shop.log(worker)


@ARRANGEMENTS
def test_what_was_fetched_ahead_is_there_for_others_at_once(shop: Shop, options: tuple[str, ...]) -> None:
    """While the last handler of a stopping worker runs, another worker handles what the first had fetched."""
    shop.dispatch("Wait", *range(3 if options else 1))
    first = shop.worker("orders", "--fetch-size", "20", *options)
    shop.until(lambda: len(shop.told("begun")) == (3 if options else 1), "all slots are busy")
    shop.dispatch("Order", *range(10))
    first.terminate()
    second = shop.worker("orders", "--limit", "10")

    shop.end(second)
    assert Counter(range(10)) == shop.told("handled")
    assert first.poll() is None
    shop.go_on()
    shop.end(first)
    assert (0, 0) == shop.left()


@pytest.mark.parametrize(
    ("kind", "options"), [("sleeps", ()), ("computes", ("--concurrency", "3")), ("awaits", ())], ids=list(WAITING)
)
def test_a_handler_of_many_leases_runs_once(shop: Shop, kind: str, options: tuple[str, ...]) -> None:
    """While a handler works for several times the lease, no other worker gets its message."""
    (shop.folder / "shop.py").write_text(APP + WAITING[kind])
    shop.dispatch("Wait", 1)
    first = shop.worker("orders", *options)
    shop.until(lambda: shop.told("begun"), "the handler runs")
    second = shop.worker("orders")
    time.sleep(5)  # Ten times the lease would be no other case, and this is what the test is about.
    shop.go_on()
    shop.until(lambda: shop.told("handled"), "the handler has finished")
    shop.until(lambda: (0, 0) == shop.left(), "the message is settled")
    for worker in (first, second):
        worker.terminate()
        shop.end(worker)
    assert {1: 1} == shop.told("begun")


@ARRANGEMENTS
def test_a_worker_that_stood_still_settles_nothing_of_others(shop: Shop, options: tuple[str, ...]) -> None:
    """A process that was paused for longer than the lease says that it lost it; the other one settles the message."""
    shop.dispatch("Wait", 1)
    first = shop.worker("orders", *options)
    shop.until(lambda: shop.told("begun"), "the handler runs")
    first.send_signal(signal.SIGSTOP)
    second = shop.worker("orders")
    shop.until(lambda: shop.told("begun")[1] == 2, "the other one has got the message")
    first.send_signal(signal.SIGCONT)
    time.sleep(0.5)  # Until it has looked at its leases; nothing tells when.
    shop.go_on()
    shop.until(lambda: (0, 0) == shop.left(), "the message is settled")
    for worker in (first, second):
        worker.terminate()
        shop.end(worker)
    assert "Lost the lease of Wait" in shop.log(first)
    assert "1 handled" in shop.log(second)


@ARRANGEMENTS
def test_c_code_that_keeps_the_lock_loses_the_lease(shop: Shop, options: tuple[str, ...]) -> None:
    """Nothing can extend the lease meanwhile, so another worker gets the message; the first says that it lost it."""
    code = """
import ctypes

@app.handler
def wait(message: Wait) -> None:
    tell("begun", message.number)
    if len(Path("told").read_text().splitlines()) == 1:
        while not is_told_to_go_on():
            ctypes.PyDLL(None).usleep(3_000_000)
    tell("handled", message.number)
"""
    (shop.folder / "shop.py").write_text(APP + code)
    shop.dispatch("Wait", 1)
    first = shop.worker("orders", *options)
    shop.until(lambda: shop.told("begun"), "the handler runs")
    second = shop.worker("orders")
    shop.until(lambda: shop.told("handled")[1] == 1, "the other one has handled the message")
    shop.go_on()
    shop.until(lambda: shop.told("handled")[1] == 2, "the first one comes to its end")
    for worker in (first, second):
        worker.terminate()
        shop.end(worker)
    assert (0, 0) == shop.left()
    assert "Lost the lease of Wait" in shop.log(first)
    assert "1 handled" in shop.log(second)


@ARRANGEMENTS
def test_a_killed_worker_loses_nothing(shop: Shop, options: tuple[str, ...]) -> None:
    """What a worker had when it got SIGKILL comes to another one; what waited is not touched."""
    shop.dispatch("Wait", 1)
    first = shop.worker("orders", *options)
    shop.until(lambda: shop.told("begun"), "the handler runs")
    shop.dispatch("Order", *range(10, 20))
    first.kill()
    first.wait(PATIENCE)
    shop.go_on()
    second = shop.worker("orders")
    shop.until(lambda: (0, 0) == shop.left(), "all is handled")
    second.terminate()
    shop.end(second)
    assert {1, *range(10, 20)} == set(shop.told("handled"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
@ARRANGEMENTS
def test_an_idle_worker_stops(shop: Shop, options: tuple[str, ...], number: signal.Signals) -> None:
    """A worker that waits stops with exit code 0."""
    worker = shop.worker("orders", "mails", *options)
    worker.send_signal(number)
    shop.end(worker)
    assert f"it got {number.name}" in shop.log(worker)


# a signal before there is a worker, and when there is none any more

AT = """
def stay_at(point):
    Path(point).touch()
    end = time.monotonic() + 30
    while not is_told_to_go_on() and time.monotonic() < end:
        time.sleep(0.02)
"""

WHILE_IMPORTED = {
    "waits": 'stay_at("importing")\n',
    "swallows": 'try:\n    stay_at("importing")\nexcept BaseException:\n    pass\n',
    "translates": 'try:\n    stay_at("importing")\nexcept BaseException:\n    raise ImportError("What was that?")\n',
}

WHEN_STARTED = """
from postbus.events import WorkerStarted

@app.observe
def see(event):
    if isinstance(event, WorkerStarted):
        stay_at("started")
"""

# In the worker alone: who dispatches has the same app.
AT_THE_END = 'import atexit, sys\nif "consume" in sys.argv:\n    atexit.register(stay_at, "ending")\n'

WHEN_THE_HANDLER_CHANGES = """
install, changes = signal.signal, []

def install_and_get(number, handler):
    is_it = number == signal.SIGTERM and "POSTBUS_CHILD" not in os.environ
    if is_it:
        changes.append(handler)
    is_it = is_it and len(changes) == {change}
    if is_it and "{when}" == "before":
        os.kill(os.getpid(), number)
    before = install(number, handler)
    if is_it and "{when}" == "after":
        os.kill(os.getpid(), number)
    return before

signal.signal = install_and_get
"""


def write_staying(shop: Shop, code: str) -> None:
    start = f"import time\n{APP}{WAITING['sleeps']}{AT}"
    (shop.folder / "shop.py").write_text(start + code)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
@pytest.mark.parametrize("options", [(), ("--processes", "2"), ("--watch",)], ids=["one", "parent", "watch"])
def test_a_signal_while_the_app_is_imported(shop: Shop, options: tuple[str, ...], number: signal.Signals) -> None:
    """Nothing was fetched yet, so it ends at once, with exit code 0, and says why."""
    write_staying(shop, WHILE_IMPORTED["waits"])
    worker = shop.start("consume", "orders", *options)
    shop.until((shop.folder / "importing").exists, "the app is being imported")
    worker.send_signal(number)
    shop.end(worker)
    assert f"it got {number.name}, before it had begun" in shop.log(worker)


@pytest.mark.parametrize("kind", ["swallows", "translates"])
def test_a_signal_that_the_app_takes_for_something_else(shop: Shop, kind: str) -> None:
    """An app that catches everything while it is imported does not keep the worker from ending well."""
    write_staying(shop, WHILE_IMPORTED[kind])
    worker = shop.start("consume", "orders")
    shop.until((shop.folder / "importing").exists, "the app is being imported")
    worker.terminate()
    shop.end(worker)
    assert "it got SIGTERM, before it had begun" in shop.log(worker)
    assert "Consuming" not in shop.log(worker)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
@ARRANGEMENTS
def test_a_signal_as_soon_as_it_is_announced(shop: Shop, options: tuple[str, ...], number: signal.Signals) -> None:
    """Whoever reads that a signal stops the worker may send it, though the worker is only about to begin."""
    write_staying(shop, WHEN_STARTED)
    worker = shop.worker("orders", *options)
    shop.until((shop.folder / "started").exists, "it is about to begin")
    worker.send_signal(number)
    shop.go_on()
    shop.end(worker)
    assert f"Stopped, because it got {number.name}: 0 handled" in shop.log(worker)


def test_a_late_signal(shop: Shop) -> None:
    """One that comes when the worker has stopped, and its process is about to end, does not spoil the exit code."""
    write_staying(shop, AT_THE_END)
    worker = shop.worker("orders", "--limit", "1")
    shop.dispatch("Order", 1)
    shop.until((shop.folder / "ending").exists, "its process is about to end")
    worker.terminate()
    shop.go_on()
    shop.end(worker)


def test_three_late_signals(shop: Shop) -> None:
    """A process that something keeps from ending can be ended all the same."""
    write_staying(shop, AT_THE_END)
    worker = shop.worker("orders")
    worker.terminate()
    shop.until((shop.folder / "ending").exists, "its process is about to end")
    while worker.poll() is None:
        worker.terminate()
        time.sleep(0.1)
    shop.end(worker, 130)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("change", [1, 2], ids=["taken", "given back"])
@pytest.mark.parametrize(
    "options", [(), ("--concurrency", "3"), ("--processes", "2")], ids=["one", "three", "under a parent"]
)
def test_a_signal_when_its_handler_changes(shop: Shop, options: tuple[str, ...], change: int, when: str) -> None:
    """Right before and after a worker, or a parent, takes the signals, and gives them back: it ends well."""
    write_staying(shop, WHEN_THE_HANDLER_CHANGES.replace("{change}", str(change)).replace("{when}", when))
    limit = ("--time-limit", "0.5") if change == 2 else ()
    shop.end(shop.start("consume", "orders", *limit, *options))


def test_what_a_handler_forks_is_ended_by_a_signal(shop: Shop) -> None:
    """A process that a handler forks is no worker: a signal does with it what it does by default."""
    code = """
@dataclass(frozen=True)
class Fork:
    number: int

@app.handler
def fork(message: Fork) -> None:
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    os.kill(pid, signal.SIGTERM)
    tell("handled", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    write_staying(shop, code)
    shop.dispatch("Fork", 1)
    shop.end(shop.worker("orders", "--limit", "1"))
    assert 1 == shop.told("handled")[-signal.SIGTERM]


@ARRANGEMENTS
def test_a_second_signal_ends_several_at_once(shop: Shop, options: tuple[str, ...]) -> None:
    """The second signal waits for nothing: exit code 130, and everything is back with the broker."""
    shop.dispatch("Wait", *range(4))
    worker = shop.worker("orders", *options)
    shop.until(lambda: len(shop.told("begun")) == (3 if options else 1), "all slots are busy")
    worker.terminate()
    shop.until(lambda: shop.left() == ((1, 3) if options else (3, 1)), "what was fetched ahead is back")
    worker.send_signal(signal.SIGINT)
    shop.end(worker, 130)
    assert (4, 0) == shop.left()


@ARRANGEMENTS
@pytest.mark.parametrize(("signals", "code"), [(1, 0), (2, 130)])
def test_threads_of_an_interrupted_handler_do_not_keep_the_process(
    shop: Shop, options: tuple[str, ...], signals: int, code: int
) -> None:
    """Python waits for threads at its end; a worker whose grace is over does not."""
    waiting = WAITING["awaits"].replace("await asyncio.sleep(0.02)", "await asyncio.to_thread(threading.Event().wait)")
    (shop.folder / "shop.py").write_text(APP + waiting)
    shop.dispatch("Wait", 1)
    worker = shop.worker("orders", "--grace", "1", *options)
    shop.until(lambda: shop.told("begun"), "the handler runs")
    for _ in range(signals):
        worker.terminate()
        time.sleep(0.1)
    shop.end(worker, code)
    assert (1, 0) == shop.left()


# a process that does not end although its worker has

LINGERS = {
    "a thread": """
@app.handler
def wait(message: Wait) -> None:
    threading.Thread(target=threading.Event().wait, name="lingering").start()
    raise SystemExit
""",
    "an executor": """
from concurrent.futures import ThreadPoolExecutor

@app.handler
def wait(message: Wait) -> None:
    ThreadPoolExecutor(thread_name_prefix="lingering").submit(threading.Event().wait)
    raise SystemExit
""",
    "what was registered": """
import atexit

def linger_at_the_end():
    threading.Event().wait()

@app.handler
def wait(message: Wait) -> None:
    atexit.register(linger_at_the_end)
    raise SystemExit
""",
}


@pytest.mark.parametrize("kind", list(LINGERS))
def test_a_process_that_does_not_end_is_ended(shop: Shop, kind: str) -> None:
    """When the grace is over, with the exit code that it would have had, and a line that says what held it up."""
    (shop.folder / "shop.py").write_text(APP + LINGERS[kind])
    shop.dispatch("Wait", 1)
    worker = shop.start("consume", "orders", "--grace", "0.5")
    assert 0 == worker.wait(PATIENCE)
    assert "Ending this process, which did not end within" in shop.log(worker)
    held_up_by = "in linger_at_the_end" if kind == "what was registered" else "thread 'lingering"
    assert held_up_by in shop.log(worker)
    assert "threading.py" in shop.log(worker)


def test_another_takes_the_place_of_a_child_that_does_not_end(shop: Shop) -> None:
    """What its handlers have left behind keeps no message waiting."""
    (shop.folder / "shop.py").write_text(APP + LINGERS["a thread"])
    parent = shop.start("consume", "orders", "--processes", "1", "--grace", "0.5")
    shop.until(lambda: "Consuming 'orders'." in shop.log(parent), "the child has begun")
    shop.dispatch("Wait", 1)
    shop.until(lambda: "Stopped, because a handler raised SystemExit" in shop.log(parent), "it has stopped")
    shop.dispatch("Order", *range(10))
    shop.until(lambda: len(shop.told("handled")) == 10, "the work goes on")
    parent.terminate()
    shop.end(parent)


# a hangup


@pytest.mark.parametrize(
    "options", [(), ("--concurrency", "3"), ("--processes", "1")], ids=["one", "three", "under a parent"]
)
def test_a_hangup_stops_a_worker(shop: Shop, options: tuple[str, ...]) -> None:
    """When its terminal is closed, it finishes what it has begun, also if the hangup comes twice."""
    shop.dispatch("Wait", 1)
    worker = shop.start("consume", "orders", *options)
    shop.until(lambda: shop.told("begun"), "the handler runs")
    worker.send_signal(signal.SIGHUP)
    shop.until(lambda: "SIGHUP" in shop.log(worker) if "--processes" in options else True, "it is heard")
    worker.send_signal(signal.SIGHUP)
    shop.go_on()
    shop.end(worker)
    assert Counter({1: 1}) == shop.told("handled")
    assert (0, 0) == shop.left()
    assert "it got SIGHUP" in shop.log(worker)


@pytest.mark.parametrize("options", [(), ("--processes", "1")], ids=["one", "under a parent"])
def test_a_hangup_that_was_ignored_stays_so(shop: Shop, options: tuple[str, ...]) -> None:
    """A worker that is started with nohup outlives its terminal."""
    worker = shop.worker("orders", *options, before=("nohup",))
    worker.send_signal(signal.SIGHUP)
    for child in children(worker):
        os.kill(child, signal.SIGHUP)
    shop.dispatch("Order", 1)
    shop.until(lambda: shop.told("handled"), "it goes on")
    worker.terminate()
    shop.end(worker)
    assert "SIGHUP" not in shop.log(worker)


def test_a_hangup_that_the_app_handles_is_the_apps(shop: Shop) -> None:
    """Some programs read their configuration again."""
    code = 'signal.signal(signal.SIGHUP, lambda *_: tell("reloaded", 1))\n'
    (shop.folder / "shop.py").write_text(APP + WAITING["sleeps"] + code)
    worker = shop.worker("orders")
    worker.send_signal(signal.SIGHUP)
    shop.until(lambda: shop.told("reloaded"), "it is heard")
    shop.dispatch("Order", 1)
    shop.until(lambda: shop.told("handled"), "it goes on")
    worker.terminate()
    shop.end(worker)


def test_rolling_restarts_lose_nothing_and_double_nothing(shop: Shop) -> None:
    """Workers that are replaced one after the other under load handle each message exactly once."""
    numbers = range(3000)
    shop.dispatch("Order", *numbers)
    workers = [shop.worker("orders"), shop.worker("orders", "--concurrency", "5")]
    for options in [(), ("--concurrency", "5")] * 3:
        workers.append(shop.worker("orders", *options))
        oldest = workers.pop(0)
        oldest.terminate()
        shop.end(oldest)
        shop.dispatch("Order", *numbers)
    shop.until(lambda: (0, 0) == shop.left(), "all is handled")
    for worker in workers:
        worker.terminate()
        shop.end(worker)
    assert dict.fromkeys(numbers, 7) == shop.told("handled")


@ARRANGEMENTS
def test_an_outage_that_is_too_long_ends_a_worker_with_an_error(shop: Shop, options: tuple[str, ...]) -> None:
    """With ``--max-outage`` a worker that does not reach its broker ends with exit code 1 and a sentence."""
    code = (APP + WAITING["sleeps"]).replace("sqlite:///shop.db?queue_name=mails", "redis://127.0.0.1:1/mails?group=a")
    (shop.folder / "shop.py").write_text(code.replace("&redeliver_timeout=1", ""))
    worker = shop.start("consume", "mails", "--max-outage", "0.5", *options)
    shop.end(worker, 1)
    assert "Error: Transport 'mails' could not be reached for 0.5 s." in shop.log(worker)
    assert 1 == shop.log(worker).count("Lost 'mails'")


def test_an_outage_ends_a_worker_whatever_still_runs(shop: Shop) -> None:
    """Python would wait for the threads that a handler has started; when its grace is over, nobody does."""
    code = (APP + IN_A_POOL).replace("sqlite:///shop.db?queue_name=mails", "redis://127.0.0.1:1/mails?group=a")
    (shop.folder / "shop.py").write_text(code.replace("/mails?group=a&redeliver_timeout=1", "/mails?group=a"))
    shop.dispatch("Wait", 1)
    worker = shop.start("consume", "orders", "mails", "--concurrency", "2", "--max-outage", "5", "--grace", "0.2")
    shop.until(lambda: shop.told("begun"), "a handler runs")
    shop.end(worker, 1)
    assert "a transport failed for good: Transport 'mails' could not be reached for 5 s." in shop.log(worker)
    assert (1, 0) == shop.left()


def test_a_probe_looks_at_each_process(shop: Shop) -> None:
    """``check --worker`` finds the files of all children, by the name that was given to their parent."""
    probe = ("check", "--worker", "--health-file", "health", "--max-age", "30")
    parent = shop.start("consume", "orders", "--processes", "2", "--health-file", "health")
    shop.until(lambda: len(list(shop.folder.glob("health.[12]"))) == 2, "both have given a sign of life")
    shop.end(shop.start(*probe))
    parent.terminate()
    shop.end(parent)
    shop.end(shop.start(*probe), 1)


# messages that workers may have died of

KILLS = """
@app.handler
def wait(message: Wait) -> None:
    tell("begun", message.number)
    if message.number == 2 and os.fork() == 0:
        threading.Event().wait(20)
        os._exit(0)
    if message.number < 100:
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait(0.3)  # So that it is in hand when its neighbour kills.
    tell("handled", message.number)
"""


def write_suspicious(shop: Shop, code: str) -> None:
    """Write an app whose leases a busy machine does not lose, since that counts as a death."""
    (shop.folder / "shop.py").write_text(APP.replace("redeliver_timeout=1", "redeliver_timeout=5") + code)


def die_twice(shop: Shop) -> None:
    """Fetch all that there is twice and neither settle it nor give it back, as workers do that die."""
    code = """
import time
from postbus import Postbus
transports = {"orders": "sqlite:///shop.db?queue_name=orders&redeliver_timeout=1"}
connection = Postbus(transports=transports).transport("orders").connection
for _ in range(2):
    assert connection.fetch(1000, 10)
    time.sleep(1.5)
"""
    subprocess.run([sys.executable, "-c", code], cwd=shop.folder, timeout=PATIENCE, check=True)


def runs(process: int) -> bool:
    """Say whether a process has not ended; who should take note of its end may not have done so yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def errors_of_buried(shop: Shop) -> str:
    with closing(sqlite3.connect(shop.folder / "shop.db")) as database:
        rows = database.execute("SELECT headers FROM messenger_messages WHERE queue_name = 'failed'")
        return " ".join(headers for (headers,) in rows)


def test_what_workers_may_have_died_of_stops_nobody(shop: Shop) -> None:
    """Messages that have come for the third time and take long do not keep others waiting, and are handled as well."""
    write_suspicious(shop, WAITING["sleeps"])
    shop.dispatch("Wait", *range(1, 9))
    die_twice(shop)
    shop.dispatch("Order", *range(100, 150))
    worker = shop.worker("orders", "--concurrency", "3")
    shop.until(lambda: len(shop.told("begun")) == 3, "some of them are tried")
    shop.until(lambda: len(shop.told("handled")) == 50, "all others are handled")
    assert 3 == len(shop.told("begun")) == len(shop.tellers("begun"))
    assert shop.tellers("begun").isdisjoint(shop.tellers("handled"))
    shop.go_on()
    shop.until(lambda: (0, 0) == shop.left(), "all is handled")
    worker.terminate()
    shop.end(worker)
    assert Counter([*range(1, 9), *range(100, 150)]) == shop.told("handled")
    assert "58 handled, 0 failed" in shop.log(worker)


def test_only_what_kills_is_buried(shop: Shop) -> None:
    """What was in hand together with it is handled in the end; the third that dies of it is a process of its own."""
    write_suspicious(shop, KILLS)
    shop.dispatch("Wait", 1)
    shop.dispatch("Wait", *range(100, 110))
    shop.dispatch("Wait", 2)
    parent = shop.start("consume", "orders", "--processes", "1", "--concurrency", "12")
    shop.until(lambda: shop.left("failed") == (2, 0), "both are buried")
    shop.until(lambda: (0, 0) == shop.left(), "all others are handled")
    parent.terminate()
    shop.end(parent)
    assert set(range(100, 110)) == set(shop.told("handled"))
    assert 2 == shop.log(parent).count("Poisonous: 3 workers died, or lost it, while they had it in hand.")
    assert 2 == shop.log(parent).count("was handled by itself has died (SIGKILL)")


def test_what_fails_in_a_process_of_its_own_has_failed(shop: Shop) -> None:
    """It is buried with its own error, once, and counts as failed; so it does if it would end its process."""
    code = """
@app.handler
def wait(message: Wait) -> None:
    tell("begun", message.number)
    raise {1: ValueError, 2: SystemExit, 3: ValueError}[message.number](f"no {message.number}")
"""
    write_suspicious(shop, code)
    shop.dispatch("Wait", 1, 2, 3)
    die_twice(shop)
    worker = shop.worker("orders", "--concurrency", "2")
    shop.until(lambda: shop.left("failed") == (3, 0), "all are buried")
    shop.until(lambda: (0, 0) == shop.left(), "all is settled")
    worker.terminate()
    shop.end(worker)
    assert Counter({1: 1, 2: 1, 3: 1}) == shop.told("begun")
    assert all(f"no {number}" in errors_of_buried(shop) for number in (1, 2, 3))
    assert "0 handled, 3 failed" in shop.log(worker)


def test_a_process_of_its_own_has_what_handlers_need(shop: Shop) -> None:
    """Start hooks run in each process that handles messages, and what is provided is made in it."""
    code = """
@app.on_start
def begin() -> None:
    tell("started", 0)


class Needed:
    def __init__(self) -> None:
        self.process = os.getpid()


app.provide(Needed, Needed)


@app.handler
def wait(message: Wait, needed: Needed) -> None:
    assert needed.process == os.getpid()
    tell("handled", message.number)
"""
    write_suspicious(shop, code)
    shop.dispatch("Wait", 1, 2)
    die_twice(shop)
    worker = shop.worker("orders", "--concurrency", "2")
    shop.until(lambda: (0, 0) == shop.left(), "all is handled")
    worker.terminate()
    shop.end(worker)
    assert Counter([1, 2]) == shop.told("handled")
    assert shop.tellers("handled") < shop.tellers("started")


def test_without_a_process_of_its_own_it_has_the_worker_to_itself(shop: Shop) -> None:
    """Where such a process cannot begin, that is said once, and the message is handled all the same."""
    # Such a process leads a group of its own.
    code = 'if os.getpgrp() == os.getpid():\n    raise RuntimeError("There can be only one.")\n'
    write_suspicious(shop, code)
    shop.dispatch("Order", *range(5))
    die_twice(shop)
    worker = shop.worker("orders", "--concurrency", "2")
    shop.until(lambda: (0, 0) == shop.left(), "all is handled")
    worker.terminate()
    shop.end(worker)
    assert Counter(range(5)) == shop.told("handled")
    assert 1 == shop.log(worker).count("No process can be started for messages that workers died of")


@pytest.mark.parametrize(("signals", "code"), [(1, 0), (2, 130)])
def test_what_is_tried_by_itself_is_not_left_behind(shop: Shop, signals: int, code: int) -> None:
    """A worker that ends takes the process along in which such a message is handled, and gives it back."""
    write_suspicious(shop, WAITING["sleeps"])
    shop.dispatch("Wait", 1, 2, 3)
    die_twice(shop)
    worker = shop.worker("orders", "--concurrency", "2", "--grace", "60" if signals > 1 else "0.5")
    shop.until(lambda: len(shop.told("begun")) == 2, "two are tried")
    processes = shop.tellers("begun")
    worker.terminate()
    if signals > 1:
        shop.until(lambda: (1, 2) == shop.left(), "what had not begun is back")
        worker.send_signal(signal.SIGINT)
    shop.end(worker, code)
    shop.until(lambda: not any(map(runs, processes)), "those processes have ended")
    assert (3, 0) == shop.left()
    assert (0, 0) == shop.left("failed")


def test_what_is_tried_by_itself_ends_with_its_worker(shop: Shop) -> None:
    """A worker that is killed leaves no process behind that still handles what others get."""
    write_suspicious(shop, WAITING["sleeps"])
    shop.dispatch("Wait", 1)
    die_twice(shop)
    worker = shop.worker("orders", "--concurrency", "2")
    shop.until(lambda: shop.told("begun"), "it is tried")
    [process] = shop.tellers("begun")
    worker.kill()
    shop.until(lambda: not runs(process), "that process has ended")


# under a parent


def children(parent: Popen[str]) -> list[int]:
    path = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to look for children")
class TestProcesses:
    def start(self, shop: Shop, *options: str, python: str = sys.executable) -> Popen[str]:
        parent = shop.start("consume", "orders", "--processes", "2", *options, python=python)
        shop.until(lambda: shop.log(parent).count("Consuming 'orders'.") == 2, "both children have begun")
        return parent

    def test_a_signal_is_passed_on(self, shop: Shop) -> None:
        """The parent passes a signal on, waits for its children, and ends as they do."""
        parent = self.start(shop)
        shop.dispatch("Order", *range(50))
        shop.until(lambda: len(shop.told("handled")) == 50, "all is handled")
        parent.terminate()
        shop.end(parent)
        assert {"[worker 1]", "[worker 2]"} <= {line[:10] for line in shop.log(parent).splitlines()}
        assert 2 == shop.log(parent).count("it got SIGTERM")

    def test_what_all_are_sent_is_one_signal(self, shop: Shop) -> None:
        """As systemd stops a service by default: its parent and its children get SIGTERM, and work is finished."""
        parent = self.start(shop)
        shop.dispatch("Wait", 1, 2)
        shop.until(lambda: len(shop.told("begun")) == 2, "both run")
        for pid in children(parent):
            os.kill(pid, signal.SIGTERM)
        parent.terminate()
        shop.until(lambda: "Stopping 2 workers" in shop.log(parent), "the parent passes it on")
        shop.go_on()
        shop.end(parent)
        assert Counter({1: 1, 2: 1}) == shop.told("handled")

    def test_what_dies_is_started_again(self, shop: Shop) -> None:
        """A child that was killed is replaced, and what it had is handled."""
        parent = self.start(shop)
        shop.dispatch("Wait", 1)
        shop.until(lambda: shop.told("begun"), "a handler runs")
        for pid in children(parent):
            os.kill(pid, signal.SIGKILL)
        shop.until(lambda: shop.told("begun")[1] > 1, "it runs again")
        shop.go_on()
        shop.until(lambda: shop.told("handled"), "it is handled")
        assert "died (SIGKILL); starting it again" in shop.log(parent)
        parent.terminate()
        shop.end(parent)

    def test_what_cannot_be_started_is_tried_again(self, shop: Shop) -> None:
        """When the system has no room for another process, the parent lives, says so, and tries again later."""
        python = shop.folder / "python" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.symlink_to(os.path.realpath(sys.executable))
        shutil.copy(Path(sys.prefix) / "pyvenv.cfg", shop.folder / "python")
        (shop.folder / "python" / "lib").symlink_to(Path(sys.prefix) / "lib")
        parent = self.start(shop, python=str(python))
        python.rename(python.with_name("gone"))
        os.kill(children(parent)[0], signal.SIGKILL)
        shop.until(lambda: "could not be started (No such file or directory)" in shop.log(parent), "it was tried")
        python.with_name("gone").rename(python)
        shop.until(lambda: len(children(parent)) == 2, "there are two again")
        shop.dispatch("Order", *range(10))
        shop.until(lambda: len(shop.told("handled")) == 10, "the work goes on")
        parent.terminate()
        shop.end(parent)

    def test_a_child_that_grew_too_large_is_replaced(self, shop: Shop) -> None:
        """The limit of memory holds for each child, and another one takes its place."""
        parent = self.start(shop, "--memory-limit", "150M")
        shop.dispatch("Grow", 1)
        shop.until(lambda: "Replacing worker" in shop.log(parent), "it is replaced")
        shop.dispatch("Order", 2)
        shop.until(lambda: shop.told("handled")[2], "the work goes on")
        parent.terminate()
        shop.end(parent)

    def test_a_child_that_cannot_begin_is_replaced_ever_later(self, shop: Shop) -> None:
        """One that has outgrown its limit as soon as it is there is started again after a pause, and it is said."""
        parent = shop.start("consume", "orders", "--processes", "1", "--memory-limit", "1M")
        sentence = "Worker 1 died (exit code 1); starting it again in "
        shop.until(lambda: sentence in shop.log(parent), "it is started again")
        parent.terminate()
        shop.end(parent)

    @pytest.mark.parametrize("code", [0, 2])
    def test_a_child_that_a_handler_ends_is_replaced(self, shop: Shop, code: int) -> None:
        """Whatever the code: it says nothing about the worker. The message has failed."""
        (shop.folder / "shop.py").write_text(APP + EXITS)
        parent = shop.start("consume", "orders", "--processes", "1")
        shop.dispatch("Wait", code)
        shop.dispatch("Order", 1)
        shop.until(lambda: shop.told("handled"), "the work goes on")
        assert f"Stopped, because a handler raised SystemExit: {code}." in shop.log(parent)
        parent.terminate()
        shop.end(parent)
        assert ((0, 0), (1, 0)) == (shop.left(), shop.left("failed"))
        assert Counter({code: 1}) == shop.told("begun")

    def test_a_signal_after_a_mistake_is_the_first(self, shop: Shop) -> None:
        """When a child finds a mistake, its parent stops the others; that is no signal to end at once."""
        parent = self.start(shop)
        shop.dispatch("Wait", 1)
        shop.until(lambda: shop.told("begun"), "a handler runs")
        module = shop.folder / "shop.py"
        module.write_text(module.read_text().replace('failure_transport="failed"', 'failure_transport="nowhere"'))
        (idle,) = {*children(parent)} - shop.tellers("begun")
        os.kill(idle, signal.SIGKILL)
        shop.until(lambda: "Stopping 1 worker" in shop.log(parent), "the mistake was found")
        parent.terminate()
        shop.go_on()
        shop.end(parent, 2)
        assert Counter({1: 1}) == shop.told("handled")

    def test_stop_workers_reaches_the_children(self, shop: Shop) -> None:
        """``stop-workers`` ends all children well, and so their parent."""
        parent = self.start(shop)
        shop.end(shop.start("stop-workers"))
        shop.end(parent)

    def test_children_do_not_outlive_their_parent(self, shop: Shop) -> None:
        """If the parent is killed, its children stop by themselves, after what they have in hand."""
        parent = self.start(shop)
        orphans = children(parent)
        parent.kill()
        parent.wait(PATIENCE)
        shop.until(lambda: shop.log(parent).count("its parent is gone") == 2, "the children have stopped")
        assert 2 == len(orphans)

    def test_a_mistake_is_not_repeated(self, shop: Shop) -> None:
        """What starting again does not mend ends the parent, with the sentence and exit code 2."""
        parent = shop.start("consume", "ordesr", "--processes", "2")
        shop.end(parent, 2)
        assert 1 == shop.log(parent).count("There is no transport 'ordesr'")

    def test_a_second_signal_is_passed_on_too(self, shop: Shop) -> None:
        """A second signal ends the children at once."""
        parent = self.start(shop)
        shop.dispatch("Wait", 1, 2)
        shop.until(lambda: len(shop.told("begun")) == 2, "both run")
        parent.terminate()
        shop.until(lambda: "Stopping 2 workers" in shop.log(parent), "the first was heard")
        parent.terminate()
        shop.end(parent, 130)
        assert (2, 0) == shop.left()


def test_there_are_as_many_as_what_waits_calls_for(shop: Shop) -> None:
    """With a least and a most, workers are started while messages wait for long, and stopped when nothing does."""
    shop.dispatch("Wait", *range(8))
    parent = shop.start("consume", "orders", "--processes", "1:3")
    shop.until(lambda: len(shop.told("begun")) == 3, "three run")
    shop.go_on()
    shop.until(lambda: (0, 0) == shop.left(), "all is handled")
    shop.until(lambda: "Stopping worker" in shop.log(parent), "one is stopped")
    parent.terminate()
    shop.end(parent)
    assert 3 == len({line.split("]")[0] for line in shop.log(parent).splitlines() if line.startswith("[worker")})


def test_workers_are_started_anew_when_code_changes(shop: Shop) -> None:
    """With ``--watch`` the workers run the new code, survive code that cannot be imported, and end as any other."""
    pytest.importorskip("watchfiles")
    module = shop.folder / "shop.py"
    parent = shop.start("consume", "orders", "--watch")
    shop.until(lambda: "a second one at once" in shop.log(parent), "it has begun")
    time.sleep(0.5)  # Until the folder is watched; nothing tells when.
    module.write_text(module.read_text() + "1 / 0\n")
    shop.until(lambda: "starting it again at the next change" in shop.log(parent), "the broken code was tried")
    module.write_text(module.read_text().replace("1 / 0", "").replace('tell("handled"', 'tell("handled anew"'))
    shop.until(lambda: shop.log(parent).count("a second one at once") == 2, "it has begun again")
    shop.dispatch("Order", 1)
    shop.until(lambda: (0, 0) == shop.left(), "it is handled")
    parent.terminate()
    shop.end(parent)
    assert "handled anew 1" in (shop.folder / "told").read_text()


CAN_UNSHARE = (
    shutil.which("unshare") is not None
    and subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True).returncode == 0
)


@pytest.mark.skipif(not CAN_UNSHARE, reason="needs unshare, and the right to make a PID namespace, to be process 1")
def test_as_the_first_process_of_a_container(shop: Shop) -> None:
    """As PID 1 it stops on SIGTERM as anywhere else, and buries the orphans that handlers leave behind."""
    code = APP + WAITING["sleeps"] + "\n\n@app.handler(handles=Mail)\ndef leave(mail):\n    import subprocess\n"
    code += "    subprocess.run('sleep 0.1 & sleep 0.1 &', shell=True)\n"
    (shop.folder / "shop.py").write_text(code)
    shop.dispatch("Mail", 1, 2, 3)
    shop.dispatch("Wait", 1)
    unshare = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    outer = shop.worker("mails", "orders", "--concurrency", "2", "--grace", "0.2", before=unshare)
    shop.until(lambda: shop.told("begun") and (0, 0) == shop.left("mails"), "all is handled")
    [first] = children(outer)

    def states() -> dict[str, str]:
        statuses = [Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2] for pid in descendants(first)]
        return {str(number): status[0] for number, status in enumerate(statuses)}

    shop.until(lambda: list(states().values()) == ["S"], "only the worker is left of its children")
    os.kill(first, signal.SIGTERM)
    shop.end(outer)
    assert (1, 0) == shop.left()


def descendants(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]


@ARRANGEMENTS
def test_a_message_that_kills_is_buried_on_redis_too(shop: Shop, options: tuple[str, ...], redis_plain: Any) -> None:
    """Where a broker counts deliveries, three deaths are enough, and nobody else is counted against."""
    dsn = f"{redis_plain.dsn}/{shop.folder.name}?redeliver_timeout=1&claim_interval=100"
    killer = (
        "\n\n@app.handler(handles=Mail, priority=1)\ndef kill(mail):\n    if mail.number == 13:\n        os.abort()\n"
    )
    code = f"{APP}{WAITING['sleeps']}{killer}"
    code = code.replace("sqlite:///shop.db?queue_name=mails&redeliver_timeout=1", dsn)
    (shop.folder / "shop.py").write_text(code)
    shop.dispatch("Mail", *range(30))
    parent = shop.start("consume", "mails", "--processes", "1", *options)
    shop.until(lambda: len(shop.told("handled")) == 29 and "Burying" in shop.log(parent), "all is settled")
    parent.terminate()
    shop.end(parent)

    assert set(range(30)) - {13} == set(shop.told("handled"))
    assert (1, 0) == shop.left("failed")
    assert 3 == shop.log(parent).count("died (SIGABRT)")


def test_every_line_of_all_children_is_json(shop: Shop) -> None:
    """The children's lines name the child, in JSON too."""
    parent = shop.start("consume", "orders", "--processes", "2", "--time-limit", "0.5", "--log-format", "json", "-v")
    shop.end(parent)
    lines = [json.loads(line) for line in shop.log(parent).splitlines()]
    assert {"worker 1", "worker 2", None} == {line.get("process") for line in lines}


@pytest.mark.parametrize(
    "death", ["os.kill(os.getpid(), signal.SIGKILL)", "ctypes.string_at(0)"], ids=["kill", "crash"]
)
@ARRANGEMENTS
def test_a_message_that_kills_is_buried_and_its_neighbours_are_not(
    shop: Shop, options: tuple[str, ...], death: str
) -> None:
    """After three workers died of it, a message lies in the failure transport; what was fetched with it is handled."""
    killer = (
        f"\n\n@app.handler(handles=Mail, priority=1)\ndef kill(mail):\n    if mail.number == 13:\n        {death}\n"
    )
    (shop.folder / "shop.py").write_text(f"import ctypes\n{APP}{WAITING['sleeps']}{killer}")
    shop.dispatch("Mail", *range(30))
    parent = shop.start("consume", "mails", "--processes", "1", *options)
    shop.until(lambda: (0, 0) == shop.left("mails"), "all is settled")
    parent.terminate()
    shop.end(parent)

    assert set(range(30)) - {13} == set(shop.told("handled"))
    assert (1, 0) == shop.left("failed")
    assert 3 == shop.log(parent).count("died (")
    assert "3 workers died, or lost it, while they had it in hand" in shop.log(parent)
