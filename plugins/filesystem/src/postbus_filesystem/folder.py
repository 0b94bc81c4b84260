"""A queue in a folder.

A message is a file in one of three folders, and goes from one to the next by being renamed::

    writing/    <anything>                                  being written; nobody reads it
    waiting/    <id>.<count>                                to be delivered, now or later
    in-flight/  <id>.<count>.<end of the lease>.<claim>     in somebody's hands

To rename a file is atomic, and of all who try it one succeeds: he has the message. So a process may be killed on any
line. What it was writing was never sent; what it had taken comes again when the lease is over.

Beside them there may be ``notes/``, with what workers are told from afar: a file for each, called by the digest of the
note's name, because that may be longer than the name of a file.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from secrets import token_hex

from postbus.transport import Counts, Delivery, Outgoing
from postbus_filesystem.files import Entry, read, written

logger = logging.getLogger(__name__)

SECOND = 1_000_000_000

WRITING, WAITING, IN_FLIGHT = "writing", "waiting", "in-flight"

NOTES = "notes"

AT_ONCE = 1000
"""How many messages are taken, one after the other, before the folder is listed again."""


@dataclass(eq=False, slots=True)
class Claim:
    """What a delivery is settled by: its file, which has another name each time that the lease begins anew."""

    entry: Entry


class Folder:
    """The messages in a folder, which any number of processes share. What goes wrong raises `OSError`."""

    def __init__(self, path: Path, *, lease: float, fsync: bool) -> None:
        self.path = path
        self._lease = int(lease * SECOND)
        self._fsync = fsync
        # One thread keeps a delivery alive while another settles it: each must know the name that the other gave it.
        self._claims = threading.Lock()
        self._listed: deque[Entry] = deque()

    def make(self) -> None:
        """Make the folder, and those in it, but not the one that it lies in, which may be a disk that is not there."""
        self.path.mkdir(exist_ok=True)
        for folder in (WRITING, WAITING, IN_FLIGHT):
            (self.path / folder).mkdir(exist_ok=True)
        self._sync(self.path.parent)
        self._sync(self.path)

    def lacking(self) -> list[Path]:
        """Return the folders that `make` would make; where the one that they lie in is not there, fail as it would."""
        os.stat(self.path.parent)
        folders = [self.path, *(self.path / folder for folder in (WRITING, WAITING, IN_FLIGHT))]
        return [folder for folder in folders if not folder.is_dir()]

    def put(self, messages: Sequence[Outgoing]) -> list[str]:
        """Store messages in this order, and return their ids. While they are being written, nobody sees any of them."""
        drafts = [self.path / WRITING / token_hex(16) for _ in messages]
        try:
            for draft, message in zip(drafts, messages, strict=True):
                self._write(draft, written(message))
            ids = [self._send(draft, message.delay) for draft, message in zip(drafts, messages, strict=True)]
        finally:
            for draft in drafts:
                draft.unlink(missing_ok=True)
        self._sync(self.path / WAITING)
        return ids

    def take(self, limit: int) -> list[Delivery]:
        """Return up to so many messages, and put them in flight."""
        taken = self._claimed(limit)
        # What was listed may be all taken by others, so who has found nothing has to look.
        if not taken:
            self._end_leases()
            self._list()
            taken = self._claimed(limit)
        return taken

    def settle(self, claim: Claim) -> bool:
        """Delete a message in flight; return False if it is somebody else's by now, or was settled before."""
        with self._claims:
            return self._delete(claim.entry)

    def put_back(self, claim: Claim) -> bool:
        """Let a message in flight wait again, as if it had not been delivered; False as for `settle`."""
        with self._claims:
            return self._move(claim.entry, Entry(claim.entry.id, claim.entry.deliveries - 1))

    def extend(self, claim: Claim) -> bool:
        """Let the lease of a message in flight begin anew; False as for `settle`."""
        with self._claims:
            extended = claim.entry._replace(lease_end=self._lease_end())
            is_ours = self._move(claim.entry, extended)
            if is_ours:
                claim.entry = extended
            return is_ours

    def count(self) -> Counts:
        """Count the messages by their state."""
        entries, now = self._all(), time.time_ns()
        at_rest = [entry.due for entry in entries if entry.lease_end <= now]
        waiting = [due for due in at_rest if due <= now]
        return Counts(
            waiting=len(waiting),
            delayed=len(at_rest) - len(waiting),
            in_flight=len(entries) - len(at_rest),
            oldest_age=(now - min(waiting)) / SECOND if waiting else None,
        )

    def ids(self) -> list[str]:
        """Return the ids of all messages, in their order."""
        return [entry.id for entry in self._all()]

    def find(self, id: str) -> Delivery | None:
        """Return the message with this id; None if there is none."""
        before: list[Entry] = []
        while (entries := [entry for entry in self._all() if entry.id == id]) != before:
            for entry in entries:
                if delivery := self._delivery(entry):
                    return delivery
            # It may have gone from one folder to the next meanwhile; then it is looked for again.
            before = entries
        return None

    def delete(self, ids: Collection[str]) -> int:
        """Delete the messages with these ids, whatever their state; return how many there were."""
        deleted = 0
        while entries := [entry for entry in self._all() if entry.id in ids]:
            deleted += sum(map(self._delete, entries))
        return deleted

    def write_note(self, name: str, text: str | None) -> None:
        """Keep a text under a name, in place of what is there; None removes it."""
        notes, note = self.path / NOTES, self._note(name)
        if text is None:
            note.unlink(missing_ok=True)
        else:
            notes.mkdir(exist_ok=True)
            self._sync(self.path)
            draft = self.path / WRITING / token_hex(16)
            self._write(draft, text.encode())
            draft.replace(note)
        if notes.exists():
            self._sync(notes)

    def read_note(self, name: str) -> str | None:
        """Return the text under a name; None if there is none, be it that the folder is not there yet."""
        try:
            return self._note(name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            os.stat(self.path.parent)
            return None

    def _note(self, name: str) -> Path:
        return self.path / NOTES / sha256(name.encode()).hexdigest()

    def _write(self, draft: Path, content: bytes) -> None:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            if self._fsync:
                os.fsync(file.fileno())

    def _send(self, draft: Path, delay: float) -> str:
        # Its moment is that of being sent, not of being written, so that who sees it sees what was sent before it.
        id = f"{time.time_ns() + int(delay * SECOND):020}-{token_hex(8)}"
        draft.rename(self._path_of(Entry(id, 0)))
        return id

    def _sync(self, folder: Path) -> None:
        if self._fsync:
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _list(self) -> None:
        """Take note of what may be delivered now, in its order.

        Whatever is sent after that, or due later, comes after all of that, so a folder of many thousands need not be
        listed for each that is taken. What is given back meanwhile has been delivered before.
        """
        # Looked at before the folder is: what was sent after the last that is taken here may not be listed yet.
        now = time.time_ns()
        waiting = self._entries(WAITING)
        self._listed = deque(itertools.takewhile(lambda entry: entry.due <= now, waiting[:AT_ONCE]))

    def _claimed(self, limit: int) -> list[Delivery]:
        taken: list[Delivery] = []
        while self._listed and len(taken) < limit:
            entry = self._listed.popleft()
            claim = Claim(Entry(entry.id, entry.deliveries + 1, self._lease_end(), token_hex(8)))
            if self._move(entry, claim.entry) and (delivery := self._delivery(claim.entry, claim)):
                taken.append(delivery)
        return taken

    def _end_leases(self) -> None:
        for entry in self._entries(IN_FLIGHT):
            if entry.lease_end <= time.time_ns():
                self._move(entry, Entry(entry.id, entry.deliveries))

    def _lease_end(self) -> int:
        return time.time_ns() + self._lease

    def _all(self) -> list[Entry]:
        # What waited when the one folder was listed may be in flight when the other one is.
        entries = {entry.id: entry for folder in (WAITING, IN_FLIGHT) for entry in self._entries(folder)}
        return sorted(entries.values())

    def _entries(self, folder: str) -> list[Entry]:
        entries = filter(None, map(Entry.parse, os.listdir(self.path / folder)))
        return sorted(entry for entry in entries if bool(entry.claim) == (folder == IN_FLIGHT))

    def _path_of(self, entry: Entry) -> Path:
        return self.path / (IN_FLIGHT if entry.claim else WAITING) / entry.name

    def _delivery(self, entry: Entry, claim: Claim | None = None) -> Delivery | None:
        """Return what a file holds; None if it cannot be read, which costs no other message anything."""
        path = self._path_of(entry)
        try:
            return read(path.read_bytes(), entry, claim)
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("Leaving %s, which cannot be read, to be tried again later: %s", path, error.strerror)
            return None

    def _move(self, entry: Entry, to: Entry) -> bool:
        """Rename a file; return False if somebody else was faster."""
        try:
            self._path_of(entry).rename(self._path_of(to))
        except FileNotFoundError:
            self._must_be_there()
            return False
        return True

    def _delete(self, entry: Entry) -> bool:
        try:
            self._path_of(entry).unlink()
        except FileNotFoundError:
            self._must_be_there()
            return False
        return True

    def _must_be_there(self) -> None:
        # A message that is gone is somebody else's; where all of them are gone, so is the disk.
        os.stat(self.path)
