"""What a DSN of ``filesystem://`` says."""

from __future__ import annotations

from pathlib import Path

from postbus.dsn import Dsn, Options, option
from postbus.errors import DsnError


class FilesOptions(Options):
    """What may stand behind the "?", or in the configuration."""

    auto_setup: bool = option(True, "Create the folder of the queue when it turns out to be missing.")
    redeliver_timeout: float = option(
        60.0, "A message in flight for longer, and not kept alive, is delivered again.", unit="seconds", minimum=0.1
    )
    poll_interval: float = option(0.1, "Pause between two looks for a message.", unit="seconds", minimum=0.001)
    fsync: bool = option(True, "Wait until a message is on the disk before it counts as stored.")


def folder_of(dsn: Dsn) -> Path:
    """Return the folder that the DSN names; refuse what would mean nothing, so that nobody thinks it does."""
    path = "/".join(dsn.segments)
    if dsn.hosts or dsn.user is not None or dsn.password is not None:
        raise DsnError(f"{dsn.scheme}:// takes no host, user or password. Write {dsn.scheme}:///path/to/the/queue.")
    if not path or "\0" in path:
        raise DsnError(f"{dsn.scheme}:// names no folder. Write {dsn.scheme}:///path/to/the/queue.")
    return Path("/", path)
