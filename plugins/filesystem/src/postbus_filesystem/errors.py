"""What goes wrong with files, said as the errors that Postbus knows."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from postbus.errors import ConnectionLost, TransportError

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def translated(folder: Path) -> Iterator[None]:
    """Let no `OSError` out."""
    try:
        yield
    except OSError as error:
        raise translate(error, folder) from error


def translate(error: OSError, folder: Path) -> TransportError:
    """Return what to raise in place of this."""
    reason = error.strerror or type(error).__name__
    match error:
        case PermissionError():
            return TransportError(f"Folder {folder} does not let this user in: {reason}. Correct its permissions.")
        case OSError(errno=number) if number in FULL:
            return TransportError(f"The disk with folder {folder} is full. Make room.")
        case FileNotFoundError() if os.path.isdir(folder.parent) and not os.path.isdir(folder):
            return TransportError(f"There is no folder {folder}. Run `postbus setup`.")
        case _:
            return ConnectionLost(f"Folder {folder} cannot be reached: {reason}. Check that {folder.parent} is there.")
