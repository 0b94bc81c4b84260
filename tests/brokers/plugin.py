"""The fixtures: one for each variant of a broker, by its name, and `brokers` for all of them."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import suppress

import pytest

from tests.brokers.broker import Broker, Brokers, find_variants
from tests.brokers.server import wait_until

STARTED = pytest.StashKey[Brokers]()
LAST = pytest.StashKey[dict[str, str]]()
"""The last test that asks for a heavy broker, by its variant."""

LEAVING = 10
"""Seconds that a client's thread may take to end which has been told to."""

HEAVY = 300
"""Seconds that a test of a heavy broker may take, because one of them has to wait for its start."""


@pytest.fixture(scope="session")
def brokers(pytestconfig: pytest.Config) -> Generator[Brokers]:
    """Give the brokers of this test run, by their variants; each starts when it is first asked for."""
    started = pytestconfig.stash[STARTED] = Brokers()
    yield started
    started.close()


def _make_fixture(variant: type[Broker]) -> object:
    def fixture(brokers: Brokers) -> Broker:
        broker = brokers[variant.variant]
        if variant.own:
            broker.mend()
        return broker

    fixture.__doc__ = variant.__doc__
    return pytest.fixture(scope="function" if variant.own else "session", name=variant.variant)(fixture)


_variants = find_variants()
globals().update({f"fixture_{name}": _make_fixture(variant) for name, variant in _variants.items()})


def _asked_by(item: pytest.Item) -> set[str]:
    """Return the brokers that a test asks for: as fixtures, by their names among its parameters, or in the mark."""
    asked = {*getattr(item, "fixturenames", ())}
    parameters: Mapping[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    asked.update(value for value in parameters.values() if isinstance(value, str))
    asked.update(name for mark in item.iter_markers("broker") for name in mark.args)
    return asked & {"brokers", *_variants}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that asks for a broker.

    Those of a heavy one are kept in one process by its kind, which is in their names: see `tests.parallel.plugin`.
    """
    for item in items:
        asked = _asked_by(item)
        if asked:
            item.add_marker("broker")
        for variant in (_variants[name] for name in asked - {"brokers"} if _variants[name].heavy):
            if variant.kind() not in item.nodeid:
                raise pytest.UsageError(f"{item.nodeid} asks for {variant.variant}. Name it, or its file, by its kind.")
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(HEAVY))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note which tests are the last ones that ask for a heavy broker."""
    last = session.config.stash[LAST] = {}
    for item in session.items:
        for variant in (_variants[name] for name in _asked_by(item) - {"brokers"} if _variants[name].heavy):
            last[variant.part_of or variant.variant] = item.nodeid


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """See that no client is left, and end what no later test asks for.

    A client's thread that nobody closed disturbs tests that come much later: it takes random numbers while Hypothesis
    draws some. A heavy broker keeps a processor busy also when nobody uses it.
    """
    for variant in (_variants[name] for name in _asked_by(item) - {"brokers"}):
        with suppress(TimeoutError):
            wait_until(lambda variant=variant: not variant.clients(), "They do not end.", LEAVING)
        if left := variant.clients():
            pytest.fail(f"{item.nodeid} leaves clients behind, which nobody has closed: {', '.join(left)}")
    for variant, nodeid in item.config.stash[LAST].items():
        if nodeid == item.nodeid and (started := item.config.stash.get(STARTED, None)) is not None:
            started.end(variant)
