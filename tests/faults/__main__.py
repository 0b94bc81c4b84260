"""Does everything for long, and prints what came out: ``python -m tests.faults --kills 200 --seed 7 redis sqlite``.

Without names it takes every durable transport that is found. It ends with 1 if anything is not as it must be; the
folder with the ledger and the logs of that is kept.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from postbus.testing.faults import kills, restarts
from postbus.testing.faults.account import Account
from tests.brokers.broker import Brokers, find_variants
from tests.faults import outages
from tests.faults.report import Report
from tests.faults.subjects import find_subjects


def main() -> int:
    """Run what was asked for; return the exit code."""
    subjects = {subject.name: subject for subject in find_subjects()}
    parser = argparse.ArgumentParser(prog="nox -s faults --", description="Breaks workers and brokers, and counts.")
    parser.add_argument("names", nargs="*", metavar="TRANSPORT", help=f"by default all: {', '.join(subjects)}")
    parser.add_argument("--kills", type=int, default=200, help="how many workers are killed on each")
    parser.add_argument("--restarts", type=int, default=50, help="how many workers are replaced on each")
    parser.add_argument("--outages", type=int, default=1, help="how often each thing is done to each broker")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - subjects.keys():
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(subjects)}")
    print(f"Seed {arguments.seed}.", flush=True)

    report, problems = Report(), 0

    def do(transport: str, faults: str, seed: int, run: Callable[[Path], Account]) -> None:
        nonlocal problems
        folder = Path(tempfile.mkdtemp(prefix="faults-"))
        print(f"{transport}: {faults} …", flush=True)
        try:
            report.run(transport, faults, seed, lambda: run(folder))
        except Exception as error:  # A border: what else there is to do is done all the same.
            problems += 1
            print(f"{transport}: {faults} (seed {seed}): {error}\nSee {folder}.", flush=True)
        else:
            shutil.rmtree(folder)

    find_variants()
    with ExitStack() as stack:
        stack.callback(report.show)  # Also of what was done until Ctrl-C.
        brokers = stack.enter_context(closing(Brokers()))
        for name in arguments.names or subjects:
            subject = subjects[name]
            try:
                broker: Any = brokers[subject.broker]
            except (pytest.skip.Exception, pytest.fail.Exception) as reason:
                problems += isinstance(reason, pytest.fail.Exception)
                print(f"{name}: {reason}")
                continue
            if arguments.kills and not subject.is_left_alone:
                killing = partial(kills.run, subject.new_queues(broker.dsn), kills=arguments.kills, seed=arguments.seed)
                do(name, f"{arguments.kills} kills", arguments.seed, killing)
            if arguments.restarts:
                replacing = partial(
                    restarts.run, subject.new_queues(broker.dsn), restarts=arguments.restarts, seed=arguments.seed
                )
                do(name, f"{arguments.restarts} restarts", arguments.seed, replacing)
            for seed in range(arguments.seed, arguments.seed + arguments.outages):
                for fault in dict.fromkeys(subject.faults):
                    broker.mend()
                    do(name, fault, seed, partial(outages.run, subject, [fault], broker, seed=seed))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
