"""What is probably a mistake in how an app is put together, although nothing refuses it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from postbus.config import ENVIRONMENT_DSN, Config, find_file
from postbus.errors import ConfigurationError
from postbus.handlers import Handler
from postbus.spelling import nearest

VARIABLES = (ENVIRONMENT_DSN, "POSTBUS_APP", "POSTBUS_PLUGINS", "POSTBUS_STATE_DIR", "POSTBUS_HEALTH_FILE")
"""The variables of the environment that are read."""


def doubts(
    config: Config,
    handlers: Iterable[Handler],
    *,
    is_configured: bool,
    is_routed: bool,
    failure_transports: Sequence[str],
    file: str | None,
    environment: Mapping[str, str] = os.environ,
) -> Iterator[str]:
    """Yield a sentence or two for each.

    ``is_configured`` says that the app was told what it is, by arguments, a file or the environment, and ``is_routed``
    that some message is sent somewhere, or that somebody said that none is. ``file`` is that of the app's module.
    """
    yield from misspelt_variables(environment)
    if not is_configured:
        if ENVIRONMENT_DSN in environment:
            yield f"{ENVIRONMENT_DSN} is empty, so every message is handled where it is dispatched. Give it a DSN."
        elsewhere = _configuration_beside(file)
        if elsewhere is not None:
            yield (
                f"There is no configuration in {Path.cwd()}, so every message is handled where it is dispatched, but "
                f"there is {elsewhere}. Start the program in that folder, or name the file: Postbus(config=...)."
            )
    sendable = [name for name in config.transports if name not in failure_transports]
    if sendable and not is_routed:
        yield (
            f"Nothing is routed to {' or '.join(map(repr, sendable))}, so every message is handled where it is "
            "dispatched. Add routes to routing, or an empty routing if that is meant."
        )
    for handler in handlers:
        origin = handler.from_transport
        if origin is not None and config.transports and origin not in config.transports:
            meant = nearest(origin, config.transports)
            hint = f"Did you mean {meant!r}?" if meant else f"Transports: {', '.join(config.transports)}."
            yield f"Handler {handler.name!r} is for messages from {origin!r}, which is not configured. {hint}"


def misspelt_variables(environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Yield a sentence for each variable that is nearly one that is read."""
    for name in environment:
        if not name.startswith("POSTBUS_") or name in VARIABLES:
            continue
        meant = nearest(name, [known for known in VARIABLES if known not in environment], cutoff=0.85)
        if meant:
            yield f"The variable {name} means nothing. Did you mean {meant}?"


def _configuration_beside(file: str | None) -> Path | None:
    """Return the configuration in a module's folder, or in one of two around it, as its package may lie in ``src``."""
    return configuration_in(list(Path(file).resolve().parents)[:3]) if file is not None else None


def configuration_in(folders: Iterable[Path]) -> Path | None:
    """Return the first configuration in these folders, but for the current one."""
    for folder in folders:
        with suppress(ConfigurationError):  # A file that cannot be read need not be ours.
            found = find_file(folder)
            if found is not None and folder != Path.cwd():
                return found
    return None
