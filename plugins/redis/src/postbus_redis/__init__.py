"""The Redis transport: ``redis://`` and ``rediss://``, ``valkey://`` and ``valkeys://``."""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
from collections import defaultdict

from postbus.dsn import Dsn
from postbus.errors import DsnError
from postbus.hookspecs import RegisterTransport, hookimpl
from postbus.queue_transport import QueueTransport
from postbus.transport import Guarantees, TransportContext
from postbus_redis.limits import LARGEST, LONGEST_DELAY
from postbus_redis.options import RedisOptions

__all__ = ["GUARANTEES", "RedisOptions", "make_transport"]

CONTRACT = 1

logger = logging.getLogger("postbus")

GUARANTEES = Guarantees(
    durable=True,
    ordering="fifo",
    longest_delay=LONGEST_DELAY,
    lease=True,
    delivery_count=True,
    notes=True,
    largest_message=LARGEST,
)


@hookimpl
def register_transports(register: RegisterTransport) -> None:
    """Serve Redis and Valkey, with and without TLS."""
    for scheme in ("redis", "rediss", "valkey", "valkeys"):
        register(scheme, make_transport, options=RedisOptions, guarantees=GUARANTEES)


def make_transport(dsn: Dsn, context: TransportContext) -> QueueTransport:
    """Return a transport on a stream."""
    from postbus_redis.connection import RedisConnection
    from postbus_redis.keys import keys_for
    from postbus_redis.leases import Lease
    from postbus_redis.options import address_of
    from postbus_redis.server import Server
    from postbus_redis.tls import refuse_missing_files, tls_settings

    options = RedisOptions.from_dsn(dsn)
    if options.stream.isdecimal():
        logger.warning(
            "Stream %r of %s has a number for its name. Write dbindex=%s for a database.",
            options.stream,
            dsn,
            options.stream,
        )
    address = address_of(dsn, options)
    if address.socket is not None and re.match(r"/[\w.-]+:\d+(/|$)", address.socket):
        raise DsnError(f"{dsn.scheme}:/ names a socket. Write two slashes for a host: {dsn.scheme}://localhost:6379.")
    tls = tls_settings(dsn.scheme, address, options)
    refuse_missing_files(dsn.scheme, tls)
    keys = keys_for(options.stream, cluster=address.cluster)
    # The same after a reconnection, so that what is in flight can still be settled; another name after a fork.
    suffix = secrets.token_hex(4)
    in_hand = defaultdict[int, set[Lease]](set)

    def connect() -> RedisConnection:
        pid = os.getpid()
        consumer = options.consumer or f"{socket.gethostname()}-{pid}-{suffix}"
        return RedisConnection(Server(address, options, tls), keys, options, consumer, in_hand[pid])

    return QueueTransport(connect, context)
