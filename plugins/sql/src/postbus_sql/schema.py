"""The table: that of Symfony's Doctrine transport, with an index of our own that serves the claim."""

from __future__ import annotations

from sqlalchemy import CLOB, BigInteger, Column, DateTime, Engine, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.schema import CreateIndex, CreateTable

from postbus_sql.dialects import Sqlite


class Schema:
    """A table of messages, and the statements that create it."""

    def __init__(self, table_name: str, engine: Engine) -> None:
        schema, _, name = table_name.rpartition(".")
        text = Text().with_variant(CLOB(), "sqlite")
        table = Table(
            name,
            MetaData(schema=schema or None),
            Column("id", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True),
            Column("body", text, nullable=False),
            Column("headers", text, nullable=False),
            Column("queue_name", String(190), nullable=False),
            Column("created_at", DateTime(), nullable=False),
            Column("available_at", DateTime(), nullable=False),
            Column("delivered_at", DateTime()),
            sqlite_autoincrement=True,  # An id is never used again, so that an old tag cannot mean a new message.
        )
        # Rows in flight, which have a `delivered_at`, stand behind all that wait, and so do not slow down a claim.
        columns = (table.c.queue_name, table.c.delivered_at, table.c.available_at, table.c.id)
        index = Index(f"{name}_claim", *columns)
        self._table, self._index = name, f"{name}_claim"
        self._columns = ", ".join(table.c.keys())
        self.name = engine.dialect.identifier_preparer.format_table(table)
        self._statements = [
            str(statement.compile(dialect=engine.dialect))
            for statement in (CreateTable(table, if_not_exists=True), CreateIndex(index, if_not_exists=True))
        ]

    def create(self, cursor: DBAPICursor) -> None:
        """Create what is missing."""
        for statement in self._statements:
            cursor.execute(statement)

    def missing(self, cursor: DBAPICursor, dialect: Sqlite) -> list[str]:
        """Return a sentence for what is not there; raise the driver's error if that is the table, or a column of it."""
        cursor.execute(
            "SELECT {columns} FROM {table} LIMIT 0".replace("{columns}", self._columns).replace("{table}", self.name)
        )
        if dialect.has_index(cursor, self._table, self._index):
            return []
        return [
            f"Table {self.name} has no index {self._index}, and gets slower the more it holds. Run `postbus setup`."
        ]
