"""`Place`, where a test on a server has a table to itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from sqlalchemy import Engine, create_engine

from postbus_sql.connection import SqlConnection

DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}


class Place:
    """A table of this test's own, on the server that all share."""

    def __init__(self, server: Any, connect: Callable[..., SqlConnection]) -> None:
        self.server = server
        self.table = f"test_{uuid4().hex[:12]}"
        self._connect = connect

    def dsn(self, query: str = "") -> str:
        """Return the DSN of its queue."""
        return f"{self.server.dsn}?table_name={quote(self.table)}{query}"

    def connect(self, query: str = "", **options: object) -> SqlConnection:
        """Return a connection of its own."""
        return self._connect(self.dsn(query), **options)

    def connect_by(self, engine: Engine) -> SqlConnection:
        """Return a connection by an engine of the app's."""
        return self._connect(f"doctrine://mine?table_name={quote(self.table)}", engine=engine)

    def sql(self, statement: str, *values: object) -> list[Any]:
        """Run SQL as another program would; ``{table}`` is the table."""
        with closing(self.server.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(statement.replace("{table}", self.table), values or None)
            return list(cursor.fetchall()) if cursor.description else []

    def engine(self, **options: Any) -> Engine:
        """Return an engine of the app's on the same database."""
        scheme, _, rest = self.server.dsn.partition(":")
        return create_engine(f"{DRIVERS[scheme]}:{rest}", **options)
