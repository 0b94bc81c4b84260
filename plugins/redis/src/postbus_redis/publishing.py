"""How messages are stored: at once or delayed, in one exchange, and on replicas too where that was asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from postbus.errors import TransportError
from postbus.transport import Outgoing
from postbus_redis import entries
from postbus_redis.browsing import delayed_id
from postbus_redis.errors import translate
from postbus_redis.keys import Keys
from postbus_redis.links import Links, Reply
from postbus_redis.options import RedisOptions
from postbus_redis.overviews import TRIM
from postbus_redis.resp import pack, pack_parts
from postbus_redis.scripts import DELAY, REPLACE

logger = logging.getLogger("postbus")


class Publisher:
    """Stores messages."""

    def __init__(self, links: Links, keys: Keys, options: RedisOptions) -> None:
        self._links = links
        self._keys = keys
        self._options = options
        self._add = b"*5\r\n" + pack_parts((b"XADD", keys.stream, b"*", entries.FIELD))
        self._trim = [TRIM(keys, b"%d" % options.stream_max_entries)] if options.stream_max_entries else []
        patience = options.read_timeout
        self._confirm = [pack(b"WAIT", b"%d" % options.wait_replicas, b"%d" % (patience * 1000))]
        self._timeout = 2 * patience if patience and options.wait_replicas else None
        self._has_warned = False

    def publish(self, messages: Sequence[Outgoing]) -> list[str | None]:
        """Store all of them and return their ids."""
        members: dict[int, bytes] = {}
        replies = self._store(len(messages), self._make_commands(messages, members))
        failed = next((reply for reply in replies if isinstance(reply, Exception)), None)
        if failed is None and not members:
            return [reply.decode() for reply in replies]
        stored: dict[int, str | None] = {
            position: delayed_id(reply, members[position]) if position in members else reply.decode()
            for position, reply in enumerate(replies)
            if not isinstance(reply, Exception)
        }
        if failed is not None:
            error = translate(failed, str(self._links))
            error.stored = stored
            raise error from failed
        return list(stored.values())

    def _make_commands(self, messages: Sequence[Outgoing], members: dict[int, bytes]) -> Iterator[bytes]:
        """Yield what stores each message; put those that are delayed into ``members``, by their positions."""
        add, write = self._add, entries.write
        for position, message in enumerate(messages):
            if message.delay > 0:
                members[position] = member = entries.write_member(message)
                yield DELAY(self._keys, b"%.3f" % (message.delay * 1000), member)
                continue
            value = write(message)
            yield b"%b$%d\r\n%b\r\n" % (add, len(value), value)

    def replace(self, arguments: Sequence[bytes], message: Outgoing) -> str | None:
        """Store a copy and settle its original; return the id of the copy, or None if the lease was lost.

        ``arguments`` tell the script which delivery that is.
        """
        is_delayed = message.delay > 0
        copy = entries.write_member(message) if is_delayed else entries.write(message)
        delay = b"%.3f" % (message.delay * 1000) if is_delayed else b"0"
        [reply] = self._store(1, [REPLACE(self._keys, *arguments, delay, copy)])
        if isinstance(reply, Exception):
            raise translate(reply, str(self._links)) from reply
        if reply is None:
            return None
        return delayed_id(reply, copy) if is_delayed else reply.decode()

    def _store(self, number: int, commands: Iterable[bytes]) -> list[Reply]:
        """Return the replies to so many commands that store something."""
        wanted = self._options.wait_replicas
        if not self._trim and not wanted:
            return self._links.call(commands)
        replies = self._links.call(chain(commands, self._trim, self._confirm if wanted else ()), self._timeout)
        if self._trim and isinstance(replies[number], int) and replies[number] > 0:
            self._warn(replies[number])
        if wanted and isinstance(replies[-1], int) and replies[-1] < wanted:
            raise TransportError(
                f"Only {replies[-1]} of {wanted} replicas of {self._links} have confirmed in time. The messages may be "
                "lost if it fails. Look after the replicas, or lower wait_replicas."
            )
        if wanted and isinstance(replies[-1], Exception):
            raise translate(replies[-1], str(self._links)) from replies[-1]
        return replies[:number]

    def _warn(self, surplus: int) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "Stream %r has %d entries more than stream_max_entries. They are not handled, so they are kept.",
                self._options.stream,
                surplus,
            )
