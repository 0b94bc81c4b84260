"""``postbus consume``, which runs a worker."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Concatenate, NoReturn, ParamSpec, cast

import click

from postbus.app import Postbus
from postbus.cli import logs
from postbus.cli.children import REPLACE, adopt, number_of, own_file
from postbus.cli.invocation import Invocation, pass_invocation, transports_fitting, unknown
from postbus.cli.options import (
    HEALTH_FILE,
    complete_buses,
    complete_transports,
    duration,
    is_terminal,
    processes_range,
    size,
    weight,
)
from postbus.cli.output import age, count_of
from postbus.cli.processes import Parent
from postbus.cli.program import Program
from postbus.cli.scaling import Backlog, Scaling
from postbus.cli.summary import Summary
from postbus.cli.trial import isolate, summons_in, worker_for
from postbus.cli.watching import Changes
from postbus.errors import ConfigurationError, PostbusError, TransportError, describe, qualified_name
from postbus.events import WorkerStopped
from postbus.limits import GRACE, PREFETCH_BYTES, Limits
from postbus.queue_transport import QueueTransport
from postbus.worker.dispatching import exit_code
from postbus.worker.signals import Standby
from postbus.worker.strategies import STRATEGIES, Strategy

logger = logging.getLogger(logs.ANNOUNCEMENTS)

P = ParamSpec("P")

LAST_GRACE = 1.0
"""Seconds that a process gets at least to end once its worker has."""


def pass_standby(
    command: Callable[Concatenate[Standby, Invocation, P], None],
) -> Callable[Concatenate[Invocation, P], None]:
    """Let a signal end the command well from its beginning to the end of the process."""

    @wraps(command)
    def run(invocation: Invocation, /, *args: P.args, **options: P.kwargs) -> None:
        standby = Standby(for_good=invocation.owns_process)
        try:
            with standby:
                command(standby, invocation, *args, **options)
        except BaseException:  # Whatever has come of the exception, in code that is not ours.
            if standby.called_off is None:
                raise
            logger.info("Stopped, because it got %s, before it had begun.", standby.called_off.name)
            raise SystemExit(0) from None

    return run


@click.command(
    epilog="""
    \b
    Examples: postbus consume orders mails --limit 1000 --memory-limit 128M -v
              postbus consume --all --concurrency 50 --strategy weighted --weight orders=3
              postbus consume 'orders_.*' --exclude orders_archive
    """
)
@click.argument("names", nargs=-1, shell_complete=complete_transports)
@click.option("--all", "everything", is_flag=True, help="Consume all transports but the failure transports.")
@click.option(
    "--exclude",
    metavar="NAME",
    multiple=True,
    shell_complete=complete_transports,
    help="Not this one, or those that this regular expression fits; with --all or NAMES. May be given several times.",
)
@click.option("--limit", "-l", type=click.IntRange(min=1), metavar="N", help="Stop after so many messages.")
@click.option("--failure-limit", "-f", type=click.IntRange(min=1), metavar="N", help="Stop after so many failures.")
@click.option("--time-limit", "-t", type=duration, metavar="TIME", help="Stop after so many seconds, or 5m, or 1h.")
@click.option("--memory-limit", "-m", type=size, metavar="SIZE", help="Stop above this much memory, such as 128M.")
@click.option("--idle-limit", type=duration, metavar="TIME", help="Stop when there has been nothing to do for so long.")
@click.option(
    "--until-empty", is_flag=True, help="Stop as soon as nothing is waiting: an --idle-limit of 0, for tests and cron."
)
@click.option("--queues", metavar="QUEUE", multiple=True, help="Only from this queue; may be given several times.")
@click.option("--bus", "-b", metavar="NAME", shell_complete=complete_buses, help="Handle everything on this bus.")
@click.option(
    "--concurrency",
    "-c",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Handle so many messages at once: def handlers in threads, async def handlers on one event loop.",
)
@click.option(
    "--fetch-size", type=click.IntRange(min=1), metavar="N", help="Fetch so many at once, instead of what fits."
)
@click.option(
    "--prefetch-bytes",
    type=size,
    default=f"{PREFETCH_BYTES // 2**20}M",
    show_default=True,
    metavar="SIZE",
    help="Fetch fewer of large messages, so that those that no handler has take about this much.",
)
@click.option(
    "--strategy",
    type=click.Choice(STRATEGIES),
    default="strict",
    show_default=True,
    help="Whose turn it is if several transports, or queues, have messages: always the first's; by turns, in "
    "proportion to weights; or by turns.",
)
@click.option(
    "--weight",
    "weights",
    type=weight,
    metavar="NAME=N",
    multiple=True,
    help="The weight of a transport or queue, by default 1; with --strategy weighted.",
)
@click.option(
    "--grace",
    type=duration,
    default=f"{GRACE:g}",
    show_default=True,
    metavar="TIME",
    help="How long handlers may go on after a signal; then they are interrupted, and their messages come again.",
)
@click.option(
    "--max-outage",
    type=duration,
    metavar="TIME",
    help="End with exit code 1 when a broker could not be reached for so long; without it, try for ever.",
)
@click.option(
    "--health-file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar=HEALTH_FILE,
    metavar="FILE",
    help=f"Write a sign of life into this file, for `postbus check --worker`. Also {HEALTH_FILE}.",
)
@click.option(
    "--no-reset", is_flag=True, help="Do not call the method reset() of what handlers need, after each message."
)
@click.option(
    "--processes",
    type=processes_range,
    metavar="N|MIN:MAX",
    help="Run so many workers under one parent, which replaces those that die, or reach their --memory-limit; "
    "between two numbers, as many as what waits calls for.",
)
@click.option("--watch", is_flag=True, help="Start anew when a Python file in this folder changes; for development.")
@click.option(
    "-v",
    "--verbose",
    "verbosity",
    count=True,
    type=click.IntRange(max=logs.MOST),
    help="Show each message, and a summary at the end; -vv details, and what libraries have to say.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="How to log, to stderr; by default as the app configures it, or else as text.",
)
@click.pass_context
@pass_invocation
@pass_standby
def consume(
    standby: Standby,
    invocation: Invocation,
    context: click.Context,
    names: tuple[str, ...],
    everything: bool,
    exclude: tuple[str, ...],
    limit: int | None,
    failure_limit: int | None,
    time_limit: float | None,
    memory_limit: int | None,
    idle_limit: float | None,
    until_empty: bool,
    queues: tuple[str, ...],
    bus: str | None,
    concurrency: int,
    fetch_size: int | None,
    prefetch_bytes: int,
    strategy: Strategy,
    weights: tuple[tuple[str, int], ...],
    grace: float,
    max_outage: float | None,
    health_file: Path | None,
    no_reset: bool,
    processes: tuple[int, int] | None,
    watch: bool,
    verbosity: int,
    log_format: logs.Format | None,
) -> None:
    """Handle what arrives at transports.

    NAMES are in order of priority; they may be left out if there is only one transport to consume. One may be a
    regular expression, which stands for all transports whose whole name it fits, but for failure transports, in the
    order of the configuration: 'orders_.*'. SIGTERM, SIGINT, SIGQUIT and SIGHUP stop it after the messages in hand
    (exit code 0), a second one at once (130).
    """
    if everything and names:
        raise click.UsageError("Give names or --all, not both.")
    if until_empty and idle_limit:
        raise click.UsageError("Give --until-empty or --idle-limit, not both.")
    if exclude and not (everything or names):
        raise click.UsageError("--exclude goes together with --all, or with NAMES.")
    program = cast(Program, context.find_root().command)
    program.grace = grace
    child = number_of(os.environ)
    least, most = processes or (1, 1)
    if watch and least != most:
        raise click.UsageError("--watch goes together with a fixed number of --processes.")
    summons = summons_in(os.environ)
    process = f"worker {child}" if child is not None and processes else "trial" if summons is not None else None
    logs.configure(verbosity, log_format, process=process)
    if summons is not None:
        app = invocation.loaded_app
        trial = worker_for(app, summons, bus=bus, grace=grace, reset=not no_reset)
        standby.hand_over(lambda number: trial.stop(f"it got {number.name}"))
        trial.run(abandon=lambda _: _end(app, REPLACE))
        context.exit(0)
    if child is None and watch:
        # Without the app: it may be broken now, and mended by the next change.
        context.exit(_run(Parent(least, grace=grace, changes=Changes(Path.cwd())), standby))
    if child is None and processes is None and os.getpid() == 1:
        context.exit(_run(Parent(1, grace=grace, replaces=False), standby))
    idle = 0.0 if until_empty else idle_limit
    limits = Limits(messages=limit, failures=failure_limit, time=time_limit, memory=memory_limit, idle=idle)
    app = invocation.loaded_app
    if bus is not None and bus not in app.config.buses:
        raise unknown("bus", bus, app.config.buses, "buses")
    chosen = _chosen(app, names, exclude, everything=everything)
    app.require_handlers(chosen, bus)

    if child is None and processes is not None:
        backlog = (
            Backlog(
                {name: app.transport(name) for name in chosen},
                Scaling(least, most),
                lambda name: app.control.paused(name) is not None,
            )
            if least < most
            else None
        )
        number = f"{least}" if backlog is None else f"{least} to {most}"
        logger.info("Consuming %s in %s processes.", ", then ".join(map(repr, chosen)), number)
        _announce_end(limits, hint=not verbosity and log_format != "json")
        context.exit(_run(Parent(least, grace=grace, backlog=backlog, health_file=health_file), standby))

    worker = app.worker(
        *chosen,
        limits=limits,
        queues=queues,
        bus=bus,
        concurrency=concurrency,
        fetch_size=fetch_size,
        prefetch_bytes=prefetch_bytes,
        strategy=strategy,
        weights=dict(weights),
        grace=grace,
        max_outage=max_outage,
        health_file=own_file(health_file, child) if processes else health_file,
        reset=not no_reset,
    )
    worker.prepare()
    standby.hand_over(lambda number: worker.stop(f"it got {number.name}"))
    summary = Summary()
    if verbosity:
        app.observe(summary)
    if child is not None:
        adopt(os.environ, worker.stop)
    logger.info("Consuming %s.", ", then ".join(map(repr, chosen)), extra={"transports": chosen})
    if child is None or processes is None:  # Else the parent has said it, for all of them.
        _announce_end(limits, hint=not verbosity and log_format != "json")
    _warn_of_drops(app, chosen)
    _warn_of_unknown_messages(app, chosen)
    _warn_of_other_processes(app, chosen)
    started = time.monotonic()

    def tell(stopped: WorkerStopped) -> int:
        logger.info(
            "Stopped, because %s: %d handled, %d failed, in %s.",
            stopped.reason,
            stopped.handled,
            stopped.failed,
            age(time.monotonic() - started),
            extra={"handled": stopped.handled, "failed": stopped.failed},
        )
        for line in summary.lines(time.monotonic() - started):
            logger.info("%s", line)
        if stopped.interrupted:
            return 130
        if stopped.outgrown and child is not None:
            # Another one would do no better than one that had outgrown its limit before it could do anything.
            return REPLACE if stopped.handled or stopped.failed else 1
        return REPLACE if stopped.stuck else 0

    try:
        stopped = worker.run(
            abandon=lambda stopped: _end(app, tell(stopped)),
            isolate=partial(isolate, app) if invocation.owns_process else None,
        )
        code = tell(stopped)
    except TransportError as error:
        if log_format != "json" and not worker.has_unfinished:
            raise
        logger.error("Stopped, because a transport failed for good: %s", error)
        code = 1
    except SystemExit as error:
        logger.error("Stopped, because a handler raised %s.", describe(error))
        code = exit_code(error) if child is None else REPLACE
    except KeyboardInterrupt:
        if not worker.has_unfinished:
            raise
        code = 130
    finally:
        program.grace = min(grace, max(LAST_GRACE, worker.grace_left))
    if worker.has_unfinished:
        _end(app, code)
    context.exit(code)


def _run(parent: Parent, standby: Standby) -> int:
    standby.hand_over(parent.stop)
    return parent.run()


def _end(app: Postbus, code: int) -> NoReturn:
    """End now: Python would wait for threads that an interrupted handler has started.

    What handlers need is not closed: they may still use it, and closing it might wait for them.
    """
    with contextlib.suppress(PostbusError):
        app.transports.close()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _chosen(app: Postbus, names: tuple[str, ...], exclude: tuple[str, ...], *, everything: bool) -> list[str]:
    if not (names or everything):
        return _only(app)
    left_out = transports_fitting(app, exclude)
    chosen = [name for name in (transports_fitting(app, names) or app.consumable) if name not in left_out]
    if not chosen:
        raise ConfigurationError(f"With {'--exclude' if exclude else '--all'} there is no transport left to consume.")
    return chosen


def _only(app: Postbus) -> list[str]:
    """Return the one transport that can be meant; ask, if there are several and somebody to ask."""
    consumable = app.consumable
    if len(consumable) == 1:
        return consumable
    if not consumable:
        raise ConfigurationError(
            "There is no transport to consume. Configure one under [transports], or name a failure transport."
            if app.failure_transports
            else "There is no transport to consume. Configure one under [transports]."
        )
    if not is_terminal():
        raise ConfigurationError(f"Name the transports to consume, or add --all. Transports: {', '.join(consumable)}.")
    return _ask(consumable)


def _ask(consumable: list[str]) -> list[str]:
    for number, name in enumerate(consumable, start=1):
        click.echo(f"  {number}  {name}", err=True)
    answer = click.prompt("Which to consume, the first first (numbers or names)", default=consumable[0], err=True)
    numbers = {str(number): name for number, name in enumerate(consumable, start=1)}
    chosen = [numbers.get(word, word) for word in str(answer).replace(",", " ").split()]
    for name in chosen:
        if name not in consumable:
            raise unknown("transport", name, consumable)
    return chosen


def _warn_of_drops(app: Postbus, names: list[str]) -> None:
    dropping = [name for name in names if app.failure_transport_for(name) is None]
    if dropping:
        logger.warning(
            "A message of %s that finally fails is dropped, after it was logged, because there is no failure "
            "transport. Configure one to keep it: failure_transport.",
            " or ".join(map(repr, dropping)),
            extra={"transports": dropping},
        )


def _warn_of_unknown_messages(app: Postbus, names: list[str]) -> None:
    meant = app.router.meant_by_unused()
    for route in app.router.unused_routes():
        if not {*names} & {*app.config.routing[route]}:
            continue
        remedy = (
            f"Did you mean {qualified_name(meant[route])!r}?"
            if route in meant
            else "Import the module with its handlers, or list it in handlers."
        )
        logger.warning("No message is known that fits the route %r, which leads here: it would fail. %s", route, remedy)


def _warn_of_other_processes(app: Postbus, names: list[str]) -> None:
    for name in names:
        transport = app.transport(name)
        if isinstance(transport, QueueTransport) and not transport.guarantees.shared:
            logger.warning(
                "What is sent to %r stays in the process that sends it, so this worker gets nothing of what others "
                "send. Give it the DSN of a broker.",
                name,
            )


def _announce_end(limits: Limits, *, hint: bool) -> None:
    reasons = [
        f"after {count_of(limits.messages, 'message')}" if limits.messages is not None else None,
        f"after {count_of(limits.failures, 'failure')}" if limits.failures is not None else None,
        f"after {age(limits.time)}" if limits.time is not None else None,
        f"above {limits.memory / 2**20:g} MiB of memory" if limits.memory is not None else None,
        f"after {age(limits.idle)} without a message" if limits.idle else None,
        "as soon as nothing is waiting" if limits.idle == 0 else None,
        "on `postbus stop-workers`",
    ]
    logger.info("It stops by itself %s.", " or ".join(reason for reason in reasons if reason))
    more = " With -v it shows each message." if hint else ""
    logger.info("Ctrl+C or SIGTERM stops it after the messages in hand, a second one at once.%s", more)
