"""The ledger: one file that every process appends to, from which it is counted what became of each message.

An entry is one write to a file opened for appending, so it is there whole or, from a process that was
killed in the middle, torn. It stands between two line ends: a torn one spoils no other, and is skipped.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec


class Entry(msgspec.Struct, frozen=True, tag=True):
    """Something that was done with messages, by their ids."""


class Intended(Entry, frozen=True, tag=True):
    """A producer is about to dispatch these."""

    ids: Sequence[str]


class Dispatched(Entry, frozen=True, tag=True):
    """A dispatch of these has returned, so none of them may be lost."""

    ids: Sequence[str]


class Doubted(Entry, frozen=True, tag=True):
    """A dispatch of these has raised; the producer tries the same ones again."""

    ids: Sequence[str]


class Unanswered(Entry, frozen=True, tag=True):
    """A connection raised while publishing these, so a copy may be stored that nobody knows of."""

    ids: Sequence[str]


class Postponed(Entry, frozen=True, tag=True):
    """These were published to come later, and when; the time is that of the monotonic clock."""

    ids: Sequence[str]
    due: Sequence[float]


class Handled(Entry, frozen=True, tag=True):
    """A handler is about to return."""

    id: str
    worker: str


class Entombed(Entry, frozen=True, tag=True):
    """The failure transport took these from a worker."""

    ids: Sequence[str]


class Buried(Entry, frozen=True, tag=True):
    """These were found in the failure transport, at the end."""

    ids: Sequence[str]


class AtRisk(Entry, frozen=True, tag=True):
    """These may come again: what was fetched and not settled, and what was settled not long ago, and when.

    Times are those of the monotonic clock, which all processes share.
    """

    why: str
    worker: str
    at: float
    held: Sequence[str]
    settled: Sequence[tuple[str, float]] = ()


class Ledger:
    """Writes entries, from any thread."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, entry: Entry) -> None:
        """Append one entry; when this returns, the death of the process cannot undo it."""
        line = b"\n" + msgspec.json.encode(entry) + b"\n"
        assert len(line) == os.write(self._file, line)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


class Reader:
    """Reads what was appended since it last looked."""

    _decoder = msgspec.json.Decoder(
        Intended | Dispatched | Doubted | Unanswered | Postponed | Handled | Entombed | Buried | AtRisk
    )

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open("rb")
        self._rest = b""

    def news(self) -> list[Entry]:
        """Return the new entries that are whole."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        entries: list[Entry] = []
        for line in filter(None, lines):
            try:
                entries.append(self._decoder.decode(line))
            except msgspec.DecodeError:
                continue
        return entries

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
