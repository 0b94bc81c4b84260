"""PostgreSQL as the fixtures give it."""

import select
from contextlib import closing

import pytest

from tests.brokers.postgresql import OwnPostgreSql, PostgreSql


def test_the_user_may_make_tables_and_no_more(postgresql: PostgreSql) -> None:
    """Tests see what an ordinary user sees."""
    with postgresql.connect() as connection:
        connection.execute("CREATE TABLE mine (id integer)")
        connection.execute("DROP TABLE mine")
        [(is_superuser,)] = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchall()

    assert not is_superuser


@pytest.mark.once
def test_pgbouncer_lends_a_connection_for_a_transaction(pgbouncer: PostgreSql) -> None:
    """A connection to it has no session of its own: what it listens to, it does not hear."""
    with pgbouncer.connect() as listener, pgbouncer.connect() as other:
        listener.execute("LISTEN deaf")
        with other.transaction():
            other.execute("NOTIFY deaf")

        assert [] == list(listener.notifies(timeout=0.3))


@pytest.mark.once
def test_what_was_stored_survives_a_crash(own_postgresql: OwnPostgreSql) -> None:
    """A server that was killed starts again with its data."""
    with own_postgresql.connect() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (id integer)")
        connection.execute("TRUNCATE kept")
        connection.execute("INSERT INTO kept VALUES (7)")

    own_postgresql.kill()
    own_postgresql.start()

    with own_postgresql.connect() as connection:
        assert [(7,)] == connection.execute("SELECT id FROM kept").fetchall()


@pytest.mark.once
def test_a_paused_server_answers_nobody(own_postgresql: OwnPostgreSql) -> None:
    """Nor do the processes that it has begun for those who were connected before."""
    with closing(own_postgresql.connect()) as connection:
        connection.execute("SELECT 1")
        own_postgresql.pause()
        connection.pgconn.send_query(b"SELECT 2")
        connection.pgconn.flush()
        silent = not select.select([connection.fileno()], [], [], 0.3)[0]
        own_postgresql.resume()
        assert silent
        assert select.select([connection.fileno()], [], [], 30)[0]
