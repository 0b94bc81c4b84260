"""How a mutant gets into the list, and three kinds of connection that several mutants are made of."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from postbus.transport import Delivery
from postbus_in_memory.queue import Queue
from tests.contract.healthy import Plain

M = TypeVar("M", bound=type[Plain])


class Mutant(NamedTuple):
    """A connection that breaks a promise, and the rules that fail on it."""

    connection: type[Plain]
    rule: str
    also: frozenset[str]
    perhaps: frozenset[str]

    def is_caught_by(self, failed: set[str]) -> bool:
        """Tell whether these are the rules that fail: its own, and none that has nothing to do with it."""
        return {self.rule, *self.also} == failed - self.perhaps


MUTANTS: dict[str, Mutant] = {}


def breaks(rule: str, *, also: Sequence[str] = (), perhaps: Sequence[str] = ()) -> Callable[[M], M]:
    """Enter a mutant in the list.

    It is for one rule; those in ``also`` cannot hold either without that promise, and those in
    ``perhaps`` notice by chance, because they are about several threads at once.
    """

    def enter(connection: M) -> M:
        full = [frozenset(f"test_{name}" for name in names) for names in (also, perhaps)]
        MUTANTS[connection.__name__] = Mutant(connection, f"test_{rule}", *full)
        return connection

    return enter


class Remembering(Plain):
    """Knows what it has fetched and settled."""

    def __init__(self, queue: Queue, *, lease: float) -> None:
        super().__init__(queue, lease=lease)
        self.fetched: dict[int, Delivery] = {}
        self.settled: set[int] = set()

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        deliveries = super().fetch(limit, wait)
        self.fetched |= {delivery.tag: delivery for delivery in deliveries}
        return deliveries

    def ack(self, tags: Sequence[int]) -> Sequence[int]:
        lost = super().ack(tags)
        self.settled |= set(tags)
        return lost


class Closing(Plain):
    """Knows that it is closed."""

    closed = False

    def close(self) -> None:
        super().close()
        self.closed = True


class Locking(Plain):
    """Holds a lock while it waits for long."""

    def __init__(self, queue: Queue, *, lease: float) -> None:
        super().__init__(queue, lease=lease)
        self.lock = threading.Lock()

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        with self.lock if wait > 3 else contextlib.nullcontext():
            return super().fetch(limit, wait)
