"""Whatever others put into the table, a worker goes on."""

from __future__ import annotations

import json
import sqlite3
from base64 import b64encode
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strangers import (
    BODIES,
    DEEP,
    HEADER_NAMES,
    JSON_VALUES,
    KINDS,
    WORDS,
    Came,
    batches,
    came,
    hurt_nobody,
    thorough,
)

TABLE = """
CREATE TABLE messenger_messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    body CLOB, headers CLOB, queue_name VARCHAR(190), created_at DATETIME, available_at DATETIME, delivered_at DATETIME
)
"""
"""That of Symfony, by somebody who does not insist on anything."""


class Row(NamedTuple):
    """What a stranger wrote: SQL and its values; and what is to come of it."""

    sql: str
    values: tuple[object, ...]
    body: bytes
    headers: Mapping[str, str]


class Column(NamedTuple):
    """SQL, its value, and what is to come of it."""

    sql: str
    value: object
    comes: bytes


BYTES = BODIES.map(lambda body: Column("?", body, body))
TEXTS = BODIES.map(lambda body: Column("CAST(? AS TEXT)", body, body))
OTHERS = st.sampled_from(
    [Column("?", None, b""), Column("?", -(2**63), b"-9223372036854775808"), Column("?", 0.25, b"0.25")]
)
HEADERS = st.dictionaries(HEADER_NAMES, WORDS.map(json.dumps) | JSON_VALUES, max_size=4)
UNREADABLE = st.one_of(
    st.sampled_from([DEEP, f'{{"deep": {DEEP}}}', '{"half": "\\ud800"}', '["type"]', "", "null", "7"]).map(str.encode),
    st.binary(max_size=20).filter(lambda headers: headers[:1] not in (b"{", b"[")),
    st.just(b'{"type": "\xff"}'),
)
TIMES = st.sampled_from(["2024-10-23 10:00:00", "2024-10-23T10:00:00.5", "", 17, -(2**63), 0.5, "1\udcff"])
SENT = st.sampled_from(["2024-10-23 10:00:00", None, b"\xff"])
LEASES = st.sampled_from([None, None, None, "2024-10-23 10:00:00", 17, ""])


def row(body: Column, headers: Column, expected: Mapping[str, str], sent: object, due: object, lease: object) -> Row:
    """Return what somebody inserts, who knows the table but no more than that."""
    columns = f"{body.sql}, {headers.sql}, 'default', ?, CAST(? AS {'TEXT' if isinstance(due, str) else 'NUMERIC'}), ?"
    time = due.encode(errors="surrogateescape") if isinstance(due, str) else due
    return Row(columns, (body.value, headers.value, sent, time, lease), body.comes, expected)


def readable(headers: dict[str, str], kind: str | None) -> tuple[Column, dict[str, str]]:
    """Return headers that are an object of JSON, and what is to come of them."""
    given = headers if kind is None else {**headers, "type": json.dumps(kind)}
    text = ", ".join(f"{json.dumps(name)}: {value}" for name, value in given.items())
    expected = {name: json.loads(value) if value.startswith('"') else value for name, value in given.items()}
    return Column("?", f"{{{text}}}", b""), expected


def unreadable(headers: bytes) -> tuple[Column, dict[str, str]]:
    """Return headers that are none, and what is to come of them."""
    column = Column("CAST(? AS TEXT)", headers, b"")
    try:
        return column, {"X-Postbus-Unreadable-Headers": headers.decode()}
    except UnicodeDecodeError:
        name = "X-Postbus-Unreadable-Headers"
        return column, {name: b64encode(headers).decode(), f"{name}-Encoding": "base64"}


ROWS = st.builds(
    lambda body, headers, sent, due, lease: row(body, *headers, sent, due, lease),
    BYTES | TEXTS | OTHERS,
    st.one_of(
        st.builds(readable, HEADERS, st.none() | KINDS),
        UNREADABLE.map(unreadable),
        st.just((Column("?", None, b""), {})),
        st.just((Column("?", "[]", b""), {})),
    ),
    SENT,
    TIMES,
    LEASES,
)


@pytest.mark.slow
@pytest.mark.once
@thorough
@given(batches(ROWS))
def test_what_strangers_write_hurts_nobody(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> None:
    """All good messages are handled, and all others are in the failure transport, as they came."""
    file: Path = tmp_path_factory.mktemp("fuzz") / f"{uuid4()}.db"
    with closing(sqlite3.connect(file, isolation_level=None, timeout=30)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(TABLE)

        def put(row: Row) -> Came:
            connection.execute(
                "INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at, delivered_at)"
                f" VALUES ({row.sql})",
                row.values,
            )
            return came(row.body, row.headers)

        hurt_nobody(f"sqlite:///{file}?synchronous=normal", rows, put)
