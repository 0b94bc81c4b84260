"""Postbus: dispatch a message; it is handled now, or sent through a broker and handled later by a worker."""

from typing import TYPE_CHECKING, Any

from postbus import stamps
from postbus.app import Postbus
from postbus.batches import Batch
from postbus.bus import never_blocks
from postbus.envelope import Envelope
from postbus.errors import (
    ConfigurationError,
    HandlerFailed,
    PostbusError,
    Recoverable,
    StopWorker,
    TransportError,
    Unrecoverable,
)
from postbus.handlers import Handlers, handles
from postbus.limits import Limits
from postbus.retry import Backoff
from postbus.stamps import Stamp

if TYPE_CHECKING:
    from postbus.hookspecs import hookimpl

__version__ = "0.1.0"

__all__ = [
    "Backoff",
    "Batch",
    "ConfigurationError",
    "Envelope",
    "HandlerFailed",
    "Handlers",
    "Limits",
    "Postbus",
    "PostbusError",
    "Recoverable",
    "Stamp",
    "StopWorker",
    "TransportError",
    "Unrecoverable",
    "handles",
    "hookimpl",
    "never_blocks",
    "stamps",
]


def __getattr__(name: str) -> Any:
    # Only plugins need it, and pluggy takes as long to import as all of the core.
    if name == "hookimpl":
        from postbus.hookspecs import hookimpl  # noqa: PLC0415

        return hookimpl
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
