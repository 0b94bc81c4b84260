"""Finds the one server that holds a queue, and opens connections to it."""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry

from postbus.errors import ConnectionLost
from postbus_redis.errors import translate
from postbus_redis.options import Address, RedisOptions

# Most of what is needed of the client here has no types.
client: Any = redis

READ_SIZE = 1 << 18
"""Bytes to read at once; a batch of messages is larger than the client's default."""


class Server:
    """The server that holds a key: the one in the DSN, the master that Sentinels know, or a node of a Cluster."""

    def __init__(self, address: Address, options: RedisOptions, tls: Mapping[str, Any]) -> None:
        self._address = address
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
        self._db = options.dbindex

    def __str__(self) -> str:
        if self._sentinel:
            return f"Redis master {self._sentinel!r}"
        return f"Redis {'Cluster ' if self._address.cluster else ''}at {self._address}"

    def open(self) -> Any:
        """Return a new connection of the client's; raise the errors of `postbus.errors` alone."""
        try:
            connection = self._make_connection()
            connection.connect()
            if self._sentinel:
                self._require_master(connection)
        except (RedisError, RedisClusterException, OSError) as error:
            raise translate(error, str(self)) from error
        return connection

    def _make_connection(self) -> Any:
        settings = self._settings | self._credentials | {"db": self._db, "socket_read_size": READ_SIZE}
        if self._address.socket is not None:
            return client.UnixDomainSocketConnection(path=self._address.socket, **settings)
        host, port = self._locate()
        connect = client.SSLConnection if self._address.tls else client.Connection
        return connect(host=host, port=port, **settings)

    def _locate(self) -> tuple[str, int]:
        with self._lock:
            if self._found is None:
                self._found = self._ask()
            return self._found

    def _ask(self) -> tuple[str, int]:
        hosts = [(host.name, host.port or 0) for host in self._address.hosts]
        if self._sentinel:
            return self._ask_sentinels(self._sentinel, hosts)
        if not self._address.cluster:
            return hosts[0]
        random.shuffle(hosts)
        nodes = [client.cluster.ClusterNode(*host) for host in hosts]
        settings = self._settings | self._credentials | {"ssl": self._address.tls}
        cluster = client.RedisCluster(startup_nodes=nodes, **settings)
        try:
            node = cluster.get_node_from_key(self._key)
            return str(node.host), int(node.port)
        finally:
            cluster.close()

    def _ask_sentinels(self, master: str, hosts: list[tuple[str, int]]) -> tuple[str, int]:
        settings = self._settings | self._sentinel_credentials | {"ssl": self._address.tls}
        sentinels = client.Sentinel(hosts, sentinel_kwargs=settings)
        try:
            host, port = sentinels.discover_master(master)
            return str(host), int(port)
        finally:
            sentinels.close()

    def _require_master(self, connection: Any) -> None:
        # Right after a failover, Sentinels may still name the old master.
        connection.send_command("ROLE")
        if connection.read_response()[0] != b"master":
            connection.disconnect()
            raise ConnectionLost(f"{self} is not promoted yet")


def _credentials(auth: tuple[str, ...] | None) -> dict[str, str]:
    if not auth:
        return {}
    return dict(zip(("username", "password"), auth, strict=True)) if len(auth) == 2 else {"password": auth[0]}
