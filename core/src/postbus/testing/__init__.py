"""What users and plugin authors test with.

`RecordingTransport` takes the place of a transport in a user's tests. `TransportContract` holds a
plugin to what `postbus.transport` promises; it needs pytest: ``pip install "postbus[testing]"``.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from postbus.testing.recording import RecordingTransport

if TYPE_CHECKING:
    from postbus.testing.contract import TransportContract

__all__ = ["RecordingTransport", "TransportContract"]

if (pytest := sys.modules.get("pytest")) is not None:
    # A rule that fails then shows both sides of its assertion. It must be said before one of these is imported.
    pytest.register_assert_rewrite("postbus.testing.rules", "postbus.testing.workbench")


def __getattr__(name: str) -> object:
    # Only who asks for the contract needs pytest: not the tests of an app, nor the processes that the rules start.
    if name != "TransportContract":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        contract = import_module("postbus.testing.contract").TransportContract
    except ModuleNotFoundError as error:
        if error.name != "pytest":
            raise
        raise ImportError('TransportContract needs pytest. Install it: pip install "postbus[testing]"') from error
    globals()[name] = contract
    return contract
