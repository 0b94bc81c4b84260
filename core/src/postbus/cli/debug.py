"""``postbus debug``: what an app is put together from."""

from __future__ import annotations

from inspect import iscoroutinefunction

import click
from msgspec import Struct

from postbus.app import Postbus
from postbus.bus import MessageBus
from postbus.cli.invocation import Invocation, pass_invocation, unknown
from postbus.cli.options import complete_buses, format_option
from postbus.cli.output import print_json, print_table
from postbus.errors import qualified_name
from postbus.handlers import Handler
from postbus.routing import Route, blank_of, fits


class HandlerLine(Struct, frozen=True):
    """One handler: what it handles, and how."""

    handles: list[str]
    name: str
    from_transport: str | None
    priority: int
    is_async: bool
    time_limit: float | None


class BusLine(Struct, frozen=True):
    """One bus: its middleware, the outermost first, and its handlers."""

    name: str
    default: bool
    middleware: list[str]
    handlers: list[HandlerLine]


class RouteLine(Struct, frozen=True):
    """One route: where it leads, and which of the known messages it fits."""

    route: str
    transports: list[str]
    fits: list[str]


class TypeLine(Struct, frozen=True):
    """One message: the name under which it travels, and where it is sent; nowhere means that it is handled at once.

    ``key`` is the field that says what it belongs to.
    """

    wire_name: str
    type: str
    sent_to: list[str]
    key: str | None


@click.command(epilog="Example: postbus debug commands")
@click.argument("bus", required=False, shell_complete=complete_buses)
@format_option
@pass_invocation
def debug(invocation: Invocation, bus: str | None, format: str) -> None:
    """Show buses, handlers, routes and messages.

    With BUS, only the middleware and the handlers of that bus.
    """
    app = invocation.loaded_app
    if bus is not None and bus not in app.config.buses:
        raise unknown("bus", bus, app.config.buses, "buses")
    buses = [_bus_line(app, app.bus(name)) for name in ([bus] if bus is not None else app.config.buses)]
    routes = [_route_line(app, route) for route in app.config.routing] if bus is None else []
    types = [_type_line(app, name, type_) for name, type_ in app.types] if bus is None else []
    warnings = unused_routes(app) if bus is None else []

    if format == "json":
        print_json({"buses": buses, "routes": routes, "messages": types, "warnings": warnings})
        return
    for line in buses:
        _print_bus(line)
    if routes:
        print_table(
            ("Route", "Transports", "Messages"),
            [(line.route, ", ".join(line.transports), len(line.fits)) for line in routes],
            right=("Messages",),
            title="Routes",
        )
        click.echo()
    if types:
        print_table(
            ("Travels as", "Class", "Sent to", "Key"),
            [
                (line.wire_name, line.type, ", ".join(line.sent_to) or "handled at once", line.key or "")
                for line in types
            ],
            title="Messages",
        )
    for warning in warnings:
        click.echo(f"Warning: {warning}", err=True)


def unused_routes(app: Postbus) -> list[str]:
    """Return a sentence for each route that fits no message which the app knows; it may be misspelt."""
    return [f"Route {_name(route)!r} fits no known message." for route in app.router.unused_routes()]


def _print_bus(line: BusLine) -> None:
    click.echo(f"Bus {line.name!r}{', the default' if line.default else ''}")
    click.echo(f"Middleware: {', '.join(line.middleware)}")
    if line.handlers:
        rows = [(", ".join(handler.handles), handler.name, _options(handler)) for handler in line.handlers]
        print_table(("Message", "Handler", "Options"), rows)
    else:
        click.echo("It has no handlers.")
    click.echo()


def _options(handler: HandlerLine) -> str:
    options = {
        "from_transport": handler.from_transport,
        "priority": handler.priority or None,
        "async": handler.is_async or None,
        "time_limit": f"{handler.time_limit:g}" if handler.time_limit is not None else None,
    }
    return ", ".join(f"{name}={value}" for name, value in options.items() if value is not None)


def _bus_line(app: Postbus, bus: MessageBus) -> BusLine:
    handlers = [_handler_line(handler) for handler in app if handler.bus in (None, bus.name)]
    middleware = [getattr(step, "__qualname__", type(step).__qualname__) for step in bus.middleware]
    return BusLine(bus.name, bus.name == app.config.default_bus, middleware, handlers)


def _handler_line(handler: Handler) -> HandlerLine:
    handles = [type_ if isinstance(type_, str) else qualified_name(type_) for type_ in handler.types]
    return HandlerLine(
        handles,
        handler.name,
        handler.from_transport,
        handler.priority,
        iscoroutinefunction(handler.function),
        handler.time_limit,
    )


def _route_line(app: Postbus, route: Route) -> RouteLine:
    fitting = [wire_name for wire_name, type_ in app.types if fits(route, type_)]
    return RouteLine(_name(route), list(app.config.routing[route]), fitting)


def _type_line(app: Postbus, wire_name: str, type_: type) -> TypeLine:
    blank = blank_of(type_)
    sent_to = app.router.names_for(blank) if blank is not None else []
    return TypeLine(wire_name, qualified_name(type_), sent_to, app.keys.field_for(type_))


def _name(route: Route) -> str:
    return route if isinstance(route, str) else qualified_name(route)
