"""SQS, as a standard queue of ElasticMQ.

The raw equivalent is boto3, in threads, on a queue of the same kind with the same messages: see the README.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from functools import partial

from benchmarks import broker, machine
from benchmarks.groups import Prepared
from benchmarks.measuring import Figure
from benchmarks.queues import Idle, Queues, idle_worker
from benchmarks.raw.sqs import BATCH, THREADS, Queue

# A message costs a hundred times what it does on Redis, nearly all of it in boto3: so there are fewer of them.
WORKED_OFF, STORED, STORED_SINGLY = 2_000, 2_000, 100
SHALLOW, DEEP = 1_000, 20_000
PINGS = 50


@contextmanager
def figures() -> Generator[Prepared]:
    """Measure with the server on one core and this process on another."""
    with broker.running("elasticmq") as url, Queues(partial(Queue, url)) as made:
        conditions = {
            "Libraries": f"{machine.versions('postbus', 'postbus-sqs', 'boto3', 'botocore')}, ElasticMQ 1.7.1",
            "Durability": "in memory; the same for both",
            "Cores": broker.CORES,
        }
        yield conditions, _figures(made)


def _figures(made: Queues) -> Iterable[Figure]:
    ours, raw = made.ours("ours"), made.raw("raw")
    yield Figure(
        name=f"worker, a handler that does nothing\nraw: {THREADS} threads, each receives and deletes {BATCH}",
        ours=lambda: ours.work_off(WORKED_OFF),
        raw=lambda: raw.work_off(WORKED_OFF),
        target=0.7,
    )
    yield Figure(
        name=f"dispatch_many\nraw: {THREADS} threads, each sends batches of {BATCH}",
        ours=lambda: ours.dispatch_many(STORED),
        raw=lambda: raw.store(STORED),
        target=0.5,
    )
    yield Figure(
        name="dispatch, one by one\nraw: SendMessage, one by one",
        ours=lambda: ours.dispatch_singly(STORED_SINGLY),
        raw=lambda: raw.store_singly(STORED_SINGLY),
        target=0.85,
    )
    deep, shallow = made.ours("deep"), made.ours("shallow")
    deep.queue.store(DEEP)
    shallow.queue.store(SHALLOW)
    yield Figure(
        name="worker, 20 000 queued\nbeside it: the same with 1 000",
        ours=lambda: deep.work_off(SHALLOW),
        raw=lambda: shallow.work_off(SHALLOW),
        target=0.9,
    )
    deep.queue.empty()
    shallow.queue.empty()
    yield from idle_worker(made, Idle(latency=None), PINGS)
