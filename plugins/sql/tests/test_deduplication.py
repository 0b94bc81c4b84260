"""The store of keys in a table, on each database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine, create_engine, func, select

from postbus_sql import deduplication
from postbus_sql.deduplication import SqlStore
from tests.brokers.broker import Brokers
from tests.contract.deduplication_stores import StoreContract

DATABASES = [
    "file",
    pytest.param("postgresql", marks=pytest.mark.slow),
    pytest.param("mariadb", marks=pytest.mark.slow),
]


@pytest.fixture(params=DATABASES)
def engine(request: pytest.FixtureRequest, tmp_path: Path, brokers: Brokers) -> Iterator[Engine]:
    """Give an engine on each database, as an app may have it."""
    url = f"sqlite:///{tmp_path}/app.db"
    if request.param != "file":
        dsn = brokers[request.param].dsn
        driver = {"postgresql": "postgresql+psycopg", "mariadb": "mysql+pymysql"}[request.param]
        url = dsn.replace(dsn.partition(":")[0], driver, 1)
    engine = create_engine(url)
    yield engine
    engine.dispose()


class TestSqlStore(StoreContract):
    @pytest.fixture
    def store(self, engine: Engine) -> SqlStore:
        return SqlStore(engine, table=f"keys_{uuid4().hex[:12]}")

    def test_keys_whose_time_is_over_are_deleted(
        self, store: SqlStore, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """From time to time, and no others."""
        monkeypatch.setattr(store, "_until_sweep", 3)
        for key, ttl in ("a", 0.001), ("b", 60), ("c", 0.001), ("d", 60):
            store.acquire(key, "one", ttl)
        with engine.connect() as connection:
            assert connection.scalar(select(func.count()).select_from(store._table)) in (3, 2)
        assert deduplication.SWEEP - 1 == store._until_sweep
        assert ["one", "one"] == [store.acquire(key, "two", 60) for key in ("b", "d")]
