"""PostgreSQL: one server, the same behind PgBouncer, and one to break."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

from tests.brokers.broker import Broker
from tests.brokers.network import reserve_port
from tests.brokers.server import Server, processes, wait_until

# Debian keeps the server's programs out of the PATH, one folder for each version.
FOLDERS = tuple(f"/usr/lib/postgresql/{version}/bin" for version in range(20, 12, -1))

# What is not durable survives a crash of the server all the same, and only not one of the machine.
FAST = {"fsync": "off", "full_page_writes": "off"}

OPTIONS = ("--username=postgres", "--auth=trust", "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C")

USER, PASSWORD = "postbus", "p@ss/word"


class PostgreSqlServer(Server):
    """One PostgreSQL, on the loopback alone. Its superuser needs no password, everybody else does."""

    def __init__(self, initdb: str, program: str, **settings: str) -> None:
        self.port = reserve_port()
        super().__init__(f"postgresql-{self.port}", user="postgres")
        data = self.folder / "data"
        subprocess.run(
            [initdb, "--pgdata", str(data), *OPTIONS],
            cwd=self.folder,
            check=True,
            stdout=subprocess.DEVNULL,
            user=self.user,
            group=self.user,
            extra_groups=None if self.user is None else [],
        )
        (data / "pg_hba.conf").write_text(
            "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\nlocal all all trust\n"
        )
        given = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            "max_connections": "200",
            "shared_buffers": "64MB",
            **settings,
        }
        options = [f"--{name}={value}" for name, value in given.items()]
        self.prepare([program, "-D", str(data), *options], self.answers)

    def connect(self, database: str = "postgres") -> Any:
        """Return a connection of psycopg that may do everything, and commits by itself."""
        import psycopg

        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname=database, autocommit=True, connect_timeout=10
        )

    def stop(self) -> None:
        # SIGTERM would wait until all clients have gone.
        self.resume()
        super()._signal(signal.SIGINT)
        super().stop()

    def pause(self) -> None:
        super().pause()
        wait_until(lambda: set(self._children().values()) <= {"T", "Z"}, f"{self.name} does not halt.")

    def kill(self) -> None:
        if not self.running:
            super().kill()
            return
        self.pause()  # It begins no further child from here on.
        children = self._children()
        super().kill()
        # Until they have gone, they hold the memory that the next one wants.
        wait_until(
            lambda: not any(one.id in children and one.state != "Z" for one in processes()),
            f"{self.name} leaves children behind.",
        )

    def _signal(self, number: int) -> None:
        # Each of its children leads a group of its own.
        children = self._children() if self.running and number != signal.SIGTERM else {}
        super()._signal(number)
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, number)

    def _children(self) -> dict[int, str]:
        """Return what the processes are doing that it has begun, by their ids."""
        assert self._process is not None
        return {one.id: one.state for one in processes() if one.parent == self._process.pid}

    def answers(self) -> bool:
        """Tell whether it takes commands."""
        import psycopg

        try:
            with self.connect():
                return True
        except psycopg.OperationalError:
            return False


class PostgreSql(Broker):
    """A server with a database that belongs to an ordinary user, whose DSN it is."""

    servers: list[Server]
    settings = FAST

    def launch(self) -> str:
        server = self.add_server()
        return self.make_database(server)

    def add_server(self) -> PostgreSqlServer:
        """Start one server."""
        initdb = self.find("initdb", package="postgresql", folders=FOLDERS)
        program = self.find("postgres", package="postgresql", folders=FOLDERS)
        server = PostgreSqlServer(initdb, program, **self.settings)
        self.servers.append(server)
        server.start()
        return server

    def make_database(self, server: PostgreSqlServer) -> str:
        """Make the user, and a database that is the user's; return the DSN."""
        with server.connect() as connection:
            connection.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
            connection.execute(f"CREATE DATABASE {USER} OWNER {USER}")
        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{server.port}/{USER}"

    def connect(self, **options: Any) -> Any:
        """Return a connection of psycopg as the user, which commits by itself."""
        import psycopg

        return psycopg.connect(self.dsn, autocommit=True, connect_timeout=10, **options)

    @contextmanager
    def own_schema(self) -> Generator[str]:
        """Make a schema, and delete it with all that is in it."""
        name = f"test_{uuid4().hex[:12]}"
        with self.connect() as connection:
            connection.execute(f"CREATE SCHEMA {name}")
            try:
                yield name
            finally:
                connection.execute(f"DROP SCHEMA {name} CASCADE")


class PostgreSqlPlain(PostgreSql, variant="postgresql", variable="POSTBUS_TEST_POSTGRESQL_DSN"):
    """One server of PostgreSQL, with a user who owns a database."""


class OwnPostgreSql(PostgreSql, variant="own_postgresql"):
    """One server of PostgreSQL to break."""

    own = True


class PgBouncerServer(Server):
    """PgBouncer, which lends the connections of one server for a transaction each."""

    def __init__(self, program: str, behind: str) -> None:
        self.port = reserve_port()
        super().__init__(f"pgbouncer-{self.port}", user="postgres")
        address = urlsplit(behind)
        users = self.folder / "users.txt"
        users.write_text(f'"{USER}" "{PASSWORD}"\n')
        config = self.folder / "pgbouncer.ini"
        config.write_text(
            "[databases]\n"
            f"* = host=127.0.0.1 port={address.port}\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {users}\n"
            "pool_mode = transaction\ndefault_pool_size = 4\nmax_client_conn = 200\n"
        )
        for path in users, config:
            self.give_to_user(path)
        self._dsn = f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{USER}"
        self.prepare([program, str(config)], self.answers)

    def answers(self) -> bool:
        """Tell whether it takes commands."""
        import psycopg

        try:
            with psycopg.connect(self._dsn, connect_timeout=10):
                return True
        except psycopg.OperationalError:
            return False


class PgBouncer(PostgreSql, variant="pgbouncer"):
    """PostgreSQL behind PgBouncer in transaction mode."""

    def launch(self) -> str:
        behind = self.brokers["postgresql"].dsn
        server = PgBouncerServer(self.find("pgbouncer", package="pgbouncer"), behind)
        self.servers.append(server)
        server.start()
        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{server.port}/{USER}"
