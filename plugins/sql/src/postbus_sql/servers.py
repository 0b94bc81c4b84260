"""The engines of DSNs that name a server."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sqlalchemy import URL, Engine, create_engine

from postbus.dsn import Dsn
from postbus.errors import ConfigurationError, DsnError
from postbus_sql.options import MySqlOptions, PostgreSqlOptions


def postgresql_engine(dsn: Dsn, options: PostgreSqlOptions) -> Engine:
    """Return an engine on PostgreSQL."""
    _need("psycopg", "postgresql", dsn)
    query: dict[str, str | tuple[str, ...]] = {**options.for_driver(dsn)}
    if len(dsn.hosts) > 1:
        query["host"] = tuple(f"{host.name}:{host.port or 5432}" for host in dsn.hosts)
    url = _url("postgresql+psycopg", dsn, query)
    given: dict[str, Any] = {"connect_timeout": options.connect_timeout}
    if "application_name" not in query:
        given["application_name"] = "postbus"
    return _make(url, {**given, "autocommit": True, "prepare_threshold": None}, read_timeout=options.read_timeout)


def mysql_engine(dsn: Dsn, options: MySqlOptions) -> Engine:
    """Return an engine on MariaDB or MySQL."""
    _need("pymysql", "mysql", dsn)
    if not dsn.segments or not dsn.segments[0]:
        raise DsnError(f"{dsn.scheme}:// names no database. Write {dsn.scheme}://localhost/app.")
    if len(dsn.hosts) > 1:
        raise DsnError(f"{dsn.scheme}:// takes one server, got {len(dsn.hosts)}.")
    name = "mariadb+pymysql" if dsn.scheme.startswith("mariadb") else "mysql+pymysql"
    patience = options.read_timeout or None
    given = {
        "connect_timeout": options.connect_timeout,
        "read_timeout": patience,
        "write_timeout": patience,
        "autocommit": True,
        "init_command": "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    }
    return _make(_url(name, dsn, {**options.for_driver(dsn)}), given)


def _url(name: str, dsn: Dsn, query: dict[str, str | tuple[str, ...]]) -> URL:
    if len(dsn.segments) > 1:
        raise DsnError(f"{dsn.scheme}:// names a database with one segment of its path, got {len(dsn.segments)}.")
    database = dsn.segments[0] if dsn.segments else None
    single = len(dsn.hosts) == 1
    return URL.create(
        name,
        dsn.user,
        dsn.password,
        dsn.hosts[0].name if single else None,
        dsn.hosts[0].port if single else None,
        database or None,
        query,
    )


def _make(url: URL, given: dict[str, Any], **options: object) -> Engine:
    # What a connection is left with when it is given back has been seen to, so it need not be reset.
    return create_engine(url, connect_args=given, pool_reset_on_return=None, execution_options={"postbus": options})


def _need(module: str, extra: str, dsn: Dsn) -> None:
    try:
        import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"{dsn.scheme}:// needs {module}. Install it: pip install 'postbus-sql[{extra}]'"
        ) from error
