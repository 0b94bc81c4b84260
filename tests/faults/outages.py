"""Brokers are broken in the middle of everything, and mended again."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from postbus.testing.faults.account import Account
from postbus.testing.faults.stage import ARRANGEMENTS, Stage
from tests.faults.subjects import Subject

MESSAGES = 10_000
PRODUCERS = 4
WORKERS = 3

UNDER_WAY = 1000
"""How many messages are under way while all is well."""

FEW = 100
"""How many are under way after a fault, until every worker has shown that it is not deaf."""

PAUSE = 10.0
"""Seconds for which a broker is halted."""

YOUNG = 2.0
"""Seconds. RabbitMQ forgets a quorum queue, and all in it, that is not a second old when it is killed."""


class Scene(Struct, frozen=True):
    """What a fault is done to, and how it is seen that it was noticed."""

    stage: Stage
    broker: Any
    queue: str
    work: Any
    """The network that all messages go through."""
    failed: Any
    """The network that buried messages go through."""
    pause: float
    """For how many seconds the broker is halted."""

    def until_lost(self) -> None:
        """Wait until every worker has found out that it has no connection."""
        self.stage.until(self.stage.workers_lost_work, "lost by every worker")

    def until_refused(self) -> None:
        """Wait until every worker has found out, and a dispatch of every producer has raised."""
        self.stage.grant_all()
        self.until_lost()
        self.stage.until_producers_say("again in")


def stop(scene: Scene) -> None:
    """Stop the broker, and start it."""
    scene.broker.stop()
    scene.until_refused()
    scene.broker.start()


def stop_out_of_reach(scene: Scene) -> None:
    """Stop the broker, and start it, while nobody reaches it: one that answers first and writes then."""
    scene.work.cut()
    scene.failed.cut()
    scene.until_refused()
    scene.broker.stop()
    scene.broker.start()
    scene.failed.heal()
    scene.work.heal()


def kill(scene: Scene) -> None:
    """Kill the broker, once its queues are not young any more, and start it."""
    scene.stage.go_on_for(YOUNG)
    scene.stage.account.broken_at = time.monotonic()
    scene.broker.kill()
    scene.until_refused()
    scene.broker.start()


def pause(scene: Scene) -> None:
    """Halt the broker for a while."""
    scene.broker.pause()
    scene.stage.go_on_for(scene.pause)
    scene.broker.resume()


def cut(scene: Scene) -> None:
    """Reset all connections, and accept no new one."""
    scene.work.cut()
    scene.until_refused()
    scene.work.heal()


def black_hole(scene: Scene) -> None:
    """Swallow whatever is sent, and tell nobody."""
    scene.work.black_hole()
    scene.until_refused()
    scene.work.heal()


def bury_nothing(scene: Scene) -> None:
    """Let nobody reach the failure transport."""
    scene.failed.cut()
    scene.stage.until_workers_say("cannot be stored")
    scene.failed.heal()


def close_connections(scene: Scene) -> None:
    """Close all connections from the management side, which learns of each after a while, until all were closed."""

    def closed() -> bool:
        scene.broker.close_connections()
        return scene.stage.workers_lost_work()

    scene.stage.until(closed, "all connections closed")


def delete_queue(scene: Scene) -> None:
    """Delete the queue under its consumers, once it is empty: what is in it goes with it, and that is no fault."""
    scene.stage.under_way = 0
    scene.stage.until(lambda: scene.stage.is_idle, "everything at its end")
    scene.broker.delete_queue(scene.queue)


def fail_over(scene: Scene) -> None:
    """Kill the master, and let its replica take over."""
    scene.broker.failover()
    scene.until_lost()


FAULTS: Mapping[str, Callable[[Scene], None]] = {
    fault.__name__: fault
    for fault in (
        stop,
        stop_out_of_reach,
        kill,
        pause,
        cut,
        black_hole,
        bury_nothing,
        close_connections,
        delete_queue,
        fail_over,
    )
}

NETWORK = {"stop_out_of_reach", "cut", "black_hole", "bury_nothing"}
"""Those for which a network stands before the broker."""


def run(
    subject: Subject,
    faults: Sequence[str],
    broker: Any,
    folder: Path,
    *,
    seed: int,
    messages: int = MESSAGES,
    pause: float = PAUSE,
) -> Account:
    """Do this to a broker while messages go through it; end when all are at their end, and return the account."""
    chance = random.Random(seed)
    with ExitStack() as stack:
        work = failed = None
        addresses = [broker.dsn]
        if NETWORK & {*faults}:
            work, failed = (stack.enter_context(broker.partition()) for _ in range(2))
            addresses = [work.dsn, failed.dsn]
        queues = subject.new_queues(*addresses)
        stage = stack.enter_context(Stage(folder, queues, seed=seed))
        scene = Scene(stage, broker, urlsplit(queues.work).path.rpartition("/")[2], work, failed, pause)

        stage.under_way = UNDER_WAY
        for number in range(PRODUCERS):
            stage.start_producer(f"producer-{number + 1}")
        for number in range(WORKERS):
            stage.start_worker(f"worker-{number + 1}", *ARRANGEMENTS[number % 2])
        for number, fault in enumerate(faults):
            some = messages * (number + chance.uniform(0.5, 1.0)) / (len(faults) + 0.5)
            stage.until(lambda some=some: stage.account.ended > some, "in the middle")
            stage.turn_page()
            stage.account.broken_at = time.monotonic()
            FAULTS[fault](scene)
            stage.under_way = FEW
            stage.until_all_workers_handle()
            stage.account.broken_at = math.inf
            stage.under_way = UNDER_WAY
        stage.wanted = messages
        stage.finish()
        return stage.account
