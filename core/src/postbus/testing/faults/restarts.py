"""Workers are replaced under load, one after the other, as a deployment does it."""

from __future__ import annotations

import random
from pathlib import Path

from postbus.testing.faults.account import Account
from postbus.testing.faults.roles import Queues
from postbus.testing.faults.stage import ARRANGEMENTS, Stage

SIDE_BY_SIDE = 2
"""How many workers there are at a time, besides the one that is being replaced."""

GRACE = "30s"
"""Far longer than any handler takes: whoever is stopped has no excuse for leaving one unfinished."""


def schedule(restarts: int, seed: int) -> list[tuple[str, ...]]:
    """Return how the workers are arranged: in each way as often as in the others, in any order."""
    arrangements = [ARRANGEMENTS[number % len(ARRANGEMENTS)] for number in range(restarts)]
    random.Random(seed).shuffle(arrangements)
    return arrangements


def run(queues: Queues, folder: Path, *, restarts: int, seed: int) -> Account:
    """Put so many workers in the place of others, which get SIGTERM, while messages come in; return the account.

    Nobody dies, so nothing is at risk, and no message may come twice: but for one whose lease was lost.
    """
    with Stage(folder, queues, seed=seed) as stage:
        stage.start_producer("producer-1")
        for number, arrangement in enumerate(schedule(SIDE_BY_SIDE + restarts, seed), start=1):
            stage.start_worker(f"worker-{number}", *arrangement, "--grace", GRACE)
            stage.until_all_workers_handle()
            if number > SIDE_BY_SIDE:
                stage.stop_worker(f"worker-{number - SIDE_BY_SIDE}")
        stage.until_all_workers_handle()
        stage.finish()
        return stage.account
