"""Finds the one server that holds a queue, and opens connections to it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError
from redis.retry import Retry

from postbus.errors import ConnectionLost, TransportError
from postbus.tls import is_encrypted
from postbus_redis.errors import DOES_NOT_ENCRYPT, answers_plainly, is_unheard, translate
from postbus_redis.options import PORT, Address, RedisOptions

# Most of what is needed of the client here has no types.
client: Any = redis

READ_SIZE = 1 << 18
"""Bytes to read at once; a batch of messages is larger than the client's default."""


class Server:
    """The server that holds a key: the one in the DSN, the master that Sentinels know, or a node of a Cluster."""

    def __init__(self, address: Address, options: RedisOptions, tls: Mapping[str, Any]) -> None:
        self._address = address
        self._hosts = [(host.name, host.port or PORT) for host in address.hosts]
        self._key = options.stream
        self._sentinel = options.sentinel_master
        self._found: tuple[str, int] | None = None
        self._lock = threading.Lock()
        self._settings: dict[str, Any] = {
            "socket_timeout": options.read_timeout or None,
            "socket_connect_timeout": options.timeout or None,
            # Who repeats a command may do it twice: that is for the core to decide.
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        } | dict(tls)
        self._credentials = _credentials(options.auth)
        self._sentinel_credentials = _credentials(options.sentinel_password)
        self._secrets = [*(options.auth or ())[-1:], *(options.sentinel_password or ())[-1:]]
        self._db = options.dbindex

    def __str__(self) -> str:
        if self._sentinel:
            return f"Redis master {self._sentinel!r}"
        kind = f"Redis{' Cluster' if self._address.cluster else ''}{' with TLS' if self._address.tls else ''}"
        return f"{kind} at {self._address}"

    def open(self) -> Any:
        """Return a new connection of the client's; raise the errors of `postbus.errors` alone."""
        try:
            connection = self._connect()
            if self._sentinel:
                self._require_master(connection)
        except (RedisError, OSError) as error:
            told = translate(error, str(self))
            if any(secret in f"{told} {error}" for secret in self._secrets):
                told = TransportError(f"{self} does not take the user and the password. Correct them in the DSN.")
            raise told from None  # What the client says of a login may hold a part of it.
        return connection

    def _connect(self) -> Any:
        settings = self._credentials | {"db": self._db, "socket_read_size": READ_SIZE}
        if self._address.socket is None:
            return self._connect_to(self._locate(), settings)
        connection = client.UnixDomainSocketConnection(path=self._address.socket, **self._settings, **settings)
        connection.connect()
        return connection

    def _connect_to(self, host: tuple[str, int], settings: Mapping[str, Any]) -> Any:
        make = client.SSLConnection if self._address.tls else client.Connection
        connection = make(host=host[0], port=host[1], **self._settings, **settings)
        try:
            connection.connect()
        except (RedisError, OSError) as error:
            if is_unheard(error) and (mistake := self._mistake_about(host)) is not None:
                raise TransportError(f"{self} {mistake}") from error
            raise
        return connection

    def _mistake_about(self, host: tuple[str, int]) -> str | None:
        """Return what the DSN gets wrong about encryption, if that is why a server did not answer; half a sentence."""
        if not self._address.tls:
            wrong = "encrypts on this port. Write rediss://, or name the port that does not."
            return wrong if is_encrypted(*host) else None
        # It waits for the end of the line that it takes our greeting for.
        return DOES_NOT_ENCRYPT if answers_plainly(*host) else None

    def _locate(self) -> tuple[str, int]:
        with self._lock:
            if self._found is None:
                self._found = self._ask()
            return self._found

    def _ask(self) -> tuple[str, int]:
        if self._sentinel:
            question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._sentinel)
            _, address = self._first_answer(self._sentinel_credentials, *question)
            return address[0].decode(), int(address[1])
        if not self._address.cluster:
            return self._hosts[0]
        slot = key_slot(self._key.encode())
        asked, slots = self._first_answer(self._credentials, "CLUSTER", "SLOTS")
        for first, last, (name, port, *_), *_ in slots:
            if first <= slot <= last:
                # A node that does not know its own name is where it was asked.
                return (name.decode() if name else asked[0]), port
        raise ConnectionLost(f"{self} has no node for stream {self._key!r} at the moment")

    def _first_answer(self, credentials: Mapping[str, str], *command: str) -> tuple[tuple[str, int], Any]:
        """Return who answers a question first, and the answer; raise why nobody did."""
        problem: Exception | None = None
        for host in self._hosts:
            try:
                connection = self._connect_to(host, credentials)
                try:
                    connection.send_command(*command)
                    answer = connection.read_response()
                finally:
                    connection.disconnect()
            except (RedisError, OSError, TransportError) as error:
                # What is wrong for good with one of them is no matter if another one may come back.
                problem = error if problem is None or not isinstance(error, TransportError) else problem
                continue
            if answer:
                return host, answer
        raise problem or ConnectionLost(f"{self} is not known at {self._address}")

    def _require_master(self, connection: Any) -> None:
        # Right after a failover, Sentinels may still name the old master. Everybody may say HELLO, but not ROLE.
        connection.send_command("HELLO")
        reply = connection.read_response()
        if reply[reply.index(b"role") + 1] != b"master":
            connection.disconnect()
            raise ConnectionLost(f"{self} is not promoted yet")


def _credentials(auth: tuple[str, ...] | None) -> dict[str, str]:
    if not auth:
        return {}
    return dict(zip(("username", "password"), auth, strict=True)) if len(auth) == 2 else {"password": auth[0]}
