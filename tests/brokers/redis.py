"""Redis: one server in four ways of reaching it, Sentinel, Cluster, and one to break."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.brokers.broker import Broker
from tests.brokers.certificates import Certificates
from tests.brokers.network import reserve_port
from tests.brokers.server import Server, wait_until

PROGRAM = os.environ.get("POSTBUS_TEST_REDIS_PROGRAM", "redis-server")
"""What is started, and the package of Debian that has it: ``valkey-server`` speaks the same language."""


class RedisServer(Server):
    """One process of Redis. Its data is in memory only, unless the options say otherwise."""

    def __init__(self, variant: str, program: str, *options: str, password: str | None = None) -> None:
        self.port = reserve_port()
        self.password = password
        super().__init__(f"{variant}-{self.port}")
        # With a file of its own, a server remembers what Sentinel told it.
        file = self.folder / "redis.conf"
        file.touch()
        base = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder), "--save", ""]
        base += ["--repl-diskless-sync-delay", "0"]  # A replica need not wait for others to come.
        self.prepare([program, str(file), *base, *options], self.answers)

    def client(self) -> Any:
        """Return a client of redis-py that may do everything."""
        import redis

        return redis.Redis(port=self.port, password=self.password, socket_timeout=10, decode_responses=True)

    def answers(self) -> bool:
        """Tell whether it takes commands; while it loads its data it does not."""
        import redis

        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False


class Redis(Broker):
    """One or several servers of Redis."""

    servers: list[RedisServer]  # type: ignore[assignment]

    def client(self) -> Any:
        """Return a client of redis-py to the first server."""
        import redis

        if self.given:
            clients: Any = redis.Redis
            return clients.from_url(self.dsn, socket_timeout=10, decode_responses=True)
        return self.servers[0].client()

    def client_for(self, key: str) -> Any:
        """Return a client of redis-py to the server that holds a key."""
        return self.client()

    def add(self, *options: str, password: str | None = None) -> RedisServer:
        """Launch one more server, and do not wait for it."""
        program = self.find(PROGRAM, package=PROGRAM)
        server = RedisServer(self.variant, program, *options, password=password)
        self.servers.append(server)
        server.launch()
        return server

    def add_one(self, *options: str, password: str | None = None) -> RedisServer:
        """Start one more server."""
        server = self.add(*options, password=password)
        server.wait_until_ready()
        return server

    def make_full(self) -> None:
        """Let it refuse whatever needs memory, until `make_room`."""
        with self.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "1")

    def make_room(self) -> None:
        """Let it take data again."""
        with self.client() as client:
            client.config_set("maxmemory", "0")

    def make_readonly(self) -> None:
        """Make it the replica of a master that is not there: it keeps its data and refuses to write."""
        with self.client() as client:
            client.replicaof("127.0.0.1", "1")

    def make_writable(self) -> None:
        """Make it a master again."""
        with self.client() as client:
            client.replicaof("NO", "ONE")


class RedisPlain(Redis, variant="redis_plain", variable="POSTBUS_TEST_REDIS_DSN"):
    """One server, open to everybody."""

    def launch(self) -> str:
        return f"redis://127.0.0.1:{self.add_one().port}"


class OwnRedis(Redis, variant="own_redis"):
    """One server to break, which has written to its disk whatever it acknowledged."""

    own = True

    def launch(self) -> str:
        return f"redis://127.0.0.1:{self.add_one('--appendonly', 'yes', '--appendfsync', 'always').port}"

    def mend(self) -> None:
        super().mend()
        self.make_writable()
        self.make_room()
        with self.client() as client:
            client.flushall()


class RedisAcl(Redis, variant="redis_acl"):
    """One server with a password, and with a user who may not administer it."""

    user = "postbus"
    user_password = "p@ss/word"
    password = "let me: in"

    def launch(self) -> str:
        rules = ("on", f">{self.user_password}", "~*", "&*", "+@all", "-@admin")
        port = self.add_one("--requirepass", self.password, "--user", self.user, *rules, password=self.password).port
        return f"redis://{self.user}:{quote(self.user_password, safe='')}@127.0.0.1:{port}"

    @property
    def password_dsn(self) -> str:
        """The DSN with the password alone."""
        return f"redis://{quote(self.password, safe='')}@{self.dsn.rpartition('@')[2]}"


class RedisUnix(Redis, variant="redis_unix"):
    """One server, reached through a Unix socket."""

    @property
    def socket(self) -> Path:
        """The file of the socket."""
        return Path(self.dsn.removeprefix("redis://"))

    def launch(self) -> str:
        server = self.add_one("--unixsocket", "redis.sock", "--unixsocketperm", "777")
        return f"redis://{server.folder / 'redis.sock'}"


class RedisTls(Redis, variant="redis_tls"):
    """One server that speaks TLS, and looks at a client's certificate if it is shown one."""

    @property
    def certificates(self) -> Certificates:
        """What a client needs."""
        return self.brokers.certificates

    def launch(self) -> str:
        files = self.certificates
        port = reserve_port()
        options = {
            "--tls-port": port,
            "--tls-ca-cert-file": files.ca_file,
            "--tls-cert-file": files.server_certificate,
            "--tls-key-file": files.server_key,
            "--tls-auth-clients": "optional",
        }
        self.add_one(*(str(word) for option in options.items() for word in option))
        return f"rediss://localhost:{port}"


