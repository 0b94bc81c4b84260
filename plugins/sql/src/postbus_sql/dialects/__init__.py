"""The databases, each in a module of its own; `dialect` says what one must be able to do."""

from __future__ import annotations

from sqlalchemy import Engine

from postbus.errors import ConfigurationError
from postbus_sql.dialects.dialect import Claimed, Dialect, Row, Trouble, Values
from postbus_sql.dialects.sqlite import Sqlite, sqlite_engine

__all__ = ["Claimed", "Dialect", "Row", "Sqlite", "Trouble", "Values", "dialect_for", "sqlite_engine"]


def dialect_for(engine: Engine) -> Dialect:
    """Return the dialect that an engine speaks."""
    speaks = (engine.dialect.name, engine.dialect.driver)
    if engine.dialect.is_async:
        speaks = ("", "")
    if speaks == ("sqlite", "pysqlite"):
        return Sqlite(engine)
    # The driver of each is installed only by who uses it.
    if speaks == ("postgresql", "psycopg"):
        from postbus_sql.dialects.postgresql import PostgreSql

        return PostgreSql(engine)
    if speaks in (("mysql", "pymysql"), ("mariadb", "pymysql")):
        from postbus_sql.dialects.mysql import MySql

        return MySql(engine)
    raise ConfigurationError(
        f"The SQL transport cannot use an engine of {engine.dialect.name}+{engine.dialect.driver}. "
        "Give it one of sqlite+pysqlite, postgresql+psycopg, mysql+pymysql or mariadb+pymysql."
    )
