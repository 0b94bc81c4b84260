"""`Transaction`, a middleware: what handlers write, and the end of their message, are one step in one database."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session

from postbus import stamps
from postbus.bus import Next
from postbus.envelope import Envelope
from postbus.errors import HandlerFailed, PostbusError, TransportError
from postbus.middleware import has_deferred
from postbus_sql.queue import Lease

IN_ERROR = 3
"""The status of a transaction in PostgreSQL that can only be rolled back."""


class Transaction:
    """Handles each message in a transaction of its own, committed when all of its handlers have succeeded.

    Where the message came from the same database, it is acknowledged in that transaction: so what handlers wrote is
    there exactly once, whatever dies and comes again. What they dispatch to that database with
    ``stamps.Transaction(transaction.session)`` is a part of it, too::

        transaction = Transaction(engine)
        app = Postbus(..., middleware=[transaction])


        @app.handler
        def place(order: PlaceOrder) -> None:
            transaction.session.add(Order(order.id))

    If one handler fails, the work of all is undone, and all run again. A message that a handler dispatches, and that is
    handled at once, takes part.
    """

    def __init__(self, sessions: Engine | Callable[[], Session]) -> None:
        """Make sessions on an engine, or with a ``sessionmaker``.

        On MariaDB and MySQL, those of an engine are in READ COMMITTED: in the default level, a message whose lease is
        extended meanwhile could not be acknowledged. A ``sessionmaker`` has to see to that itself.
        """
        self._make: Callable[[], Session] = _sessions_of(sessions) if isinstance(sessions, Engine) else sessions
        self._current: ContextVar[Session | None] = ContextVar("postbus_sql_session", default=None)

    @property
    def session(self) -> Session:
        """The session of the message that is being handled."""
        session = self._current.get()
        if session is None:
            raise PostbusError("There is no transaction, because no message is being handled. Use it in a handler.")
        return session

    @property
    def connection(self) -> Connection:
        """The connection of that session."""
        return self.session.connection()

    def __call__(self, envelope: Envelope, call_next: Next) -> Envelope:
        """Begin, handle, acknowledge and commit; or roll back."""
        if self._current.get() is not None:
            return call_next(envelope)
        with self._make() as session:
            token = self._current.set(session)
            try:
                result = call_next(envelope)
            except HandlerFailed as error:
                # What the others have done is undone by now.
                error.succeeded = ()
                raise
            finally:
                self._current.reset(token)
            with _acknowledging(envelope, session):
                _refuse_failed(session)
                session.commit()
        return result


def _sessions_of(engine: Engine) -> Callable[[], Session]:
    if engine.dialect.name in ("mysql", "mariadb"):
        engine = engine.execution_options(isolation_level="READ COMMITTED")
    return lambda: Session(engine)


@contextmanager
def _acknowledging(envelope: Envelope, session: Session) -> Generator[None]:
    """Acknowledge a message of the same database, if what is done inside succeeds; others, the worker does."""
    # One that comes out of the failure transport says last where it failed first.
    leases = [received.tag for received in envelope.all(stamps.Received) if isinstance(received.tag, Lease)]
    home = leases[-1].home if leases else None
    if (
        home is None or has_deferred()
    ):  # What is sent only afterwards must not be lost, so the message stays until then.
        yield
        return
    with home.acknowledging(leases[-1], session.connection()):
        yield


def _refuse_failed(session: Session) -> None:
    """Raise if the commit would store nothing, and say nothing."""
    if not session.in_transaction():
        return
    # Of psycopg, 2 and 3; no other driver has it, nor such a commit.
    information = getattr(session.connection().connection.driver_connection, "info", None)
    if getattr(information, "transaction_status", None) == IN_ERROR:
        raise TransportError(
            "A statement failed in the transaction of a message, and its error was swallowed, so nothing can be "
            "stored. Let the error out, or use a savepoint."
        )
