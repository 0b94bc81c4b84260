"""Whatever others put into the stream or the delayed set, a worker goes on."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from typing import NamedTuple
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.brokers.redis import Redis
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


class Entry(NamedTuple):
    """What a stranger wrote, and what is to come of it; only what has one field can be delayed."""

    fields: Mapping[bytes, bytes]
    body: bytes
    headers: Mapping[str, str]
    is_delayed: bool = False


def raw(value: bytes) -> Entry:
    """Return a value that has neither a body nor headers in it."""
    return Entry({b"message": value}, value, {})


def framed(body: str, headers: dict[str, str], wrap: str, is_delayed: bool) -> Entry:
    """Return a message in Symfony's form, given as JSON; ``wrap`` is what phpredis makes of it."""
    names = ", ".join(f"{json.dumps(name)}: {value}" for name, value in headers.items())
    value = f'{{"body": {body}, "headers": {{{names}}}, "uniqid": "{uuid4()}"}}'
    if wrap == "php":
        value = f's:{len(value.encode())}:"{value}";'
    elif wrap == "json":
        value = json.dumps(value)
    texts = {name: as_text(value) for name, value in headers.items()}
    return Entry({b"message": value.encode()}, as_text(body).encode(), texts, is_delayed)


def as_text(value: str) -> str:
    """Return the text that a value of JSON is; of any other value, how it is written."""
    return json.loads(value) if value.startswith('"') else value


def of_fields(fields: dict[str, bytes]) -> Entry:
    """Return an entry of some other producer's."""
    shown: dict[str, object] = {}
    for name, value in fields.items():
        try:
            shown[name] = value.decode()
        except UnicodeDecodeError:
            shown[name] = {"base64": b64encode(value).decode()}
    return Entry({name.encode(): value for name, value in fields.items()}, msgspec.json.encode(shown), {})


VALUES = WORDS.map(json.dumps) | JSON_VALUES
HEADERS = st.dictionaries(HEADER_NAMES, VALUES, max_size=4)
UNREADABLE = [
    b'{"body": "x", "headers": {"deep": %s}}' % DEEP.encode(),
    b'{"body": %s, "headers": {}}' % DEEP.encode(),
    b'{"body": "x", "headers": {}, "more": %s}' % DEEP.encode(),
    b'{"body": "\\ud800", "headers": {}}',
    b'{"body": "x", "headers": {"half": "\\udfff"}}',
    b'{"body": "\xff", "headers": {}}',
    b'{"body": "x", "headers": {"\xff": "x"}}',
    b'{"body": "x", "headers": [1]}',
    b'{"body": "x", "headers": 7}',
    b's:34:"{"body": "x", "headers": [true, 2]}";',
]
ENTRIES = st.one_of(
    BODIES.map(raw),
    st.sampled_from(UNREADABLE).map(raw),
    st.builds(framed, VALUES, HEADERS, st.sampled_from(["", "php", "json"]), st.booleans()),
    st.builds(lambda body, kind: framed(body, {"type": kind}, "", False), VALUES, KINDS.map(json.dumps)),
    st.dictionaries(WORDS.filter(lambda name: name != "message"), BODIES, min_size=1, max_size=3).map(of_fields),
)


@pytest.mark.slow
@pytest.mark.once
@thorough
@given(batches(ENTRIES))
def test_what_strangers_write_hurts_nobody(redis_plain: Redis, entries: list[Entry]) -> None:
    """All good messages are handled, and all others are in the failure transport, as they came."""
    stream = f"fuzz-{uuid4()}"
    with redis_plain.client() as client:

        def put(entry: Entry) -> Came:
            if entry.is_delayed:
                client.zadd(f"{stream}__queue", {entry.fields[b"message"]: 1})
            else:
                client.xadd(stream, entry.fields)
            return came(entry.body, entry.headers)

        hurt_nobody(f"{redis_plain.dsn}/{stream}", entries, put)
        client.delete(stream, f"{stream}__queue", f"{stream}__wake")
