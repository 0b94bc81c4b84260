"""The fixtures: one for each variant of a broker, by its name, and `brokers` for all of them."""

from __future__ import annotations

from collections.abc import Generator, Mapping

import pytest

from tests.brokers.broker import Broker, Brokers, find_variants


@pytest.fixture(scope="session")
def brokers() -> Generator[Brokers]:
    """Give the brokers of this test run, by their variants; each starts when it is first asked for."""
    started = Brokers()
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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that asks for a broker, as a fixture or by the name of one among its parameters."""
    names = {"brokers", *_variants}
    for item in items:
        asked = {*getattr(item, "fixturenames", ())}
        parameters: Mapping[str, object] = getattr(getattr(item, "callspec", None), "params", {})
        asked.update(value for value in parameters.values() if isinstance(value, str))
        if not names.isdisjoint(asked):
            item.add_marker("broker")
