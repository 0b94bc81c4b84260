"""What differs from one database to another.

For one more, write a class that does what `Dialect` says, and name it in `dialect_for`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from msgspec import Struct
from sqlalchemy import Connection
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.pool import PoolProxiedConnection

from postbus_sql.rows import Column

if TYPE_CHECKING:
    from postbus_sql.options import SqlOptions
    from postbus_sql.statements import Statement, Statements
    from postbus_sql.waiting import Source, Watch

Trouble = Literal["busy", "missing", "lost", "unfit", "other"]
"""What a driver's error means: another one is in the way, the table is missing, the database is gone, a value does not
fit into its column, or anything else."""

END_OF_TIME = 253_402_300_799
"""The last second of the year 9999, the longest year that a timestamp has room for."""

Values = Mapping[str, object]
"""What stands for the names in a statement."""


class Row(Struct, frozen=True, gc=False):
    """What is stored of one message: the text of the two columns, and the delay in seconds."""

    body: str
    headers: str
    delay: float


class Claimed(NamedTuple):
    """Rows that were claimed, in their order, each as id, body and headers; and their ``delivered_at`` since then."""

    rows: Sequence[tuple[int, Column, Column]]
    since: str


class Identity:
    """What tells one database of a server from others, and what it was when it was asked last."""

    def __init__(self, query: str, execute: Callable[[DBAPICursor, str], None]) -> None:
        """``execute`` is how the dialect runs a query that takes no values."""
        self._query = query
        self._execute = execute
        self._ours: tuple[object, ...] | None = None

    def is_shared(self, database: Source, connection: Connection) -> bool:
        """Say whether a connection of the user's is one to our database; see `Dialect.is_same_database`."""
        if connection.engine.pool is database.engine.pool:
            if not connection.in_transaction():
                connection.begin()  # As the first statement that SQLAlchemy knows of would do.
            return True
        theirs = tuple(connection.exec_driver_sql(self._query).one())
        if self._ours != theirs:
            self._ours = database.read(self._ask)
        return self._ours == theirs

    def _ask(self, cursor: DBAPICursor) -> tuple[object, ...]:
        self._execute(cursor, self._query)
        return tuple(cursor.fetchone() or ())


