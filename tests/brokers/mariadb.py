"""MariaDB: one server, and one to break."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from tests.brokers.broker import Broker
from tests.brokers.network import reserve_port
from tests.brokers.server import Server

OPTIONS = ("--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-log-file-size=16M")

USER, PASSWORD, DATABASE = "postbus", "p@ss/word", "postbus"

# What is not written to the disk at once survives a crash of the server all the same, and only not one of the machine.
FAST = ("--innodb-flush-log-at-trx-commit=2", "--sync-binlog=0", "--innodb-buffer-pool-size=64M")


class MariaDbServer(Server):
    """One process of MariaDB. It is reached on the loopback; the superuser, through a socket in its folder."""

    def __init__(self, install: str, program: str, *options: str) -> None:
        self.port = reserve_port()
        super().__init__(f"mariadb-{self.port}", user="mysql")
        # One that starts deletes the temporary tables of all others in its folder for those: so each has its own.
        temporary = self.folder / "tmp"
        temporary.mkdir()
        self.give_to_user(temporary)
        base = ["--no-defaults", f"--datadir={self.folder / 'data'}", f"--tmpdir={temporary}"]
        self.socket = self.folder / "server.sock"
        who = [] if self.user is None else [f"--user={self.user}"]
        made = subprocess.run(
            [install, *base, *OPTIONS, *who], cwd=self.folder, capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise RuntimeError(f"{install} has failed: {made.stdout}{made.stderr}")
        base += [f"--port={self.port}", "--bind-address=127.0.0.1"]
        base += [f"--socket={self.socket}", f"--pid-file={self.folder / 'pid'}", "--innodb-log-file-size=16M"]
        self.prepare([program, *base, "--skip-name-resolve", *FAST, *options], self.answers)

    def connect(self) -> Any:
        """Return a connection of PyMySQL that may do everything, and commits by itself."""
        import pymysql

        return pymysql.connect(unix_socket=str(self.socket), user="root", autocommit=True, connect_timeout=10)

    def answers(self) -> bool:
        """Tell whether it takes connections, and greets who comes."""
        # Not with PyMySQL, which forgets to close the socket of a connection that is refused.
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0 and probe.recv(1) != b""


class MariaDb(Broker):
    """A server with a database for an ordinary user, whose DSN it is."""

    @property
    def options(self) -> Sequence[str]:
        """What the program is told besides."""
        return ()

    def launch(self) -> str:
        install = self.find("mariadb-install-db", package="mariadb-server")
        program = self.find("mariadbd", package="mariadb-server")
        server = MariaDbServer(install, program, *self.options)
        self.servers.append(server)
        server.start()
        connection = server.connect()
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4")
            cursor.execute(f"CREATE USER {USER}@127.0.0.1 IDENTIFIED BY '{PASSWORD}'")
            cursor.execute(f"GRANT ALL ON {DATABASE}.* TO {USER}@127.0.0.1")
        connection.close()
        return f"mysql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{server.port}/{DATABASE}"

    def connect(self, **options: Any) -> Any:
        """Return a connection of PyMySQL as the user, which commits by itself."""
        import pymysql

        address = urlsplit(self.dsn)
        return pymysql.connect(
            host=address.hostname,
            port=address.port or 3306,
            user=address.username,
            password=unquote(address.password or ""),
            database=address.path[1:],
            autocommit=True,
            connect_timeout=10,
            **options,
        )


class MariaDbPlain(MariaDb, variant="mariadb", variable="POSTBUS_TEST_MARIADB_DSN"):
    """One server of MariaDB, with a user who has a database."""


class MariaDbTls(MariaDb, variant="mariadb_tls", variable="POSTBUS_TEST_MARIADB_TLS_DSN"):
    """One server that speaks TLS only, as newer ones do by themselves."""

    @property
    def options(self) -> Sequence[str]:
        files = self.brokers.certificates
        return (
            f"--ssl-ca={files.ca_file}",
            f"--ssl-cert={files.server_certificate}",
            f"--ssl-key={files.server_key}",
            "--require-secure-transport=ON",
        )


class OwnMariaDb(MariaDb, variant="own_mariadb"):
    """One server of MariaDB to break."""

    own = True
