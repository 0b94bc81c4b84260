"""Other libraries, on the same brokers.

Each contender runs in a process of its own, with the same task, which does nothing; settings are in the README.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import broker, machine
from benchmarks.groups import Prepared
from benchmarks.measuring import Contender, Figure, Unavailable

BESIDE = "theirs"
ROOT = Path(__file__).parents[2]
PATIENCE = 120.0
"""Seconds after which a contender is given up."""


@dataclass(frozen=True)
class Row:
    """What one library does on one broker; ``count`` messages take it a second or two."""

    name: str
    action: str
    broker: str
    module: str
    count: int
    options: tuple[str, ...] = ()
    target: float | None = None
    """How many times as fast ours is to be."""


REDIS = "redis_plain"
RABBITMQ = "rabbitmq"
KAFKA = "kafka_plain"
SQS = "elasticmq"
POSTGRESQL = "postgresql"
OUR_COUNTS = {"worker": 20_000, "enqueue": 3_000, "enqueue_many": 10_000}
OUR_COUNTS_ON_SQS = {"worker": 3_000, "enqueue": 300, "enqueue_many": 3_000}
OUR_NAMES = {"worker": "worker", "enqueue": "enqueueing one by one", "enqueue_many": "enqueueing in batches"}

ROWS = [
    Row("Celery, late acks", "worker", REDIS, "celery", 2_000, ("late",)),
    Row("Celery, early acks (its default)", "worker", REDIS, "celery", 2_000),
    Row("Dramatiq", "worker", REDIS, "dramatiq", 5_000),
    Row("RQ, SimpleWorker", "worker", REDIS, "rq", 500, ("simple",)),
    Row("RQ, a fork for each job (its default)", "worker", REDIS, "rq", 100),
    Row("FastStream", "worker", REDIS, "faststream", 5_000),
    Row("Celery", "enqueue", REDIS, "celery", 2_000),
    Row("Dramatiq", "enqueue", REDIS, "dramatiq", 3_000),
    Row("RQ", "enqueue", REDIS, "rq", 1_000),
    Row("FastStream", "enqueue", REDIS, "faststream", 3_000),
    Row("RQ, enqueue_many", "enqueue_many", REDIS, "rq", 5_000),
    Row("FastStream, pipelines", "enqueue_many", REDIS, "faststream", 5_000),
    Row("Celery, late acks", "worker", RABBITMQ, "celery", 5_000, ("late",)),
    Row("Celery, early acks (its default)", "worker", RABBITMQ, "celery", 5_000),
    Row("Dramatiq", "worker", RABBITMQ, "dramatiq", 5_000),
    Row("FastStream", "worker", RABBITMQ, "faststream", 5_000),
    Row("Celery, confirmed", "enqueue", RABBITMQ, "celery", 1_000, ("confirm",)),
    Row("Celery, unconfirmed (its default)", "enqueue", RABBITMQ, "celery", 3_000),
    Row("Dramatiq, confirmed", "enqueue", RABBITMQ, "dramatiq", 1_000, ("confirm",)),
    Row("Dramatiq, unconfirmed (its default)", "enqueue", RABBITMQ, "dramatiq", 5_000),
    Row("FastStream", "enqueue", RABBITMQ, "faststream", 2_000),
    Row("FastStream, 500 at once", "enqueue_many", RABBITMQ, "faststream", 5_000),
    Row("FastStream, acks when handled", "worker", KAFKA, "faststream", 5_000),
    Row("confluent-kafka, a plain loop", "worker", KAFKA, "confluent", 50_000),
    Row("FastStream", "enqueue", KAFKA, "faststream", 2_000),
    Row("confluent-kafka, flushed each time", "enqueue", KAFKA, "confluent", 2_000),
    Row("FastStream, 500 at once", "enqueue_many", KAFKA, "faststream", 5_000),
    Row("confluent-kafka, flushed at the end", "enqueue_many", KAFKA, "confluent", 50_000),
    Row("Celery, late acks", "worker", SQS, "celery", 200, ("late",), target=5),
    Row("Celery, early acks (its default)", "worker", SQS, "celery", 200),
    Row("Celery", "enqueue", SQS, "celery", 200),
    Row("Procrastinate", "worker", POSTGRESQL, "procrastinate", 500, target=18),
    Row("Procrastinate", "enqueue", POSTGRESQL, "procrastinate", 500),
    Row("Procrastinate, batch_defer", "enqueue_many", POSTGRESQL, "procrastinate", 5_000),
]


@contextmanager
def figures() -> Generator[Prepared]:
    """Measure on each of the brokers, all on the first core, and every contender on the last one."""
    with (
        broker.running(REDIS) as redis,
        broker.running(RABBITMQ) as rabbitmq,
        broker.running(KAFKA) as kafka,
        broker.running(SQS) as sqs,
        broker.running(POSTGRESQL) as postgresql,
    ):
        urls = {REDIS: redis, RABBITMQ: rabbitmq, KAFKA: kafka, SQS: sqs, POSTGRESQL: postgresql}
        yield (
            {
                "Libraries": machine.versions(
                    "postbus",
                    *("postbus-redis", "postbus-amqp", "postbus-kafka", "postbus-sqs", "postbus-sql"),
                    *("celery", "dramatiq", "rq", "faststream", "confluent-kafka", "procrastinate"),
                ),
                "Clients": machine.versions(
                    *("redis", "hiredis", "pika", "amqp", "aio-pika", "kafka-python", "aiokafka", "boto3", "psycopg"),
                    "uvloop",
                ),
                "Cores": broker.CORES,
            },
            [_figure(row, urls[row.broker]) for row in ROWS],
        )


def _figure(row: Row, url: str) -> Figure:
    place = {
        REDIS: "Redis",
        RABBITMQ: "RabbitMQ",
        KAFKA: "Kafka",
        SQS: "SQS (ElasticMQ)",
        POSTGRESQL: "PostgreSQL",
    }[row.broker]
    our_counts = OUR_COUNTS_ON_SQS if row.broker == SQS else OUR_COUNTS
    return Figure(
        name=f"{place}, {OUR_NAMES[row.action]}\ntheirs: {row.name}",
        ours=_contender("postbus", row.action, url, our_counts[row.action]),
        raw=_contender(row.module, row.action, url, row.count, *row.options),
        unit="/s",
        target=row.target,
        warm_up=False,
    )


def _contender(module: str, action: str, url: str, count: int, *options: str) -> Contender:
    command = [sys.executable, "-m", "benchmarks.peers", module, action, url, str(count), *options]
    return lambda: _run(module, command)


def _run(module: str, command: list[str]) -> float:
    """Return the seconds that a process prints in its last line."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        output, errors = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{module} had not finished after {PATIENCE:.0f} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode != 0:
        raise Unavailable(f"{module} failed: {(errors.strip() or 'without a word').splitlines()[-1]}")
    return float(output.splitlines()[-1])
