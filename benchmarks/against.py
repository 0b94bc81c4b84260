"""A revision beside another: each figure is measured in two processes, in turns.

Both run the benchmarks of this checkout, and differ in the Postbus that their Python has installed. The other process
is ``python -m benchmarks.against GROUP [PART OF A NAME]``: it answers each line with one of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import groups
from benchmarks.measuring import Figure, Unavailable

ROOT = Path(__file__).parents[1]
NEXT, MEASURE = "next", "measure"
"""What is asked for: the next figure, and one round of it."""


@contextmanager
def figures(other: str, group: str, part: str = "") -> Generator[Iterable[Figure]]:
    """Give the figures of a group, each beside what it is with the Postbus of another Python."""
    with _side(sys.executable, group, part) as now, _side(other, group, part) as then:
        yield _compared(now, then)


def matching(figures: Iterable[Figure], part: str) -> Iterator[Figure]:
    """Return the figures that have a text in their names; the others are prepared all the same."""
    return (figure for figure in figures if part in figure.name)


def _compared(now: _Side, then: _Side) -> Iterator[Figure]:
    while (told := now.ask(NEXT)) is not None and then.ask(NEXT) is not None:
        yield Figure(ours=lambda: now.ask(MEASURE), raw=lambda: then.ask(MEASURE), comparison="times", **told)


class _Side:
    """A process that measures a group, with the Postbus that its Python has installed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, what: str) -> Any:
        """Return the answer; raise `Unavailable` if it is that, or if the process has ended in place of one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise Unavailable(f"{self._process.args} has ended; its error is above")
        answer = json.loads(line)
        if "problem" in answer:
            raise Unavailable(answer["problem"])
        return answer["value"]


@contextmanager
def _side(python: str, group: str, part: str) -> Generator[_Side]:
    command, pipe = [python, "-m", "benchmarks.against", group, part], subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
    try:
        yield _Side(process)
    finally:
        process.communicate()  # The end of what is asked is its end.


def _serve(group: str, part: str) -> None:
    """Answer what is asked, until nothing is."""
    try:
        with groups.load(group).figures() as (_, all_figures):
            left = matching(all_figures, part)
            figure: Figure | None = None
            for line in sys.stdin:
                try:
                    if line.strip() == NEXT:
                        figure = next(left, None)
                        _answer(value=_described(figure))
                    elif figure is not None:
                        _answer(value=figure.ours())
                except Unavailable as reason:
                    _answer(problem=str(reason))
    except Unavailable as reason:  # The group cannot be measured here at all.
        _answer(problem=str(reason))


def _described(figure: Figure | None) -> dict[str, Any] | None:
    """Return what the other process is to know of a figure; what is measured beside it is another matter."""
    if figure is None:
        return None
    told = {"name": figure.name.partition("\n")[0], "unit": figure.unit}
    return told | {"rounds": figure.rounds, "warm_up": figure.warm_up}


def _answer(**what: Any) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
