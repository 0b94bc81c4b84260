"""``postbus check``: whether an app could work now, as a list of what was looked at."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import click
from msgspec import Struct

from postbus.app import Postbus
from postbus.cli.children import files_of
from postbus.cli.debug import unused_routes
from postbus.cli.invocation import Invocation, connection_of, importing, pass_invocation
from postbus.cli.options import HEALTH_FILE, duration, format_option
from postbus.cli.output import count_of, print_json, print_table
from postbus.config import TransportConfig
from postbus.dsn import Dsn
from postbus.errors import ConfigurationError, PostbusError, describe, qualified_name
from postbus.queue_transport import QueueTransport
from postbus.transport import Absence, Receiver, SupportsCount, SupportsSetup, supports
from postbus.worker.health import ailment

Status = Literal["ok", "warning", "problem"]


class Finding(Struct, frozen=True):
    """One thing that was looked at: what, how it is, and what there is to say about it."""

    what: str
    status: Status
    detail: str = ""


@click.command(
    epilog="""
    \b
    Examples: postbus check && systemctl start postbus-worker
              postbus check --worker --health-file /run/postbus/health --max-age 1m
    """
)
@click.option("--worker", is_flag=True, help="Look at a worker that runs, and at nothing else; see --health-file.")
@click.option(
    "--health-file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar=HEALTH_FILE,
    metavar="FILE",
    help=f"The file of the worker's signs of life, as given to it. Also {HEALTH_FILE}.",
)
@click.option(
    "--max-age",
    type=duration,
    default="60",
    show_default=True,
    metavar="TIME",
    help="How long ago the worker may have fetched last, and a broker may have been away.",
)
@format_option
@click.pass_context
@pass_invocation
def check(
    invocation: Invocation,
    context: click.Context,
    worker: bool,
    health_file: Path | None,
    max_age: float,
    format: str,
) -> None:
    """Check that the app could work now, or that it does.

    Of each transport: is its plugin there, can it be reached, is it set up, and may we use it; then the
    handlers and the routes. Nothing is changed, and no message is touched. The exit code is 1 if there is
    any problem; a warning is none.

    --worker is for the liveness probe of Kubernetes: it does not load the app.
    """
    if worker and health_file is None:
        raise click.UsageError(f"--worker goes together with --health-file, or {HEALTH_FILE}.")
    findings = list(_look_at_workers(health_file, max_age) if worker and health_file else _look(invocation))
    if format == "json":
        print_json(findings)
    else:
        print_table(("What", "Status", "Detail"), [(found.what, found.status, found.detail) for found in findings])
    context.exit(1 if any(found.status == "problem" for found in findings) else 0)


def _look_at_workers(health_file: Path, max_age: float) -> Iterator[Finding]:
    for file in files_of(health_file):
        problem = ailment(file, max_age)
        yield Finding(f"worker {file}", "problem" if problem else "ok", problem or "")


def _look(invocation: Invocation) -> Iterator[Finding]:
    # What the app doubts is part of the answer; it need not be logged too.
    logging.getLogger("postbus").setLevel(logging.ERROR)
    try:
        app = invocation.app
    except ConfigurationError as error:
        yield from (Finding("configuration", "problem", problem) for problem in error.problems)
        return
    yield Finding("configuration", "ok")
    yield from (Finding("plugins", "problem", str(problem)) for problem in app.plugins.problems)
    for name in app.transports:
        yield from _look_at_transport(app, name)
    if not app.failure_transports:
        yield Finding("failure transport", "warning", "None is configured, so what finally fails is dropped.")
    yield from _look_at_handlers(app)


def _look_at_transport(app: Postbus, name: str) -> Iterator[Finding]:
    what = f"transport {name}"
    about = _about(app, name)
    try:
        transport = app.transport(name)
        connection = connection_of(transport)
        # Opening a connection need not talk to the broker. These do; and counting might set up what is missing.
        missing = connection.missing() if supports(connection, SupportsSetup) else ()
        if not supports(connection, SupportsSetup) and supports(connection, SupportsCount):
            connection.count()
    except Exception as error:  # A border: a client library may miss something, and that is what is to be found out.
        yield Finding(what, "problem", f"{about}: {error if isinstance(error, PostbusError) else describe(error)}")
        return
    if missing and not (_sets_up_itself(app, name) and all(isinstance(sentence, Absence) for sentence in missing)):
        yield from (Finding(what, "problem", f"{about}: {sentence}") for sentence in missing)
        return
    if missing:
        yield Finding(what, "ok", f"{about}, is set up at the first use")
        return
    if isinstance(transport, QueueTransport) and not transport.guarantees.shared:
        yield Finding(what, "warning", f"{about}: what is sent to it stays in the process that sends it")
        return
    try:
        pause = app.control.paused(name)
    except PostbusError as error:  # Of the control store, as this one has just been reached.
        yield Finding(what, "problem", f"{about}, can be reached; whether it is paused cannot be told: {error}")
        return
    if pause is not None:
        yield Finding(what, "warning", f"{about}, can be reached; paused {pause}, so no worker begins its messages")
        return
    yield Finding(what, "ok", f"{about}, {'can be reached' if isinstance(transport, Receiver) else 'handles at once'}")


def _sets_up_itself(app: Postbus, name: str) -> bool:
    config = app.config.transports[name]
    if not isinstance(config, TransportConfig):
        return False
    dsn = Dsn.parse(config.dsn).with_options(config.options)
    options = app.plugins.scheme_for(dsn).options
    return options is not None and bool(getattr(options.from_dsn(dsn), "auto_setup", False))


def _about(app: Postbus, name: str) -> str:
    """Return the transport's DSN without its secrets, and the plugin that serves it."""
    config = app.config.transports[name]
    if not isinstance(config, TransportConfig):
        return f"a {type(config).__name__}"
    dsn = Dsn.parse(config.dsn).with_options(config.options)
    return f"{dsn} by {app.plugins.scheme_for(dsn).plugin}"


def _look_at_handlers(app: Postbus) -> Iterator[Finding]:
    try:
        with importing("the handlers"):
            app.bus()
    except ConfigurationError as error:
        yield from (Finding("handlers", "problem", problem) for problem in error.problems)
        return
    about = f"{count_of(len(list(app)), 'handler')}; buses: {', '.join(app.config.buses)}"
    try:
        app.require_handlers(app.consumable)
        yield Finding("handlers", "ok", about)
    except ConfigurationError as error:  # Who only dispatches needs none.
        yield Finding("handlers", "warning", f"{about}. {error}")
    yield from (Finding("doubts", "problem", doubt) for doubt in app.doubts())
    yield from _look_at_routes(app)


def _look_at_routes(app: Postbus) -> Iterator[Finding]:
    """Find routes that fit nothing, each with the message that may have been meant."""
    meant = app.router.meant_by_unused()
    unused = app.router.unused_routes()
    for route, sentence in zip(unused, unused_routes(app), strict=True):
        if route in meant:
            yield Finding("routes", "problem", f"{sentence} Did you mean {qualified_name(meant[route])!r}?")
        else:
            yield Finding("routes", "warning", sentence)
    if not unused:
        yield Finding("routes", "ok", count_of(len(app.config.routing), "route"))
