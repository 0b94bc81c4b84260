"""``doctrine://``: the app's own engine."""

import sys

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.pool import NullPool, StaticPool

from postbus.errors import ConfigurationError, ConnectionLost, DsnError
from postbus.transport import Outgoing, SupportsSetup, supports
from postbus_sql import register_engine

MESSAGE = Outgoing(b"message", {"type": "x"})


def immediate(engine):
    """Let an engine begin its transactions by itself, as SQLAlchemy's documentation shows."""

    @event.listens_for(engine, "connect")
    def leave_transactions_alone(connection, record):
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def with_autocommit(on):
    """Return what makes an engine whose driver begins its transactions in a mode that Python has since 3.12."""
    return lambda url: create_engine(url, connect_args={"autocommit": on} if sys.version_info >= (3, 12) else {})


@pytest.mark.parametrize(
    "make",
    [
        create_engine,
        lambda url: create_engine(url, isolation_level="AUTOCOMMIT"),
        lambda url: create_engine(url, poolclass=NullPool),
        lambda url: create_engine(url, pool_size=1, max_overflow=0),
        lambda url: create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False}),
        lambda url: immediate(create_engine(url)),
        with_autocommit(True),
        with_autocommit(False),
    ],
    ids=[
        "default",
        "autocommit",
        "no pool",
        "pool of one",
        "one connection",
        "begins by itself",
        "autocommit on",
        "autocommit off",
    ],
)
def test_any_engine_serves(make, file, connect):
    """However the app's engine pools and begins, batches are stored whole, claimed, released and settled."""
    engine = make(f"sqlite:///{file}")
    connection = connect("doctrine://mine", engine=engine)

    ids = connection.publish([MESSAGE] * 3)
    deliveries = connection.fetch(10, 0)
    connection.ack([deliveries[0].tag])
    connection.release([deliveries[1].tag])

    assert ids == [delivery.id for delivery in deliveries]
    assert (1, 1) == (connection.count().waiting, connection.count().in_flight)
    assert [deliveries[1].id] == [delivery.id for delivery in connection.fetch(10, 0)]
    engine.dispose()


def test_an_engine_is_known_by_its_name(file, connect):
    """The host of the DSN is the name; it may be registered after the transport was made."""
    engine = create_engine(f"sqlite:///{file}")
    register_engine("billing", engine)

    connect("doctrine://billing").publish([MESSAGE])

    assert 1 == connect().count().waiting
    engine.dispose()


def test_an_unknown_engine_says_how_to_register_it(connect):
    """The error names the engine that is wanted, and the call that makes it known."""
    with pytest.raises(ConfigurationError, match=r"No engine is registered as 'nobody'.*register_engine\('nobody'"):
        connect("doctrine://nobody")


def test_an_engine_of_another_database_is_refused(connect):
    """What this plugin does not speak yet is said when the transport is first used."""
    engine = create_engine("sqlite://")
    engine.dialect.name = "oracle"

    with pytest.raises(ConfigurationError, match=r"cannot use an engine of oracle"):
        connect("doctrine://default", engine=engine)


def test_an_engine_must_be_one(make_transport):
    """Another object, such as a connection, is refused when the transport is made."""
    with pytest.raises(ConfigurationError, match="must be an SQLAlchemy Engine, got object"):
        make_transport("doctrine://default", engine=object())


def test_a_dsn_without_engine_is_refused(make_transport):
    """The error shows one that has one."""
    with pytest.raises(DsnError, match=r"names no engine. Write doctrine://default"):
        make_transport("doctrine://")


def test_a_shared_engine_is_left_open(file, connect):
    """Closing the transport does not close what the app goes on using."""
    engine = create_engine(f"sqlite:///{file}")
    with engine.connect() as own:
        connection = connect("doctrine://mine", engine=engine)
        connection.setup()
        connection.close()

        assert [(0,)] == own.exec_driver_sql("SELECT count(*) FROM messenger_messages").all()
    engine.dispose()


def test_the_journal_of_the_apps_database_is_left_as_it_is(file, connect, sql):
    """Write-ahead logging is the app's decision where the database is the app's."""
    engine = create_engine(f"sqlite:///{file}")
    connect("doctrine://mine", engine=engine).publish([MESSAGE])

    assert [("delete",)] == sql("PRAGMA journal_mode")
    engine.dispose()


def test_no_secret_in_the_url_of_an_engine_is_shown(make_transport, tmp_path):
    """Drivers take them in the query as well as in front of the host."""
    engine = create_engine(f"sqlite:///file:{tmp_path}/nowhere/x.db?uri=true&key=s3cret")

    with pytest.raises(ConnectionLost, match="nowhere") as caught:
        make_transport("doctrine://mine", engine=engine).connection.publish([MESSAGE])

    assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r}"


@pytest.mark.parametrize("options", [{}, {"auto_setup": False}])
def test_a_database_in_memory_is_set_up_by_whoever_uses_it(make_transport, options):
    """There is nothing that `postbus setup` could do, so it is not offered, and `postbus check` does not ask for it."""
    in_memory = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    own = make_transport("sqlite://", **options).connection
    shared = make_transport("doctrine://mine", engine=in_memory, **options).connection

    assert not supports(own, SupportsSetup)
    assert not supports(shared, SupportsSetup)
    assert supports(make_transport(**options).connection, SupportsSetup)
    assert 0 == own.count().waiting == shared.count().waiting
    in_memory.dispose()
