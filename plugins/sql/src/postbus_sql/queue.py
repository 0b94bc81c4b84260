"""What can be done to one queue of a table, statement by statement; transactions are the caller's business."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from msgspec import Struct
from sqlalchemy import Connection
from sqlalchemy.engine.interfaces import DBAPICursor

from postbus.errors import describe
from postbus.transport import Counts, Delivery, Outgoing
from postbus_sql import rows
from postbus_sql.dialects import Dialect, Row
from postbus_sql.options import LONGEST_DELAY, NOTES
from postbus_sql.statements import Statement, Statements

MOST_IDS = 1000
"""How many ids one statement names at most."""


class Unacceptable(Exception):
    """A message that the table will never take; says why, in a sentence."""


class Lease(Struct, eq=False, gc=False):
    """The tag of a delivery: its row still says the same, unless the lease ran out and somebody else claimed it.

    ``since`` is the row's ``delivered_at``, which `keepalive` moves on; None once the delivery is settled.
    """

    id: int
    since: str | None
    home: Home | None = None
    """Where it is settled."""
    was_settled: bool = False
    """Whether it was, together with what its handlers wrote, so that `ack` finds nothing to do."""


class Home(Protocol):
    """What gave a lease."""

    def acknowledging(self, lease: Lease, connection: Connection) -> AbstractContextManager[None]:
        """Acknowledge in a transaction of the caller's, which is committed inside; elsewhere, do nothing."""
        ...


Held = dict[tuple[int, str | None], str | None]
"""Leases that were still held, by id and since when; and since when they are held now.

A worker that lost a message, and got it again, has two.
"""


def row_for(message: Outgoing, largest: int) -> Row:
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
    return Row(body, headers, message.delay)


def note(name: str, text: str) -> Outgoing:
    """Return a note as it is stored: as a message that is due in a thousand years, should somebody take it for one."""
    return Outgoing(text.encode(), {"name": name}, LONGEST_DELAY)


