"""Whatever others put into a table of a server, a worker goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.brokers.broker import Brokers
from tests.strangers import DEEP, HEADER_NAMES, JSON_VALUES, KINDS, WORDS, Came, batches, came, hurt_nobody, thorough

TABLES = {
    "postgresql": "CREATE TABLE {table} (id bigserial PRIMARY KEY, body text, headers text, queue_name varchar(190),"
    " created_at timestamp, available_at timestamp, delivered_at timestamp)",
    "mariadb": "CREATE TABLE {table} (id bigint AUTO_INCREMENT PRIMARY KEY, body longtext, headers longtext,"
    " queue_name varchar(190), created_at datetime, available_at datetime, delivered_at datetime) CHARSET utf8mb4",
}
"""Those of somebody who does not insist on anything."""


class Row(NamedTuple):
    """What a stranger wrote, and what is to come of it."""

    values: tuple[object, ...]
    body: bytes
    headers: Mapping[str, str]


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
BODIES = st.none() | TEXTS | st.sampled_from([DEEP, "{}", "[]", "null", "7", '{"number": "\\ud800"}', "x" * 70_000])
TIMES = st.sampled_from(["2024-10-23 10:00:00", "1000-01-01 00:00:00", "2024-10-23 10:00:00"])
LEASES = st.none() | st.just("2024-10-23 10:00:00")
READABLE = st.tuples(
    st.dictionaries(HEADER_NAMES, WORDS.map(json.dumps) | JSON_VALUES, max_size=4), st.none() | KINDS
).map(lambda given: _readable(*given))
UNREADABLE = st.sampled_from([DEEP, '["type"]', "", "null", "7", "no JSON"]).map(
    lambda text: (text, {"X-Postbus-Unreadable-Headers": text})
)


def _readable(headers: dict[str, str], kind: str | None) -> tuple[str, dict[str, str]]:
    """Return headers that are an object of JSON, and what is to come of them."""
    given = headers if kind is None else {**headers, "type": json.dumps(kind)}
    text = ", ".join(f"{json.dumps(name)}: {value}" for name, value in given.items())
    expected = {name: json.loads(value) if value.startswith('"') else value for name, value in given.items()}
    return f"{{{text}}}", expected


ROWS = st.builds(
    lambda body, headers, due, lease: Row(
        (body, headers[0], "default", due, due, lease), (body or "").encode(), headers[1]
    ),
    BODIES,
    st.one_of(READABLE, UNREADABLE, st.just((None, {})), st.just(("[]", {}))),
    TIMES,
    LEASES,
)


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize("server", TABLES)
@thorough
@given(rows=batches(ROWS))
def test_what_strangers_write_hurts_nobody(brokers: Brokers, server: str, rows: list[Row]) -> None:
    """All good messages are handled, and all others are in the failure transport, as they came."""
    broker: Any = brokers[server]
    table = f"fuzz_{uuid4().hex[:12]}"
    with closing(broker.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(TABLES[server].format(table=table))

        def put(row: Row) -> Came:
            cursor.execute(
                f"INSERT INTO {table} (body, headers, queue_name, created_at, available_at, delivered_at)"
                " VALUES (%s, %s, %s, %s, %s, %s)",
                row.values,
            )
            return came(row.body, row.headers)

        hurt_nobody(f"{broker.dsn}?table_name={table}", rows, put)
        cursor.execute(f"DROP TABLE {table}")
