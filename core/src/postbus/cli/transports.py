"""``postbus stats``, ``setup`` and ``purge``: what can be done with transports without handling anything."""

from __future__ import annotations

import sys
import time
from contextlib import suppress

import click
from msgspec import UNSET, Struct, UnsetType

from postbus.app import Postbus
from postbus.cli.invocation import Invocation, connection_of, pass_invocation, transport_names
from postbus.cli.options import complete_transports, confirm, duration, format_option
from postbus.cli.output import age, as_json_line, count_of, print_json, print_table
from postbus.control import Pause
from postbus.errors import ConfigurationError, PostbusError
from postbus.transport import Counts, SupportsCount, SupportsPurge, SupportsScript, SupportsSetup, supports


class Outcome(Struct, frozen=True):
    """What came of one transport: what was done, or which error there was."""

    transport: str
    result: str
    error: str | UnsetType = UNSET
    removed: int | UnsetType = UNSET


class Counted(Struct, frozen=True):
    """What several transports have said at about the same time."""

    transports: dict[str, Counts]
    uncountable: list[str]
    errors: dict[str, str]
    paused: dict[str, Pause] = {}
    """Those that somebody has paused for all workers."""


@click.command(
    epilog="""
    \b
    Examples: postbus stats orders --format json
              postbus stats --watch
    """
)
@click.argument("names", nargs=-1, shell_complete=complete_transports)
@click.option(
    "--watch", is_flag=True, help="Count again and again, until Ctrl+C; with --format json, a line of JSON each time."
)
@click.option(
    "--interval", type=duration, default="2", show_default=True, metavar="TIME", help="How often; with --watch."
)
@format_option
@click.pass_context
@pass_invocation
def stats(
    invocation: Invocation,
    context: click.Context,
    names: tuple[str, ...],
    watch: bool,
    interval: float,
    format: str,
) -> None:
    """Count the messages at transports.

    NAMES are the transports, by default all. The oldest is for how long a message has been waiting that
    could be handled. The exit code is 1 if a transport could not be asked; with --watch it is 0, as the next time
    it may be there again.
    """
    app = invocation.app
    chosen = transport_names(app, names) or list(app.transports)
    if watch:
        _watch(app, chosen, interval, format)
        return
    counted = _count(app, chosen)
    if format == "json":
        print_json(counted)
    else:
        _print_counted(counted)
    context.exit(1 if counted.errors else 0)


def _watch(app: Postbus, names: list[str], interval: float, format: str) -> None:
    is_first = True
    with suppress(KeyboardInterrupt):
        while True:
            counted = _count(app, names)
            if format == "json":
                click.echo(as_json_line(counted))
            elif sys.stdout.isatty():
                click.clear()
                _print_counted(counted)
            else:
                click.echo("", nl=not is_first)
                _print_counted(counted)
            is_first = False
            time.sleep(interval)


def _count(app: Postbus, names: list[str]) -> Counted:
    counted = Counted({}, [], {}, {})
    for name in names:
        try:
            connection = connection_of(app.transport(name))
            if supports(connection, SupportsCount):
                counted.transports[name] = connection.count()
            else:
                counted.uncountable.append(name)
            if (pause := app.control.paused(name)) is not None:
                counted.paused[name] = pause
        except PostbusError as error:
            counted.errors[name] = str(error)
    return counted


def _print_counted(counted: Counted) -> None:
    _print_counts(counted.transports)
    for name, pause in counted.paused.items():
        click.echo(f"Paused: {name}, {pause}.")
    if counted.uncountable:
        click.echo(f"Cannot count: {', '.join(counted.uncountable)}.")
    for name, problem in counted.errors.items():
        click.echo(f"Error: {name}: {problem}", err=True)


def _print_counts(counted: dict[str, Counts]) -> None:
    if not counted:
        return
    rows = [
        (name, counts.waiting, counts.delayed, counts.in_flight, age(counts.oldest_age))
        for name, counts in counted.items()
    ]
    numbers = ("Waiting", "Delayed", "In flight", "Oldest")
    print_table(("Transport", *numbers), rows, right=numbers)


