"""The groups of figures: one module each, found by looking into this folder.

A module's docstring begins with the title of its table. Its ``figures()`` is a context manager around
what the group needs (a folder, a broker), and gives the conditions to print and the figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Protocol, cast

from benchmarks.measuring import Figure

Prepared = tuple[Mapping[str, str], Iterable[Figure]]
"""The conditions under which a group is measured, and its figures."""


class Figures(Protocol):
    """What a group's module defines; raises `Unavailable` where it cannot be measured."""

    def __call__(self) -> AbstractContextManager[Prepared]:
        """Prepare what the figures need, and clean up afterwards."""
        ...


@dataclass(frozen=True)
class Group:
    """A module of figures."""

    title: str
    figures: Figures
    beside: str
    """What the column beside ours is called; a module says it where it is not the raw equivalent."""


OPTIONAL = frozenset({"peers"})
"""Groups that are measured only when they are asked for: they take long, and need more than Postbus."""


def names() -> list[str]:
    """Return the names of all groups."""
    return sorted(module.name for module in iter_modules(__path__))


def load(name: str) -> Group:
    """Return a group; what it needs is imported only now."""
    module = import_module(f"{__name__}.{name}")
    title = (module.__doc__ or name).partition("\n")[0].rstrip(".")
    return Group(title, cast(Figures, module.figures), getattr(module, "BESIDE", "raw"))
