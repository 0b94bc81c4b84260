"""Options and arguments that several commands take: how their values are read, and how they complete."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, TypeVar

import click

from postbus.cli.invocation import invocation_in

F = TypeVar("F", bound=Callable[..., Any])

HEALTH_FILE = "POSTBUS_HEALTH_FILE"
"""The variable that names the file of a worker's signs of life, for the worker and for who looks."""

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def duration(text: str) -> float:
    """Return the seconds in "90", "5m" or "1h30m"."""
    compact = text.replace(" ", "")
    if re.fullmatch(_NUMBER, compact):
        return float(compact)
    if not re.fullmatch(f"({_NUMBER}(ms|[smhd]))+", compact):
        raise click.BadParameter(f"{text!r} is no duration. Write seconds, or for example 90s, 5m, 1h30m, 2d.")
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(f"({_NUMBER})(ms|[smhd])", compact))


def size(text: str) -> int:
    """Return the bytes in "128M" or "1.5G", by powers of 1024."""
    match = re.fullmatch(f"({_NUMBER}) ?([kmgt]?)(?:i?b)?", text.strip().lower())
    if match is None:
        raise click.BadParameter(f"{text!r} is no size. Write bytes, or for example 512k, 128M, 1.5G.")
    return int(float(match[1]) * _BYTES[match[2]])


def weight(text: str) -> tuple[str, int]:
    """Return the name and the number in "orders=3"."""
    name, equals, number = text.rpartition("=")
    if not equals or not name or not number.isdecimal():
        raise click.BadParameter(f"{text!r} is no weight. Write the name and a whole number, for example orders=3.")
    return name, int(number)


def processes_range(text: str) -> tuple[int, int]:
    """Return the least and the most of "4" or "2:8"."""
    match = re.fullmatch(r"([1-9][0-9]*)(?::([1-9][0-9]*))?", text)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise click.BadParameter(f"{text!r} is no number of processes. Write one, or a least and a most such as 2:8.")
    return int(match[1]), int(match[2] or match[1])


def moment(text: str) -> datetime:
    """Return the time that "2026-11-22", "2026-11-22T08:30" (local) or "2h" (ago) means."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        pass
    try:
        return datetime.now(UTC) - timedelta(seconds=duration(text))
    except (click.BadParameter, OverflowError):
        raise click.BadParameter(
            f"{text!r} is no time. Write for example 2026-11-22, '2026-11-22 08:30', or 2h for two hours ago."
        ) from None


def one_format_of(*names: str, help: str) -> Callable[[F], F]:
    """Return the option ``--format``, of which the first is the default."""
    choice = click.Choice(names)
    return click.option("--format", "format", type=choice, default=names[0], show_default=True, help=help)


format_option = one_format_of("table", "json", help="How to print to stdout: for people, or for programs.")


def is_terminal() -> bool:
    """Say whether there is somebody to ask."""
    return sys.stdin.isatty()


def confirm(question: str, *, force: bool) -> None:
    """Ask before something that cannot be undone; without a terminal only ``--force`` can answer."""
    if force:
        return
    if not is_terminal():
        raise click.UsageError("This asks first, and there is no terminal to ask on. Add --force if you mean it.")
    click.confirm(question, abort=True, err=True)


Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def completer(complete: Callable[[click.Context], list[str]]) -> Completer:
    """Make a function that lists what there is into one that completes what was typed.

    It is silent, and offers nothing, where it fails: somebody is typing.
    """

    @wraps(complete)
    def complete_typed(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        logging.getLogger("postbus").setLevel(logging.CRITICAL)
        try:
            found = complete(context)
        except Exception:  # A border: the app may fail in any way, and its text would end up in the line.
            return []
        taken = context.params.get(parameter.name or "") if parameter.nargs == -1 or parameter.multiple else None
        return [name for name in found if name.startswith(incomplete) and name not in (taken or ())]

    return complete_typed


@completer
def complete_transports(context: click.Context) -> list[str]:
    """Offer the names of the transports."""
    return list(invocation_in(context).app.transports)


@completer
def complete_failure_transports(context: click.Context) -> list[str]:
    """Offer the names of the failure transports."""
    return invocation_in(context).app.failure_transports


@completer
def complete_buses(context: click.Context) -> list[str]:
    """Offer the names of the buses."""
    return list(invocation_in(context).app.config.buses)
