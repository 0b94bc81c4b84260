"""How a message lies in the folder: as a file, whose name tells its state and whose bytes are the message.

The bytes are those of the body. Before them goes one line, which holds the headers as JSON:

.. code-block:: text

    #postbus {"type": "shop.OrderPlaced", "Content-Type": "application/json"}
    {"order_id": 13}

A file that begins in another way is from another program: all of it is the body, and it has no headers.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple, Self

from postbus.text import read_headers
from postbus.transport import Delivery, Outgoing

MARK = b"#postbus "

_NAME = re.compile(r"(\d{20}-[A-Za-z0-9-]{1,100})\.(\d{1,9})(?:\.(\d{20})\.([a-z0-9]{1,32}))?")


class Entry(NamedTuple):
    """A message as the name of its file tells it. Entries in their order are messages in theirs.

    An id begins with the moment from which its message may be delivered, and never changes; the rest does.
    """

    id: str
    deliveries: int
    """How often it has been delivered."""
    lease_end: int = 0
    """Until when it is in somebody's hands, in nanoseconds as all moments here."""
    claim: str = ""
    """What tells this delivery from every other one of the message; empty while it is in nobody's hands."""

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Return what a file's name tells; None if the file is no message, and so none of our business."""
        match = _NAME.fullmatch(name)
        return cls(match[1], int(match[2]), int(match[3] or 0), match[4] or "") if match else None

    @property
    def name(self) -> str:
        """The name of its file, which `parse` reads."""
        return f"{self.id}.{self.deliveries}" + (f".{self.lease_end:020}.{self.claim}" if self.claim else "")

    @property
    def due(self) -> int:
        """From when on it may be delivered."""
        return int(self.id[:20])


def written(message: Outgoing) -> bytes:
    """Return the bytes of a message's file."""
    return b"%b%b\n%b" % (MARK, json.dumps(dict(message.headers)).encode(), message.body)


def read(content: bytes, entry: Entry, tag: object = None) -> Delivery:
    """Return the message that the bytes of a file are, whoever has written them: nothing about them raises."""
    if not content.startswith(MARK):
        return Delivery(content, {}, tag, entry.id, entry.deliveries)
    head, _, body = content.removeprefix(MARK).partition(b"\n")
    return Delivery(body, read_headers(head), tag, entry.id, entry.deliveries)
