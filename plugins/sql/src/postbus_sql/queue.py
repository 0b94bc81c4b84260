"""What can be done to one queue of a table, statement by statement; transactions are the caller's business."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy.engine.interfaces import DBAPICursor

from postbus.errors import describe
from postbus.transport import Counts, Delivery, Outgoing
from postbus_sql import rows
from postbus_sql.dialects import Sqlite
from postbus_sql.options import LONGEST_DELAY
from postbus_sql.statements import Statements, with_ids

MOST_IDS = 1000
"""How many ids one statement names at most."""


Row = tuple[str, str, float]
"""The text of the two columns, and the delay."""


class Unacceptable(Exception):
    """A message that the table will never take; says why, in a sentence."""


class Lease(Struct, eq=False, gc=False):
    """The tag of a delivery: its row still says the same, unless the lease ran out and somebody else claimed it.

    ``since`` is the row's ``delivered_at``, which `keepalive` moves on; None once the delivery is settled.
    """

    id: int
    since: str | None


Held = set[tuple[int, str | None]]
"""Leases that were still held, by id and since when: a worker that lost a message, and got it again, has two."""


class Queue:
    """One queue; it lives in the database alone.

    Times are whole seconds, which is all that the columns hold. A delay is rounded up, so never ends early, and
    a lease begins at the second before, so ends when ``timeout`` seconds and one more have passed. Who claims an
    expired lease therefore always writes a later ``delivered_at`` than it had.
    """

    def __init__(self, name: str, timeout: int, table: str, dialect: Sqlite) -> None:
        self._name = name
        self._timeout = timeout
        self._dialect = dialect
        self._sql = Statements(table, dialect)

    def row_for(self, message: Outgoing, largest: int) -> Row:
        """Return what is stored of a message; raise `Unacceptable` for what does not fit, ``largest`` bytes at most."""
        if message.delay > LONGEST_DELAY:
            raise Unacceptable(f"The table keeps no delay of {message.delay:g} s, which is more than a thousand years.")
        try:
            body, headers = rows.write(message)
        except (TypeError, ValueError) as error:
            raise Unacceptable(f"A header has no form in JSON: {describe(error)}.") from error
        # A character has one to four bytes, which are counted only where that matters.
        if 4 * (len(body) + len(headers)) > largest:
            size = len(body.encode()) + len(headers.encode())
            if size > largest:
                raise Unacceptable(f"The database takes messages of up to {largest} bytes, and this one has {size}.")
        return body, headers, message.delay

    def insert(self, cursor: DBAPICursor, messages: Iterable[Row]) -> list[str]:
        """Store messages and return their ids."""
        timestamp, queue = self._dialect.timestamp, self._name
        now = time.time()
        at_once = timestamp(math.floor(now))
        values = [
            (body, headers, queue, at_once, timestamp(math.ceil(now + delay)) if delay > 0 else at_once)
            for body, headers, delay in messages
        ]
        return [str(id) for id in self._dialect.insert(cursor, self._sql.insert, values)]

    def next_due(self, cursor: DBAPICursor) -> float:
        """Return when the next message can be delivered; infinite if there is none."""
        cursor.execute(self._sql.next_due, (self._name, self._name, self._dialect.timestamp(0)))
        available, delivered = cursor.fetchone() or (None, None)
        return min(
            math.inf if available is None else self._dialect.seconds(available),
            math.inf if delivered is None else self._dialect.seconds(delivered) + self._timeout + 1,
        )

    def claim(self, cursor: DBAPICursor, limit: int) -> list[Delivery]:
        """Take up to ``limit`` messages: those that a dead worker left, then those that wait, the first one first."""
        now = math.floor(time.time())
        since = self._dialect.timestamp(now)
        cursor.execute(self._sql.claim_expired, (since, self._name, self._oldest_lease(now), limit))
        expired = [(id, body, rows.counted(headers)) for _, id, body, headers in _in_order(cursor.fetchall())]
        if expired:
            cursor.executemany(self._sql.set_headers, [(headers.decode(), id) for id, _, headers in expired])

        cursor.execute(self._sql.claim_waiting, (since, self._name, since, limit - len(expired)))
        waiting = [(id, body, headers) for _, id, body, headers in _in_order(cursor.fetchall())]
        return [_delivery(id, body, headers, Lease(id, since)) for id, body, headers in expired + waiting]

    def delete(self, cursor: DBAPICursor, leases: Iterable[Lease]) -> Held:
        """Delete what is still held on these leases; return what that was."""
        return self._change(cursor, self._sql.delete_leased, leases)

    def release(self, cursor: DBAPICursor, leases: Iterable[Lease]) -> Held:
        """Put back what is still held on these leases; return what that was."""
        return self._change(cursor, self._sql.release, leases)

    def extend(self, cursor: DBAPICursor, leases: Iterable[Lease]) -> tuple[str, Held]:
        """Begin each lease anew that is still held; return since when they run, and which those are."""
        now = self._dialect.timestamp(math.floor(time.time()))
        return now, self._change(cursor, self._sql.extend, leases, now)

    def _change(self, cursor: DBAPICursor, statement: str, leases: Iterable[Lease], *values: str) -> Held:
        held: Held = set()
        for since, ids in _grouped(leases):
            cursor.execute(with_ids(statement, len(ids)), (*values, since, *ids))
            held.update((id, since) for (id,) in cursor.fetchall())
        return held

    def count(self, cursor: DBAPICursor) -> Counts:
        """Count the rows by what they are doing."""
        now = math.floor(time.time())
        at, oldest_lease = self._dialect.timestamp(now), self._oldest_lease(now)
        bounds = (self._name, at, self._name, oldest_lease, self._name, at, self._name, oldest_lease)
        cursor.execute(self._sql.count, bounds)
        found = {state: (number, oldest) for state, number, oldest in cursor.fetchall()}
        numbers = {state: number for state, (number, _) in found.items()}
        oldest = [self._dialect.seconds(found[state][1]) for state in ("waiting", "expired") if numbers[state]]
        return Counts(
            waiting=numbers["waiting"] + numbers["expired"],
            delayed=numbers["delayed"],
            in_flight=numbers["in flight"],
            oldest_age=max(0.0, time.time() - min(oldest)) if oldest else None,
        )

    def browse(self, cursor: DBAPICursor, limit: int, after: str | None) -> list[Delivery]:
        """Return messages in the order of their ids."""
        cursor.execute(self._sql.browse, (self._name, _number(after or "") or 0, limit))
        return [_delivery(*row) for row in cursor.fetchall()]

    def find(self, cursor: DBAPICursor, id: str) -> Delivery | None:
        """Return the message with this id, or None."""
        cursor.execute(self._sql.find, (self._name, _number(id)))
        row = cursor.fetchone()
        return None if row is None else _delivery(*row)

    def remove(self, cursor: DBAPICursor, ids: Sequence[str]) -> int:
        """Delete the messages with these ids; return how many there were."""
        removed = 0
        for some in _chunks([number for id in ids if (number := _number(id)) is not None]):
            cursor.execute(with_ids(self._sql.remove, len(some)), (self._name, *some))
            removed += cursor.rowcount
        return removed

    def last_id(self, cursor: DBAPICursor) -> int:
        """Return the highest id in the table, or 0."""
        cursor.execute(self._sql.last_id)
        [id] = cursor.fetchone() or [None]
        return id or 0

    def purge(self, cursor: DBAPICursor, last: int, limit: int) -> int:
        """Delete up to so many messages, none of them behind the id ``last``; return how many there were."""
        cursor.execute(self._sql.purge, (self._name, last, limit))
        return cursor.rowcount

    def _oldest_lease(self, now: int) -> str:
        """Return the earliest ``delivered_at`` of a lease that has not run out."""
        return self._dialect.timestamp(now - self._timeout)


def _delivery(id: int, body: bytes | None, headers: bytes | None, lease: Lease | None = None) -> Delivery:
    content = rows.read(body, headers)
    count = content.deliveries if lease is None else content.deliveries or 1
    return Delivery(content.body, content.headers, lease, str(id), count, problem=content.problem)


def _in_order(found: Sequence[Any]) -> list[Any]:
    """Return rows of (available_at, id, …) in that order, in which RETURNING need not give them."""
    try:
        return sorted(found)
    except TypeError:  # A table of others may say NULL.
        return sorted(found, key=lambda row: (row[0] or b"", row[1]))


def _grouped(leases: Iterable[Lease]) -> Iterable[tuple[str, list[int]]]:
    """Return the ids of leases that are not settled, together with those that began at the same time."""
    groups: dict[str, list[int]] = {}
    for lease in leases:
        if lease.since is not None:
            groups.setdefault(lease.since, []).append(lease.id)
    return [(since, some) for since, ids in groups.items() for some in _chunks(ids)]


def _chunks(ids: list[int]) -> list[list[int]]:
    return [ids[start : start + MOST_IDS] for start in range(0, len(ids), MOST_IDS)]


def _number(id: str) -> int | None:
    return int(id) if id.isdecimal() and len(id) < 19 else None
