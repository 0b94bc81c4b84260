"""Several messages at a time, from Redis: a handler that gets a hundred, beside one that gets each by itself."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from functools import partial

from benchmarks import broker, machine
from benchmarks.groups import Prepared
from benchmarks.measuring import Figure, seconds_per
from benchmarks.messages import TRANSPORT, OrderPlaced, do_nothing
from benchmarks.queues import WORKED_OFF, Queues
from benchmarks.raw import Queue
from benchmarks.raw.redis import Stream
from postbus import Limits, Postbus

BESIDE = "one by one"
SIZE = 100
AT_ONCE = (1, 10)


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
    """Return what a message costs that is handled with others, and by itself, by handlers that do nothing."""
    for at_once in AT_ONCE:
        yield Figure(
            name=f"worker, batches of {SIZE}, concurrency {at_once}\nbeside it: one message at a time",
            ours=partial(work_off, queue, at_once, in_batches=True),
            raw=partial(work_off, queue, at_once, in_batches=False),
            target=1.5,
        )


def work_off(queue: Queue, at_once: int, *, in_batches: bool) -> float:
    """Store messages, and let a worker take as many; return the seconds for each."""
    queue.store(WORKED_OFF)
    with Postbus(transports={TRANSPORT: queue.dsn}, routing={OrderPlaced: TRANSPORT}) as app:
        if in_batches:
            app.handler(do_nothing_with_many, batch=SIZE)
        else:
            app.handler(do_nothing)
        worker = app.worker(TRANSPORT, limits=Limits(messages=WORKED_OFF), concurrency=at_once)
        return seconds_per(WORKED_OFF, worker.run)


def do_nothing_with_many(orders: list[OrderPlaced]) -> None:
    """Handle messages."""