class Queue:
    """One queue; it lives in the database alone.

    Where the columns hold whole seconds, a delay is rounded up, so never ends early, and a lease begins at the
    second before, so ends when ``timeout`` seconds and one more have passed. Who claims an expired lease therefore
    always writes a later ``delivered_at`` than it had.
    """

    def __init__(self, name: str, timeout: int, table: str, dialect: Dialect, home: Home | None = None) -> None:
        self._name = name
        self._home = home
        self._timeout = timeout
        self._table = table
        self._dialect = dialect
        self._sql = Statements(table, dialect)

    def insert(self, cursor: DBAPICursor, messages: Iterable[Row]) -> list[str]:
        """Store messages and return their ids."""
        ids = self._dialect.insert(cursor, self._table, self._name, list(messages), time.time())
        return [str(id) for id in ids]

    def next_due(self, cursor: DBAPICursor) -> float:
        """Return when the next message can be delivered; infinite if there is none."""
        now = time.time()
        self._dialect.execute(cursor, self._sql.next_due, self._values(now))
        available, delivered = cursor.fetchone() or (None, None)
        until = self._dialect.seconds_until
        return now + min(
            math.inf if available is None else until(available, now),
            math.inf if delivered is None else until(delivered, now) + self._timeout + self._dialect.rounding,
        )

    def claim(self, cursor: DBAPICursor, limit: int) -> list[Delivery]:
        """Take up to ``limit`` messages: those that a dead worker left, then those that wait, the first one first."""
        expired = self.claim_expired(cursor, limit)
        return expired + self.claim_waiting(cursor, limit - len(expired))

    def claim_expired(self, cursor: DBAPICursor, limit: int) -> list[Delivery]:
        """Take up to ``limit`` messages that a dead worker left."""
        sql, dialect = self._sql, self._dialect
        claimed, since = dialect.claim(cursor, sql, sql.claim_expired, self._values(time.time(), limit=limit))
        expired = [(id, body, rows.counted(headers)) for id, body, headers in claimed]
        for id, _, headers in expired:
            dialect.execute(cursor, sql.set_headers, {"headers": headers.decode(), "id": id})
        return [rows.read(id, body, headers, Lease(id, since, self._home)) for id, body, headers in expired]

    def claim_waiting(self, cursor: DBAPICursor, limit: int) -> list[Delivery]:
        """Take up to ``limit`` messages that wait."""
        sql = self._sql
        claimed, since = self._dialect.claim(cursor, sql, sql.claim_waiting, self._values(time.time(), limit=limit))
        return [rows.read(id, body, headers, Lease(id, since, self._home)) for id, body, headers in claimed]

    def delete(self, cursor: DBAPICursor, leases: Iterable[Lease]) -> Held:
        """Delete what is still held on these leases; return what that was."""
        return self._change(cursor, self._sql.delete_leased, leases)

    def release(self, cursor: DBAPICursor, leases: Iterable[Lease]) -> Held:
        """Put back what is still held on these leases; return what that was."""
        return self._change(cursor, self._sql.release, leases)

    def extend(self, cursor: DBAPICursor, leases: Iterable[Lease]) -> Held:
        """Begin each lease anew that is still held; return which those are, and since when they run."""
        return self._change(cursor, self._sql.extend, leases)

    def _change(self, cursor: DBAPICursor, how: Statement, leases: Iterable[Lease]) -> Held:
        held: Held = {}
        now = time.time()
        for since, ids in _grouped(leases):
            values = self._values(now, since=since)
            for id, until in self._dialect.change(cursor, self._sql, how, values, ids):
                held[id, since] = until
        return held

    def count(self, cursor: DBAPICursor) -> Counts:
        """Count the rows by what they are doing."""
        now = time.time()
        self._dialect.execute(cursor, self._sql.count, self._values(now))
        found = {state: (number, oldest) for state, number, oldest in cursor.fetchall()}
        numbers = {state: number for state, (number, _) in found.items()}
        oldest = [
            self._dialect.seconds_until(found[state][1], now) for state in ("waiting", "expired") if numbers[state]
        ]
        return Counts(
            waiting=numbers["waiting"] + numbers["expired"],
            delayed=numbers["delayed"],
            in_flight=numbers["in flight"],
            oldest_age=max(0.0, -min(oldest)) if oldest else None,
        )

    def browse(self, cursor: DBAPICursor, limit: int, after: str | None) -> list[Delivery]:
        """Return messages in the order of their ids."""
        self._execute(cursor, self._sql.browse, after=_number(after or "") or 0, limit=limit)
        return [rows.read(*row) for row in cursor.fetchall()]

    def find(self, cursor: DBAPICursor, id: str) -> Delivery | None:
        """Return the message with this id, or None."""
        self._execute(cursor, self._sql.find, id=_number(id))
        row = cursor.fetchone()
        return None if row is None else rows.read(*row)

    def remove(self, cursor: DBAPICursor, ids: Sequence[str]) -> int:
        """Delete the messages with these ids; return how many there were."""
        removed = 0
        for some in _chunks([number for id in ids if (number := _number(id)) is not None]):
            self._dialect.execute(cursor, self._sql.remove, {"queue": self._name}, some)
            removed += cursor.rowcount
        return removed

    def notes(self, cursor: DBAPICursor) -> list[tuple[int, str, str]]:
        """Return the id, the name and the text of each note in the table, of any queue; the newest last."""
        self._dialect.execute(cursor, self._sql.notes, {"queue": NOTES})
        found = [(id, rows.read(id, body, headers)) for id, body, headers in cursor.fetchall()]
        return [(id, note.headers.get("name", ""), note.body.decode(errors="replace")) for id, note in found]

    def replace_notes(self, cursor: DBAPICursor, ids: Sequence[int], new: Sequence[Row]) -> None:
        """Delete notes by their ids, and store others."""
        for some in _chunks(list(ids)):
            self._dialect.execute(cursor, self._sql.remove, {"queue": NOTES}, some)
        if new:
            self._dialect.insert(cursor, self._table, NOTES, new, time.time())

    def last_id(self, cursor: DBAPICursor) -> int:
        """Return the highest id in the table, or 0."""
        self._execute(cursor, self._sql.last_id)
        [id] = cursor.fetchone() or [None]
        return id or 0

    def purge(self, cursor: DBAPICursor, last: int, limit: int) -> int:
        """Delete up to so many messages, none of them behind the id ``last``; return how many there were."""
        self._execute(cursor, self._sql.purge, last=last, limit=limit)
        return cursor.rowcount

    def _execute(self, cursor: DBAPICursor, statement: Statement, **values: object) -> None:
        self._dialect.execute(cursor, statement, {"queue": self._name, **values})

    def _values(self, now: float, **values: object) -> dict[str, object]:
        return {"queue": self._name, **self._dialect.times(now, self._timeout), **values}


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