class Dialect(Protocol):
    """One kind of database, with one driver: its SQL, its errors, and how to wait on it."""

    error: type[Exception]
    """What the driver raises."""
    is_private: bool
    """Whether nobody but this process sees the database."""
    takes_turns: bool
    """Whether one thread at a time uses the database, on one connection."""
    looks_first: bool
    """Whether looking for a message comes before claiming one, because a claim keeps others from writing."""
    claims_at_once: bool
    """Whether claiming what waits is one statement, which is a transaction by itself."""
    creates_in_transactions: bool
    """Whether a table is best created in the transaction of a caller who needs it."""
    hint: str
    """What to do where the database cannot be reached: a sentence."""
    purging: str
    """SQL that chooses some rows of a queue to be deleted."""

    @property
    def rounding(self) -> float:
        """By how many seconds a lease may last longer, because the columns hold no fractions."""
        ...

    @property
    def pieces(self) -> Mapping[str, str]:
        """SQL for what `Statements` leaves open."""
        ...

    # the language

    def statement(self, text: str, table: str) -> Statement:
        """Return SQL with ``:names`` and ``{table}`` as the driver takes it."""
        ...

    def execute(self, cursor: DBAPICursor, statement: Statement, values: Values, ids: Sequence[int] = ()) -> None:
        """Run a statement; ``ids`` are those that it names."""
        ...

    def as_bytes(self, column: str) -> str:
        """Return SQL for a text, as the driver gives it back whatever it holds."""
        ...

    def until(self, time: str) -> str:
        """Return SQL for what `seconds_until` takes, of SQL for a time."""
        ...

    def seconds_until(self, value: Any, now: float) -> float:
        """Return how many seconds are left until a time, negative ones if it is over."""
        ...

    def times(self, now: float, timeout: float) -> Values:
        """Return what statements say about times; ``now`` is by the clock of this process."""
        ...

    def adapt(self, cursor: DBAPICursor, table: str) -> None:
        """Find out what the columns can hold, once; raises the driver's error if the table is missing."""
        ...

    # what is done to rows

    def claiming(self, chosen: str) -> str:
        """Return SQL that claims the rows which a query chooses."""
        ...

    def insert(self, cursor: DBAPICursor, table: str, queue: str, rows: Sequence[Row], now: float) -> list[int]:
        """Insert rows inside a transaction and return their ids, in the order of the rows."""
        ...

    def is_single(self, rows: Sequence[Row]) -> bool:
        """Say whether `insert` stores these with one statement."""
        ...

    def claim(self, cursor: DBAPICursor, sql: Statements, which: Statement, values: Values) -> Claimed:
        """Claim rows."""
        ...

    def change(
        self, cursor: DBAPICursor, sql: Statements, how: Statement, values: Values, ids: Sequence[int]
    ) -> list[tuple[int, str | None]]:
        """Delete or update those of the rows that are still held; return their ids, and since when they are held."""
        ...

    def largest_message(self, cursor: DBAPICursor) -> int:
        """Return how many bytes body and headers may have together."""
        ...

    # transactions

    def reading(self, connection: PoolProxiedConnection) -> AbstractContextManager[DBAPICursor]:
        """Give what reads with; nothing stays locked."""
        ...

    def transaction(
        self, connection: PoolProxiedConnection, *, durable: bool, single: bool
    ) -> AbstractContextManager[DBAPICursor]:
        """Begin to write, and commit. One that need not be ``durable`` may be undone by a power failure.

        What is a ``single`` statement is a transaction by itself, in many databases.
        """
        ...

    def patience(self, connection: PoolProxiedConnection, longer: float) -> AbstractContextManager[None]:
        """Let an answer take only so long, and some seconds longer, if the driver does not see to that."""
        ...

    # waiting

    def watch(self, database: Source, table: str, options: SqlOptions) -> Watch:
        """Return what tells of changes."""
        ...

    def is_replaced(self, connection: PoolProxiedConnection) -> bool:
        """Say whether what the connection has open is not the database any more."""
        ...

    def forks_safely(self) -> bool:
        """Say whether a connection may be open while the process forks."""
        ...

    # setup

    def obstacle(self) -> str | None:
        """Return what keeps anybody from using the database, or None, as far as that can be told from here."""
        ...

    def lacks(self, cursor: DBAPICursor, table: str, indexes: Sequence[str]) -> list[str]:
        """Return a sentence for what is not there, or not permitted, beside the columns."""
        ...

    def prepare(self, connection: PoolProxiedConnection) -> None:
        """Set up the database as a whole."""
        ...

    def create(self, cursor: DBAPICursor, statements: Sequence[tuple[str, str]], table: str) -> None:
        """Create what is missing: by name, and in this order."""
        ...

    # a transaction of the user's

    def is_same_database(self, database: Source, connection: Connection) -> bool:
        """Say whether the user's connection reaches the database that the engine reaches."""
        ...

    def commits_by_itself(self, connection: Connection) -> bool:
        """Say whether the user's connection is in no transaction: each statement would be committed at once."""
        ...

    def has_failed(self, connection: Connection) -> bool:
        """Say whether the user's transaction can only be rolled back, and a commit would do that in silence."""
        ...

    def joining(self, cursor: DBAPICursor) -> AbstractContextManager[None]:
        """Undo what is done inside, if it fails, and leave the rest of the user's transaction as it was."""
        ...

    # errors

    def describe(self, error: BaseException | None) -> str:
        """Return what an error says, without a full stop; nothing in it is a value of a message."""
        ...

    def diagnose(self, error: BaseException | None) -> Trouble:
        """Return what an error of the driver means, or one of SQLAlchemy's own, which come from its pool."""
        ...


def slow_without(table: str, index: str) -> str:
    """Return the sentence about an index that is missing."""
    return f"Table {table} has no index {index}, and gets slower the more it holds. Run `postbus setup`."


def in_microseconds(delay: float) -> int:
    """Return a delay in whole microseconds, rounded up; none is 0."""
    return math.ceil(delay * 1_000_000) if delay > 0 else 0


def chunks_of(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """Yield rows in groups of about so many bytes, as few as one row in each."""
    begun, length = 0, 0
    for place, row in enumerate(rows):
        more = len(row.body) + len(row.headers)
        if place > begun and length + more > size:
            yield rows[begun:place]
            begun, length = place, 0
        length += more
    yield rows[begun:]
