"""What users and plugin authors test with.

`RecordingTransport` takes the place of a transport in a user's tests. `TransportContract` holds a
plugin to what `postbus.transport` promises; it needs pytest: ``pip install "postbus[testing]"``.
"""

from postbus.testing.recording import RecordingTransport

__all__ = ["RecordingTransport", "TransportContract"]

try:
    import pytest
except ModuleNotFoundError:

    def __getattr__(name: str) -> object:
        if name == "TransportContract":
            raise ImportError('TransportContract needs pytest. Install it: pip install "postbus[testing]"')
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
else:
    # A rule that fails then shows both sides of its assertion.
    pytest.register_assert_rewrite("postbus.testing.rules", "postbus.testing.workbench")

    from postbus.testing.contract import TransportContract
