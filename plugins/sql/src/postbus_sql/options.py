"""The options of a DSN, and the file that it names."""

from __future__ import annotations

import os
from typing import Literal
from urllib.parse import unquote

from postbus.dsn import Dsn, Options, option
from postbus.errors import DsnError

LONGEST_DELAY = 1000 * 365 * 86400.0
"""Seconds. The columns hold times until the year 9999."""

LARGEST = 1_000_000_000
"""Bytes of a row that SQLite takes, unless it was built otherwise."""


class SqlOptions(Options):
    """What every DSN of this plugin takes."""

    table_name: str = option("messenger_messages", "Table that holds the messages; may be schema.table.")
    queue_name: str = option("default", "Queue inside the table, 1 to 190 characters.")
    redeliver_timeout: int = option(
        60, "A message in flight for longer, and not kept alive, is delivered again.", unit="seconds", minimum=1
    )
    auto_setup: bool = option(True, "Create the table when it turns out to be missing.")
    check_delayed_interval: int | None = option(
        None, "Belongs to Symfony's polling.", unit="milliseconds", no_effect=True
    )
    get_notify_timeout: int | None = option(None, "Belongs to Symfony's polling.", unit="milliseconds", no_effect=True)
    use_notify: bool | None = option(None, "Belongs to Symfony's polling.", no_effect=True)

    def __post_init__(self) -> None:
        if not self.table_name:
            raise DsnError("Option 'table_name' must be the name of a table, got ''.")
        if not 1 <= len(self.queue_name) <= 190:
            raise DsnError(f"Option 'queue_name' must have 1 to 190 characters, got {len(self.queue_name)}.")


class SqliteOptions(SqlOptions):
    """What ``sqlite://`` takes."""

    synchronous: Literal["full", "normal"] = option(
        "full", "What a power failure may cost: nothing (full), or the last messages (normal)."
    )


class EngineOptions(SqlOptions):
    """What ``doctrine://`` takes."""

    engine: object | None = option(None, "SQLAlchemy engine to use in place of a registered one; from code only.")


def sqlite_file(dsn: Dsn) -> str | None:
    """Return the absolute path of the database, as SQLAlchemy reads such a URL; None for one in memory.

    Two slashes begin an address, the third a path: ``sqlite:///relative.db``, ``sqlite:////absolute.db``.
    """
    if dsn.hosts or dsn.user is not None or dsn.password is not None:
        raise DsnError(f"{dsn.scheme}:// has no host and no user. A file takes three slashes: sqlite:///messages.db.")
    path = unquote(dsn.path[1:])
    if path == ":memory:" or not dsn.path:
        return None
    if not path:
        raise DsnError(f"{dsn.scheme}:/// names no file. Write sqlite:///messages.db, or sqlite:// for one in memory.")
    return os.path.abspath(path)
