"""The table in the hands of those who migrate databases: as statements, and as metadata of SQLAlchemy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from uuid import uuid4

import pytest
from alembic import command
from alembic.config import Config
from click.testing import CliRunner
from sqlalchemy import Engine, create_engine

from postbus.cli import main
from postbus.transport import Outgoing
from postbus_sql.connection import SqlConnection
from postbus_sql.database import Database
from postbus_sql.options import SqlOptions
from tests.brokers.broker import Brokers

ENV = """
from alembic import context
from postbus_sql.schema import message_table
from sqlalchemy import MetaData

connection = context.config.attributes["connection"]
metadata = MetaData()
message_table(context.config.attributes["table"], metadata, connection.dialect.name)
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table=context.config.attributes["table"] + "_version",
    include_name=lambda name, kind, parents: kind != "table" or name == context.config.attributes["table"],
)
with context.begin_transaction():
    context.run_migrations()
"""

TEMPLATE = """
from alembic import op
import sqlalchemy as sa
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = depends_on = None


def upgrade():
    ${upgrades if upgrades else "pass"}


def downgrade():
    ${downgrades if downgrades else "pass"}
"""

DRIVERS = {"postgresql": "postgresql+psycopg", "mariadb": "mysql+pymysql"}


@pytest.fixture(params=["file", *(pytest.param(name, marks=pytest.mark.slow) for name in DRIVERS)])
def engine(request: pytest.FixtureRequest, tmp_path: Path, brokers: Brokers) -> Iterator[Engine]:
    """Give an engine on each database."""
    url = f"sqlite:///{tmp_path}/app.db"
    if request.param != "file":
        dsn = brokers[request.param].dsn
        url = dsn.replace(dsn.partition(":")[0], DRIVERS[request.param], 1)
    engine = create_engine(url)
    yield engine
    engine.dispose()


class Migrations:
    """The migrations of an app, which has nothing but the table of messages."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.table = f"test_{uuid4().hex[:12]}"
        self._engine = engine
        self._config = Config(stdout=StringIO())
        self._config.set_main_option("script_location", str(folder))
        (folder / "versions").mkdir(parents=True)
        (folder / "env.py").write_text(ENV)
        (folder / "script.py.mako").write_text(TEMPLATE)

    def run(self, what: Callable[[Config], object]) -> None:
        """Run a command of Alembic's."""
        with self._engine.connect() as connection:
            self._config.attributes.update(connection=connection, table=self.table)
            what(self._config)
            connection.commit()


@pytest.fixture
def migrations(tmp_path: Path, engine: Engine) -> Migrations:
    """Give migrations that have not begun."""
    return Migrations(tmp_path / "migrations", engine)


def options_for(table: str) -> SqlOptions:
    """Return options that create nothing by themselves."""
    return SqlOptions(table_name=table, auto_setup=False)


def test_a_migration_of_alembics_makes_a_table_that_serves(migrations: Migrations, engine: Engine) -> None:
    """What autogenerate writes, `postbus check` has nothing to say against, and messages go through it."""
    migrations.run(lambda config: command.revision(config, "messages", autogenerate=True))
    migrations.run(lambda config: command.upgrade(config, "head"))

    connection = SqlConnection(Database(engine, owned=False), options_for(migrations.table))

    assert [] == connection.missing()
    connection.publish([Outgoing(b"{}", {})])
    assert [b"{}"] == [delivery.body for delivery in connection.fetch(1, 0)]
    connection.close()


def test_alembic_finds_nothing_to_change_in_what_setup_has_made(migrations: Migrations, engine: Engine) -> None:
    """`alembic check` compares the metadata with the table of `postbus setup`, and they are the same."""
    connection = SqlConnection(Database(engine, owned=False), options_for(migrations.table))
    connection.setup()
    migrations.run(lambda config: command.stamp(config, "head"))

    migrations.run(command.check)

    connection.close()


def test_the_statements_make_a_table_that_serves(engine: Engine) -> None:
    """Somebody else may run what `postbus setup --sql` prints."""
    table = f"test_{uuid4().hex[:12]}"
    connection = SqlConnection(Database(engine, owned=False), options_for(table))

    with engine.begin() as own:
        for statement in connection.script().split(";"):
            if statement.strip():
                own.exec_driver_sql(statement)

    assert [] == connection.missing()
    connection.close()


def test_setup_prints_the_statements_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is connected to; two queues of one table say it once."""
    monkeypatch.setenv("POSTBUS_TRANSPORT_DSN", "postgresql://nobody@localhost:1/nowhere")

    result = CliRunner().invoke(main, ["setup", "--sql"], prog_name="postbus")

    assert 0 == result.exit_code
    assert result.stdout.startswith("CREATE TABLE IF NOT EXISTS messenger_messages (")
    assert 2 == result.stdout.count("CREATE INDEX IF NOT EXISTS messenger_messages_")
