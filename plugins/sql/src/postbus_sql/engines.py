"""The engines that the app shares with this plugin, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from postbus.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import Engine

_engines: dict[str, Engine] = {}


def register_engine(name: str, engine: Engine) -> None:
    """Let ``doctrine://name`` use this engine, in this process; a later one of the same name takes its place."""
    _engines[name] = engine


def engine_for(name: str) -> Engine:
    """Return the engine that was registered under a name."""
    try:
        return _engines[name]
    except KeyError:
        known = ", ".join(map(repr, _engines)) or "none"
        raise ConfigurationError(
            f"No engine is registered as {name!r} (registered: {known}). "
            f"Call postbus_sql.register_engine({name!r}, engine) before the transport is used."
        ) from None
