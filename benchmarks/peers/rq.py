"""RQ."""

from __future__ import annotations

import time

from redis import Redis
from rq import Queue, SimpleWorker, Worker

from benchmarks.peers import CUSTOMER, QUEUE

BATCH = 500


def do_nothing(number: int, customer: str) -> None:
    """Do nothing."""


class Peer:
    """Option: ``simple`` for a worker that runs jobs in its own process, and not in a fork for each."""

    def __init__(self, url: str, *options: str) -> None:
        self._connection = Redis.from_url(url)
        self._queue = Queue(f"{QUEUE}-rq", connection=self._connection)
        self._worker = SimpleWorker if "simple" in options else Worker

    def purge(self) -> None:
        self._queue.delete(delete_jobs=True)

    def enqueue(self, numbers: range) -> None:
        for number in numbers:
            self._queue.enqueue(do_nothing, number, CUSTOMER, result_ttl=0)

    def enqueue_many(self, numbers: range) -> None:
        for start in range(0, len(numbers), BATCH):
            batch = numbers[start : start + BATCH]
            self._queue.enqueue_many(
                [Queue.prepare_data(do_nothing, (number, CUSTOMER), result_ttl=0) for number in batch]
            )

    def work(self, count: int) -> float:
        # Jobs of a fork tell nobody here that they have run, so the worker's own count is asked.
        worker = self._worker([self._queue], connection=self._connection)
        started = time.perf_counter()
        worker.work(burst=True, logging_level="WARNING")
        seconds = time.perf_counter() - started
        worker.refresh()
        if (done := worker.successful_job_count) != count:
            raise RuntimeError(f"It has handled {done} of {count} messages.")
        return seconds


make = Peer
