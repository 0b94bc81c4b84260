"""Workers are killed, one after the other, at named points."""

from __future__ import annotations

import random
from pathlib import Path

from postbus.testing.faults.account import Account
from postbus.testing.faults.deaths import Death, Point
from postbus.testing.faults.roles import Queues
from postbus.testing.faults.stage import ARRANGEMENTS, Stage

VISITS = {
    Point.FETCHED: 20,
    Point.HANDLING: 100,
    Point.RETURNING: 100,
    Point.HANDLED: 20,
    Point.SETTLING: 20,
    Point.RETRYING: 10,
    Point.RETRIED: 10,
    Point.BURYING: 4,
    Point.BURIED: 4,
}
"""How often a worker comes by a point at most before it dies there."""

LONGEST = 0.003
"""Seconds for which an operation lasts at most before a worker dies in it; it takes about a third of that."""

SIDE_BY_SIDE = 2
"""How many workers there are at a time."""


def schedule(kills: int, seed: int) -> list[Death]:
    """Return where the workers die: at each point as often as at the others, in any order."""
    chance = random.Random(seed)
    points = [list(Point)[number % len(Point)] for number in range(kills)]
    chance.shuffle(points)
    return [Death(point, chance.randint(1, VISITS[point]), chance.uniform(0, LONGEST)) for point in points]


def run(queues: Queues, folder: Path, *, kills: int, seed: int) -> Account:
    """Kill so many workers, and a producer, while messages come in; return the account."""
    with Stage(folder, queues, seed=seed) as stage:
        stage.start_producer("producer-1")
        for number, death in enumerate(schedule(kills, seed), start=1):
            stage.until(lambda: stage.workers < SIDE_BY_SIDE, "a worker dead")
            stage.start_worker(f"worker-{number}", *ARRANGEMENTS[number % 2], death=death)
        stage.replace_producer("producer-1", "producer-2")
        stage.until(lambda: not stage.workers, "all of them dead")
        for number in range(SIDE_BY_SIDE):
            stage.start_worker(f"survivor-{number + 1}", *ARRANGEMENTS[number % 2])
        stage.until_all_workers_handle()
        stage.finish()
        return stage.account
