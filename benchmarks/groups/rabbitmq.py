"""RabbitMQ, with a durable queue.

The raw equivalent is pika, on a queue of the same kind with the same messages: see the README.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

from benchmarks import broker, machine, queues
from benchmarks.groups import Prepared
from benchmarks.queues import Part
from benchmarks.raw.rabbitmq import PREFETCH, SETTLED, WINDOW, Queue, server_version


@contextmanager
def figures() -> Generator[Prepared]:
    """Measure with the broker on one core and this process on another."""
    with (
        broker.running("rabbitmq") as url,
        queues.figures(
            partial(Queue, url),
            worker=Part(f"prefetch {PREFETCH}, one ack for {SETTLED} (SelectConnection)", target=0.6),
            dispatch_many=Part(f"confirms in windows of {WINDOW} (SelectConnection)", target=0.6),
            dispatch=Part("a confirm for each (BlockingChannel)", target=1.0),
        ) as all_figures,
    ):
        conditions = {
            "Libraries": f"{machine.versions('postbus', 'postbus-amqp', 'pika')}, RabbitMQ {server_version(url)}",
            "Durability": "durable classic queue, persistent messages, mandatory, confirmed; the same for both",
            "Cores": broker.CORES,
        }
        yield conditions, all_figures
