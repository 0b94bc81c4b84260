"""What the command line logs, and how: lines for people, or an object of JSON per line."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Literal

import click

from postbus.display import printable

ANNOUNCEMENTS = "postbus.cli"
"""The logger of what a command says about itself; shown at every verbosity."""

_LEVELS = [  # by -v: ours, everybody's
    (logging.WARNING, logging.WARNING),
    (logging.INFO, logging.WARNING),
    (logging.DEBUG, logging.INFO),
    (logging.DEBUG, logging.DEBUG),
]
_COLORS = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def configure(verbosity: int = 0, format: Literal["text", "json"] = "text", process: str | None = None) -> None:
    """Send logs to stderr; again replaces what was configured before. Handlers of the user's own stay.

    ``process`` is what each line names, if several processes write to the same place.
    """
    handler = _EchoHandler()
    handler.set_name("postbus")
    handler.setFormatter(JsonFormatter(process) if format == "json" else TextFormatter(process))
    root = logging.getLogger()
    for other in list(root.handlers):
        if other.name == handler.name:
            root.removeHandler(other)
    root.addHandler(handler)

    ours, everybodys = _LEVELS[min(verbosity, len(_LEVELS) - 1)]
    root.setLevel(everybodys)
    logging.getLogger("postbus").setLevel(ours)
    logging.getLogger(ANNOUNCEMENTS).setLevel(min(ours, logging.INFO))


class _EchoHandler(logging.Handler):
    """Writes to what is stderr now, and leaves colors out where it is no terminal."""

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
            line["error"] = self.formatException(record.exc_info)
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD and name not in line}
        return json.dumps(line | extra, default=str, skipkeys=True)
