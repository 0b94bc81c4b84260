"""A message joins the transaction of the caller's that it comes with."""

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from postbus import Postbus
from postbus.envelope import Envelope
from postbus.errors import ConnectionLost, MessageRefused, TransportError
from postbus.testing.subject import Note
from postbus.transport import Outgoing
from postbus_sql import register_engine, stamps


@pytest.fixture
def engine(file):
    """Return the user's own engine on the same file."""
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (id INTEGER PRIMARY KEY)"))
    yield engine
    engine.dispose()


def message(transaction, body=b"{}"):
    return Outgoing(body, {}, stamps=(stamps.Transaction(transaction),))


def test_a_message_is_there_once_the_caller_commits(connect, engine):
    """Until then nobody else sees it; afterwards it is delivered like any other, under the id that was returned."""
    connection = connect()
    connection.setup()
    with engine.connect() as own:
        own.execute(text("INSERT INTO orders VALUES (1)"))
        [id] = connection.publish([message(own)])
        assert [] == connection.fetch(1, 0)

        own.commit()

    assert [id] == [delivery.id for delivery in connection.fetch(1, 0)]


def test_a_message_never_was_if_the_caller_rolls_back(connect, engine):
    """It vanishes together with what else the caller wrote."""
    connection = connect()
    connection.setup()
    with engine.connect() as own:
        own.execute(text("INSERT INTO orders VALUES (1)"))
        connection.publish([message(own)])

        own.rollback()

    assert 0 == connection.count().waiting
    with engine.connect() as own:
        assert [] == own.execute(text("SELECT * FROM orders")).all()


@pytest.mark.parametrize("scoped", [False, True])
def test_a_session_is_joined(connect, engine, scoped):
    """An ORM session serves as well as a connection, before it has written anything and afterwards."""
    connection = connect()
    connection.setup()
    session = scoped_session(sessionmaker(engine)) if scoped else Session(engine)
    connection.publish([message(session, b"first")])
    session.execute(text("INSERT INTO orders VALUES (1)"))
    connection.publish([message(session, b"second")])
    assert [] == connection.fetch(10, 0)

    session.commit()
    session.close()

    assert [b"first", b"second"] == [delivery.body for delivery in connection.fetch(10, 0)]


def test_a_savepoint_takes_the_message_with_it(connect, engine):
    """What was sent inside a nested transaction shares its fate."""
    connection = connect()
    connection.setup()
    with Session(engine) as session, session.begin():
        connection.publish([message(session, b"kept")])
        nested = session.begin_nested()
        connection.publish([message(session, b"undone")])
        nested.rollback()

    assert [b"kept"] == [delivery.body for delivery in connection.fetch(10, 0)]


def test_an_engine_that_begins_by_itself_is_joined(connect, engine):
    """SQLAlchemy's recipe for real SQLite transactions, which begins them in an event, is understood."""

    @event.listens_for(engine, "connect")
    def leave_transactions_alone(connection, record):
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection):
        connection.exec_driver_sql("BEGIN")

    engine.dispose()
    connection = connect()
    connection.setup()
    with engine.connect() as own:
        connection.publish([message(own)])
        own.rollback()
        connection.publish([message(own)])
        own.commit()

    assert 1 == connection.count().waiting


def test_each_message_goes_where_its_stamp_says(connect, engine):
    """One batch may hold messages with a transaction and without; each gets its own id."""
    connection = connect()
    connection.setup()
    with engine.connect() as own:
        first = connection.publish([Outgoing(b"outside", {})])
        joined = connection.publish([message(own, b"1"), message(own, b"2")])
        own.commit()
        last = connection.publish([Outgoing(b"outside", {})])

    delivered = {delivery.id: delivery.body for delivery in connection.fetch(10, 0)}
    assert dict(zip([*first, *joined, *last], [b"outside", b"1", b"2", b"outside"], strict=True)) == delivered


def test_an_envelope_brings_the_transaction(make_transport, engine):
    """So it is when the message comes through a transport, and the stamp does not travel."""
    transport = make_transport()
    transport.serializer._registry.register(Note, "note")
    with Session(engine) as session, session.begin():
        transport.send([Envelope.wrap(Note("hello"), stamps.Transaction(session))])

    [received] = transport.receive(1, 0)
    assert Note("hello") == received.message
    assert not received.has(stamps.Transaction)


