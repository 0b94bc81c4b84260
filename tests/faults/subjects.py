"""What is put through faults: a plugin says in ``tests/faults.py`` of its folder how to come to its queues.

That file has a list ``SUBJECTS``. Nothing else knows which transports there are.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from msgspec import Struct

from postbus.plugins import installed_plugins
from postbus.testing.faults.roles import Queues

Copying = Callable[[Sequence[Any]], AbstractContextManager[None]]
"""Takes what has the ``body`` of a message each."""

PLUGINS = Path(__file__).parents[2] / "plugins"

certified = pytest.mark.skipif(
    "POSTBUS_TEST_KILLS" not in os.environ,
    reason="These faults are in tests/faults; `postbus certify`, which sets POSTBUS_TEST_KILLS, has more of them here.",
)
"""A mark for the `TransportFaults` of a plugin in this repository."""


class Subject(Struct, frozen=True, kw_only=True):
    """One durable transport that several processes share, on one kind of broker."""

    name: str
    scheme: str
    dsn: Callable[[str, str], str]
    """Returns the DSN of a queue; from the broker's own DSN, or the path of a folder, and the name of the queue.

    Where deliveries are on a lease, it should be a second or two.
    """
    broker: str
    """The fixture of a broker that may be broken."""
    faults: Sequence[str] = ("stop", "kill", "pause", "cut", "black_hole", "bury_nothing")
    """What is done to that broker: functions in `tests.faults.outages`."""
    restarts: int = 3
    """How many of its workers are replaced, one after the other, in the tests; `./run faults` replaces more."""
    is_left_alone: bool = False
    """Whether its queue goes with its last worker, so that none is killed, but all are replaced one by one."""
    unanswered: float = 0.0
    """Seconds after which a settle has certainly reached a broker that answers none; 0 for one that answers."""

    moving: float = 0.0
    """Seconds after which what a worker has moved on when it was due is certainly known to others; 0 if none does."""

    copying: Callable[[Copying], None] | None = None
    """Has this process enter what it is given while a fetch stores messages once more that it took; None if none does.

    Who dies in there may leave both.
    """

    def new_queues(self, work: str, failed: str | None = None) -> Queues:
        """Return a queue and its failure transport, which nobody has used before, at these addresses."""
        name = uuid4().hex[:8]
        return Queues(
            work=self.dsn(work, f"work-{name}"),
            failed=self.dsn(failed or work, f"failed-{name}"),
            unanswered=self.unanswered,
            moving=self.moving,
            copying="tests.faults.subjects:tell_of_copies" if self.copying is not None else None,
        )


def tell_of_copies(copying: Copying) -> None:
    """Have each plugin that stores copies enter this while it does."""
    for subject in find_subjects():
        if subject.copying is not None:
            subject.copying(copying)


def find_subjects() -> list[Subject]:
    """Return what the plugins in this repository have, as far as they are installed."""
    return [subject for subject in _registered() if subject.scheme in installed_plugins().schemes]


def _registered() -> Iterator[Subject]:
    for path in sorted(PLUGINS.glob("*/tests/faults.py")):
        spec = importlib.util.spec_from_file_location(f"faults_of_{path.parts[-3].replace('-', '_')}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield from module.SUBJECTS
