"""PostgreSQL.

The raw equivalent is psycopg on the same table, with the same indexes and statements: see the README.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from itertools import chain

import psycopg

from benchmarks import broker, machine, queues
from benchmarks.groups import Prepared
from benchmarks.queues import Part, worn
from benchmarks.raw.postgresql import BATCH, Table


@contextmanager
def figures() -> Generator[Prepared]:
    """Measure with the server on one core and this process on another."""
    with (
        broker.running("postgresql") as url,
        queues.figures(
            partial(Table, url),
            worker=Part(f"a claim of {BATCH}, and a DELETE of them", target=0.5),
            dispatch_many=Part("INSERT of 1000 from arrays", target=0.5),
            dispatch=Part("INSERT, one by one, without NOTIFY", target=0.5),
        ) as all_figures,
    ):
        with psycopg.connect(url, autocommit=True) as client:
            [(version,)] = client.execute("SHOW server_version").fetchall()
            [(fsync,)] = client.execute("SHOW fsync").fetchall()
        libraries = machine.versions("postbus", "postbus-sql", "SQLAlchemy", "psycopg")
        conditions = {
            "Libraries": f"{libraries}, PostgreSQL {version}",
            "Durability": f"fsync {fsync}; the same for both",
            "Cores": broker.CORES,
        }
        yield conditions, chain(all_figures, worn(partial(Table, url), partial(_seen, url), partial(_recover, url)))


@contextmanager
def _seen(url: str) -> Generator[None]:
    with psycopg.connect(url) as elsewhere:
        elsewhere.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        elsewhere.execute("SELECT 1")
        yield


def _recover(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as client:
        client.execute("VACUUM")
