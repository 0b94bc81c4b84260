"""``postbus failed``: shows, retries and removes the messages in a failure transport."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

import click

from postbus.app import Postbus
from postbus.cli.failed_messages import FailedMessage, FailedMessages, Filter, Ids
from postbus.cli.failed_output import details_of, print_details, print_list, print_summary
from postbus.cli.failed_retry import Result, Retrying
from postbus.cli.invocation import Invocation, invocation_in, pass_invocation, unknown
from postbus.cli.options import complete_failure_transports, completer, confirm, format_option, is_terminal, moment
from postbus.cli.output import JsonList, count_of, print_json, progress
from postbus.display import one_line
from postbus.errors import ConfigurationError, PostbusError

F = TypeVar("F", bound=Callable[..., Any])

CHUNK = 100
"""How many messages are removed, or ids offered, at a time."""

_ANSWERS = {"r": "retry", "d": "delete", "s": "skip", "q": "quit"}
_GOOD = ("handled", "sent back", "skipped", "deleted")


def selection(command: F) -> F:
    """Give a command the options that say which failed messages are meant."""
    options = [
        click.option(
            "--transport",
            metavar="NAME",
            shell_complete=complete_failure_transports,
            help="The failure transport; by default the global one.",
        ),
        click.option(
            "--class", "kind", metavar="NAME", help="Only messages of this class, by its name or its last part."
        ),
        click.option(
            "--error",
            metavar="NAME",
            help="Only what failed last with this class of error, by its name or its last part.",
        ),
        click.option("--since", type=moment, metavar="TIME", help="Only what failed last at this time or later."),
        click.option("--until", type=moment, metavar="TIME", help="Only what failed last at this time or earlier."),
        format_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


@completer
def complete_ids(context: click.Context) -> list[str]:
    """Offer the ids of the first messages."""
    messages = _open(invocation_in(context).app, context.params.get("transport"))
    return [message.id for message in islice(messages.matching(Filter()), CHUNK) if message.id.isprintable()]


@click.group(epilog="Example: postbus failed retry --all --class OrderPlaced --since 2h")
def failed() -> None:
    """Show, retry and remove messages that finally failed.

    A TIME is a date, a date and time (local, unless it has an offset), or for example 2h for two hours ago.
    """


@failed.command(epilog="Example: postbus failed show --class OrderPlaced --since 2026-11-22")
@click.argument("id", required=False, shell_complete=complete_ids)
@click.option(
    "--max",
    "most",
    type=click.IntRange(min=1),
    metavar="N",
    default=50,
    show_default=True,
    help="List so many at most.",
)
@click.option("--after", metavar="ID", help="List those that come behind this one.")
@click.option("--stats", "summary", is_flag=True, help="Show how many there are of each class.")
@click.option("-v", "--verbose", is_flag=True, help="With an ID, show the tracebacks too.")
@selection
@pass_invocation
def show(
    invocation: Invocation,
    id: str | None,
    most: int,
    after: str | None,
    summary: bool,
    verbose: bool,
    transport: str | None,
    kind: str | None,
    error: str | None,
    since: datetime | None,
    until: datetime | None,
    format: str,
) -> None:
    """List the failed messages, or show all about the one with ID."""
    filter = Filter(kind, error, since, until)
    if id is not None and (filter or summary or after is not None):
        raise click.UsageError("Give an ID, or say which to list; not both.")
    app = invocation.loaded_app
    messages = _open(app, transport)
    if summary:
        print_summary(messages.matching(filter), format)
        return
    if id is None:
        print_list(messages, filter, most, after, format)
        return

    message = messages.find(id)
    if message is None:
        raise PostbusError(f"There is no message {id!r} in {messages.name!r}. List them: postbus failed show")
    details = details_of(app, message, with_traceback=verbose)
    if format == "json":
        print_json(details)
    else:
        print_details(details)


@failed.command(epilog="Example: postbus failed retry 17 23")
@click.argument("ids", nargs=-1, shell_complete=complete_ids)
@click.option("--all", "everything", is_flag=True, help="Retry all that --class, --error, --since and --until admit.")
@click.option(
    "--send-back",
    is_flag=True,
    help="Send them to the transports that they came from, for workers, in place of handling them here.",
)
@click.option("--force", is_flag=True, help="Ask nothing; without IDS, the same as --all.")
@selection
@click.pass_context
@pass_invocation
def retry(
    invocation: Invocation,
    context: click.Context,
    ids: tuple[str, ...],
    everything: bool,
    send_back: bool,
    force: bool,
    transport: str | None,
    kind: str | None,
    error: str | None,
    since: datetime | None,
    until: datetime | None,
    format: str,
) -> None:
    """Handle failed messages once more, here and now.

    Without IDS and --all it shows one message after the other and asks: retry, delete, skip, or quit. What
    was handled is removed; what fails again stays, under a new id and with the new error. The exit code is 1
    if any failed again or was not found. --all means all that had failed before.

    Whatever ends this, no message is lost; of those that were handled in the last tenth of a second, some
    may still be there then.
    """
    filter = Filter(kind, error, since, until)
    _refuse_both(ids, everything, filter)
    asks = not (ids or everything or force)
    if asks and not is_terminal():
        raise click.UsageError("Name IDS, or add --all: there is no terminal to ask on.")
    app = invocation.loaded_app
    messages = _open(app, transport)
    # What the log would say about each failure is what this command prints.
    logging.getLogger("postbus").setLevel(logging.CRITICAL)

    total = len(ids) or (None if filter else messages.count())
    what = "Sending back" if send_back else "Retrying"
    with nullcontext(_ignore) if asks else progress(what, total) as step, _Report(format, step) as report:
        retrying = Retrying(app, messages, report.add)
        if asks:
            _retry_asking(app, messages, filter, retrying, report, send_back=send_back)
        else:
            chosen = _named(messages, ids) if ids else messages.until_now(filter)
            retrying.run(chosen, send_back=send_back)
    context.exit(1 if report.bad else 0)


@failed.command(epilog="Example: postbus failed remove --class OrderPlaced --until 2026-11-01")
@click.argument("ids", nargs=-1, shell_complete=complete_ids)
@click.option("--all", "everything", is_flag=True, help="Remove all that --class, --error, --since and --until admit.")
@click.option("--force", is_flag=True, help="Do not ask.")
@click.option("--show-messages", is_flag=True, help="Show all about each message first, on stderr.")
@selection
@click.pass_context
@pass_invocation
def remove(
    invocation: Invocation,
    context: click.Context,
    ids: tuple[str, ...],
    everything: bool,
    force: bool,
    show_messages: bool,
    transport: str | None,
    kind: str | None,
    error: str | None,
    since: datetime | None,
    until: datetime | None,
    format: str,
) -> None:
    """Delete failed messages; asks first.

    Those with IDS, or all that --class, --since and --until admit.
    """
    filter = Filter(kind, error, since, until)
    _refuse_both(ids, everything, filter)
    if not (ids or everything or filter):
        raise click.UsageError("Name IDS, or add --all.")
    app = invocation.loaded_app
    messages = _open(app, transport)
    wanted = dict.fromkeys(ids) if ids else (message.id for message in messages.matching(filter))
    removed, missing = 0, list[str]()
    with Ids(wanted) as chosen:
        for id in chosen if show_messages else ():
            if (message := messages.find(id)) is not None:
                print_details(details_of(app, message, with_traceback=False), err=True)
        if len(chosen):
            confirm(f"Remove {count_of(len(chosen), 'message')} from {messages.name!r}, for good?", force=force)
        left = iter(chosen)
        try:
            with progress("Removing", len(chosen)) as step:
                # Named ids are removed one by one, to tell which of them there was.
                while chunk := list(islice(left, 1 if ids else CHUNK)):
                    count = messages.remove(chunk)
                    removed += count
                    if ids and not count:
                        missing += chunk
                    step(len(chunk))
        finally:  # Whatever ends it, what was done is told.
            if format == "json":
                print_json({"removed": removed, "not_found": missing})
            else:
                click.echo(f"Removed {count_of(removed, 'message')} from {messages.name!r}.")
    for id in missing if format == "table" else ():
        click.echo(f"There is no message {id!r} in {messages.name!r}.", err=True)
    context.exit(1 if missing else 0)


def _open(app: Postbus, name: str | None) -> FailedMessages:
    known = app.failure_transports
    if not known:
        raise ConfigurationError("No failure transport is configured, so nothing that failed is kept. Name one.")
    if name is not None and name not in known:
        raise unknown("failure transport", name, known)
    chosen = name or app.config.failure_transport or (known[0] if len(known) == 1 else None)
    if chosen is None:
        raise ConfigurationError(
            f"There is no global failure transport. Add --transport with one of: {', '.join(known)}."
        )
    return FailedMessages(app, chosen)


def _refuse_both(ids: tuple[str, ...], everything: bool, filter: Filter) -> None:
    if ids and (everything or filter):
        raise click.UsageError("Give IDS, or say which with --all, --class, --error, --since and --until; not both.")


def _named(messages: FailedMessages, ids: Iterable[str]) -> Iterator[FailedMessage | Result]:
    for id in dict.fromkeys(ids):
        yield messages.find(id) or Result(id, None, "not found")


def _retry_asking(
    app: Postbus, messages: FailedMessages, filter: Filter, retrying: Retrying, report: _Report, *, send_back: bool
) -> None:
    """Ask about each message once; what is skipped stays where it is, and does not come again."""
    for message in messages.until_now(filter):
        print_details(details_of(app, message), err=True)
        answer = click.prompt("(r)etry, (d)elete, (s)kip, (q)uit", default="r", value_proc=_read_answer, err=True)
        if answer == "quit":
            return
        if answer == "retry":
            retrying.run([message], send_back=send_back)
            continue
        if answer == "delete":
            messages.remove([message.id])
        report.add(Result(message.id, message.kind, "deleted" if answer == "delete" else "skipped"))


def _read_answer(text: str) -> str:
    answer = _ANSWERS.get(text.strip().lower()[:1])
    if answer is None:
        raise click.UsageError("Answer r, d, s or q.")
    return answer


def _ignore(number: int) -> None:
    pass


class _Report:
    """A context that prints what comes of each message as soon as it is known, and at the end how many there are."""

    def __init__(self, format: str, step: Callable[[int], None]) -> None:
        self._step = step
        self._json = JsonList() if format == "json" else None
        self._counts = Counter[str]()

    def __enter__(self) -> _Report:
        if self._json is not None:
            self._json.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Whatever ends it, what was done is told."""
        if self._json is not None:
            self._json.__exit__(*error)
        if not self._counts:
            click.echo("There was nothing to retry.", err=True)
        elif self._counts.total() > 1:
            counts = ", ".join(
                f"{number} {_WORDS.get(result, result)}" for result, number in self._counts.most_common()
            )
            click.echo(f"{count_of(self._counts.total(), 'message')}: {counts}.", err=True)

    def add(self, result: Result) -> None:
        """Print a result."""
        self._step(1)
        self._counts[result.result] += 1
        if self._json is not None:
            self._json.add(result)
        else:
            _print_result(result)

    @property
    def bad(self) -> int:
        """How many results are no good news."""
        return sum(number for result, number in self._counts.items() if result not in _GOOD)


_WORDS = {"failed": "failed again"}


def _print_result(result: Result) -> None:
    text = {
        "failed": f"failed again, kept as {result.new_id}" if result.new_id else "failed again, kept",
        "sent back": f"sent back to {result.transport!r}",
        "unreadable": "still cannot be read, kept",
        "not removed": "handled, but could not be removed",
    }.get(result.result, result.result)
    what = one_line(f"{result.id} {result.kind or ''}")
    reason = f": {one_line(result.error)}" if result.error else ""
    click.echo(f"{what} {click.style(text, 'green' if result.result in _GOOD else 'red')}{reason}")
