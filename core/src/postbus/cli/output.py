"""How commands print: tables for people, JSON for programs, and values as people read them."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from io import TextIOWrapper
from textwrap import indent

import click
import msgspec

from postbus.display import one_line

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def as_json(value: object) -> str:
    """Return a value as JSON of several lines, in which nothing can steer a terminal."""
    text = msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2).decode()
    return "\n".join(line if line.isprintable() else "".join(map(_escaped, line)) for line in text.split("\n"))


def as_json_line(value: object) -> str:
    """Return a value as JSON in one line, in which nothing can steer a terminal."""
    text = msgspec.json.encode(value, enc_hook=str).decode()
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    return char if char.isprintable() else json.dumps(char)[1:-1]


def print_json(value: object) -> None:
    """Print a value as one document of JSON, to stdout."""
    click.echo(as_json(value))


def escape_what_has_no_form(stream: object) -> None:
    """Let characters that the encoding of a stream has no form for be escaped as in JSON, instead of failing.

    A pipe has the encoding of the locale, and what is printed may be anybody's.
    """
    if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
        codecs.register_error("postbus-escape", _escape)
        stream.reconfigure(errors="postbus-escape")


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


class JsonList:
    """Prints a list of JSON to stdout, each item when it is there; a context that ends it, however it ends."""

    def __init__(self) -> None:
        self._is_empty = True

    def __enter__(self) -> JsonList:
        click.echo("[", nl=False)
        return self

    def __exit__(self, *error: object) -> None:
        click.echo("]" if self._is_empty else "\n]")

    def add(self, item: object) -> None:
        """Print the next item."""
        click.echo(("" if self._is_empty else ",") + "\n" + indent(as_json(item), "  "), nl=False)
        self._is_empty = False


@contextmanager
def progress(what: str, total: int | None) -> Generator[Callable[[int], None]]:
    """Show on stderr how far something is, if that is a terminal; yields what is to be told each further number."""
    if not sys.stderr.isatty():
        yield lambda number: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # What goes to stdout is printed above the bar, if that is the same terminal, and stays what it is otherwise.
    shared = sys.stdout.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=shared) as bar:
        task = bar.add_task(what, total=total)
        yield lambda number: bar.advance(task, number)


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: Collection[str] = (),
    title: str | None = None,
    header: bool = True,
) -> None:
    """Print a table to stdout: framed on a terminal, in plain columns elsewhere; None is an empty cell.

    ``right`` names the columns of numbers. Without a header it goes on with one that was printed before.
    """
    cells = [["" if value is None else one_line(str(value)) for value in row] for row in rows]
    if sys.stdout.isatty():
        _print_framed(columns, cells, right, title, header)
        return
    if title is not None:
        click.echo(title)
    lines = [[column.upper() for column in columns], *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines if header else lines[1:]:
        aligned = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ]
        click.echo("  ".join(aligned).rstrip())


def _print_framed(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str], title: str | None, header: bool
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_header=header)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def age(seconds: float | None) -> str | None:
    """Return a duration by its two largest units, such as "3m 20s"; None for None."""
    if seconds is None:
        return None
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f}".removesuffix(".0") + "s"
    left = round(seconds)
    parts: list[str] = []
    for unit, length in _UNITS.items():
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def local_time(at: datetime | None) -> str | None:
    """Return a time as the clock on the wall here shows it; None for None."""
    if at is None:
        return None
    # Anybody may have written it, and in the first and last hours of all there is no other zone to go to.
    with suppress(OverflowError, ValueError):
        at = at.astimezone()
    return at.replace(tzinfo=None).isoformat(" ", "seconds")


def count_of(number: int, what: str) -> str:
    """Return "1 message", "2 messages"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
