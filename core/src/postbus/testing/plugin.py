"""The plugin for pytest: ``pytest_plugins = ["postbus.testing.plugin"]`` in ``conftest.py``.

Name the app in the configuration of pytest, ``postbus_app = "shop.bus:app"``, or with a fixture `postbus_app`. A test
that takes the fixture `postbus` gets an `AppTest` of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from postbus.app import Postbus
from postbus.bus import Middleware
from postbus.config import load_object
from postbus.errors import ConfigurationError
from postbus.testing.app_test import IN_MEMORY, AppTest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the app, and the place of its transports."""
    parser.addini("postbus_app", "The app of the fixture `postbus`: module:attribute.", default="")
    parser.addoption(
        "--postbus-dsn",
        default=IN_MEMORY,
        metavar="DSN",
        help="Where the transports of the fixture `postbus` are, such as redis://localhost:6379/{queue}.",
    )


@pytest.fixture
def postbus_app(pytestconfig: pytest.Config) -> Postbus:
    """Return the app that the configuration of pytest names; override it to make one."""
    path = str(pytestconfig.getini("postbus_app"))
    if not path:
        raise ConfigurationError(
            "Which app is tested? Write postbus_app = 'module:attribute' into the configuration of pytest, or a "
            "fixture postbus_app that returns it."
        )
    app: Any = load_object(path, "postbus_app")
    return app if isinstance(app, Postbus) else app()


@pytest.fixture
def postbus_dsn(pytestconfig: pytest.Config) -> str:
    """Return where the transports are; override it, or parametrize it, to test on several brokers."""
    return str(pytestconfig.getoption("--postbus-dsn"))


@pytest.fixture
def postbus_middleware() -> Sequence[Middleware]:
    """Return what stands before the middleware of each bus; override it, for instance with faults."""
    return ()


@pytest.fixture
def postbus(postbus_app: Postbus, postbus_dsn: str, postbus_middleware: Sequence[Middleware]) -> Iterator[AppTest]:
    """Give the app under test, as `AppTest`."""
    with AppTest(postbus_app, postbus_dsn, middleware=postbus_middleware) as test:
        yield test
