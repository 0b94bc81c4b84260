"""Dispatching in this process.

The message goes through the default middleware to a handler; beside it, a call of that handler.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from benchmarks import machine
from benchmarks.groups import Prepared
from benchmarks.measuring import Figure, seconds_for_each
from benchmarks.messages import MESSAGE, do_nothing, make_app

COUNT = 20_000


@contextmanager
def figures() -> Generator[Prepared]:
    """Measure on one core."""
    with make_app() as app, machine.pinned(machine.CORES[-1]):
        bus = app.bus()
        messages = [MESSAGE] * COUNT
        conditions = {
            "Libraries": machine.versions("postbus", "msgspec"),
            "Middleware": ", ".join(getattr(step, "__name__", type(step).__name__) for step in bus.middleware),
        }
        yield (
            conditions,
            [
                Figure(
                    name="dispatch, handled in-process\nraw: a call of the handler",
                    ours=lambda: seconds_for_each(messages, app.dispatch),
                    raw=lambda: seconds_for_each(messages, do_nothing),
                    comparison="difference",
                    target=3e-6,
                ),
            ],
        )