class RedisCluster(Redis, variant="redis_cluster"):
    """Three masters that share the slots."""

    def launch(self) -> str:
        slots = 16384
        bus_ports = [reserve_port() for _ in range(3)]
        for bus_port in bus_ports:
            self.add("--cluster-enabled", "yes", "--cluster-port", str(bus_port))
        for number, server in enumerate(self.servers):
            server.wait_until_ready()
            with server.client() as client:
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
                first, last = slots * number // 3, slots * (number + 1) // 3 - 1
                client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
                if number:
                    client.execute_command("CLUSTER MEET", "127.0.0.1", self.servers[0].port, bus_ports[0])
        wait_until(lambda: all(map(self._knows_all, self.servers)), "The servers do not form a cluster.")
        return ",".join(f"redis://127.0.0.1:{server.port}" for server in self.servers)

    def client_for(self, key: str) -> Any:
        slots = 16384
        with self.client() as client:
            slot = int(client.cluster("KEYSLOT", key))
        return next(s for n, s in enumerate(self.servers, 1) if slot < slots * n // len(self.servers)).client()

    def start(self) -> None:
        super().start()
        wait_until(lambda: all(map(self._knows_all, self.servers)), "The servers do not form a cluster again.")

    def _knows_all(self, server: RedisServer) -> bool:
        with server.client() as client:
            info = client.cluster("INFO")
        return (info["cluster_state"], info["cluster_known_nodes"]) == ("ok", "3")


class RedisSentinel(Redis, variant="redis_sentinel"):
    """A master and a replica, watched by three sentinels."""

    master_name = "db"

    def launch(self) -> str:
        master, replica = self.add_one(), self.add_one()
        self.data = [master, replica]
        with replica.client() as client:
            client.replicaof("127.0.0.1", master.port)
            # Not an option of the command line, because Sentinel will have it otherwise one day.
            client.config_rewrite()
        self._wait_for_replica(replica)

        self.sentinels = [self._add_sentinel(master) for _ in range(3)]
        wait_until(lambda: all(map(self._knows_all, self.sentinels)), "The sentinels do not find each other.")
        hosts = "&".join(f"host[127.0.0.1:{sentinel.port}]" for sentinel in self.sentinels)
        return f"redis:?{hosts}&sentinel_master={self.master_name}"

    def _add_sentinel(self, master: RedisServer) -> RedisServer:
        rules = (
            f"monitor {self.master_name} 127.0.0.1 {master.port} 2",
            f"failover-timeout {self.master_name} 2000",
        )
        sentinel = self.add_one("--sentinel", *(word for rule in rules for word in ("--sentinel", *rule.split())))
        # It looks once a second, unless told so: too seldom for the second after which `failover` has a server down.
        # What a replica said last is good for five pings; it is asked once a second when its master is gone.
        periods = {"ping": 300, "ask": 100, "info": 300, "publish": 200, "min-link-reconnect": 100}
        with sentinel.client() as client:
            for name, milliseconds in periods.items():
                client.execute_command("SENTINEL", "DEBUG", f"{name}-period", milliseconds)
        return sentinel

    def client(self) -> Any:
        """Return a client of redis-py to the server that is master now."""
        return self.master.client()

    @property
    def master(self) -> RedisServer:
        """The server that the sentinels call master."""
        self._need_own()
        port = self._master_of(self.sentinels[0])
        return next(server for server in self.data if server.port == port)

    def failover(self) -> None:
        """Kill the master, and return when the other server is master for all sentinels.

        The killed one is started again, as the replica.
        """
        old = self.master
        # At other times a server that is only busy, as with a message of 256 MiB, is not to be taken for dead.
        self._take_for_dead_after(1)
        old.kill()
        wait_until(
            lambda: all(self._master_of(sentinel) != old.port for sentinel in self.sentinels),
            "The sentinels do not promote the replica.",
            patience=60,  # On a busy machine they elect one of them several times before it is in time.
        )
        wait_until(lambda: self._role_of(self.master) == "master", "The replica does not become master.")
        old.start("--replicaof", "127.0.0.1", str(self.master.port))
        self._wait_for_replica(old)
        wait_until(lambda: all(map(self._knows_all, self.sentinels)), "The sentinels do not find the new replica.")
        self._take_for_dead_after(30)

    def _take_for_dead_after(self, seconds: int) -> None:
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                client.sentinel_set(self.master_name, "down-after-milliseconds", 1000 * seconds)

    def _master_of(self, sentinel: RedisServer) -> int:
        with sentinel.client() as client:
            return int(client.sentinel_get_master_addr_by_name(self.master_name)[1])

    def _knows_all(self, sentinel: RedisServer) -> bool:
        """Tell whether a sentinel sees the other two, and both servers well."""
        with sentinel.client() as client:
            master = client.sentinel_master(self.master_name)
            replicas = client.sentinel_slaves(self.master_name)
        return (master["num-other-sentinels"], master["flags"]) == (2, "master") and [("slave", "ok")] == [
            (replica["flags"], replica["master-link-status"]) for replica in replicas
        ]

    def _role_of(self, server: RedisServer) -> str:
        with server.client() as client:
            return str(client.info("replication")["role"])

    def _wait_for_replica(self, server: RedisServer) -> None:
        server.wait_until_ready()
        with server.client() as client:
            wait_until(
                lambda: client.info("replication").get("master_link_status") == "up", "The replica has no master."
            )
