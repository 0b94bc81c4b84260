"""MariaDB.

The raw equivalent is PyMySQL on the same table, with the same index and statements: see the README.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain

from benchmarks import broker, machine, queues
from benchmarks.groups import Prepared
from benchmarks.queues import Idle, Part, worn
from benchmarks.raw.mariadb import BATCH, Table, _connect

PURGED, PURGING = 1_000, 120
"""How few transactions are left to be purged, and for how many seconds that is waited for."""


@contextmanager
def figures() -> Generator[Prepared]:
    """Measure with the server on one core and this process on another."""
    with (
        broker.running("mariadb") as url,
        queues.figures(
            partial(Table, url),
            worker=Part(f"a claim of {BATCH}, and a DELETE of them", target=0.5),
            dispatch_many=Part("INSERT of 1000 rows", target=0.5),
            dispatch=Part("INSERT, one by one", target=0.5),
            waiting=Idle(latency=100e-3, core=0.01),  # It has nobody who would wake it, and looks now and then.
        ) as all_figures,
    ):
        with closing(_connect(url)) as client, client.cursor() as cursor:
            cursor.execute("SELECT @@version, @@innodb_flush_log_at_trx_commit")
            [(version, flush)] = cursor.fetchall()
        libraries = machine.versions("postbus", "postbus-sql", "SQLAlchemy", "PyMySQL")
        conditions = {
            "Libraries": f"{libraries}, MariaDB {version}",
            "Durability": f"innodb_flush_log_at_trx_commit {flush}; the same for both",
            "Cores": broker.CORES,
        }
        yield conditions, chain(all_figures, worn(partial(Table, url), partial(_seen, url), partial(_recover, url)))


@contextmanager
def _seen(url: str) -> Generator[None]:
    with closing(_connect(url)) as elsewhere, elsewhere.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        yield


def _recover(url: str) -> None:
    with closing(_connect(url)) as client, client.cursor() as cursor:
        for _ in range(PURGING):
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Innodb_history_list_length'")
            [(_, length)] = cursor.fetchall()
            if int(length) < PURGED:
                return
            time.sleep(1)
