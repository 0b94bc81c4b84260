"""Whatever others put into the tube, a worker goes on."""

from __future__ import annotations

import json
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postbus_beanstalkd.limits import LARGEST, MOST
from tests.brokers.beanstalkd import Beanstalkd
from tests.strangers import (
    BODIES,
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


class Stranger(NamedTuple):
    """What a stranger put, and what is to come of it."""

    data: bytes
    body: bytes
    headers: dict[str, str]
    priority: int = 1024
    ttr: int = 90


def raw(data: bytes) -> Stranger:
    """Return data that has neither a body nor headers in it."""
    return Stranger(data, data, {})


def framed(body: str, headers: dict[str, str], more: dict[str, Any], priority: int, ttr: int) -> Stranger:
    """Return a message in Symfony's form, given as JSON, with what we put beside the two, or something like it."""
    names = ", ".join(f"{json.dumps(name)}: {value}" for name, value in headers.items())
    besides = "".join(f", {json.dumps(name)}: {value}" for name, value in more.items())
    data = f'{{"body": {body}, "headers": {{{names}}}{besides}}}'
    texts = {name: as_text(value) for name, value in headers.items()}
    return Stranger(data.encode(), as_text(body).encode(), texts, priority, ttr)


def as_text(value: str) -> str:
    """Return the text that a value of JSON is; of any other value, how it is written."""
    return json.loads(value) if value.startswith('"') else value


DEEP = b"[" * 20_000 + b"]" * 20_000
VALUES = WORDS.map(json.dumps) | JSON_VALUES
HEADERS = st.dictionaries(HEADER_NAMES, VALUES, max_size=4)
MORE = st.dictionaries(st.sampled_from(["priority", "ttr", "attempts", "uniqid"]), JSON_VALUES, max_size=3)
PRIORITIES = st.sampled_from([0, 1, 1024, 65536, MOST])
TTRS = st.sampled_from([2, 60, 90, MOST])
UNREADABLE = [
    b'{"body": "x", "headers": {"deep": %s}}' % DEEP,
    b'{"body": %s, "headers": {}}' % DEEP,
    b'{"body": "x", "headers": {}, "more": %s}' % DEEP,
    b'{"body": "\\ud800", "headers": {}}',
    b'{"body": "x", "headers": {"half": "\\udfff"}}',
    b'{"body": "\xff", "headers": {}}',
    b'{"body": "x", "headers": {"\xff": "x"}}',
    b'{"body": "x", "headers": [1]}',
    b'{"body": "x", "headers": 7}',
]
STRANGERS = st.one_of(
    BODIES.filter(lambda body: len(body) <= LARGEST).map(raw),
    st.sampled_from(UNREADABLE).map(raw),
    st.builds(framed, VALUES, HEADERS, MORE, PRIORITIES, TTRS),
    st.builds(lambda body, kind: framed(body, {"type": kind}, {}, 1024, 90), VALUES, KINDS.map(json.dumps)),
)


HEADER = "X-Message-Stamp-beanstalkd-job"
"""Holds the priority of a message while it is elsewhere."""


@pytest.mark.slow
@pytest.mark.once
@thorough
@given(batches(STRANGERS))
def test_what_strangers_put_hurts_nobody(beanstalkd: Beanstalkd, strangers: list[Stranger]) -> None:
    """All good messages are handled, and all others are in the failure transport, as they came."""
    tube = f"fuzz-{uuid4()}"
    with beanstalkd.client() as client:
        client.use(tube)

        def put(stranger: Stranger) -> Came:
            client.put(stranger.data, priority=stranger.priority, ttr=stranger.ttr)
            kept = {HEADER: json.dumps([{"priority": stranger.priority, "ttr": None, "tube": None}]).replace(" ", "")}
            return came(stranger.body, stranger.headers if stranger.priority == 1024 else kept | stranger.headers)

        hurt_nobody(f"{beanstalkd.dsn}?tube_name={tube}", strangers, put)
