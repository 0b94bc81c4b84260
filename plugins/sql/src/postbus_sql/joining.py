"""Storing messages in a transaction that the user began, and will commit or roll back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import SQLAlchemyError

from postbus.errors import TransportError
from postbus.transport import Outgoing
from postbus_sql.database import Database, TableMissing
from postbus_sql.stamps import Transaction

T = TypeVar("T")

_ELSEWHERE = "stamps.Transaction holds a connection to another database than {}."


class Unjoinable(TransportError):
    """The transaction that a message is to be stored in can be joined by none."""


def transaction_of(message: Outgoing) -> Transaction | None:
    """Return the transaction that a message is to be stored in, or None."""
    for stamp in message.stamps:
        if type(stamp) is Transaction:  # Asked for each stamp of each message, and quicker than isinstance.
            return stamp
    return None


def is_joinable(database: Database, connection: Connection) -> bool:
    """Say whether a connection of the caller's reaches this database."""
    has_driver = connection.dialect.driver == database.engine.dialect.driver
    return has_driver and database.dialect.is_same_database(database, connection)


def join(database: Database, transaction: Transaction, work: Callable[[DBAPICursor], T]) -> T:
    """Do work in the user's transaction.

    Raises `TransportError`, never `ConnectionLost`: upon that, the message would be stored on another connection.
    It is `Unjoinable` where trying again is no use.
    """
    try:
        connection = connection_of(transaction.connection)
        if connection.dialect.driver != database.engine.dialect.driver:
            raise Unjoinable(_ELSEWHERE.format(database.name))
        if database.dialect.has_failed(connection):
            raise TransportError(
                "The transaction that a message came with has failed, and can only be rolled back. Look for the error "
                "that was swallowed in it."
            )
        if not database.dialect.is_same_database(database, connection):
            raise Unjoinable(_ELSEWHERE.format(database.name))
        if database.dialect.commits_by_itself(connection):
            raise Unjoinable("stamps.Transaction holds a connection in AUTOCOMMIT: there is nothing to join.")
        cursor = connection.connection.cursor()
        try:
            with database.dialect.joining(cursor):
                return work(cursor)
        finally:
            cursor.close()
    except (database.dialect.error, SQLAlchemyError) as error:
        trouble, text = database.translate(error)
        if trouble == "missing":
            raise TableMissing(f"{text}. Run `postbus setup`.") from error
        raise TransportError(f"Could not store a message in the transaction that it came with: {text}.") from error


def connection_of(given: object) -> Connection:
    """Return the connection that the caller's transaction is on; raise `Unjoinable` if there is none."""
    if isinstance(given, Connection):
        return given
    orm = sys.modules.get("sqlalchemy.orm")  # Who has a session has imported it; others need not wait for that.
    if orm is not None and isinstance(given, orm.Session | orm.scoped_session):
        connection: Connection = given.connection()
        return connection
    raise Unjoinable(
        f"stamps.Transaction takes an SQLAlchemy Connection or Session, not {type(given).__name__}. "
        "With an AsyncSession, dispatch inside its run_sync()."
    )
