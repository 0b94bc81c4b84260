"""How messages are waited for: in Redis' own blocking read, with an eye on what is delayed or left behind.

The read waits for the stream, and for the stream of wake-ups. Who publishes a delayed message that is the first to
be due, or gives one back, adds a wake-up; one waiting consumer gets it, looks, and waits until that message is due.
When it leaves with other messages, it adds the wake-up again, for another one to look after the delayed ones. An idle
consumer has one exchange with the server in each of its waits.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from postbus.errors import ConnectionLost, TransportError
from postbus.transport import Delivery
from postbus_redis.errors import is_gone, translate
from postbus_redis.group import Group
from postbus_redis.keys import Keys
from postbus_redis.leases import CERTAIN, Lease, claimed_deliveries, deliveries, ids_and_counts
from postbus_redis.links import Link, Links, Reply
from postbus_redis.options import RedisOptions
from postbus_redis.resp import pack
from postbus_redis.scripts import CLAIM, LOOK, RECOVER, RELEASE, RELEASED, SWEEP

MOVE = b"500"
"""How many messages that are due one look moves into the stream."""

BEGINNING = b"0-0"

LATE = 0.15
"""Seconds that a blocking read may take beyond its time: Redis looks ten times a second, if nothing else happens."""

PATIENCE = 1.0
"""Seconds for which a waiting thread may take to notice that it is to stop, before its connection is cut."""


class Gone(Exception):
    """The stream or the group is not there."""


class Fetcher:
    """Fetches for one consumer. At any moment at most one thread is in `fetch`."""

    def __init__(
        self, links: Links, keys: Keys, options: RedisOptions, group: Group, consumer: bytes, in_hand: set[Lease]
    ) -> None:
        self._links = links
        self._keys = keys
        self._group = group
        self._group_name, self._consumer = options.group.encode(), consumer
        self._lease = options.redeliver_timeout
        self._claim_interval = options.claim_interval / 1000
        self._patience = options.read_timeout
        self._in_hand = in_hand
        # Under a name that was given, another worker may have in hand what is not in ours.
        self._recovers = self._is_new = options.consumer is None
        self._left: list[bytes] = []
        self._busy = threading.Lock()
        self._is_stopping = False
        self._link: Link | None = None
        self._client_id: bytes | None = None
        self._wake_ups: list[bytes] = []
        self._is_keeper = False
        self._has_released = False
        self._due_at = math.inf
        self._claim_at = 0.0
        self._cursor = BEGINNING

    def fetch(self, limit: int, wait: float) -> list[Delivery]:
        """Return up to ``limit`` deliveries; wait up to ``wait`` seconds when there is none."""
        try:
            with self._busy:
                found = self._fetch(limit, time.monotonic() + wait)
            if found and self._is_stopping:
                self._give_back(found)
                return []
            self._in_hand.update([delivery.tag for delivery in found])
            return found
        except ConnectionLost:
            if not self._is_stopping:  # else another thread has closed the connection
                raise
            return []
        finally:
            if self._is_stopping:
                self._close_link()

    def stop(self) -> None:
        """Fetch no more, and end the wait of another thread; what arrives in that moment is given back."""
        self._is_stopping = True
        deadline = time.monotonic() + PATIENCE
        while not (is_over := self._busy.acquire(timeout=0.01)):
            if self._client_id is None or self._links.lost or time.monotonic() > deadline:
                break
            with suppress(TransportError):
                self._links.call([pack(b"CLIENT", b"UNBLOCK", self._client_id)])
        if is_over:
            self._busy.release()
            self._close_link()
        elif self._link is not None:
            self._link.interrupt()

    def _give_back(self, found: Sequence[Delivery]) -> None:
        tags = ids_and_counts([delivery.tag for delivery in found])
        with suppress(TransportError):
            self._links.ask(RELEASE(self._keys, self._group_name, self._consumer, RELEASED, *tags))

    def _forget_link(self) -> None:
        """Use another link from now on, and recover what may be lost with this one."""
        self._close_link()
        self._link, self._is_new = None, self._recovers

    def _close_link(self) -> None:
        if self._link is not None:
            self._link.close()

    def _fetch(self, limit: int, deadline: float) -> list[Delivery]:
        if not self._is_stopping:
            self._group.ensure()
        while not self._is_stopping:
            try:
                found = self._take_left_behind(limit)
                # To wait is to look, too, so that whoever is idle asks once in each of its waits. Who was woken looks
                # after what it was woken for before it waits.
                if not found and (self._wake_ups or time.monotonic() >= deadline):
                    found = self._take(limit)
                if not found and time.monotonic() < deadline:
                    found = self._wait(limit, deadline)
            except Gone:
                self._group.restore()
                continue
            except BaseException:
                # There may be a reply under way, which must not be taken for that to the next command.
                self._forget_link()
                raise
            if found or time.monotonic() >= deadline:
                return found
        return []

    def _take_left_behind(self, limit: int) -> list[Delivery]:
        """Return what was lost, released or, at its time, left behind by others."""
        self._opened()
        if self._is_stopping:
            return []
        if self._is_new:
            self._left = self._find_left()
            self._is_new = False
        if self._left and (found := self._recover(limit)):
            return self._leave(found)
        if self._has_released or time.monotonic() >= self._claim_at:
            return self._leave(self._claim(limit))
        return []

    def _take(self, limit: int) -> list[Delivery]:
        """Return what is there."""
        if self._is_stopping:
            return []
        now = time.monotonic()
        look, read = self._call([self._make_look(), self._make_read(limit)])
        self._take_note(look)
        if read:
            return self._leave(deliveries(read[0][1], now + CERTAIN * self._lease))
        return self._leave(self._claim(limit)) if self._has_released else []

    def _wait(self, limit: int, deadline: float) -> list[Delivery]:
        """Return what comes, nothing if there is something to look after instead."""
        link = self._opened()
        now = time.monotonic()
        until = min(deadline, self._claim_at)
        # Who stops before there is a link cannot end a wait on it.
        if until <= now or self._is_stopping:
            return []
        block = b"%d" % math.ceil((until - now) * 1000)  # Not less, or the rest would be another wait.
        # Both in one exchange; the answer to the first comes at once.
        if error := link.send([self._make_look(), self._make_read(limit, block)]):
            raise translate(error, str(self._links)) from error
        [look] = link.receive(1)
        if is_gone(look):
            self._forget_link()  # The second answer may come, or wait for somebody who creates the group.
        self._take_note(self._checked(look))
        if self._has_released and self._client_id is not None:
            self._links.call([pack(b"CLIENT", b"UNBLOCK", self._client_id)])
        until += LATE
        while not link.is_readable(max(0.0, min(until, self._due_at) - time.monotonic())):
            # What is due is moved into the stream, which wakes somebody. And whatever Redis is told, it notices by
            # that when a wait is over.
            [look] = self._links.call([self._make_look()])
            if is_gone(look) or time.monotonic() >= until:
                break
            self._take_note(self._checked(look))
        left = max(0.0, until - time.monotonic())
        [reply] = link.receive(1, left + self._patience if self._patience else None)
        streams: dict[bytes, Any] = dict(self._checked(reply) or ())
        if woken := streams.get(self._keys.wake):
            self._wake_ups += [id for id, _ in woken]
            self._is_keeper = True
        return self._leave(deliveries(streams.get(self._keys.stream, ()), now + CERTAIN * self._lease))

    def _claim(self, limit: int) -> list[Delivery]:
        """Return what was released, and at its time what others have left behind."""
        is_time = time.monotonic() >= self._claim_at
        lease = b"%d" % math.ceil(self._lease * 1000) if is_time else b"-1"
        while True:
            now = time.monotonic()
            [reply] = self._call(
                [CLAIM(self._keys, self._group_name, self._consumer, RELEASED, b"%d" % limit, lease, self._cursor)]
            )
            self._cursor, claimed = reply
            self._has_released = False
            if is_time and self._cursor == BEGINNING:
                self._claim_at = now + self._claim_interval
                self._sweep()
            if claimed or self._cursor == BEGINNING:
                return claimed_deliveries(claimed, now + CERTAIN * self._lease)

    def _find_left(self) -> list[bytes]:
        """Return ids and counts of what this consumer was given, in replies that were lost with a connection."""
        in_hand = {tag.id for tag in self._in_hand.copy()}
        left: list[bytes] = []
        start = b"-"
        while True:
            command = pack(b"XPENDING", self._keys.stream, self._group_name, start, b"+", MOVE, self._consumer)
            [pending] = self._call([command])
            for id, _, _, count in pending:
                if id not in in_hand:
                    left += (id, b"%d" % count)
            if not pending:
                return left
            start = b"(" + pending[-1][0]

    def _recover(self, limit: int) -> list[Delivery]:
        some, self._left = self._left[: 2 * limit], self._left[2 * limit :]
        now = time.monotonic()
        [claimed] = self._call([RECOVER(self._keys, self._group_name, self._consumer, *some)])
        return claimed_deliveries(claimed, now + CERTAIN * self._lease)

    def _sweep(self) -> None:
        idle = b"%d" % math.ceil(self._lease * 1000)
        with suppress(TransportError):
            self._links.call([SWEEP(self._keys, self._group_name, idle, RELEASED)])

    def _leave(self, found: list[Delivery]) -> list[Delivery]:
        if found and self._is_keeper:
            self._is_keeper = False
            with suppress(TransportError):
                self._links.call([pack(b"XADD", self._keys.wake, b"MAXLEN", b"1", b"*", b"wake", b"")])
        return found

    def _take_note(self, look: Reply) -> None:
        milliseconds, released = look
        self._wake_ups.clear()
        self._has_released = released > 0
        self._due_at = time.monotonic() + milliseconds / 1000 if milliseconds >= 0 else math.inf
        if milliseconds < 0:
            self._is_keeper = False

    def _make_look(self) -> bytes:
        return LOOK(self._keys, self._group_name, RELEASED, MOVE, *self._wake_ups)

    def _make_read(self, limit: int, block: bytes | None = None) -> bytes:
        read = [b"XREADGROUP", b"GROUP", self._group_name, self._consumer, b"COUNT", b"%d" % limit]
        if block is None:
            return pack(*read, b"STREAMS", self._keys.stream, b">")
        return pack(*read, b"BLOCK", block, b"STREAMS", self._keys.stream, self._keys.wake, b">", b">")

    def _call(self, commands: list[bytes]) -> list[Reply]:
        return [self._checked(reply) for reply in self._opened().call(commands)]

    def _opened(self) -> Link:
        if self._link is not None and self._link.was_dropped():
            self._close_link()
            self._link = None
        if self._link is None:
            self._link = self._links.open()
            [id] = self._link.call([pack(b"CLIENT", b"ID")])
            self._client_id = b"%d" % id if isinstance(id, int) else None
        return self._link

    def _checked(self, reply: Reply) -> Reply:
        if not isinstance(reply, Exception):
            return reply
        if is_gone(reply):
            raise Gone from reply
        raise translate(reply, str(self._links)) from reply
