"""Prints what has become of a newsletter so far: python -m newsletter.report recipients.csv maildir."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from newsletter.app import SendNewsletter, app
from newsletter.dispatch import read_recipients
from newsletter.tally import Maildir, make_table, tally
from postbus import Envelope
from postbus.queue_transport import QueueTransport
from postbus.transport import SupportsBrowse, SupportsCount


def count(transport_name: str) -> int:
    """Return how many messages a transport holds: waiting, delayed, and in the hands of workers."""
    connection = _transport(transport_name).connection
    assert isinstance(connection, SupportsCount)
    counts = connection.count()
    return counts.waiting + (counts.delayed or 0) + (counts.in_flight or 0)


def buried_addresses() -> list[str]:
    """Return whom the messages in the failure transport are for; the messages stay there."""
    messages = [envelope.message for envelope in _browse(_transport("failed"))]
    return [message.address for message in messages if isinstance(message, SendNewsletter)]


def _browse(transport: QueueTransport) -> Iterator[Envelope]:
    connection = transport.connection
    if not isinstance(connection, SupportsBrowse):
        yield from _borrow(transport)
        return
    last = None
    while page := connection.browse(1000, last):
        yield from map(transport.decode, page)
        last = page[-1].id


def _borrow(transport: QueueTransport) -> list[Envelope]:
    """Take all messages and give them back, uncounted: where nobody can look at them otherwise, such as on RabbitMQ."""
    borrowed: list[Envelope] = []
    try:
        while envelopes := transport.receive(1000, 1.0):
            borrowed += envelopes
    finally:
        transport.release(borrowed)
    return borrowed


def _transport(name: str) -> QueueTransport:
    transport = app.transport(name)
    assert isinstance(transport, QueueTransport)
    return transport


def main() -> int:
    """Print the table; return 1 if something is not as it must be."""
    parser = argparse.ArgumentParser(description="Prints what has become of a newsletter so far.")
    parser.add_argument("recipients", type=Path)
    parser.add_argument("maildir", type=Path)
    arguments = parser.parse_args()

    recipients = read_recipients(arguments.recipients)
    with app:
        counted = tally(recipients, Maildir(arguments.maildir).mails(), buried_addresses(), count("mail"))
    Console().print(make_table(counted), *counted.problems, sep="\n")
    return 1 if counted.problems else 0


if __name__ == "__main__":
    sys.exit(main())
