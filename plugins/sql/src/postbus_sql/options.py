"""The options of a DSN, and the file that it names."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import ClassVar, Literal, Self
from urllib.parse import unquote

from postbus.dsn import Dsn, Options, option
from postbus.errors import DsnError

LONGEST_DELAY = 1000 * 365 * 86400.0
"""Seconds. The columns hold times until the year 9999."""

NOTES = "postbus:notes"
"""The queue whose rows are notes, of all queues of the table; nobody fetches from it."""

LARGEST = 1_000_000_000
"""Bytes of a row that SQLite takes, unless it was built otherwise."""

MYSQL_LARGEST = 16_000_000
"""Bytes of a message: what MariaDB takes in one statement, unless max_allowed_packet says otherwise."""

POSTGRESQL_LARGEST = 100_000_000
"""Bytes of a message: PostgreSQL takes values of 1 GB, and needs several times as much memory for them."""


class SqlOptions(Options):
    """What every DSN of this plugin takes."""

    table_name: str = option("messenger_messages", "Table that holds the messages; may be schema.table.")
    queue_name: str = option("default", "Queue inside the table, 1 to 190 characters.")
    redeliver_timeout: int = option(
        60, "A message in flight for longer, and not kept alive, is delivered again.", unit="seconds", minimum=1
    )
    auto_setup: bool = option(True, "Create the table when it turns out to be missing.")
    use_notify: bool = option(True, "Belongs to PostgreSQL.", no_effect=True)
    check_delayed_interval: int = option(60_000, "Belongs to PostgreSQL.", unit="milliseconds", no_effect=True)
    get_notify_timeout: int = option(0, "Belongs to PostgreSQL.", unit="milliseconds", no_effect=True)

    def __post_init__(self) -> None:
        if not self.table_name:
            raise DsnError("Option 'table_name' must be the name of a table, got ''.")
        if not 1 <= len(self.queue_name) <= 190:
            raise DsnError(f"Option 'queue_name' must have 1 to 190 characters, got {len(self.queue_name)}.")
        if self.queue_name == NOTES:
            raise DsnError(f"Option 'queue_name' must not be {NOTES!r}, which is where notes are. Name another queue.")


class SqliteOptions(SqlOptions):
    """What ``sqlite://`` takes."""

    synchronous: Literal["full", "normal"] = option(
        "full", "What a power failure may cost: nothing (full), or the last messages (normal)."
    )


class ServerOptions(SqlOptions):
    """What the DSN of a server takes; all else in it is for the driver."""

    read_timeout: float = option(10, "How long an answer may take; 0 means for ever.", unit="seconds", minimum=0)
    connect_timeout: int = option(10, "How long connecting may take.", unit="seconds", minimum=1)

    drivers: ClassVar[frozenset[str]] = frozenset()
    """The options that the driver takes."""

    @classmethod
    def from_dsn(cls, dsn: Dsn, **positional: object) -> Self:
        """Return the options of a DSN without those of the driver."""
        ours = {name: value for name, value in dsn.options.items() if name not in cls.drivers}
        return super().from_dsn(replace(dsn, options=ours), **positional)

    @classmethod
    def for_driver(cls, dsn: Dsn) -> dict[str, str]:
        """Return the driver's options of a DSN."""
        return {name: str(value) for name, value in dsn.options.items() if name in cls.drivers}


class ListeningOptions(SqlOptions):
    """What has an effect on PostgreSQL alone."""

    use_notify: bool = option(True, "PostgreSQL: listen for new messages, else look into the queue every 80 ms.")
    check_delayed_interval: int = option(
        60_000,
        "PostgreSQL: pause between two looks into an idle queue that nothing calls for.",
        unit="milliseconds",
        minimum=0,
    )
    get_notify_timeout: int = option(
        0,
        "PostgreSQL: how long to listen at a time; 0 for as long as a worker waits.",
        unit="milliseconds",
        minimum=0,
    )


class PostgreSqlOptions(ListeningOptions, ServerOptions):
    """What ``postgresql://`` takes."""

    # https://www.postgresql.org/docs/current/libpq-connect.html, section 32.1.2
    drivers = frozenset(
        "application_name channel_binding client_encoding fallback_application_name gssdelegation gssencmode gsslib "
        "host hostaddr keepalives keepalives_count keepalives_idle keepalives_interval krbsrvname load_balance_hosts "
        "options passfile port require_auth requirepeer service ssl_max_protocol_version ssl_min_protocol_version "
        "sslcert sslcertmode sslcompression sslcrl sslcrldir sslkey sslmode sslnegotiation sslpassword sslrootcert "
        "sslsni target_session_attrs tcp_user_timeout".split()
    )


class MySqlOptions(ServerOptions):
    """What ``mysql://`` and ``mariadb://`` take."""

    drivers = frozenset(
        "bind_address charset program_name read_default_file read_default_group server_public_key ssl_ca ssl_cert "
        "ssl_disabled ssl_key ssl_key_password ssl_verify_cert ssl_verify_identity unix_socket".split()
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queue_name != self.queue_name.rstrip(" "):
            raise DsnError("Option 'queue_name' must not end in a space, with which MariaDB and MySQL do not compare.")


class EngineOptions(ListeningOptions):
    """What ``doctrine://`` takes."""

    engine: object | None = option(None, "SQLAlchemy engine to use in place of a registered one; from code only.")


def sqlite_file(dsn: Dsn) -> str | None:
    """Return the absolute path of the database, as SQLAlchemy reads such a URL; None for one in memory.

    Two slashes begin an address, the third a path: ``sqlite:///relative.db``, ``sqlite:////absolute.db``.
    """
    if dsn.hosts or dsn.user is not None or dsn.password is not None:
        raise DsnError(f"{dsn.scheme}:// has no host and no user. A file takes three slashes: sqlite:///messages.db.")
    path = unquote(dsn.path[1:])
    if path == ":memory:" or not dsn.path:
        return None
    if not path:
        raise DsnError(f"{dsn.scheme}:/// names no file. Write sqlite:///messages.db, or sqlite:// for one in memory.")
    return os.path.abspath(path)
