"""A producer: ``python -m postbus.testing.faults.producer SEED`` dispatches as many as each line of its input says.

It goes on as careful code would: what a dispatch raised for, and is not stored for certain, it dispatches again.
"""

from __future__ import annotations

import random
import sys
import time
from itertools import count
from typing import TYPE_CHECKING

from postbus import stamps
from postbus.errors import TransportError
from postbus.testing.faults.app import app, ledger, role
from postbus.testing.faults.ledger import Dispatched, Doubted, Intended
from postbus.testing.faults.watching import Job

if TYPE_CHECKING:
    from collections.abc import Sequence

KINDS = {"plain": 80, "slow": 5, "flaky": 10, "doomed": 5}

DELAYS = (0.0,) * 8 + (0.3, 2.0)
"""Seconds: most go at once."""


def dispatch(jobs: Sequence[Job], delay: float) -> None:
    """Dispatch until it is certain that all are stored; what is certain is written down at once."""
    ledger.write(Intended([job.id for job in jobs]))
    when = [stamps.Delay(delay)] if delay else []
    pause = 0.05
    while jobs:
        try:
            app.dispatch_many(jobs, *when) if len(jobs) > 1 else app.dispatch(jobs[0], *when)
        except TransportError as error:
            stored = [jobs[position] for position in error.stored]
            jobs = [job for job in jobs if job not in stored]
            if stored:
                ledger.write(Dispatched([job.id for job in stored]))
            ledger.write(Doubted([job.id for job in jobs]))
            sys.stderr.write(f"Trying {len(jobs)} again in {pause} s: {error}\n")
            time.sleep(pause)
            pause = min(pause * 2, 1.0)
            continue
        ledger.write(Dispatched([job.id for job in jobs]))
        jobs = ()


def main(seed: str) -> None:
    """Dispatch as many messages as each line of the input says."""
    chance = random.Random(seed)
    numbers = count(1)
    with app:
        for line in sys.stdin:
            left = int(line)
            while left:
                size = min(left, chance.choice((1, 1, 1, 20)))
                kinds = chance.choices(list(KINDS), weights=list(KINDS.values()), k=size)
                dispatch([Job(f"{role.name}.{next(numbers)}", kind) for kind in kinds], chance.choice(DELAYS))
                left -= size


if __name__ == "__main__":
    main(sys.argv[1])
