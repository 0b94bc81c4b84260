"""The process around the app: one that is ending, and one whose threads are those of gevent."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PATIENCE = 60.0
"""Seconds after which something that must happen counts as never happening."""

APP = """
import sys
from dataclasses import dataclass
from postbus import Postbus

@dataclass(frozen=True)
class Task:
    number: int

app = Postbus(transports={"tasks": "in-memory://"}, routing={})
"""


def run(folder: Path, source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program with an app in a process of its own."""
    (folder / "shop.py").write_text(textwrap.dedent(source))
    return subprocess.run(
        [sys.executable, "shop.py", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("how", ["first", "again"])
def test_nothing_is_dispatched_by_a_process_that_has_ended(tmp_path: Path, kind: str, how: str) -> None:
    """In a `__del__` as Python ends, all threads stand still: that is said, and not waited for."""
    finished = run(
        tmp_path,
        APP
        + f"""
@app.handler
{kind} handle(task: Task) -> None:
    print("handled", task.number, flush=True)

class Last:
    def __del__(self, print=print, PostbusError=app.bus.__globals__["PostbusError"]) -> None:
        try:
            app.dispatch(Task(2))
        except PostbusError as error:
            print(error, flush=True)

last = Last()
if "again" in sys.argv:
    app.dispatch(Task(1))
""",
        how,
    )
    before = ["handled 1"] if how == "again" else []
    said = (
        "Python is ending, and has stopped all threads, so nothing can be dispatched any more. Do it before that, "
        "for example in a function that is registered with atexit, and not in __del__."
    )
    assert ([*before, said], "", 0) == (finished.stdout.splitlines(), finished.stderr, finished.returncode)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_process_that_ends_may_dispatch_with_atexit(tmp_path: Path, kind: str) -> None:
    """As the sentence says; threads go on until then."""
    finished = run(
        tmp_path,
        APP
        + f"""
import atexit

@app.handler
{kind} handle(task: Task) -> None:
    print("handled", task.number, flush=True)

app.dispatch(Task(1))
atexit.register(lambda: app.dispatch(Task(2)))
""",
    )
    assert (["handled 1", "handled 2"], "", 0) == (finished.stdout.splitlines(), finished.stderr, finished.returncode)


GEVENT = """
import gevent.monkey
gevent.monkey.patch_all()
import asyncio, os, signal, time
import gevent
""" + APP.replace("routing={}", 'routing={Task: "tasks"}')


@pytest.mark.parametrize("concurrency", ["1", "3"])
def test_async_handlers_run_beside_gevent(tmp_path: Path, concurrency: str) -> None:
    """With everything patched, a worker's async and def handlers run, nest dispatches, and stop at a signal."""
    pytest.importorskip("gevent")
    finished = run(
        tmp_path,
        GEVENT
        + """
@dataclass(frozen=True)
class Step:
    left: int

done = []

@app.handler
async def handle(task: Task) -> None:
    await asyncio.sleep(0.01)
    await app.dispatch_async(Step(30))
    note(task)

@app.handler
async def step(step: Step) -> None:
    if step.left:
        await app.dispatch_async(Step(step.left - 1))

@app.handler
def note(task: Task) -> None:
    time.sleep(0.01)
    done.append(task.number)
    if len(done) == 6:
        os.kill(os.getpid(), signal.SIGTERM)

app.dispatch_many(Task(number) for number in range(3))
stopped = app.worker(concurrency=int(sys.argv[1])).run()
print(stopped.reason, stopped.handled, stopped.failed, sorted(done))
""",
        concurrency,
    )
    assert ("it got SIGTERM 3 0 [0, 0, 1, 1, 2, 2]\n", "", 0) == (finished.stdout, finished.stderr, finished.returncode)


@pytest.mark.parametrize("concurrency", ["1", "3"])
def test_a_time_limit_beside_gevent_replaces_the_worker(tmp_path: Path, concurrency: str) -> None:
    """No signal reaches a greenlet, so a def handler is dealt with as elsewhere one in C code that does not end."""
    pytest.importorskip("gevent")
    finished = run(
        tmp_path,
        GEVENT
        + """
@app.handler(time_limit=0.2)
def handle(task: Task) -> None:
    while not stopped_telling:
        time.sleep(0.01)

stopped_telling = []
app.observe(lambda event: stopped_telling.append(1) if type(event).__name__ == "MessageFailed" else None)
app.dispatch(Task(1))
stopped = app.worker(concurrency=int(sys.argv[1])).run(abandon=print)
print(stopped.reason, stopped.handled, stopped.failed)
""",
        concurrency,
    )
    assert 0 == finished.returncode, finished.stderr
    assert finished.stdout.endswith("a handler does not end within its time limit 0 1\n")
    assert "took longer than its time limit of 0.2 s and cannot be stopped. Ending this worker" in finished.stderr
