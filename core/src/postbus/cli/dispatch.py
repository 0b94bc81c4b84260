"""``postbus dispatch``: sends one message from a shell."""

from __future__ import annotations

import sys

import click
from msgspec import Struct, field

from postbus import stamps
from postbus.app import Postbus
from postbus.cli.invocation import Invocation, invocation_in, pass_invocation, transport_names, unknown
from postbus.cli.options import complete_buses, complete_transports, completer, duration, format_option
from postbus.cli.output import print_json
from postbus.display import sentence
from postbus.dsn import masked
from postbus.envelope import Envelope
from postbus.errors import ConfigurationError
from postbus.serialization import explain
from postbus.spelling import nearest
from postbus.stamps import Stamp


@completer
def complete_types(context: click.Context) -> list[str]:
    """Offer the names under which messages travel."""
    return [name for name, _ in invocation_in(context).loaded_app.types]


@click.command(epilog="""Example: postbus dispatch OrderPlaced '{"order_id": 13}' --delay 5m""")
@click.argument("name", metavar="TYPE", shell_complete=complete_types)
@click.argument("text", metavar="JSON")
@click.option("--delay", type=duration, metavar="TIME", help="Deliver it after so many seconds, or 5m, or 1h.")
@click.option("--key", metavar="TEXT", help="What it belongs to, whatever its class says: see stamps.Key.")
@click.option(
    "--transport",
    "transports",
    metavar="NAME",
    multiple=True,
    shell_complete=complete_transports,
    help="Send it there, whatever the routing says.",
)
@click.option("--bus", "-b", metavar="NAME", shell_complete=complete_buses, help="Dispatch on this bus.")
@format_option
@pass_invocation
def dispatch(
    invocation: Invocation,
    name: str,
    text: str,
    delay: float | None,
    key: str | None,
    transports: tuple[str, ...],
    bus: str | None,
    format: str,
) -> None:
    """Dispatch one message.

    TYPE is the name under which the message travels, or its last part. JSON holds its fields; "-" reads
    them from stdin.
    """
    app = invocation.loaded_app
    if bus is not None and bus not in app.config.buses:
        raise unknown("bus", bus, app.config.buses, "buses")
    given: list[Stamp] = []
    if delay is not None:
        given.append(stamps.Delay(delay))
    if key is not None:
        given.append(stamps.Key(key))
    if transports:
        given.append(stamps.TransportNames(transport_names(app, transports)))
    body = sys.stdin.buffer.read() if text == "-" else text.encode()
    message = _decode(app, _type_for(app, name), body)

    dispatched = Dispatched.from_envelope(app, app.dispatch(message, *given, bus=bus))
    if format == "json":
        print_json(dispatched)
        return
    done = [
        *(f"sent to {place.transport!r}{f' as {place.id}' if place.id else ''}" for place in dispatched.sent),
        *(f"handled by {name}" for name in dispatched.handled),
    ]
    click.echo(f"{dispatched.kind} {dispatched.message_id}: {', '.join(done) or 'nobody took it'}.")


class Place(Struct, frozen=True):
    """Where a message was stored, and the broker's id of it."""

    transport: str
    id: str | None


class Dispatched(Struct, frozen=True):
    """What became of the message."""

    kind: str = field(name="type")
    message_id: str | None
    sent: list[Place]
    handled: list[str]

    @classmethod
    def from_envelope(cls, app: Postbus, envelope: Envelope) -> Dispatched:
        """Return what the stamps of a dispatched envelope say."""
        message_id = envelope.last(stamps.MessageId)
        return cls(
            app.types.name_for(envelope.message.__class__),
            message_id.id if message_id is not None else None,
            [Place(sent.transport, sent.id) for sent in envelope.all(stamps.Sent)],
            [handled.handler for handled in envelope.all(stamps.Handled)],
        )


def _type_for(app: Postbus, name: str) -> type:
    """Return the one type that travels under a name, or under one that ends so, or whose class is called so."""
    exact = app.types.type_for(name)
    if exact is not None:
        return exact
    fitting = {
        type_: wire_name for wire_name, type_ in app.types if name in (wire_name.rpartition(".")[2], type_.__qualname__)
    }
    if len(fitting) > 1:
        raise ConfigurationError(f"{name!r} may be any of {', '.join(sorted(fitting.values()))}. Write the whole name.")
    if not fitting:
        known = {wire_name.rpartition(".")[2]: wire_name for wire_name, _ in app.types}
        meant = nearest(name.rpartition(".")[2], known)
        hint = f" Did you mean {known[meant]!r}?" if meant else ""
        there_are = ", ".join(wire_name for wire_name, _ in app.types) or "none"
        raise ConfigurationError(f"There is no message {masked(name)!r}.{hint} Messages: {there_are}.")
    return next(iter(fitting))


def _decode(app: Postbus, type_: type, body: bytes) -> object:
    try:
        return app.types.codec_for(type_).decode(body)
    except Exception as error:  # A border: a model's own checks may raise anything.
        raise ConfigurationError(
            f"This is no {app.types.name_for(type_)}: {sentence(explain(error))} Write its fields as a JSON object."
        ) from error
