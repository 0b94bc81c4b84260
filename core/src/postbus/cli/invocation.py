"""How a command finds its app, and the things in it that its arguments name."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from postbus.app import Postbus
from postbus.cli import logs
from postbus.config import ENVIRONMENT_DSN, check, find_file, load_object, read_file
from postbus.doubts import configuration_in, misspelt_variables
from postbus.dsn import masked
from postbus.dsn import unknown as unknown
from postbus.errors import ConfigurationError, PostbusError, describe
from postbus.queue_transport import QueueTransport
from postbus.transport import Connection, Transport

logger = logging.getLogger("postbus")

SPECIAL = frozenset("^$*+?{}[]|()\\")
"""The characters that tell a regular expression from a name that is misspelt, which may have a dot too."""


class Invocation:
    """What the options before a command say. The app is made when a command first asks for it.

    A plugin's command gets one with ``@click.pass_obj``.
    """

    def __init__(self, reference: str | None = None, key: str = "--app", *, owns_process: bool = False) -> None:
        self._reference = reference
        self._key = key
        self.owns_process = owns_process
        """Whether this process ends with the command."""

    @cached_property
    def app(self) -> Postbus:
        """The app, of which nothing has been connected to."""
        folder = os.getcwd()
        if folder not in sys.path:
            sys.path.insert(0, folder)
        if self._reference:
            return _load_app(self._reference, self._key)
        path = find_file()
        if path is not None:
            reference = check(read_file(path)).app
            return _load_app(reference, f"app in {path.name}") if reference else Postbus(config=path)
        if os.environ.get(ENVIRONMENT_DSN):
            return Postbus()
        around = configuration_in(Path(folder).parents)
        if around is not None:
            raise ConfigurationError(f"There is no app in {folder}, but there is {around}. Start in that folder.")
        raise ConfigurationError(
            f"There is no app in {folder}. Name it with --app module:attribute or POSTBUS_APP, or describe it in "
            "postbus.toml.",
            *misspelt_variables(),
        )

    @cached_property
    def loaded_app(self) -> Postbus:
        """The app, with all its handlers and middleware imported, and so with all its messages known."""
        with importing("the handlers"):
            self.app.bus()
        return self.app

    def __enter__(self) -> Invocation:
        return self

    def __exit__(self, *error: object) -> None:
        if "app" not in vars(self):
            return
        try:
            self.app.close()
        except PostbusError:
            logger.debug("Closing the transports failed; the command is done.", exc_info=True)


pass_invocation = click.make_pass_decorator(Invocation)


def invocation_in(context: click.Context) -> Invocation:
    """Return the invocation of a context in which nothing runs, only completion is asked for."""
    return Invocation(context.find_root().params.get("reference"))


def transport_names(app: Postbus, names: Iterable[str]) -> list[str]:
    """Return the names, each once; raise `ConfigurationError` for one that no transport has."""
    chosen = list(dict.fromkeys(names))
    for name in chosen:
        if name not in app.transports:
            raise unknown("transport", name, app.transports)
    return chosen


def transports_fitting(app: Postbus, texts: Iterable[str]) -> list[str]:
    """Return the transports that are meant, each once: by their names, or by regular expressions.

    By such an expression those are meant that a worker is for, and whose whole name it fits. Raises
    `ConfigurationError` for what means nothing.
    """
    chosen: dict[str, None] = {}
    for text in texts:
        chosen.update(dict.fromkeys([text] if text in app.transports else _fitting(app, text)))
    return list(chosen)


def _fitting(app: Postbus, text: str) -> list[str]:
    consumable = app.consumable
    try:
        expression = re.compile(text)
    except re.error as error:
        raise ConfigurationError(
            f"{masked(text)!r} is neither a transport nor a regular expression: {error}. Transports: "
            f"{', '.join(app.transports)}."
        ) from None
    fitting = [name for name in consumable if expression.fullmatch(name)]
    if not fitting and not SPECIAL.intersection(text):
        raise unknown("transport", text, app.transports)
    if not fitting:
        raise ConfigurationError(
            f"The regular expression {masked(text)!r} fits no transport to consume: {', '.join(consumable) or 'none'}."
        )
    return fitting


def connection_of(transport: Transport) -> Connection | Transport:
    """Return what to ask for optional abilities: the connection, or a transport that has none."""
    return transport.connection if isinstance(transport, QueueTransport) else transport


@contextmanager
def importing(what: str) -> Generator[None]:
    """Turn what the user's modules raise while they are imported into a sentence that says where."""
    try:
        with logs.left_to_the_app():
            yield
    except PostbusError:
        raise
    except SystemExit as error:
        raise ConfigurationError(
            f"Importing {what} ended the program ({_place(error)}). Put what a program does under "
            "if __name__ == '__main__'."
        ) from error
    except Exception as error:  # A border: a module of the user's may raise anything.
        # That of Python says where in its own way.
        fact = f"SyntaxError: {error.msg}" if isinstance(error, SyntaxError) else describe(error).rstrip(".")
        raise ConfigurationError(
            f"Importing {what} failed: {fact} ({_place(error)}). Mend that; with --debug there is a traceback."
        ) from error


def _load_app(reference: str, key: str) -> Postbus:
    with importing(repr(masked(reference))):
        found: Any = load_object(reference, key)
    if not isinstance(found, Postbus):
        module = reference.partition(":")[0]
        apps = [name for name, value in vars(sys.modules[module]).items() if isinstance(value, Postbus)]
        hint = f"Did you mean '{module}:{apps[0]}'?" if apps else "Make one with app = Postbus()."
        raise ConfigurationError(
            f"{key} names {masked(reference)!r}, which is no Postbus app but of type {type(found).__name__}. {hint}"
        )
    return found


def _place(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    files = [frame for frame in frames if not frame.filename.startswith("<frozen")]
    # What a library raises is due to who called it last, in the folder in which somebody works.
    own = [frame for frame in files if Path(frame.filename).is_relative_to(Path.cwd())] or files
    return f"{own[-1].filename}, line {own[-1].lineno}"
