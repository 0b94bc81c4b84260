"""What the command line logs, and how: lines for people, or an object of JSON per line."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal

import click

from postbus.display import printable

ANNOUNCEMENTS = "postbus.cli"
"""The logger of what a command says about itself; shown at every verbosity."""

_LEVELS = [(logging.WARNING, logging.WARNING), (logging.INFO, logging.WARNING), (logging.DEBUG, logging.INFO)]
"""By -v: ours, everybody's."""
MOST = len(_LEVELS) - 1
"""How often -v can be given."""
_COLORS = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}

Format = Literal["text", "json"]


def configure(verbosity: int = 0, format: Format | None = None, process: str | None = None) -> None:
    """Send logs to stderr; again replaces what was configured before. Handlers of the user's own stay.

    ``process`` is what each line names, if several processes write to the same place. A ``format`` that was asked for
    holds for our lines also in an app that configures logging.
    """
    _detach()
    ours, everybodys = _LEVELS[verbosity]
    logging.getLogger().addHandler(_EchoHandler(verbosity, format, process))
    logging.getLogger().setLevel(everybodys)
    logging.getLogger("postbus").setLevel(ours if verbosity else logging.NOTSET)
    logging.getLogger("postbus").propagate = True
    logging.getLogger(ANNOUNCEMENTS).setLevel(min(ours, logging.INFO))


@contextmanager
def left_to_the_app() -> Generator[None]:
    """Let modules of the app configure logging, while they are imported, as if nobody had; then fit in.

    What has handlers then needs none of ours, and ``-v`` only ever shows more than the app does.
    """
    root, ours = logging.getLogger(), logging.getLogger("postbus")
    handler = _detach()
    if handler is None:
        yield
        return
    before = {*root.handlers, *ours.handlers}
    ours.addHandler(handler)
    try:
        yield
    finally:
        _detach()
        # Else dictConfig() has silenced us: it disables what it does not name, unless it is told not to.
        ours.disabled = logging.getLogger(ANNOUNCEMENTS).disabled = False
        handler.is_needless = handler.is_needless or not before.issuperset({*root.handlers, *ours.handlers})
        if not handler.is_needless:
            root.addHandler(handler)
        elif handler.is_asked_for:
            ours.addHandler(handler)
            ours.propagate = False
        if handler.verbosity:
            for logger, level in zip((ours, root), _LEVELS[handler.verbosity], strict=True):
                logger.setLevel(min(level, logger.getEffectiveLevel()))


def _detach() -> _EchoHandler | None:
    """Take our handler off, wherever it is, and return it; None if there is none, because the app has its own."""
    found: _EchoHandler | None = None
    for logger in (logging.getLogger(), logging.getLogger("postbus")):
        for handler in list(logger.handlers):
            if isinstance(handler, _EchoHandler):
                logger.removeHandler(handler)
                found = handler
    return found


class _EchoHandler(logging.Handler):
    """Writes to what is stderr now, and leaves colors out where it is no terminal."""

    def __init__(self, verbosity: int, format: Format | None, process: str | None) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter(process) if format == "json" else TextFormatter(process))
        self.verbosity = verbosity
        self.is_asked_for = format is not None
        self.is_needless = False
        """Whether the app has handlers of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            click.echo(self.format(record), err=True)
        except Exception:  # A border: logging reports its own failures, and goes on.
            self.handleError(record)


class TextFormatter(logging.Formatter):
    """Time, level and message; announcements are the message alone."""

    def __init__(self, process: str | None = None) -> None:
        super().__init__()
        self._start = f"[{process}] " if process else ""

    def format(self, record: logging.LogRecord) -> str:
        if record.name == ANNOUNCEMENTS:
            return self._start + printable(record.getMessage())
        level = record.levelname
        start = f"{self.formatTime(record, '%Y-%m-%d %H:%M:%S')} {click.style(level, _COLORS.get(level))}"
        return f"{self._start}{start} {printable(super().format(record))}"


class JsonFormatter(logging.Formatter):
    """``time``, ``level``, ``logger``, ``message``, ``error`` with the traceback, and whatever ``extra`` holds."""

    def __init__(self, process: str | None = None) -> None:
        super().__init__()
        self._process = {"process": process} if process else {}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._process,
        }
        if record.exc_info:
            line["error"] = record.exc_text or self.formatException(record.exc_info)
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD and name not in line}
        return json.dumps(line | extra, default=str, skipkeys=True)
