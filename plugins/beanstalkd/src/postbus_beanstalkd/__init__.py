"""The beanstalkd transport: ``beanstalkd://``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from postbus.dsn import Dsn
from postbus.hookspecs import RegisterTransport, hookimpl
from postbus.queue_transport import QueueTransport
from postbus.transport import Guarantees, TransportContext
from postbus_beanstalkd.limits import LARGEST, MOST
from postbus_beanstalkd.options import BeanstalkdOptions, address_of
from postbus_beanstalkd.stamps import BeanstalkdJob

if TYPE_CHECKING:
    import click

__all__ = ["GUARANTEES", "BeanstalkdJob", "BeanstalkdOptions", "make_transport"]

CONTRACT = 1

GUARANTEES = Guarantees(
    durable=True,
    ordering="fifo",
    longest_delay=float(MOST),
    priority=True,
    lease=True,
    delivery_count=True,
    largest_message=LARGEST,
)


@hookimpl
def register_transports(register: RegisterTransport) -> None:
    """Serve ``beanstalkd://``."""
    register("beanstalkd", make_transport, options=BeanstalkdOptions, guarantees=GUARANTEES)


@hookimpl
def register_commands(group: click.Group) -> None:
    """Add ``postbus beanstalkd``."""
    from postbus_beanstalkd.commands import beanstalkd

    group.add_command(beanstalkd)


def make_transport(dsn: Dsn, context: TransportContext) -> QueueTransport:
    """Return a transport on a tube, or on several."""
    from postbus_beanstalkd.connection import BeanstalkdConnection
    from postbus_beanstalkd.server import Server

    options = BeanstalkdOptions.from_dsn(dsn)
    server = Server(address_of(dsn), options)
    if options.max_job_size != LARGEST:
        context = replace(context, guarantees=replace(context.guarantees, largest_message=options.max_job_size))
    return QueueTransport(lambda: BeanstalkdConnection(server, options), context)
