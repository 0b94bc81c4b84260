# ruff: noqa: N999  The name of a group is what is typed, and nobody imports this by a statement.
"""Thousands of coroutines, from memory.

Each handler awaits a second, as one does that asks a slow service; beside it, as many that wait for nothing else.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from functools import partial

from benchmarks import machine
from benchmarks.coroutines import WAIT, measure
from benchmarks.groups import Prepared
from benchmarks.measuring import Figure

BESIDE = "ideal"
FEW, MANY = 1_000, 4_000
ROUNDS = 3


@contextmanager
def figures() -> Generator[Prepared]:
    """Measure on one core, each time in a process of its own."""
    with machine.pinned(machine.CORES[-1]):
        yield {"Libraries": machine.versions("postbus", "postbus-in-memory", "greenlet")}, _figures()


def _figures() -> Iterable[Figure]:
    for number in (FEW, MANY):
        at_once = f"worker, {_spaced(number)} at once"
        yield Figure(
            name=f"{at_once}: messages a second",
            ours=lambda number=number: measure("worker", number).seconds,
            raw=partial(float, WAIT / number),
            target=0.9,
            unit="/s",
            rounds=ROUNDS,
            warm_up=False,
        )
        yield Figure(
            name=f"{at_once}: time of a core for a message",
            ours=lambda number=number: measure("worker", number).core,
            comparison="cost",
            rounds=ROUNDS,
            warm_up=False,
        )
        yield Figure(
            name=f"{at_once}: threads",
            ours=lambda number=number: measure("worker", number).threads,
            comparison="cost",
            target=10,
            unit="",
            rounds=1,
            warm_up=False,
        )
    nested = f"{_spaced(FEW)} parallel dispatch_async, three deep"
    yield Figure(
        name=f"{nested}: time of a core for each",
        ours=lambda: measure("nested", FEW).core,
        comparison="cost",
        rounds=ROUNDS,
        warm_up=False,
    )
    yield Figure(
        name=f"{nested}: threads",
        ours=lambda: measure("nested", FEW).threads,
        comparison="cost",
        target=10,
        unit="",
        rounds=1,
        warm_up=False,
    )


def _spaced(number: int) -> str:
    return f"{number:,}".replace(",", " ")
