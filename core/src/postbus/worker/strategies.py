"""Whose turn it is, among several transports that have messages."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, get_args

from postbus.errors import ConfigurationError

Strategy = Literal["strict", "weighted", "round-robin"]
"""Always the first that has messages; by turns, in proportion to weights; or by turns."""

STRATEGIES: Sequence[str] = get_args(Strategy)


class Turns:
    """Gives out turns among names, one after the other.

    Unless it is strict, each name has earned its weight with every turn, and who has earned most gets it and
    pays for it with the weights of all that wanted it. So in every stretch of turns each gets its share, to
    within one turn or two, and the turns of the heavier ones are spread among those of the others.
    """

    def __init__(self, names: Sequence[str], strategy: Strategy, weights: Mapping[str, int]) -> None:
        self.names = tuple(names)
        self.is_strict = strategy == "strict"
        self._weights = {name: weights.get(name, 1) for name in names}
        self._earned = dict.fromkeys(names, 0)

    def order(self, wanting: Collection[str]) -> list[str]:
        """Return those who want a turn in the order in which they would get one now; nobody pays."""
        names = [name for name in self.names if name in wanting]
        if self.is_strict:
            return names
        return sorted(names, key=lambda name: -(self._earned[name] + self._weights[name]))

    def next(self, wanting: Collection[str]) -> str:
        """Give a turn to one of those who want it, and return its name."""
        first = self.order(wanting)[0]
        if not self.is_strict:
            for name in wanting:
                self._earned[name] += self._weights[name]
            self._earned[first] -= sum(self._weights[name] for name in wanting)
        return first

    def rotation(self) -> Sequence[str]:
        """Give a turn to one of all; return them, that one first."""
        if self.is_strict or len(self.names) < 2:
            return self.names
        first = self.next(self.names)
        return [first, *(name for name in self.order(self.names) if name != first)]


def check(strategy: str, weights: Mapping[str, int], names: Collection[str]) -> None:
    """Raise `ConfigurationError` if there is no such strategy, or a weight that it cannot use."""
    problems: list[str] = []
    if strategy not in STRATEGIES:
        problems.append(f"There is no strategy {strategy!r}. Strategies: {', '.join(STRATEGIES)}.")
    elif weights and strategy != "weighted":
        problems.append(f"Weights go together with the strategy 'weighted', not with {strategy!r}.")
    for name, weight in weights.items():
        if name not in names:
            problems.append(f"A weight is given for {name!r}, which is not consumed. Consumed: {', '.join(names)}.")
        elif weight < 1:
            problems.append(f"The weight of {name!r} must be 1 or more, got {weight}.")
    if problems:
        raise ConfigurationError(*problems)
