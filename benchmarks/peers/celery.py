"""Celery."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from celery import Celery

from benchmarks.peers import CUSTOMER, QUEUE, Tally

PREFETCH = 0
"""No limit, which the guide to optimizing suggests for short tasks; 4, 64 and 128 were slower."""

ON_SQS = {"is_secure": False, "region": "us-east-1", "wait_time_seconds": 20, "polling_interval": 0}
"""No pause between two requests, while there are messages."""


class Peer:
    """Options: ``late`` for acks after the task, ``confirm`` for confirms of RabbitMQ."""

    def __init__(self, url: str, *options: str) -> None:
        self._queue = f"{QUEUE}-celery"
        self._tally = tally = Tally()
        is_sqs = url.startswith("sqs:")
        self._app = Celery("peers", broker=url.replace("sqs://", "sqs://key:secret@"))
        self._app.conf.update(
            task_default_queue=self._queue,
            task_ignore_result=True,
            task_acks_late="late" in options,
            worker_disable_rate_limits=True,
            worker_prefetch_multiplier=PREFETCH,
            worker_redirect_stdouts=False,
            broker_transport_options=ON_SQS if is_sqs else {"confirm_publish": True} if "confirm" in options else {},
        )

        @self._app.task(name="do_nothing")
        def do_nothing(number: int, customer: str) -> None:
            tally(number)

        self._task = do_nothing

    def purge(self) -> None:
        with self._app.connection_for_write() as connection:
            queue = self._app.amqp.queues[self._queue].bind(connection.default_channel)
            queue.declare()
            queue.purge()

    def enqueue(self, numbers: range) -> None:
        for number in numbers:
            self._task.delay(number, CUSTOMER)

    enqueue_many = enqueue

    def work(self, count: int) -> float:
        # A warm shutdown, as on SIGTERM: what is in hand is acknowledged.
        self._tally.expect(count, lambda: os.kill(os.getpid(), signal.SIGTERM))
        quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING")
        with suppress(SystemExit):
            self._app.worker_main(["worker", "--pool=solo", "--concurrency=1", *quiet])
        return self._tally.seconds


make = Peer
