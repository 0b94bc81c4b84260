"""A message in a transaction of the caller's, on each server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from postbus.errors import MessageRefused
from postbus.transport import Outgoing
from postbus_sql import register_engine, stamps
from postbus_sql.connection import SqlConnection
from tests.brokers.broker import Brokers

pytestmark = [pytest.mark.slow, pytest.mark.once]

DRIVERS = {"postgresql": "postgresql+psycopg", "mariadb": "mysql+pymysql"}


class Place:
    """A queue in a table of this test's own, and an engine of the app's with a table beside it."""

    def __init__(self, dsn: str, connect: Callable[..., SqlConnection]) -> None:
        scheme = dsn.partition(":")[0]
        driver = {"postgresql": DRIVERS["postgresql"], "mysql": DRIVERS["mariadb"]}[scheme]
        self.url = dsn.replace(scheme, driver, 1)
        self.engine: Engine = create_engine(self.url)
        self.query = f"table_name=test_{uuid4().hex[:12]}"
        self.connection = connect(f"{dsn}?{self.query}")
        self.orders = f"orders_{uuid4().hex[:12]}"
        with self.engine.begin() as connection:
            connection.execute(text(f"CREATE TABLE {self.orders} (id integer)"))

    def order(self, own: Any) -> None:
        """Write something that belongs to a message."""
        own.execute(text(f"INSERT INTO {self.orders} VALUES (1)"))

    def ordered(self) -> int:
        """Return how much of that there is."""
        with self.engine.connect() as connection:
            return len(connection.execute(text(f"SELECT * FROM {self.orders}")).all())


@pytest.fixture(params=DRIVERS)
def place(request: pytest.FixtureRequest, brokers: Brokers, connect: Callable[..., SqlConnection]) -> Iterator[Place]:
    """Give a place on each server."""
    place = Place(brokers[request.param].dsn, connect)
    yield place
    place.connection.close()
    place.engine.dispose()


def message(transaction: Any, body: bytes = b"{}") -> Outgoing:
    """Return a message that joins a transaction."""
    return Outgoing(body, {}, stamps=(stamps.Transaction(transaction),))


def test_a_message_shares_the_fate_of_what_belongs_to_it(place: Place) -> None:
    """Rolled back, it never was; committed, it is there, under the id that was returned."""
    with place.engine.connect() as own:
        place.order(own)
        place.connection.publish([message(own, b"undone")])
        own.rollback()
        place.order(own)
        [id] = place.connection.publish([message(own, b"done")])
        assert [] == place.connection.fetch(10, 0)
        own.commit()

    assert [(id, b"done")] == [(delivery.id, delivery.body) for delivery in place.connection.fetch(10, 0)]
    assert 1 == place.ordered()


def test_a_session_is_joined_before_it_has_done_anything(place: Place) -> None:
    """The message is the first thing in its transaction, which ends with the session's."""
    place.connection.setup()
    with Session(place.engine) as session:
        place.connection.publish([message(session, b"undone")])
        session.rollback()
        place.connection.publish([message(session, b"done")])
        session.commit()

    assert [b"done"] == [delivery.body for delivery in place.connection.fetch(10, 0)]


def test_the_engine_of_the_transport_may_be_the_apps(place: Place, connect: Callable[..., SqlConnection]) -> None:
    """With ``doctrine://`` it is one, and what the app does with it goes on as it was."""
    register_engine("on a server", place.engine)
    connection = connect(f"doctrine://mine?{place.query}", engine=place.engine)
    with Session(place.engine) as session, session.begin():
        place.order(session)
        connection.publish([message(session, b"joined"), Outgoing(b"apart", {})])

    deliveries = connection.fetch(10, 5)
    assert {b"joined", b"apart"} == {delivery.body for delivery in deliveries}
    assert [] == connection.ack([delivery.tag for delivery in deliveries])
    with place.engine.connect() as own:
        place.order(own)  # In a transaction, as ever: it is not committed.
    assert 1 == place.ordered()
    connection.close()


def test_a_savepoint_takes_the_message_with_it(place: Place) -> None:
    """What was sent inside a nested transaction shares its fate."""
    place.connection.setup()
    with Session(place.engine) as session, session.begin():
        place.connection.publish([message(session, b"kept")])
        nested = session.begin_nested()
        place.connection.publish([message(session, b"undone")])
        nested.rollback()

    assert [b"kept"] == [delivery.body for delivery in place.connection.fetch(10, 0)]


def test_another_database_and_no_transaction_are_refused(place: Place) -> None:
    """A message stored where nobody looks, or at once, would be no part of the transaction."""
    place.connection.setup()
    other = create_engine("sqlite://")
    with other.connect() as own, pytest.raises(MessageRefused, match="another database"):
        place.connection.publish([message(own)])
    other.dispose()
    with (
        place.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as own,
        pytest.raises(MessageRefused, match="AUTOCOMMIT"),
    ):
        place.connection.publish([message(own)])
