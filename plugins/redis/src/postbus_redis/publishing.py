"""How messages are stored: at once or delayed, in one exchange, and on replicas too where that was asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from postbus.errors import MessageRefused, TransportError, describe
from postbus.transport import Outgoing
from postbus_redis import entries
from postbus_redis.browsing import delayed_id
from postbus_redis.errors import translate
from postbus_redis.keys import Keys
from postbus_redis.limits import LARGEST, LONGEST_DELAY, ROOM, UNDOUBTED
from postbus_redis.links import Links, Reply
from postbus_redis.options import RedisOptions
from postbus_redis.overviews import TRIM
from postbus_redis.resp import pack, pack_parts
from postbus_redis.scripts import DELAY, REPLACE

logger = logging.getLogger("postbus")


class Unacceptable(Exception):
    """A message that the server will never take; says why, in a sentence."""


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
        self._largest: int | None = None

    def publish(self, messages: Sequence[Outgoing]) -> list[str | None]:
        """Store all of them and return their ids; what is refused is so alone."""
        members: dict[int, bytes] = {}
        refused: dict[int, str] = {}
        replies = self._store(self._make_commands(messages, members, refused))
        if not members and not refused:
            try:
                return [reply.decode() for reply in replies]
            except AttributeError:  # Of an exception, which is looked for only now, as there mostly is none.
                pass
        failed = next((reply for reply in replies if isinstance(reply, Exception)), None)
        positions = [position for position in range(len(messages)) if position not in refused]
        stored: dict[int, str | None] = {
            position: delayed_id(reply, members[position]) if position in members else reply.decode()
            for position, reply in zip(positions, replies, strict=True)
            if not isinstance(reply, Exception)
        }
        if failed is not None:
            error = translate(failed, str(self._links))
            error.stored = stored
            raise error from failed
        if refused:
            raise MessageRefused(refused, stored=stored)
        return list(stored.values())

    def _make_commands(
        self, messages: Sequence[Outgoing], members: dict[int, bytes], refused: dict[int, str]
    ) -> Iterator[bytes]:
        """Yield what stores each message; put what is delayed into ``members``, by position, and why not the rest."""
        add, write = self._add, self._write
        for position, message in enumerate(messages):
            is_delayed = message.delay > 0
            try:
                value = write(message, is_delayed)
            except Unacceptable as why:
                refused[position] = str(why)
                continue
            if is_delayed:
                members[position] = value
                yield DELAY(self._keys, b"%.3f" % (message.delay * 1000), value)
            else:
                yield b"%b$%d\r\n%b\r\n" % (add, len(value), value)

    def _write(self, message: Outgoing, is_delayed: bool) -> bytes:
        """Return a message as an entry, or as a member if it is delayed; raise `Unacceptable` for what has no place."""
        if is_delayed and message.delay > LONGEST_DELAY:
            raise Unacceptable(f"Redis keeps no delay of {message.delay:g} s, which is more than a thousand years.")
        try:
            value = entries.write_member(message) if is_delayed else entries.write(message)
        except (TypeError, ValueError) as error:
            raise Unacceptable(f"A header has no form in JSON: {describe(error)}.") from error
        if len(value) > UNDOUBTED and len(value) > (largest := self._largest_of_server()):
            raise Unacceptable(f"{self._links} takes messages of up to {largest} bytes, and this one has {len(value)}.")
        return value

    def _largest_of_server(self) -> int:
        """Return how large a message may be, as far as the user of the DSN is permitted to know.

        A server closes the connection over a larger one, and never reads what was sent behind it.
        """
        if self._largest is None:
            settings = {b"proto-max-bulk-len": 0, b"client-query-buffer-limit": ROOM}
            replies = self._links.call([pack(b"CONFIG", b"GET", name) for name in settings])
            told = [
                int(reply[1]) - room
                for reply, room in zip(replies, settings.values(), strict=True)
                if isinstance(reply, list) and reply
            ]
            self._largest = min(told, default=LARGEST)
        return self._largest

    def replace(self, arguments: Sequence[bytes], message: Outgoing) -> str | None:
        """Store a copy and settle its original; return the id of the copy, or None if the lease was lost.

        ``arguments`` tell the script which delivery that is.
        """
        is_delayed = message.delay > 0
        try:
            copy = self._write(message, is_delayed)
        except Unacceptable as why:
            raise MessageRefused({0: str(why)}) from why
        delay = b"%.3f" % (message.delay * 1000) if is_delayed else b"0"
        [reply] = self._store([REPLACE(self._keys, *arguments, delay, copy)])
        if isinstance(reply, Exception):
            raise translate(reply, str(self._links)) from reply
        if reply is None:
            return None
        return delayed_id(reply, copy) if is_delayed else reply.decode()

    def _store(self, commands: Iterable[bytes]) -> list[Reply]:
        """Return the replies to commands that store something."""
        wanted = self._options.wait_replicas
        if not self._trim and not wanted:
            return self._links.call(commands)
        also = [*self._trim, *(self._confirm if wanted else ())]
        replies = self._links.call(chain(commands, also), self._timeout)
        number = len(replies) - len(also)
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
