"""The stamp of this plugin; written qualified, like those of the core (``stamps.Transaction``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from postbus.stamps import Stamp

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session, scoped_session


class Transaction(Stamp):
    """Store the message in the transaction that this connection or session is in.

    It is there once the caller commits, and never was if the caller rolls back::

        with Session(engine) as session, session.begin():
            session.add(order)
            app.dispatch(OrderPlaced(order.id), stamps.Transaction(session))
    """

    requires = "transactional_send"
    connection: Connection | Session | scoped_session[Session]
