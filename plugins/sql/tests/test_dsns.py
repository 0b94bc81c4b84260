"""What a DSN means, and what it may not say."""

import os
import subprocess
import sys

import pytest

from postbus.dsn import Dsn
from postbus.errors import ConfigurationError, DsnError
from postbus.plugins import Plugin, Plugins
from postbus_sql import EngineOptions, MySqlOptions, PostgreSqlOptions, SqliteOptions
from postbus_sql.options import sqlite_file
from postbus_sql.servers import postgresql_engine


@pytest.mark.parametrize(
    ("dsn", "file"),
    [
        ("sqlite:///relative.db", os.path.abspath("relative.db")),
        ("sqlite:////absolute/path.db", "/absolute/path.db"),
        ("sqlite+pysqlite:////absolute/path.db?queue_name=x", "/absolute/path.db"),
        ("sqlite:////with%20space/100%25.db", "/with space/100%.db"),
        ("sqlite://", None),
        ("sqlite://?queue_name=x", None),
        ("sqlite:///:memory:", None),
    ],
)
def test_the_slashes_mean_what_they_mean_to_sqlalchemy(dsn, file):
    """Three begin a relative path, four an absolute one; none at all is a database in memory."""
    assert file == sqlite_file(Dsn.parse(dsn))


@pytest.mark.parametrize("dsn", ["sqlite://messages.db", "sqlite://localhost/messages.db", "sqlite://me@/messages.db"])
def test_an_address_is_refused(dsn):
    """A slash too few makes a file a host; the error shows how to write it."""
    with pytest.raises(DsnError, match=r"A file takes three slashes: sqlite:///messages.db"):
        sqlite_file(Dsn.parse(dsn))


def test_a_path_without_a_file_is_refused():
    """So an empty variable in ``sqlite:///${FILE}`` does not end up in memory."""
    with pytest.raises(DsnError, match="names no file"):
        sqlite_file(Dsn.parse("sqlite:///"))


def test_the_defaults_are_symfonys():
    """A DSN that says nothing means what it means there, but for how soon the dead are noticed."""
    options = EngineOptions.from_dsn(Dsn.parse("doctrine://default"))

    assert ("messenger_messages", "default", 60, True) == (
        options.table_name,
        options.queue_name,
        options.redeliver_timeout,
        options.auto_setup,
    )


def test_what_belongs_to_symfony_alone_is_accepted_without_effect():
    """An existing DSN can be taken over as it is, and it can be told what in it means nothing here."""
    query = "check_delayed_interval=60000&get_notify_timeout=0&use_notify=true"
    on_file, on_mariadb = Dsn.parse(f"sqlite:///jobs.db?{query}"), Dsn.parse(f"mysql://localhost/app?{query}")
    on_postgresql = Dsn.parse(f"postgresql://localhost/app?{query}")

    names = {"check_delayed_interval", "get_notify_timeout", "use_notify"}
    assert names == set(SqliteOptions.without_effect(on_file)) == set(MySqlOptions.without_effect(on_mariadb))
    assert [] == PostgreSqlOptions.without_effect(on_postgresql)
    assert not PostgreSqlOptions.from_dsn(on_postgresql.with_options({"use_notify": "false"})).use_notify


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("queue_nam=x", "Did you mean 'queue_name'?"),
        ("redeliver_timeout=0", "must be at least 1, got 0"),
        ("redeliver_timeout=1.5", "Option 'redeliver_timeout' of sqlite:// must be"),
        ("auto_setup=maybe", "Option 'auto_setup' of sqlite:// must be"),
        ("synchronous=off", "must be one of 'full', 'normal'"),
        (f"queue_name={'x' * 191}", "must have 1 to 190 characters, got 191"),
        ("queue_name=", "must have 1 to 190 characters, got 0"),
        ("table_name=", "must be the name of a table"),
        ("engine=default", "Unknown option 'engine'"),
    ],
)
def test_a_wrong_option_is_refused(query, told):
    """The error names the option, and what is wanted."""
    with pytest.raises(DsnError) as caught:
        SqliteOptions.from_dsn(Dsn.parse(f"sqlite:///messages.db?{query}"))

    assert told in str(caught.value)


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+pysqlite", "doctrine"])
def test_each_scheme_is_registered_with_its_options(scheme):
    """A DSN of each scheme finds its factory, its options and its guarantees."""
    plugins = Plugins()
    plugins.add(sys.modules["postbus_sql"], Plugin("postbus_sql", "postbus_sql", "test"))

    registered = plugins.scheme_for(Dsn.parse(f"{scheme}://"))

    assert registered.options is not None
    assert registered.guarantees is not None
    assert registered.guarantees.transactional_send


@pytest.mark.slow
def test_importing_the_plugin_imports_no_client():
    """SQLAlchemy and sqlite3 are loaded when a transport is made, not with the plugin."""
    program = "import sys, postbus_sql; print({'sqlalchemy', 'sqlite3', 'psycopg', 'pymysql'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)

    assert "set()" == done.stdout.strip()


@pytest.mark.parametrize(
    ("dsn", "told"),
    [
        ("mysql://localhost", "names no database. Write mysql://localhost/app"),
        ("mysql://one,two/app", "takes one server, got 2"),
        ("postgresql://localhost/app/jobs", "with one segment of its path, got 2"),
        ("postgresql://localhost/app?sslmod=require", "Unknown option 'sslmod' for postgresql://"),
        ("mysql://localhost/app?sslmode=require", "Unknown option 'sslmode' for mysql://"),
    ],
)
def test_a_mistake_in_the_dsn_of_a_server_is_a_sentence(make_transport, dsn, told):
    """It is found when the transport is made, before anything is connected to."""
    with pytest.raises(DsnError, match=told):
        make_transport(dsn)


@pytest.mark.parametrize(
    ("dsn", "url"),
    [
        ("postgresql://u:p%40ss%2Fword@db/app", "postgresql+psycopg://u:p%40ss%2Fword@db/app"),
        ("postgresql+psycopg://[::1]:5433/app", "postgresql+psycopg://[::1]:5433/app"),
        ("postgresql://a,b:5433/app?queue_name=x", "postgresql+psycopg:///app?host=a%3A5432&host=b%3A5433"),
        ("postgresql:///app?host=/run/postgresql", "postgresql+psycopg:///app?host=%2Frun%2Fpostgresql"),
    ],
)
def test_what_is_not_the_transports_goes_to_the_driver(dsn, url):
    """Password, hosts and the driver's own options, as SQLAlchemy's URL has them."""
    parsed = Dsn.parse(dsn)
    engine = postgresql_engine(parsed, PostgreSqlOptions.from_dsn(parsed))

    assert url == engine.url.render_as_string(hide_password=False)


@pytest.mark.parametrize(
    ("module", "scheme", "extra"), [("psycopg", "postgresql", "postgresql"), ("pymysql", "mysql", "mysql")]
)
def test_a_missing_client_is_one_sentence(monkeypatch, make_transport, module, scheme, extra):
    """It says what to install; the plugin itself needs none of them."""
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ConfigurationError, match=rf"needs {module}\. Install it: pip install 'postbus-sql\[{extra}\]'"):
        make_transport(f"{scheme}://localhost/app")


def test_a_worker_does_without_the_mapper() -> None:
    """SQLAlchemy's ORM takes a tenth of a second to import, and is for those who have sessions."""
    program = "import sys; from postbus import Postbus; Postbus(transports={'a': 'sqlite:///:memory:'}).transport('a')"
    program += ".connection.setup(); print('sqlalchemy.orm' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "False\n" == ended.stdout
