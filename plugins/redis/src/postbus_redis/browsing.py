"""How messages are counted, shown and deleted without being delivered.

An entry is known by its id in the stream; a delayed message by when it is due and a digest of its member. It gets
another id when it becomes an entry.
"""

from __future__ import annotations

import math
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from postbus.transport import Counts, Delivery
from postbus_redis import entries
from postbus_redis.errors import is_gone, translate
from postbus_redis.keys import Keys
from postbus_redis.links import Links
from postbus_redis.options import RedisOptions
from postbus_redis.overviews import COUNT, PURGE
from postbus_redis.resp import pack
from postbus_redis.scripts import RELEASED

PAGE = 500
"""How many messages are read at a time, at most."""

LAST = b"18446744073709551615-18446744073709551615"
"""The highest id that an entry can have; Redis refuses to look behind it."""

_ENTRY_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
# Others may have made something due at any number, or never.
_DELAYED_ID = re.compile(r"(-?(?:[0-9]+(?:\.[0-9]+)?(?:e[+-][0-9]+)?|inf))\.([\w-]{12})", re.ASCII)

EntryId = tuple[int, int]
Member = tuple[float, str, bytes]
"""When it is due, its digest, itself: in the order in which members are shown."""


def delayed_id(due: bytes, member: bytes) -> str:
    """Return the id of a message in the delayed set."""
    return f"{due.decode()}.{_digest(member)}"


