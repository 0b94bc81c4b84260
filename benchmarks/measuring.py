"""What is measured, and how: two contenders in turns, several rounds, and what came out of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from statistics import median
from typing import Literal, TypeVar

T = TypeVar("T")

Contender = Callable[[], float]
"""Does its work once, and returns what it cost: seconds for one message, a share of a core, or bytes."""

Comparison = Literal["ratio", "difference", "times", "cost"]
"""How fast it is as a share of the raw speed (more is better); what it adds, how many times as much it takes as the raw
one does, or what it costs (less is better)."""


class Unavailable(Exception):
    """Raised by a group or a contender that cannot be measured here; the reason is for who reads the table."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table: what is measured, what stands beside it, and what it is to reach."""

    name: str
    ours: Contender
    raw: Contender | None = None
    """Does the same without Postbus; or what else it is to be seen beside."""
    comparison: Comparison = "ratio"
    target: float | None = None
    """What is to be reached: at least, for a ratio, and at most for the others. None for information."""
    unit: Literal["s", "%", "/s", "B", ""] = "s"
    """How values are shown; ``B`` are bytes, ``/s`` shows the seconds for one message as messages in a second, and
    without a unit they are numbers."""
    rounds: int | None = None
    """How often it is measured; None for as often as was asked for."""
    warm_up: bool = True
    """Whether there is a round before the first, which does not count."""


@dataclass(frozen=True)
class Samples:
    """What the rounds gave."""

    values: list[float]

    @property
    def median(self) -> float:
        """The value in the middle."""
        return median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        return min(self.values), max(self.values)


@dataclass(frozen=True)
class Result:
    """What a figure turned out to be."""

    figure: Figure
    ours: Samples
    raw: Samples | None
    problem: str | None = None
    """Why it was not measured; there are no samples then."""

    @property
    def compared(self) -> Samples:
        """The comparison, made for each round by itself, so that a machine that gets slower meanwhile does no harm."""
        if self.raw is None:
            return self.ours
        pairs = zip(self.ours.values, self.raw.values, strict=True)
        if self.figure.comparison == "ratio":
            return Samples([raw / ours for ours, raw in pairs])
        if self.figure.comparison == "difference":
            return Samples([ours - raw for ours, raw in pairs])
        if self.figure.comparison == "times":
            return Samples([ours / raw for ours, raw in pairs])
        return self.ours

    @property
    def best(self) -> float:
        """The lowest of ours compared with the lowest of raw: on a busy machine, what is the least disturbed."""
        if self.raw is None:
            return self.ours.spread[0]
        return Result(self.figure, Samples([self.ours.spread[0]]), Samples([self.raw.spread[0]])).compared.median

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.figure.target is None or self.problem is not None:
            return None
        value = self.compared.median
        return value >= self.figure.target if self.figure.comparison == "ratio" else value <= self.figure.target


def measure(figure: Figure, rounds: int) -> Result:
    """Let the contenders take turns, A B A B, and return what they gave."""
    ours: list[float] = []
    raw: list[float] = []
    try:
        if figure.warm_up:
            figure.ours()
            if figure.raw is not None:
                figure.raw()
        for _ in range(figure.rounds or rounds):
            ours.append(figure.ours())
            if figure.raw is not None:
                raw.append(figure.raw())
    except Unavailable as reason:
        return Result(figure, Samples([]), None, str(reason))
    return Result(figure, Samples(ours), Samples(raw) if raw else None)


def seconds_per(count: int, work: Callable[[], object]) -> float:
    """Do the work, which is that of so many messages, and return the seconds for one."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) / count


def seconds_for_each(items: Collection[T], work: Callable[[T], object]) -> float:
    """Do the work for each item by itself, and return the seconds for one."""
    started = time.perf_counter()
    for item in items:
        work(item)
    return (time.perf_counter() - started) / len(items)
