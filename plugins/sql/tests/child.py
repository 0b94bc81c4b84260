"""Another process of the tests: ``python child.py publish|drain|hold DSN``; it begins when it is told to.

It prints the bodies of what it has done with, and ends when its standard input does.
"""

import sys
import time

from postbus.dsn import Dsn
from postbus.serialization import JsonSerializer, TypeRegistry
from postbus.transport import Outgoing, TransportContext
from postbus_sql import GUARANTEES, make_sqlite_transport


def main(verb: str, dsn: str) -> None:
    context = TransportContext("child", JsonSerializer(TypeRegistry()), lambda envelope: envelope, GUARANTEES)
    connection = make_sqlite_transport(Dsn.parse(dsn), context).connection
    print("ready", flush=True)
    sys.stdin.readline()
    if verb == "publish":
        connection.publish([Outgoing(b"from a child", {})])
    deadline = time.monotonic() + 30
    while verb != "publish" and time.monotonic() < deadline:
        deliveries = connection.fetch(7, 0.2)
        if verb == "drain":
            connection.ack([delivery.tag for delivery in deliveries])
        for delivery in deliveries:
            print(delivery.body.decode())
        if verb == "drain" and not deliveries:
            break
        if verb == "hold" and deliveries:
            break
    print("done", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