def test_a_missing_table_is_created_inside_the_transaction(connect, engine):
    """The first message ever may come with a transaction, even while that keeps everybody else from writing."""
    connection = connect()
    with engine.connect() as own:
        own.execute(text("INSERT INTO orders VALUES (1)"))
        connection.publish([message(own)])
        own.commit()

    assert 1 == len(connection.fetch(1, 0))


def test_a_missing_table_is_reported_where_it_may_not_be_created(connect, engine):
    """With ``auto_setup=false`` the caller's transaction goes on, and can be committed without the message."""
    connection = connect(auto_setup=False)
    with engine.connect() as own:
        own.execute(text("INSERT INTO orders VALUES (1)"))
        with pytest.raises(TransportError, match="no such table: messenger_messages. Run `postbus setup`"):
            connection.publish([message(own)])
        own.commit()

    with engine.connect() as own:
        assert 1 == len(own.execute(text("SELECT * FROM orders")).all())


def test_another_database_is_refused(connect, tmp_path):
    """A message stored where nobody looks would be lost."""
    other = create_engine(f"sqlite:///{tmp_path}/other.db")

    with other.connect() as own, pytest.raises(TransportError, match="another database"):
        connect().publish([message(own)])

    other.dispose()


def test_a_connection_without_transactions_is_refused(connect, engine):
    """In AUTOCOMMIT there is nothing that could be rolled back."""
    with (
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as own,
        pytest.raises(TransportError, match="AUTOCOMMIT"),
    ):
        connect().publish([message(own)])


def test_what_is_no_connection_is_refused(connect, engine):
    """The error names what was given, and what to do with an asynchronous session."""
    with pytest.raises(TransportError, match=r"Connection or Session, not Engine.*run_sync"):
        connect().publish([message(engine)])


def test_an_error_in_the_transaction_is_no_lost_connection(connect, engine, sql):
    """On a lost connection the message would be sent again, outside of the transaction."""
    connection = connect()
    connection.setup()
    with engine.connect() as own:
        own.exec_driver_sql("PRAGMA busy_timeout = 0")
        sql("BEGIN IMMEDIATE")
        with pytest.raises(TransportError, match="database is locked") as caught:
            connection.publish([message(own)])
        sql("ROLLBACK")

    assert not isinstance(caught.value, ConnectionLost)
    assert 0 == connection.count().waiting


def test_what_can_join_nothing_is_refused_alone(connect):
    """What comes before and behind a message whose stamp holds no transaction is stored, and named with its id."""
    connection = connect()

    with pytest.raises(MessageRefused, match="takes an SQLAlchemy Connection or Session, not NoneType") as caught:
        connection.publish([Outgoing(b"1", {}), Outgoing(b"2", {}), message(None), Outgoing(b"3", {})])

    assert ([2], {0: "1", 1: "2", 3: "3"}) == (list(caught.value.refused), caught.value.stored)


def test_a_batch_says_what_was_stored_before_it_failed(connect, engine):
    """What came before a transaction that failed is stored, and named with its id; what is behind it is in doubt."""
    connection = connect()
    connection.setup()
    with engine.connect() as own:
        own.execute(text("PRAGMA query_only = true"))

        with pytest.raises(TransportError, match="Could not store a message in the transaction") as caught:
            connection.publish([Outgoing(b"1", {}), Outgoing(b"2", {}), message(own), Outgoing(b"3", {})])

        own.execute(text("PRAGMA query_only = false"))
    assert not isinstance(caught.value, MessageRefused)
    assert {0: "1", 1: "2"} == caught.value.stored
    assert [b"1", b"2"] == [delivery.body for delivery in connection.fetch(10, 0)]


def test_a_shared_engine_is_joined_too(connect, engine):
    """With ``doctrine://`` the app's engine is the transport's engine."""
    register_engine("joined", engine)
    connection = connect("doctrine://joined")
    with Session(engine) as session, session.begin():
        connection.publish([message(session)])

    assert 1 == len(connection.fetch(1, 0))


@pytest.mark.parametrize("dsn", ["sqlite://", "in-memory://"])
def test_where_there_is_no_transaction_to_join_the_stamp_is_refused(engine, dsn):
    """It is an error, and the message is not stored outside of the transaction that it was to share."""
    app = Postbus(transports={"elsewhere": dsn}, routing={Note: "elsewhere"})

    with (
        engine.begin() as own,
        pytest.raises(MessageRefused, match=r"'elsewhere' cannot do what stamps\.Transaction asks for"),
    ):
        app.dispatch(Note("paid"), stamps.Transaction(own))

    assert 0 == app.transport("elsewhere").connection.count().waiting
    app.close()
