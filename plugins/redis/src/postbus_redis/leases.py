"""The tags of deliveries, and the deliveries that bear them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from postbus.transport import Delivery
from postbus_redis import entries

CERTAIN = 0.8
"""The part of a lease for which this process's clock is trusted that nobody else has claimed the message."""


class Lease(Struct, eq=False, gc=False):
    """The tag of a delivery: the group still says the same, unless the lease ran out and somebody else claimed it.

    Until ``certain_until``, on the monotonic clock, the group need not be asked.
    """

    id: bytes
    count: int
    certain_until: float

    def end(self) -> None:
        """Be the tag of nothing any more: the same consumer may be given the message again, and count the same."""
        self.count, self.certain_until = -1, 0.0


def deliveries(found: Iterable[tuple[bytes, Sequence[bytes]]], certain_until: float) -> list[Delivery]:
    """Return what was delivered for the first time."""
    read = entries.read
    result: list[Delivery] = []
    for id, fields in found:
        body, headers, problem = read(fields)
        result.append(Delivery(body, headers, Lease(id, 1, certain_until), id.decode(), 1, problem=problem))
    return result


def claimed_deliveries(found: Iterable[tuple[bytes, int, Sequence[bytes]]], certain_until: float) -> list[Delivery]:
    """Return what was claimed, after so many deliveries, this one included."""
    return [
        entries.as_delivery(entries.read(fields), Lease(id, count, certain_until), id.decode(), count)
        for id, count, fields in found
    ]


def ids_and_counts(tags: Iterable[Lease]) -> list[bytes]:
    """Return what the scripts know deliveries by."""
    return [part for tag in tags for part in (tag.id, b"%d" % tag.count)]
