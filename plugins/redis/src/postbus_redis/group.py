"""The consumer group of a queue: whether it is there, and how it comes to be."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from redis import ResponseError

from postbus.errors import TransportError
from postbus.transport import Absence
from postbus_redis.errors import is_gone, translate
from postbus_redis.keys import Keys
from postbus_redis.links import Links
from postbus_redis.options import RedisOptions
from postbus_redis.resp import pack

logger = logging.getLogger("postbus")


class Group:
    """The group of a stream, and of the wake-ups beside it."""

    def __init__(self, links: Links, keys: Keys, options: RedisOptions) -> None:
        self._links = links
        self._name = options.group.encode()
        self._keys = keys
        self._options = options
        self._create = [
            # From the beginning, so that what was published before is delivered.
            pack(b"XGROUP", b"CREATE", keys.stream, self._name, b"0", b"MKSTREAM"),
            pack(b"XGROUP", b"CREATE", keys.wake, self._name, b"$", b"MKSTREAM"),
        ]
        self._is_known = False

    def create(self) -> None:
        """Create what is missing; raise `TransportError` where another group would lose messages to this one."""
        self._refuse_others(self._groups_of(self._keys.stream))
        for reply in self._links.call(self._create):
            if isinstance(reply, Exception) and not str(reply).startswith("BUSYGROUP"):
                raise translate(reply, str(self._links)) from reply
        self._is_known = True

    def ensure(self) -> None:
        """See, the first time, that everything is there."""
        if self._is_known:
            return
        if self._absences():
            self._create_if_allowed()
        self._is_known = True

    def restore(self) -> None:
        """Create again what was there."""
        logger.warning(
            "Group %r of stream %r is no longer there. Creating it again; what the stream still holds is delivered.",
            self._options.group,
            self._options.stream,
        )
        self._create_if_allowed()

    def missing(self) -> list[str]:
        """Return a sentence for what is not as it must be."""
        try:
            return [*self._absences(), *self._risks()]
        except TransportError as error:
            return [str(error)]

    def _create_if_allowed(self) -> None:
        if not self._options.auto_setup:
            raise TransportError(self._absences()[0])
        self.create()

    def _risks(self) -> list[str]:
        [reply] = self._links.call([pack(b"INFO", b"memory")])
        if isinstance(reply, Exception):  # Some may not ask.
            return []
        fields = dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)
        policy = fields.get("maxmemory_policy", "")
        if not policy.startswith("allkeys") or fields.get("maxmemory") == "0":
            return []
        return [
            f"{self._links} deletes streams, with all that is in them, when it is full ({policy}). Set its "
            "maxmemory-policy to noeviction."
        ]

    def _absences(self) -> list[str]:
        of_stream, of_wake = self._groups_of(self._keys.stream), self._groups_of(self._keys.wake)
        self._refuse_others(of_stream)
        return [
            Absence(f"Stream {key.decode()!r} has no group {self._options.group!r}. Run `postbus setup`.")
            for key, groups in ((self._keys.stream, of_stream), (self._keys.wake, of_wake))
            if self._name not in groups
        ]

    def _groups_of(self, key: bytes) -> Sequence[bytes]:
        [reply] = self._links.call([pack(b"XINFO", b"GROUPS", key)])
        if isinstance(reply, ResponseError) and is_gone(reply):
            return []
        if isinstance(reply, Exception):
            raise translate(reply, str(self._links)) from reply
        return [fields[1] for fields in reply]

    def _refuse_others(self, groups: Sequence[bytes]) -> None:
        options = self._options
        others = sorted(set(groups) - {self._name})
        if others and (options.delete_after_ack or options.delete_after_reject):
            raise TransportError(
                f"Stream {options.stream!r} has another group, {others[0].decode(errors='replace')!r}, which would "
                "miss what is deleted. Set delete_after_ack=false and delete_after_reject=false, or use another stream."
            )
