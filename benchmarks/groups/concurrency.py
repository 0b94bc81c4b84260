"""Several messages at once, from Redis.

The handler waits for 10 ms; beside it, what so many slots would do that never wait for a message.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from functools import partial
from typing import Literal

from benchmarks import broker, machine
from benchmarks.groups import Prepared
from benchmarks.measuring import Figure, Unavailable, seconds_per
from benchmarks.messages import TRANSPORT, OrderPlaced, make_app
from benchmarks.queues import Queues
from benchmarks.raw import Queue
from benchmarks.raw.redis import Stream
from postbus import Limits

BESIDE = "ideal"
WAIT = 0.01
AT_ONCE = (1, 10, 100)
TURNS = 200
"""How often each slot waits: long enough that the first turn and the last one weigh little."""
PATIENCE = 60.0
"""Seconds after which a worker is given up."""

Kind = Literal["def", "async def"]
ALONE: dict[Kind, str] = {"def": "time.sleep in threads", "async def": "asyncio.sleep in tasks"}


@contextmanager
def figures() -> Generator[Prepared]:
    """Measure with the server on one core and this process on another."""
    with broker.running("redis_plain") as url, Queues(partial(Stream, url)) as queues:
        conditions = {
            "Libraries": machine.versions("postbus", "postbus-redis", "redis", "hiredis"),
            "Cores": broker.CORES,
        }
        yield conditions, rates(queues.ours("ours").queue)


def rates(queue: Queue) -> Iterable[Figure]:
    """Return how many messages are handled in a second, and how often a second one can wait without any."""
    for at_once in AT_ONCE:
        for kind, alone in ALONE.items():
            ideal = WAIT / at_once
            yield Figure(
                name=f"worker, concurrency {at_once}, {kind}",
                ours=partial(work_off, queue, at_once, kind),
                raw=partial(float, ideal),
                target=0.9,
                unit="/s",
            )
            yield Figure(
                name=f"no worker: {alone}, {at_once} at once",
                ours=partial(wait_only, at_once, kind),
                raw=partial(float, ideal),
                unit="/s",
                rounds=3,
                warm_up=False,
            )


def work_off(queue: Queue, at_once: int, kind: Kind) -> float:
    """Let a worker take what is stored; return the seconds for each, from the first handler's begin to the last's end.

    So neither starting nor stopping counts.
    """
    begun: list[float] = []
    ended: list[float] = []

    def wait(order: OrderPlaced) -> None:
        begun.append(time.perf_counter())
        time.sleep(WAIT)
        ended.append(time.perf_counter())

    async def wait_on_loop(order: OrderPlaced) -> None:
        begun.append(time.perf_counter())
        await asyncio.sleep(WAIT)
        ended.append(time.perf_counter())

    count = TURNS * at_once
    queue.empty()
    queue.store(count)
    with make_app(queue.dsn, wait if kind == "def" else wait_on_loop) as app:
        app.worker(TRANSPORT, concurrency=at_once, limits=Limits(messages=count, time=PATIENCE)).run()
    if len(ended) != count:
        raise Unavailable(f"{len(ended)} of {count} messages were handled")
    return (max(ended) - min(begun)) / count


def wait_only(at_once: int, kind: Kind) -> float:
    """Wait as often, and so many at once; return the seconds for each, which is what the system makes of the ideal."""
    wait = wait_in_threads if kind == "def" else wait_in_tasks
    return seconds_per(TURNS * at_once, lambda: wait(at_once))


def wait_in_threads(at_once: int) -> None:
    """Wait in so many threads."""

    def wait() -> None:
        for _ in range(TURNS):
            time.sleep(WAIT)

    threads = [threading.Thread(target=wait) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def wait_in_tasks(at_once: int) -> None:
    """Wait in so many tasks of an event loop."""

    async def wait() -> None:
        for _ in range(TURNS):
            await asyncio.sleep(WAIT)

    async def wait_for_all() -> None:
        await asyncio.gather(*(wait() for _ in range(at_once)))

    asyncio.run(wait_for_all())
