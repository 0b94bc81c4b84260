"""A worker that a parent has started: how it knows, and what it does differently. For the parent, see `processes`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, MutableMapping
from pathlib import Path

from postbus.worker.signals import StopSignals

VARIABLE = "POSTBUS_CHILD"
"""What tells a child that it is one: its number, and the pipe that ends when its parent does."""

REPLACE = 75
"""The exit code by which a child asks to be replaced, because it has grown too large, or a handler does not end.

As in sysexits.h, where it means: try again.
"""


def number_of(environment: MutableMapping[str, str]) -> int | None:
    """Return the number of this process among its parent's children; None if it is none."""
    number, colon, _ = environment.get(VARIABLE, "").partition(":")
    return int(number) if colon else None


def own_file(file: Path | None, child: int | None) -> Path | None:
    """Return the file that a child has in place of one that all are given."""
    return file if file is None or child is None else file.with_name(f"{file.name}.{child}")


def files_of(file: Path) -> list[Path]:
    """Return that file, or those of the children that were given it."""
    return sorted(one for one in file.parent.glob(f"{file.name}.*") if one.suffix[1:].isdecimal()) or [file]


def adopt(environment: MutableMapping[str, str], stop: Callable[[str], None]) -> None:
    """As a child, stop when the parent is gone; what this process starts itself is no child of that parent."""
    _, _, pipe = environment.pop(VARIABLE).partition(":")
    os.set_inheritable(int(pipe), False)
    StopSignals.counts_repeats = False

    def wait() -> None:
        os.read(int(pipe), 1)
        stop("its parent is gone")

    threading.Thread(target=wait, name="postbus-parent", daemon=True).start()
