"""An idle worker of Redis, RabbitMQ and SQLite together.

Its messages come from another process. What a worker of one of them alone reaches is in the group of that one.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager

from benchmarks import broker, idle, machine
from benchmarks.groups import Prepared
from benchmarks.measuring import Figure
from benchmarks.queues import PINGS, SECONDS_IDLE
from benchmarks.raw import Queue, rabbitmq, redis

TARGETS = {"Redis": 20e-3, "RabbitMQ": 20e-3, "SQLite": 100e-3}
"""Seconds until a message is handled."""
NAME = "postbus-bench-idle"


@contextmanager
def figures() -> Generator[Prepared]:
    """Measure with the brokers and the dispatching process on one core, and the worker on another."""
    with (
        broker.running("redis_plain") as redis_url,
        broker.running("rabbitmq") as rabbitmq_url,
        machine.folder_on_disk() as folder,
        ExitStack() as stack,
    ):
        queues: list[Queue] = [redis.Stream(redis_url, NAME), rabbitmq.Queue(rabbitmq_url, NAME)]
        for queue in queues:
            stack.callback(queue.close)
            stack.callback(queue.delete)
            queue.delete()
        conditions = {
            "Libraries": machine.versions("postbus", "postbus-redis", "postbus-amqp", "postbus-sql"),
            "Cores": f"core {machine.CORES[0]} for private brokers and who dispatches, core {machine.CORES[-1]} for "
            "the worker",
        }
        yield conditions, waiting([*(queue.dsn for queue in queues), f"sqlite:///{folder / 'idle.db'}"])


def waiting(dsns: Sequence[str]) -> Iterable[Figure]:
    """Return how soon a message is handled, whichever transport it comes from, and what waiting for all takes."""
    with idle.pinging(*dsns) as pings:
        for (name, target), ping in zip(TARGETS.items(), pings, strict=True):
            yield Figure(
                name=f"from dispatch in another process to the handler, {name}",
                ours=ping,
                comparison="cost",
                target=target,
                rounds=PINGS,
            )
    yield Figure(
        name=f"share of a core, over {SECONDS_IDLE:.0f} s",
        ours=lambda: idle.waiting_cost(SECONDS_IDLE, *dsns),
        comparison="cost",
        unit="%",
        target=0.01,
        rounds=1,
        warm_up=False,
    )