class Browser:
    """Looks at a queue from outside. A message is there unless it was settled."""

    def __init__(self, links: Links, keys: Keys, options: RedisOptions) -> None:
        self._links = links
        self._keys = keys
        self._group = options.group.encode()

    def count(self) -> Counts:
        """Count in one script."""
        [counts] = self._links.ask(COUNT(self._keys, self._group, RELEASED))
        waiting, delayed, in_flight, age = counts
        return Counts(waiting, delayed, in_flight, age / 1000 if age >= 0 else None)

    def browse(self, limit: int, after: str | None) -> list[Delivery]:
        """Return messages: those in the stream, then those that are delayed, each in their order."""
        delayed = _DELAYED_ID.fullmatch(after or "")
        shown = [] if delayed else self._browse_entries(limit, _entry_key(after or ""))
        if len(shown) == limit:
            return shown
        behind = (float(delayed[1]), delayed[2]) if delayed else (-math.inf, "")
        return shown + [_as_delivery(member) for member in self._browse_members(limit - len(shown), behind)]

    def find(self, id: str) -> Delivery | None:
        """Return the message with this id, or None."""
        if delayed := _DELAYED_ID.fullmatch(id):
            found = [m for m in self._members_due(delayed[1]) if m[1] == delayed[2]]
            return _as_delivery(found[0]) if found else None
        at = _entry_key(id)
        if at is None:
            return None
        [found] = self._links.ask(pack(b"XRANGE", self._keys.stream, at, at))
        unsettled = self._unsettled(found)
        return unsettled[0] if unsettled else None

    def remove(self, ids: Sequence[str]) -> int:
        """Delete the messages with these ids; return how many there were."""
        last = self._last_delivered()
        entries = list(filter(None, map(_entry_key, ids)))
        there = [id for id in entries if _entry_id(id) > last or self.find(id.decode())]
        removed = 0
        if there:
            acks = pack(b"XACK", self._keys.stream, self._group, *there)
            removed += self._links.ask(pack(b"XDEL", self._keys.stream, *there), acks)[0]
        # Those that were sent together are due at the same time, and are looked up together.
        digests: dict[str, set[str]] = {}
        for delayed in filter(None, map(_DELAYED_ID.fullmatch, ids)):
            digests.setdefault(delayed[1], set()).add(delayed[2])
        for due, wanted in digests.items():
            members = [text for _, digest, text in self._members_due(due) if digest in wanted]
            if members:
                removed += self._links.ask(pack(b"ZREM", self._keys.delayed, *members))[0]
        return removed

    def purge(self) -> int:
        """Delete everything."""
        [purged] = self._links.ask(PURGE(self._keys, self._group))
        return int(purged)

    def _browse_entries(self, limit: int, after: bytes | None) -> list[Delivery]:
        shown: list[Delivery] = []
        size = _page_for(limit)
        while len(shown) < limit and after != LAST:
            start = b"-" if after is None else b"(" + after
            [page] = self._links.ask(pack(b"XRANGE", self._keys.stream, start, b"+", b"COUNT", b"%d" % size))
            shown += self._unsettled(page)
            if len(page) < size:
                break
            after = page[-1][0]
        return shown[:limit]

    def _unsettled(self, found: Sequence[tuple[bytes, Sequence[bytes]]]) -> list[Delivery]:
        """Return those entries that were not settled: the group has not come to them, or has them in its list."""
        if not found:
            return []
        last, first_id, last_id = self._last_delivered(), found[0][0], found[-1][0]
        counts: dict[bytes, int] = {}
        if _entry_id(first_id) <= last:
            # The list may hold more than there are entries: some that others have deleted.
            number = b"%d" % (10 * PAGE)
            [pending] = self._links.ask(pack(b"XPENDING", self._keys.stream, self._group, first_id, last_id, number))
            counts = {id: count for id, _, _, count in pending}
        return [
            entries.as_delivery(entries.read(fields), None, id.decode(), counts.get(id))
            for id, fields in found
            if id in counts or _entry_id(id) > last
        ]

    def _last_delivered(self) -> EntryId:
        [reply] = self._links.call([pack(b"XINFO", b"GROUPS", self._keys.stream)])
        if isinstance(reply, Exception):
            if is_gone(reply):
                return (0, 0)
            raise translate(reply, str(self._links)) from reply
        for fields in reply:
            group = dict(zip(fields[::2], fields[1::2], strict=True))
            if group[b"name"] == self._group:
                return _entry_id(group[b"last-delivered-id"])
        return (0, 0)

    def _browse_members(self, limit: int, after: tuple[float, str]) -> list[Member]:
        shown: list[Member] = []
        start = b"%.17g" % after[0]
        while len(shown) < limit:
            page = self._members_from(start, _page_for(limit))
            if not page:
                break
            # The last page may end amid members that are due at the same time.
            last = b"%.17g" % page[-1][0]
            whole = {*page, *self._members_due(last.decode())}
            shown += sorted(member for member in whole if member[:2] > after)
            start = b"(" + last
        return shown[:limit]

    def _members_from(self, start: bytes, size: int) -> list[Member]:
        command = [b"ZRANGE", self._keys.delayed, start, b"+inf", b"BYSCORE", b"LIMIT", b"0", b"%d" % size]
        return _members(self._links.ask(pack(*command, b"WITHSCORES"))[0])

    def _members_due(self, due: str) -> list[Member]:
        at = due.encode()
        [found] = self._links.ask(pack(b"ZRANGE", self._keys.delayed, at, at, b"BYSCORE", b"WITHSCORES"))
        return _members(found)


def _entry_key(id: str) -> bytes | None:
    """Return the id of an entry as Redis takes it; None if it cannot be one."""
    found = _ENTRY_ID.fullmatch(id)
    return id.encode() if found and max(map(int, found.groups())) < 1 << 64 else None


def _page_for(limit: int) -> int:
    """Return how many messages to read at a time, if some of them may not be shown."""
    return min(max(limit, 100), PAGE)


def _members(reply: Sequence[bytes]) -> list[Member]:
    pairs: Iterable[tuple[bytes, bytes]] = zip(reply[::2], reply[1::2], strict=True)
    return [(float(due), _digest(member), member) for member, due in pairs]


def _as_delivery(member: Member) -> Delivery:
    due, digest, text = member
    return entries.as_delivery(entries.read_value(text), None, f"{due:.17g}.{digest}")


def _digest(member: bytes) -> str:
    return urlsafe_b64encode(blake2b(member, digest_size=9).digest()).decode()


def _entry_id(id: bytes) -> EntryId:
    milliseconds, _, number = id.partition(b"-")
    return int(milliseconds), int(number)
