"""What users and plugin authors test with.

`AppTest` has a whole app in memory, and `postbus.testing.plugin` has it for pytest; `FailAtRandom` and `DeliverTwice`
are middleware that makes faults. `RecordingTransport` takes the place of one transport. `TransportContract`,
`TransportHistories` and `TransportFaults` hold a plugin to what `postbus.transport` promises: each promise by itself,
many steps together, and workers that die amid everything they do. They need pytest and Hypothesis:
``pip install "postbus[testing]"``.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from postbus.testing.app_test import AppTest
from postbus.testing.chaos import DeliverTwice, FailAtRandom
from postbus.testing.promises import proves
from postbus.testing.recording import RecordingTransport

if TYPE_CHECKING:
    from postbus.testing.contract import TransportContract
    from postbus.testing.faults.tests import TransportFaults
    from postbus.testing.histories import TransportHistories

__all__ = [
    "AppTest",
    "DeliverTwice",
    "FailAtRandom",
    "RecordingTransport",
    "TransportContract",
    "TransportFaults",
    "TransportHistories",
    "proves",
]

_MODULES = {"TransportContract": "contract", "TransportFaults": "faults.tests", "TransportHistories": "histories"}

if (pytest := sys.modules.get("pytest")) is not None:
    # A rule that fails then shows both sides of its assertion. It must be said before one of these is imported.
    pytest.register_assert_rewrite("postbus.testing.rules", "postbus.testing.model", "postbus.testing.workbench")


def __getattr__(name: str) -> object:
    # Only who asks for these needs pytest: not the tests of an app, nor the processes that the rules start.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        found = getattr(import_module(f"postbus.testing.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name not in ("pytest", "hypothesis"):
            raise
        raise ImportError(f'{name} needs {error.name}. Install it: pip install "postbus[testing]"') from error
    globals()[name] = found
    return found
