"""The options of a DSN, and what its user part and its path say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from msgspec import Struct

from postbus.dsn import Dsn, Host, Options, option
from postbus.errors import DsnError

PORT = 6379


class RedisOptions(Options):
    """What every DSN of this plugin takes."""

    stream: str = option("messages", "Stream that holds the messages.")
    group: str = option("postbus", "Consumer group. Symfony's own default is symfony.")
    consumer: str | None = option(None, "Name in the group; if none is given, one that no other worker has.")
    auth: tuple[str, ...] | None = option(None, "Password, or user and password.")
    host: tuple[str, ...] | None = option(None, "Server, or servers, in place of those in the address.")
    port: int | None = option(None, "Port of the server, in place of that in the address.", minimum=1, maximum=65535)
    dbindex: int = option(0, "Number of the database; Redis Cluster has only 0.", minimum=0)
    auto_setup: bool = option(True, "Create the stream and the group when they turn out to be missing.")
    delete_after_ack: bool = option(True, "Delete a message that was acknowledged.")
    delete_after_reject: bool = option(True, "Delete a message that was rejected.")
    stream_max_entries: int = option(
        0, "Entries to keep; beyond, the oldest handled ones are deleted. 0 keeps all.", minimum=0
    )
    redeliver_timeout: float = option(
        60, "A message in flight for longer, and not kept alive, is delivered again.", unit="seconds", minimum=0.1
    )
    claim_interval: int = option(15_000, "Pause between two looks for such messages.", unit="milliseconds", minimum=10)
    timeout: float = option(5, "How long connecting may take; 0 means for ever.", unit="seconds", minimum=0)
    read_timeout: float = option(
        5, "How long an answer may take beyond what it waits for; 0 means for ever.", unit="seconds", minimum=0
    )
    sentinel_master: str | None = option(
        None, "The servers are Sentinels; this is the master to ask them for.", aliases=("redis_sentinel",)
    )
    sentinel_password: tuple[str, ...] | None = option(None, "Password, or user and password, of the Sentinels.")
    cluster: bool = option(False, "A single server is a node of a Redis Cluster; several always are.")
    wait_replicas: int = option(0, "Replicas that must have a message before it counts as stored.", minimum=0)
    ssl: Mapping[str, object] | None = option(None, "Settings of TLS, written ssl[cafile]=/etc/ssl/redis.pem.")
    serializer: int = option(
        1, "How phpredis wraps entries: 0, 1 and 4 are read.", minimum=0, maximum=4, no_effect=True
    )
    lazy: bool = option(True, "Connections are always opened at the first use.", no_effect=True)
    persistent_id: str | None = option(None, "Belongs to phpredis.", no_effect=True)
    retry_interval: int = option(0, "Belongs to phpredis.", unit="milliseconds", no_effect=True)

    def __post_init__(self) -> None:
        for name in ("stream", "group", "consumer"):
            if getattr(self, name) == "":
                raise DsnError(f"The {name} of redis:// is empty. Write redis://localhost/stream/group/consumer.")
        for name in ("auth", "sentinel_password"):
            given: tuple[str, ...] | None = getattr(self, name)
            if given is not None and len(given) not in (1, 2):
                raise DsnError(f"Option {name!r} of redis:// must be a password, or a user and a password.")
        if self.serializer in (2, 3):
            raise DsnError(
                "Option 'serializer' of redis:// says that entries are written by igbinary or msgpack, which are not "
                "read here. Let both sides use serializer=0."
            )

    @classmethod
    def from_dsn(cls, dsn: Dsn, **positional: object) -> Self:
        """Return the options of a DSN; where Symfony takes a text or a list, so does this."""
        single = {
            name: (value,)
            for name in ("auth", "host", "sentinel_password")
            if isinstance(value := dsn.options.get(name), str)
        }
        return super().from_dsn(dsn.with_options(single), **{**_positional(dsn), **positional})


class Address(Struct, frozen=True):
    """Where the servers are: some hosts, or a Unix socket."""

    hosts: tuple[Host, ...]
    socket: str | None
    tls: bool
    cluster: bool

    def __str__(self) -> str:
        return self.socket or ",".join(map(str, self.hosts))


def address_of(dsn: Dsn, options: RedisOptions) -> Address:
    """Return where a DSN leads; raise `DsnError` if it leads nowhere, or if the parts of it contradict each other."""
    tls = dsn.scheme in ("rediss", "valkeys")
    hosts = tuple(map(_read_host, options.host)) if options.host else dsn.hosts
    if not hosts and not dsn.path.strip("/"):
        raise DsnError(f"{dsn.scheme}:// names no server. Write {dsn.scheme}://localhost:6379/messages.")
    if not hosts:
        if tls or options.sentinel_master or options.cluster:
            raise DsnError(f"A Unix socket of {dsn.scheme}:// takes no TLS, no Sentinel and no Cluster.")
        return Address((), "/" + "/".join(dsn.segments), tls=False, cluster=False)

    if options.sentinel_master and options.cluster:
        raise DsnError(f"Options 'sentinel_master' and 'cluster' of {dsn.scheme}:// exclude each other.")
    cluster = options.cluster or (len(hosts) > 1 and not options.sentinel_master)
    if cluster and options.dbindex:
        raise DsnError(f"Option 'dbindex' of {dsn.scheme}:// must be 0: Redis Cluster has one database.")
    hosts = tuple(Host(host.name, options.port or host.port or PORT) for host in hosts)
    return Address(hosts, None, tls, cluster)


def _positional(dsn: Dsn) -> dict[str, object]:
    """Return what is said without a name: ``redis://user:password@host/stream/group/consumer``."""
    said: dict[str, object] = {}
    if dsn.user or dsn.password:
        said["auth"] = tuple(part for part in (dsn.user, dsn.password) if part)
    if not dsn.hosts and "host" not in dsn.options:  # else the path is that of a Unix socket
        return said
    names = [*dsn.segments]
    if names and not names[-1]:
        names.pop()
    if len(names) > 3:
        raise DsnError(f"The path of {dsn.scheme}:// is /stream/group/consumer, got {len(names)} names.")
    return said | dict(zip(("stream", "group", "consumer"), names, strict=False))


def _read_host(text: str) -> Host:
    [host] = Dsn.parse(f"redis://{text}").hosts
    return host
