"""Postbus: dispatch a message; it is handled now, or sent through a broker and handled later by a worker."""

from postbus import stamps
from postbus.app import Postbus
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
from postbus.hookspecs import hookimpl
from postbus.limits import Limits
from postbus.retry import Backoff
from postbus.stamps import Stamp

__version__ = "0.1.0"

__all__ = [
    "Backoff",
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
    "stamps",
]
