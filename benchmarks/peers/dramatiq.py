"""Dramatiq."""

from __future__ import annotations

import os
from threading import Event

# Read when the library is imported. From 2, the default for one thread, to 100 it was slower.
os.environ.setdefault("dramatiq_queue_prefetch", "1000")

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker

from benchmarks.peers import CUSTOMER, QUEUE, Tally


class Peer:
    """Option: ``confirm`` for confirms of RabbitMQ."""

    def __init__(self, url: str, *options: str) -> None:
        if url.startswith("redis"):
            self._broker: dramatiq.Broker = RedisBroker(url=url)
        else:
            self._broker = RabbitmqBroker(url=url, confirm_delivery="confirm" in options)
        self._queue = f"{QUEUE}-dramatiq"
        self._tally = tally = Tally()

        @dramatiq.actor(broker=self._broker, queue_name=self._queue)
        def do_nothing(number: int, customer: str) -> None:
            tally(number)

        self._task = do_nothing

    def purge(self) -> None:
        self._broker.declare_queue(self._queue)
        self._broker.flush(self._queue)

    def enqueue(self, numbers: range) -> None:
        for number in numbers:
            self._task.send(number, CUSTOMER)

    enqueue_many = enqueue

    def work(self, count: int) -> float:
        done = Event()
        self._tally.expect(count, done.set)
        # What the command line starts in each of its processes.
        worker = dramatiq.Worker(self._broker, worker_threads=1)
        worker.start()
        done.wait()
        worker.stop()
        self._broker.close()
        return self._tally.seconds


make = Peer
