"""``postbus pause``, ``resume`` and ``stop-workers``: what workers are told from afar."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import click
from msgspec import UNSET, Struct, UnsetType

from postbus.app import Postbus
from postbus.cli.invocation import Invocation, pass_invocation, transport_names
from postbus.cli.options import complete_transports, format_option
from postbus.cli.output import print_json
from postbus.control import Control, Pause
from postbus.errors import ConfigurationError, PostbusError


class Change(Struct, frozen=True):
    """What came of one transport: what was done, the pause that there was before, or which error there was."""

    transport: str
    result: str
    before: Pause | UnsetType = UNSET
    error: str | UnsetType = UNSET


@click.command(epilog="Example: postbus pause orders mails")
@click.argument("names", nargs=-1, required=True, shell_complete=complete_transports)
@format_option
@click.pass_context
@pass_invocation
def pause(invocation: Invocation, context: click.Context, names: tuple[str, ...], format: str) -> None:
    """Let no worker begin messages of transports.

    It holds until they are resumed, for all workers of the app, on all machines, and for those that start later. They
    know within five seconds; what they have begun then they finish, and what they have not they give back. Their other
    transports go on. What is dispatched is stored as ever.
    """
    context.exit(_change_all(invocation.app, names, Control.pause, "paused", "was paused already,", format))


@click.command(epilog="Example: postbus resume orders")
@click.argument("names", nargs=-1, required=True, shell_complete=complete_transports)
@format_option
@click.pass_context
@pass_invocation
def resume(invocation: Invocation, context: click.Context, names: tuple[str, ...], format: str) -> None:
    """Let all workers go on with paused transports.

    They know within five seconds.
    """
    context.exit(_change_all(invocation.app, names, Control.resume, "resumed", "resumed, was paused", format))


def _change_all(
    app: Postbus,
    names: Iterable[str],
    change: Callable[[Control, str], Pause | None],
    done: str,
    about: str,
    format: str,
) -> int:
    """Change transports, print what came of each, and return the exit code; ``about`` comes before an earlier pause."""
    chosen = _reachable(app, names)
    changes = [_change(name, partial(change, app.control), done) for name in chosen]
    _report(changes, format, about)
    return 1 if any(change.error for change in changes) else 0


def _reachable(app: Postbus, names: Iterable[str]) -> Sequence[str]:
    """Return the names; raise `ConfigurationError` if no worker would hear of what is written about one."""
    chosen = transport_names(app, names)
    for name in chosen:
        app.control.require_place_for(name)
        if not app.control.reaches_others(name):
            raise ConfigurationError(
                f"No worker would hear that {name!r} is paused, as what is noted there stays in the process that notes "
                "it. Give it the DSN of a broker."
            )
    return chosen


def _change(name: str, change: Callable[[str], Pause | None], done: str) -> Change:
    try:
        before = change(name)
    except PostbusError as error:
        return Change(name, "failed", error=str(error))
    is_done = (before is None) == (done == "paused")
    return Change(name, done if is_done else "unchanged", before if before is not None else UNSET)


def _report(changes: Sequence[Change], format: str, about: str) -> None:
    if format == "json":
        print_json(changes)
        return
    for change in changes:
        if change.error is not UNSET:
            click.echo(f"Error: {change.transport}: {change.error}", err=True)
        elif change.before is not UNSET:
            click.echo(f"{change.transport}: {about} {change.before}")
        else:
            click.echo(f"{change.transport}: {'was not paused' if change.result == 'unchanged' else change.result}")


@click.command("stop-workers", epilog="Example: postbus stop-workers")
@click.pass_context
@pass_invocation
def stop_workers(invocation: Invocation, context: click.Context) -> None:
    """Stop every worker of the app after the messages in hand.

    It reaches the workers of this app, by its name, which is where it is unless it was given one: those that run as
    this user on this machine, or share the folder POSTBUS_STATE_DIR; and on all machines those of a transport whose
    broker keeps notes for them, or that have a control store. Those know within five seconds; one that starts later is
    not stopped. It does not wait for them.
    """
    app = invocation.app
    everywhere, errors = _tell_by_notes(app)
    shared = os.environ.get("POSTBUS_STATE_DIR")
    reached = [f"all that share the folder {shared}" if shared else "those of this user on this machine"]
    try:
        app.stop_signal().send()
    except ConfigurationError:
        # Nobody need be told twice.
        if errors or not everywhere.issuperset(app.consumable):
            raise
        reached = []
    if everywhere:
        reached.append(f"on all machines those of {', '.join(map(repr, sorted(everywhere)))}")
    for problem in errors:
        click.echo(f"Error: {problem}", err=True)
    told = ", and ".join(reached)
    click.echo(f"Told every worker of {app.name!r} to stop after the messages in hand: {told}.")
    context.exit(1 if errors else 0)


def _tell_by_notes(app: Postbus) -> tuple[set[str], list[str]]:
    """Write a note in each place that workers on other machines read; return whose workers are told, and what failed.

    What is wrong with one place keeps nobody from being told by the others.
    """
    control = app.control
    told: dict[str, bool] = {}
    reached: set[str] = set()
    errors: list[str] = []
    for name in app.transports:
        try:
            place = control.place_for(name)
            if place is None or not control.reaches_others(name):
                continue
            if place not in told:
                told[place] = False
                control.stop_workers(place)
                told[place] = True
            if told[place]:
                reached.add(name)
        except PostbusError as error:
            errors.append(f"{name}: {error}")
    return reached, errors
