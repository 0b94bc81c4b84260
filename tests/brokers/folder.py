"""A folder, where a broker is a file in it: as one that is mounted from elsewhere, it can go away."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from tests.brokers.broker import Broker


class Mount:
    """One folder that goes away, with all that is in it, and comes back."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._elsewhere = path.with_name(f"{path.name}-elsewhere")
        self.dsn = str(path)
        path.mkdir()

    def cut(self) -> None:
        """Take it away."""
        self._path.rename(self._elsewhere)

    def heal(self) -> None:
        """Bring it back."""
        self._elsewhere.rename(self._path)


class OwnFolder(Broker, variant="own_folder"):
    """A folder for tests that take it away."""

    own = True

    def launch(self) -> str:
        self._path = Path(tempfile.mkdtemp(prefix="folder-"))
        self._numbers = count(1)
        return str(self._path)

    @contextmanager
    def partition(self) -> Generator[Mount]:
        yield Mount(self._path / f"mount-{next(self._numbers)}")

    def close(self) -> None:
        shutil.rmtree(self._path)
