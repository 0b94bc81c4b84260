"""The transport ``filesystem://``: messages wait as files in a folder."""

from __future__ import annotations

from postbus.dsn import Dsn
from postbus.hookspecs import RegisterTransport, hookimpl
from postbus.queue_transport import QueueTransport
from postbus.transport import Guarantees, TransportContext
from postbus_filesystem.options import FilesOptions, folder_of

__all__ = ["GUARANTEES", "FilesOptions", "make_transport"]

CONTRACT = 1

GUARANTEES = Guarantees(
    durable=True,
    ordering="fifo",
    lease=True,
    delivery_count=True,
    notes=True,
)


@hookimpl
def register_transports(register: RegisterTransport) -> None:
    """Serve ``filesystem://``."""
    register("filesystem", make_transport, options=FilesOptions, guarantees=GUARANTEES)


def make_transport(dsn: Dsn, context: TransportContext) -> QueueTransport:
    """Return a transport; what is wrong with the DSN is said now, and nothing is connected to before it is used."""
    from postbus_filesystem.connection import FilesConnection

    options, folder = FilesOptions.from_dsn(dsn), folder_of(dsn)
    return QueueTransport(lambda: FilesConnection(folder, options), context)
