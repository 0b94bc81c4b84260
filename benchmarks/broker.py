"""A broker to measure with: the one that the environment gives, or a private one on a core of its own.

They come from `tests.brokers`, as in the tests, with the same variables: ``POSTBUS_TEST_REDIS_DSN`` and so on.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pytest

from benchmarks import machine
from benchmarks.measuring import Unavailable
from tests.brokers.broker import Brokers, find_variants

CORES = f"core {machine.CORES[0]} for a private broker, core {machine.CORES[-1]} for its client"


@contextmanager
def running(variant: str) -> Generator[str]:
    """Give the DSN of a broker; one that is started gets the first core, and the caller the last one."""
    find_variants()
    brokers = Brokers()
    try:
        try:
            with machine.pinned(machine.CORES[0]):
                dsn = brokers[variant].dsn
        except (pytest.skip.Exception, pytest.fail.Exception) as reason:
            raise Unavailable(str(reason).rstrip(".")) from None
        with machine.pinned(machine.CORES[-1]):
            yield dsn
    finally:
        brokers.close()
