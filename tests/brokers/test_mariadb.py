"""MariaDB as the fixtures give it."""

import pytest

from tests.brokers.mariadb import MariaDb, OwnMariaDb


def test_the_user_may_make_tables_in_one_database_only(mariadb: MariaDb) -> None:
    """Tests see what an ordinary user sees."""
    connection = mariadb.connect()
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE mine (id integer)")
        cursor.execute("DROP TABLE mine")
        cursor.execute("SHOW DATABASES")
        databases = {name for (name,) in cursor.fetchall()}
    connection.close()

    assert {"information_schema", "postbus"} == databases


@pytest.mark.once
def test_what_was_stored_survives_a_crash(own_mariadb: OwnMariaDb) -> None:
    """A server that was killed starts again with its data."""
    connection = own_mariadb.connect()
    with connection.cursor() as cursor:
        cursor.execute("CREATE OR REPLACE TABLE kept (id integer)")
        cursor.execute("INSERT INTO kept VALUES (7)")
    connection.close()

    own_mariadb.kill()
    own_mariadb.start()

    connection = own_mariadb.connect()
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM kept")
        assert ((7,),) == cursor.fetchall()
    connection.close()
