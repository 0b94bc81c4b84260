"""What the tests of the core share."""

from collections.abc import Iterator

import pytest

from postbus.plugins import installed_plugins


@pytest.fixture
def no_broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let it be as where no plugin is installed that needs a broker."""
    monkeypatch.setenv("POSTBUS_PLUGINS", "in-memory,sql,sync")
    installed_plugins.cache_clear()
    yield
    installed_plugins.cache_clear()
