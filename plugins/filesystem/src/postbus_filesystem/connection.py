"""The connection: what Postbus asks of a broker, on a folder."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from postbus.transport import Absence, Counts, Delivery, Outgoing
from postbus_filesystem.errors import translated
from postbus_filesystem.folder import Claim, Folder
from postbus_filesystem.options import FilesOptions


class FilesConnection:
    """A connection to the queue in a folder; any connection settles what another has fetched."""

    def __init__(self, path: Path, options: FilesOptions) -> None:
        self._folder = Folder(path, lease=options.redeliver_timeout, fsync=options.fsync)
        self._path = path
        self._options = options
        self._is_set_up = not options.auto_setup
        self._closed = threading.Event()

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        with translated(self._path):
            self._set_up_once()
            return self._folder.put(messages)

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        deadline = time.monotonic() + wait
        with translated(self._path):
            self._set_up_once()
            while not self._closed.is_set():
                deliveries = self._folder.take(limit)
                left = deadline - time.monotonic()
                if deliveries or left <= 0:
                    return deliveries
                # A folder tells nobody that something was put into it.
                self._closed.wait(min(left, self._options.poll_interval))
        return []

    def ack(self, tags: Sequence[Claim]) -> Sequence[Claim]:
        return self._refused(self._folder.settle, tags)

    def reject(self, tags: Sequence[Claim]) -> Sequence[Claim]:
        return self._refused(self._folder.settle, tags)

    def release(self, tags: Sequence[Claim]) -> Sequence[Claim]:
        return self._refused(self._folder.put_back, tags)

    def close(self) -> None:
        self._closed.set()

    @property
    def lease(self) -> float:
        return self._options.redeliver_timeout

    def keepalive(self, tags: Sequence[Claim]) -> Sequence[Claim]:
        return self._refused(self._folder.extend, tags)

    def setup(self) -> None:
        with translated(self._path):
            self._folder.make()

    def missing(self) -> Sequence[str]:
        with translated(self._path):
            lacking = self._folder.lacking()
        if not lacking and not os.access(self._path, os.W_OK | os.X_OK):
            return [f"Folder {self._path} may not be written to. Correct its permissions."]
        return [Absence(f"There is no folder {folder}. Run `postbus setup`.") for folder in lacking]

    def count(self) -> Counts:
        with translated(self._path):
            return self._folder.count()

    def browse(self, limit: int, after: str | None = None) -> Sequence[Delivery]:
        with translated(self._path):
            ids = [id for id in self._folder.ids() if after is None or id > after]
            return [message for id in ids[:limit] if (message := self._folder.find(id))]

    def find(self, id: str) -> Delivery | None:
        with translated(self._path):
            return self._folder.find(id)

    def remove(self, ids: Sequence[str]) -> int:
        with translated(self._path):
            return self._folder.delete(set(ids))

    def purge(self) -> int:
        with translated(self._path):
            return self._folder.delete(set(self._folder.ids()))

    def write_note(self, name: str, text: str | None) -> None:
        with translated(self._path):
            self._set_up_once()
            self._folder.write_note(name, text)

    def read_notes(self, names: Sequence[str]) -> Sequence[str | None]:
        with translated(self._path):
            return [self._folder.read_note(name) for name in names]

    def _set_up_once(self) -> None:
        if not self._is_set_up:
            self.setup()
            self._is_set_up = True

    def _refused(self, settle: Callable[[Claim], bool], tags: Sequence[Claim]) -> list[Claim]:
        with translated(self._path):
            return [tag for tag in tags if not settle(tag)]
