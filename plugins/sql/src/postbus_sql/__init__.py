"""The SQL transport: SQLite, PostgreSQL, MariaDB and MySQL; ``doctrine://`` for an engine that the app shares."""

from __future__ import annotations

from msgspec.structs import replace

from postbus.dsn import Dsn
from postbus.errors import ConfigurationError, DsnError
from postbus.hookspecs import RegisterTransport, hookimpl
from postbus.queue_transport import QueueTransport
from postbus.transport import Guarantees, TransportContext
from postbus_sql import stamps
from postbus_sql.engines import engine_for, register_engine
from postbus_sql.options import (
    LARGEST,
    LONGEST_DELAY,
    MYSQL_LARGEST,
    POSTGRESQL_LARGEST,
    EngineOptions,
    MySqlOptions,
    PostgreSqlOptions,
    SqliteOptions,
    SqlOptions,
    sqlite_file,
)

__all__ = [
    "GUARANTEES",
    "MYSQL",
    "POSTGRESQL",
    "EngineOptions",
    "MySqlOptions",
    "PostgreSqlOptions",
    "SqlOptions",
    "SqliteOptions",
    "make_engine_transport",
    "make_mysql_transport",
    "make_postgresql_transport",
    "make_sqlite_transport",
    "register_engine",
    "stamps",
]

CONTRACT = 1

GUARANTEES = Guarantees(
    durable=True,
    ordering="fifo",
    longest_delay=LONGEST_DELAY,
    lease=True,
    delivery_count=True,
    transactional_send=True,
    notes=True,
    largest_message=LARGEST,
)

MYSQL = replace(GUARANTEES, largest_message=MYSQL_LARGEST)
POSTGRESQL = replace(GUARANTEES, largest_message=POSTGRESQL_LARGEST)

IN_MEMORY = replace(GUARANTEES, durable=False, shared=False, redelivery_on_crash=False, transactional_send=False)


@hookimpl
def register_transports(register: RegisterTransport) -> None:
    """Serve each database, also as SQLAlchemy spells it out, and ``doctrine://``."""
    for scheme in ("sqlite", "sqlite+pysqlite"):
        register(scheme, make_sqlite_transport, options=SqliteOptions, guarantees=GUARANTEES)
    for scheme in ("postgresql", "postgresql+psycopg"):
        register(scheme, make_postgresql_transport, options=PostgreSqlOptions, guarantees=POSTGRESQL)
    for scheme in ("mysql", "mysql+pymysql", "mariadb", "mariadb+pymysql"):
        register(scheme, make_mysql_transport, options=MySqlOptions, guarantees=MYSQL)
    register("doctrine", make_engine_transport, options=EngineOptions, guarantees=GUARANTEES)


def make_sqlite_transport(dsn: Dsn, context: TransportContext) -> QueueTransport:
    """Return a transport on a file, or on a database in memory that nobody else sees."""
    from postbus_sql.connection import SqlConnection
    from postbus_sql.database import Database
    from postbus_sql.dialects import sqlite_engine

    options = SqliteOptions.from_dsn(dsn)
    file = sqlite_file(dsn)

    def connect() -> SqlConnection:
        return SqlConnection(Database(sqlite_engine(file, options.synchronous), owned=True), options)

    if file is None:
        context = replace(context, guarantees=IN_MEMORY)
    return QueueTransport(connect, context)


def make_postgresql_transport(dsn: Dsn, context: TransportContext) -> QueueTransport:
    """Return a transport on PostgreSQL."""
    from postbus_sql.connection import SqlConnection
    from postbus_sql.database import Database
    from postbus_sql.servers import postgresql_engine

    options = PostgreSqlOptions.from_dsn(dsn)
    postgresql_engine(dsn, options)  # What is wrong with the DSN, or with what is installed, is said now.

    def connect() -> SqlConnection:
        return SqlConnection(Database(postgresql_engine(dsn, options), owned=True), options)

    return QueueTransport(connect, context)


def make_mysql_transport(dsn: Dsn, context: TransportContext) -> QueueTransport:
    """Return a transport on MariaDB or MySQL."""
    from postbus_sql.connection import SqlConnection
    from postbus_sql.database import Database
    from postbus_sql.servers import mysql_engine

    options = MySqlOptions.from_dsn(dsn)
    mysql_engine(dsn, options)  # What is wrong with the DSN, or with what is installed, is said now.

    def connect() -> SqlConnection:
        return SqlConnection(Database(mysql_engine(dsn, options), owned=True), options)

    return QueueTransport(connect, context)


def make_engine_transport(dsn: Dsn, context: TransportContext) -> QueueTransport:
    """Return a transport on an engine of the app's, which need not be registered before the transport is used."""
    from sqlalchemy import Engine

    from postbus_sql.connection import SqlConnection
    from postbus_sql.database import Database

    options = EngineOptions.from_dsn(dsn)
    name, given = dsn.host, options.engine
    if given is not None and not isinstance(given, Engine):
        raise ConfigurationError(
            f"Option 'engine' of {dsn.scheme}:// must be an SQLAlchemy Engine, got {type(given).__name__}."
        )
    if given is None and name is None:
        raise DsnError(f"{dsn.scheme}:// names no engine. Write {dsn.scheme}://default.")

    def connect() -> SqlConnection:
        engine = given or engine_for(name or "")
        return SqlConnection(Database(engine, owned=False), options)

    return QueueTransport(connect, context)
