"""Thousands of ``async def`` handlers that wait at the same time, in a process of their own.

``python -m benchmarks.coroutines worker 1000`` lets a worker handle them, ``nested 1000`` awaits so many dispatches,
each of which awaits two more inside one another. The last line that it prints is what that has cost, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from benchmarks.measuring import Unavailable
from benchmarks.messages import MESSAGE, TRANSPORT, OrderPlaced, make_app
from postbus import Limits, Postbus

WAIT = 1.0
"""Seconds for which each handler of a worker waits."""
TURNS = 2
"""How many messages there are for each that is handled at a time: so a worker has to begin others as some end."""
SHORT_WAIT = 0.01
PATIENCE = 120.0
"""Seconds after which a process is given up."""

Kind = Literal["worker", "nested"]


@dataclass(frozen=True)
class Cost:
    """What it has taken, for each message but for the threads."""

    seconds: float
    """From the begin of the first handler to the end of the last."""
    core: float
    """Seconds of a core."""
    threads: float
    """How many there were at the same time."""


@dataclass(frozen=True)
class Outer:
    """Its handler dispatches another, and waits for that."""

    depth: int


def measure(kind: Kind, number: int) -> Cost:
    """Let a process do it; what runs into a deadlock is not measured."""
    command = [sys.executable, "-m", "benchmarks.coroutines", kind, str(number)]
    root = Path(__file__).parents[1]
    try:
        run = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=True)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{number} had not ended after {PATIENCE:.0f} s") from None
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"the process ended with {error.returncode}; its error is above") from None
    return Cost(**json.loads(run.stdout.splitlines()[-1]))


def work_off(number: int) -> Cost:
    """Let a worker handle so many at a time, from memory."""
    begun: list[float] = []
    ended: list[float] = []
    most_threads = 0

    async def wait(order: OrderPlaced) -> None:
        nonlocal most_threads
        begun.append(time.perf_counter())
        await asyncio.sleep(WAIT)
        most_threads = max(most_threads, threading.active_count())
        ended.append(time.perf_counter())

    count = number * TURNS
    with make_app("in-memory://", wait) as app:
        app.dispatch_many([MESSAGE] * count)
        before = time.process_time()
        app.worker(TRANSPORT, concurrency=number, limits=Limits(messages=count)).run()
        core = time.process_time() - before
    return Cost((max(ended) - min(begun)) / count, core / count, most_threads)


def dispatch_nested(number: int) -> Cost:
    """Await so many dispatches at once, three deep, as a web application does whose handlers dispatch."""
    app = Postbus(config={})
    most_threads = 0

    @app.handler
    async def wait(outer: Outer) -> None:
        nonlocal most_threads
        if outer.depth:
            await app.dispatch_async(Outer(outer.depth - 1))
            return
        await asyncio.sleep(SHORT_WAIT)
        most_threads = max(most_threads, threading.active_count())

    async def dispatch_all() -> None:
        await asyncio.gather(*(app.dispatch_async(Outer(2)) for _ in range(number)))

    before, started = time.process_time(), time.perf_counter()
    asyncio.run(dispatch_all())
    seconds, core = time.perf_counter() - started, time.process_time() - before
    return Cost(seconds / number, core / number, most_threads)


if __name__ == "__main__":
    cost = work_off if sys.argv[1] == "worker" else dispatch_nested
    print(json.dumps(asdict(cost(int(sys.argv[2])))), flush=True)
