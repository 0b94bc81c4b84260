"""The connection: what is published, settled and kept alive; `fetching` has the rest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from postbus.errors import TransportError
from postbus.transport import Counts, Delivery, Outgoing
from postbus_redis import scripts
from postbus_redis.browsing import Browser
from postbus_redis.fetching import Fetcher
from postbus_redis.group import Group
from postbus_redis.keys import Keys
from postbus_redis.leases import CERTAIN, Lease, ids_and_counts
from postbus_redis.links import Links, Reply
from postbus_redis.options import RedisOptions
from postbus_redis.overviews import FOR_QUEUES
from postbus_redis.publishing import Publisher
from postbus_redis.resp import pack
from postbus_redis.server import Server


class RedisConnection:
    """Moves messages into and out of one stream, as one consumer of a group."""

    def __init__(self, server: Server, keys: Keys, options: RedisOptions, consumer: str, in_hand: set[Lease]) -> None:
        self._links = Links(server, [script.load for script in (*scripts.FOR_MESSAGES, *FOR_QUEUES)])
        self._keys = keys
        self._options = options
        self._in_hand = in_hand
        self._group = Group(self._links, keys, options)
        self._fetcher = Fetcher(self._links, keys, options, self._group, consumer.encode(), in_hand)
        self._publisher = Publisher(self._links, keys, options)
        self._browser = Browser(self._links, keys, options)
        self._group_name, self._consumer = options.group.encode(), consumer.encode()

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        return self._publisher.publish(messages)

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        return self._fetcher.fetch(limit, wait)

    def ack(self, tags: Sequence[Lease]) -> Sequence[Lease]:
        return self._settle(tags, delete=self._options.delete_after_ack)

    def reject(self, tags: Sequence[Lease]) -> Sequence[Lease]:
        return self._settle(tags, delete=self._options.delete_after_reject)

    def _settle(self, tags: Sequence[Lease], *, delete: bool) -> Sequence[Lease]:
        if not tags:
            return ()
        how = b"1" if delete else b"0"
        lost: Sequence[int]
        if min([tag.certain_until for tag in tags]) > time.monotonic():
            lost = self._run(scripts.SETTLE_CERTAIN, how, *[tag.id for tag in tags])
        else:
            lost = self._run(scripts.SETTLE, how, *ids_and_counts(tags))
        self._in_hand.difference_update(tags)
        return [tags[position] for position in lost]

    def release(self, tags: Sequence[Lease]) -> Sequence[Lease]:
        if not tags:
            return ()
        lost: Sequence[int] = self._run(scripts.RELEASE, scripts.RELEASED, *ids_and_counts(tags))
        self._in_hand.difference_update(tags)
        for tag in tags:
            tag.end()
        return [tags[position] for position in lost]

    @property
    def lease(self) -> float:
        return self._options.redeliver_timeout

    def keepalive(self, tags: Sequence[Lease]) -> Sequence[Lease]:
        now = time.monotonic()
        positions: set[int] = set(self._run(scripts.KEEPALIVE, *ids_and_counts(tags)))
        lost: list[Lease] = []
        for position, tag in enumerate(tags):
            if position in positions:
                lost.append(tag)
                tag.end()
            else:
                tag.certain_until = now + CERTAIN * self.lease
        self._in_hand.difference_update(lost)
        return lost

    def replace(self, tag: Lease, message: Outgoing) -> str | None:
        delete = b"1" if self._options.delete_after_ack else b"0"
        original = (self._group_name, self._consumer, *ids_and_counts([tag]), delete)
        id = self._publisher.replace(original, message)
        if id is None:
            raise TransportError(f"The lease on message {tag.id.decode()} was lost; its copy was not stored.")
        self._in_hand.discard(tag)
        return id

    def count(self) -> Counts:
        return self._browser.count()

    def browse(self, limit: int, after: str | None = None) -> Sequence[Delivery]:
        return self._browser.browse(limit, after)

    def find(self, id: str) -> Delivery | None:
        return self._browser.find(id)

    def remove(self, ids: Sequence[str]) -> int:
        return self._browser.remove(ids)

    def purge(self) -> int:
        return self._browser.purge()

    def write_note(self, name: str, text: str | None) -> None:
        key = self._keys.notes
        if text is None:
            self._links.ask(pack(b"HDEL", key, name.encode()))
        else:
            self._links.ask(pack(b"HSET", key, name.encode(), text.encode()))

    def read_notes(self, names: Sequence[str]) -> Sequence[str | None]:
        [texts] = self._links.ask(pack(b"HMGET", self._keys.notes, *(name.encode() for name in names)))
        return [None if text is None else text.decode(errors="replace") for text in texts]

    def setup(self) -> None:
        self._group.create()

    def missing(self) -> Sequence[str]:
        return self._group.missing()

    def close(self) -> None:
        if self._links.closed:
            return
        self._fetcher.stop()
        if not self._links.lost:
            # So that consumers of workers that have gone do not pile up; one that still holds something stays.
            with suppress(TransportError):
                self._run(scripts.LEAVE)
        self._links.close()

    def _run(self, script: scripts.Script, *arguments: bytes) -> Reply:
        [reply] = self._links.ask(script(self._keys, self._group_name, self._consumer, *arguments))
        return reply
