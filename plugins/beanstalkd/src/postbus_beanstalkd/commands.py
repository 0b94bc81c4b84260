"""``postbus beanstalkd``: what comes next in the tubes of a transport, and what was buried made ready."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import click
from msgspec import Struct

from postbus.cli.invocation import Invocation, connection_of
from postbus.cli.options import complete_transports, format_option
from postbus.cli.output import count_of, print_json, print_table
from postbus.display import one_line
from postbus.errors import ConfigurationError

if TYPE_CHECKING:
    from postbus_beanstalkd.overview import Peeked

SHOWN = 60
"""Characters of a body that are shown in a table."""


@runtime_checkable
class Tubes(Protocol):
    """What a connection of ours has, and no other; importing ours would import the client with every command."""

    def peek(self) -> Iterable[Peeked]:
        """Return what comes next in each state."""
        ...

    def kick(self, bound: int) -> int:
        """Make up to so many jobs of each tube ready; return how many there were."""
        ...


class Head(Struct, frozen=True):
    """One line of ``peek``."""

    tube: str
    state: str
    jobs: int
    id: str | None
    priority: int
    age: int
    type: str | None
    body: str


@click.group()
def beanstalkd() -> None:
    """Look into tubes of beanstalkd, and kick what was buried there."""


@beanstalkd.command(epilog="Example: postbus beanstalkd peek orders")
@click.argument("name", shell_complete=complete_transports)
@format_option
@click.pass_obj
def peek(invocation: Invocation, name: str, format: str) -> None:
    """Show the next message of each state in the tubes of a transport.

    The protocol shows no more than that, and nothing of what is being handled.
    """
    heads = [
        Head(
            one.tube,
            one.state,
            one.number,
            one.delivery.id,
            one.priority,
            one.age,
            one.delivery.headers.get("type"),
            one.delivery.body.decode(errors="replace"),
        )
        for one in _connection(invocation, name).peek()
    ]
    if format == "json":
        print_json(heads)
        return
    columns = ("Tube", "State", "Jobs", "Next", "Priority", "Age", "Type", "Body")
    print_table(
        columns,
        [
            (
                head.tube,
                head.state,
                str(head.jobs),
                head.id or "",
                str(head.priority),
                f"{head.age} s",
                one_line(head.type or ""),
                one_line(head.body, SHOWN),
            )
            for head in heads
        ],
    )


@beanstalkd.command(epilog="Example: postbus beanstalkd kick orders --most 100")
@click.argument("name", shell_complete=complete_transports)
@click.option("--most", type=click.IntRange(1, 2**31), default=1000, show_default=True, help="Of each tube.")
@click.pass_obj
def kick(invocation: Invocation, name: str, most: int) -> None:
    """Make buried jobs ready, to be handled again; where there are none, delayed ones.

    With bury_on_reject=true, what was rejected is buried.
    """
    kicked = _connection(invocation, name).kick(most)
    click.echo(f"{name}: {count_of(kicked, 'message')} made ready")


def _connection(invocation: Invocation, name: str) -> Tubes:
    connection = connection_of(invocation.app.transport(name))
    if not isinstance(connection, Tubes):
        raise ConfigurationError(f"Transport {name!r} is not on beanstalkd.")
    return connection
