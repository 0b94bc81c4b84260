"""Restarting workers when code changes, for development."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from postbus.errors import ConfigurationError


class Changes:
    """A thread that waits for Python files in a folder, and what is below it, to change."""

    def __init__(self, folder: Path) -> None:
        try:
            from watchfiles import PythonFilter, watch
        except ImportError:
            raise ConfigurationError("--watch needs watchfiles. Install it: pip install 'postbus[watch]'") from None
        self._is_over = threading.Event()
        self._found = watch(folder, watch_filter=PythonFilter(), stop_event=self._is_over, raise_interrupt=False)

    def watch(self, tell: Callable[[str], None]) -> None:
        """Begin; ``tell`` is told each time, in that thread, the name of a file that has changed."""

        def run() -> None:
            for changes in self._found:
                tell(sorted(Path(path).name for _, path in changes)[0])

        threading.Thread(target=run, name="postbus-watch", daemon=True).start()

    def close(self) -> None:
        """Watch no more."""
        self._is_over.set()
