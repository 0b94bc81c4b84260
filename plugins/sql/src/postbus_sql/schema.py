"""The table: that of Symfony's Doctrine transport, with indexes of our own that serve the claim."""

from __future__ import annotations

from hashlib import blake2b

from sqlalchemy import CLOB, BigInteger, Column, DateTime, Engine, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.dialects.mysql import DATETIME, LONGTEXT
from sqlalchemy.dialects.mysql import VARCHAR as MYSQL_VARCHAR
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.schema import CreateIndex, CreateTable

from postbus_sql.dialects import Dialect

LONGEST_NAME = 63
"""Bytes of a name in PostgreSQL; others take more."""


def message_table(name: str, metadata: MetaData, dialect: str) -> Table:
    """Add the table of messages to the metadata, for SQLAlchemy's dialect of this name, and return it.

    The name may be ``schema.table``. For Alembic, call it beside your own tables::

        message_table("messenger_messages", Base.metadata, "postgresql")
    """
    schema, _, name = name.rpartition(".")
    text = Text().with_variant(LONGTEXT(), "mysql", "mariadb")
    # The database's own clock says microseconds. SQLite has none, and whole seconds as Symfony writes them.
    time = DateTime().with_variant(DATETIME(fsp=6), "mysql", "mariadb")
    # Else 'Orders' would be 'orders'.
    exact = MYSQL_VARCHAR(190, charset="utf8mb4", collation="utf8mb4_bin")
    table = Table(
        name,
        metadata,
        Column("id", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True),
        Column("body", text, nullable=False),
        Column("headers", text, nullable=False),
        Column("queue_name", String(190).with_variant(exact, "mysql", "mariadb"), nullable=False),
        Column("created_at", time, nullable=False),
        Column("available_at", time, nullable=False),
        Column("delivered_at", time),
        schema=schema or metadata.schema,
        sqlite_autoincrement=True,  # An id is never used again, so that an old tag cannot mean a new message.
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mariadb_engine="InnoDB",
        mariadb_charset="utf8mb4",
    )
    if dialect == "postgresql":
        at_rest, in_flight = table.c.delivered_at.is_(None), table.c.delivered_at.is_not(None)
        Index(_named(name, "waiting"), table.c.queue_name, table.c.available_at, table.c.id, postgresql_where=at_rest)
        held = (table.c.queue_name, table.c.delivered_at, table.c.available_at, table.c.id)
        Index(_named(name, "in_flight"), *held, postgresql_where=in_flight)
    else:
        # Rows in flight, which have a `delivered_at`, stand behind all that wait, and so do not slow down a claim.
        Index(_named(name, "claim"), table.c.queue_name, table.c.delivered_at, table.c.available_at, table.c.id)
    return table


def _named(table: str, what: str) -> str:
    """Return the name of an index, which databases let be as long as that of a table."""
    name = f"{table}_{what}"
    if len(name.encode()) <= LONGEST_NAME:
        return name
    digest = blake2b(table.encode(), digest_size=4).hexdigest()
    return f"{table.encode()[:40].decode(errors='ignore')}_{digest}_{what}"


class Schema:
    """A table of messages, and the statements that create it."""

    def __init__(self, table_name: str, engine: Engine) -> None:
        table = message_table(table_name, MetaData(), engine.dialect.name)
        if engine.dialect.name == "sqlite":
            # As Symfony declares it; SQLAlchemy calls that a text when it finds it.
            table.c.body.type = table.c.headers.type = CLOB()
        indexes = sorted(table.indexes, key=lambda index: str(index.name), reverse=True)
        self._columns = ", ".join(table.c.keys())
        # Some dialects double what is a place holder's; here that is done where place holders are.
        self.name = engine.dialect.identifier_preparer.format_table(table).replace("%%", "%")
        self._indexes = [str(index.name) for index in indexes]
        # In MySQL there is no IF NOT EXISTS for an index.
        lenient = engine.dialect.name not in ("mysql", "mariadb")

        def sql(create: CreateTable | CreateIndex) -> str:
            return str(create.compile(dialect=engine.dialect)).strip().replace("%%", "%")

        self.statements = [
            (table.name, sql(CreateTable(table, if_not_exists=True))),
            *((str(index.name), sql(CreateIndex(index, if_not_exists=lenient))) for index in indexes),
        ]
        """What creates the table and its indexes, by the name of each."""

    @property
    def script(self) -> str:
        """The same as text for people, and for the database's own shell."""
        return "\n\n".join(f"{statement};" for _, statement in self.statements)

    def create(self, cursor: DBAPICursor, dialect: Dialect) -> None:
        """Create what is missing."""
        dialect.create(cursor, self.statements, self.name)

    def missing(self, cursor: DBAPICursor, dialect: Dialect) -> list[str]:
        """Return a sentence for what is not there; raise the driver's error if that is the table, or a column of it."""
        query = "SELECT {columns} FROM {table} LIMIT 0".replace("{columns}", self._columns)
        cursor.execute(dialect.statement(query, self.name))
        return dialect.lacks(cursor, self.name, self._indexes)