@click.command(
    epilog="""
    \b
    Examples: postbus setup
              postbus setup orders --sql > tables.sql
    """
)
@click.argument("names", nargs=-1, shell_complete=complete_transports)
@click.option(
    "--sql",
    "script",
    is_flag=True,
    help="Print what would be done, for somebody who may do it, and do nothing. Only for transports that can say it.",
)
@format_option
@click.pass_context
@pass_invocation
def setup(invocation: Invocation, context: click.Context, names: tuple[str, ...], script: bool, format: str) -> None:
    """Make what transports need: tables, queues, streams.

    NAMES are the transports, by default all. What is there already stays as it is. One that fails does not
    stop the others; the exit code is 1 then.
    """
    app = invocation.app
    if script:
        chosen = transport_names(app, names)
        for text in dict.fromkeys(_script_of(app, name, named=bool(chosen)) for name in chosen or app.transports):
            click.echo(text, nl=bool(text))
        return
    outcomes = [_set_up(app, name) for name in transport_names(app, names) or app.transports]
    _report(outcomes, format)
    context.exit(1 if any(outcome.error for outcome in outcomes) else 0)


def _script_of(app: Postbus, name: str, *, named: bool) -> str:
    connection = connection_of(app.transport(name))
    if supports(connection, SupportsScript):
        return connection.script()
    if named:
        raise ConfigurationError(f"Transport {name!r} cannot say how it is set up. Run postbus setup {name}.")
    return ""


def _set_up(app: Postbus, name: str) -> Outcome:
    try:
        connection = connection_of(app.transport(name))
        if not supports(connection, SupportsSetup):
            return Outcome(name, "nothing to set up")
        connection.setup()
    except PostbusError as error:
        return Outcome(name, "failed", str(error))
    return Outcome(name, "set up")


@click.command(epilog="Example: postbus purge orders --force")
@click.argument("names", nargs=-1, required=True, shell_complete=complete_transports)
@click.option("--force", is_flag=True, help="Do not ask.")
@format_option
@click.pass_context
@pass_invocation
def purge(invocation: Invocation, context: click.Context, names: tuple[str, ...], force: bool, format: str) -> None:
    """Delete all messages of transports; asks first.

    Delayed ones, and those that are being handled, are deleted too.
    """
    app = invocation.app
    chosen = transport_names(app, names)
    for name in chosen:
        if not isinstance(connection_of(app.transport(name)), SupportsPurge):
            raise ConfigurationError(f"Transport {name!r} cannot be purged: it has no such operation.")
    confirm(f"Delete all messages of {', '.join(f'{name} ({_content(app, name)})' for name in chosen)}?", force=force)

    outcomes = [_purge(app, name) for name in chosen]
    _report(outcomes, format)
    context.exit(1 if any(outcome.error for outcome in outcomes) else 0)


def _content(app: Postbus, name: str) -> str:
    connection = connection_of(app.transport(name))
    if not supports(connection, SupportsCount):
        return "it does not tell how many"
    counts = connection.count()
    return count_of(counts.waiting + (counts.delayed or 0) + (counts.in_flight or 0), "message")


def _purge(app: Postbus, name: str) -> Outcome:
    connection = connection_of(app.transport(name))
    assert supports(connection, SupportsPurge)
    try:
        removed = connection.purge()
    except PostbusError as error:
        return Outcome(name, "failed", str(error))
    return Outcome(name, "purged", removed=removed)


def _report(outcomes: list[Outcome], format: str) -> None:
    if format == "json":
        print_json(outcomes)
        return
    for outcome in outcomes:
        more = outcome.error or (None if outcome.removed is UNSET else count_of(outcome.removed, "message"))
        click.echo(f"{outcome.transport}: {outcome.result}{f': {more}' if more else ''}")
