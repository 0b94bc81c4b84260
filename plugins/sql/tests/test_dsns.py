"""What a DSN means, and what it may not say."""

import os
import subprocess
import sys

import pytest

from postbus.dsn import Dsn
from postbus.errors import DsnError
from postbus.plugins import Plugin, Plugins
from postbus_sql import EngineOptions, SqliteOptions
from postbus_sql.options import sqlite_file


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
    dsn = Dsn.parse("doctrine://default?check_delayed_interval=60000&get_notify_timeout=0&use_notify=true")

    EngineOptions.from_dsn(dsn)

    assert {"check_delayed_interval", "get_notify_timeout", "use_notify"} == set(EngineOptions.without_effect(dsn))


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
    program = "import sys, postbus_sql; print({'sqlalchemy', 'sqlite3'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)

    assert "set()" == done.stdout.strip()
