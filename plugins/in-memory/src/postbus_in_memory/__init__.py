"""The transport ``in-memory://``: messages stay in this process, where tests can look at them."""

from __future__ import annotations

import threading
from collections import defaultdict

from msgspec.structs import replace

from postbus.dsn import Dsn, Options, option
from postbus.hookspecs import RegisterTransport, hookimpl
from postbus.transport import Guarantees, TransportContext
from postbus_in_memory.connection import InMemoryConnection
from postbus_in_memory.queue import Clock, Queue
from postbus_in_memory.transport import ByReference, InMemoryTransport

__all__ = ["GUARANTEES", "Clock", "InMemoryConnection", "InMemoryOptions", "InMemoryTransport", "make_transport"]

CONTRACT = 1

GUARANTEES = Guarantees(
    durable=False,
    shared=False,
    ordering="fifo",
    lease=True,
    delivery_count=True,
    redelivery_on_crash=False,
    notes=True,
)

_queues: defaultdict[str, Queue] = defaultdict(Queue)
_lock = threading.Lock()


class InMemoryOptions(Options):
    """What ``in-memory://`` takes."""

    serialize: bool = option(True, "Write and read messages as on a broker; false hands over the objects themselves.")
    lease: float = option(
        60.0, "A message in flight for longer, and not kept alive, is delivered again.", unit="seconds", minimum=0.001
    )


@hookimpl
def register_transports(register: RegisterTransport) -> None:
    """Serve ``in-memory://``."""
    register("in-memory", make_transport, options=InMemoryOptions, guarantees=GUARANTEES)


def make_transport(dsn: Dsn, context: TransportContext) -> InMemoryTransport:
    """Return a transport on the queue that the host names, which this process has once; without host on a new one."""
    options = InMemoryOptions.from_dsn(dsn)
    if not options.serialize:
        context = replace(
            context, serializer=ByReference(context.serializer if context.verify else None), serializer_name=None
        )
    with _lock:
        queue = _queues[dsn.host] if dsn.host else Queue()
    return InMemoryTransport(queue, context, lease=options.lease)
