"""How a message lies in Redis, and what is made of what others put there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from postbus.transport import Outgoing
from postbus_redis import entries

SYMFONY: dict[str, dict[str, dict[str, str]]] = json.loads(
    Path(__file__).with_name("symfony_entries.json").read_text(encoding="utf-8")
)
"""What Symfony Messenger and phpredis wrote, with each serializer of the one and two of the other."""

BODY = '{"text":"H\\u00e9\\/x","n":7}'
BUS = "X-Message-Stamp-Symfony\\Component\\Messenger\\Stamp\\BusNameStamp"
HEADERS = {
    "type": "App\\Message\\Hello",
    BUS: '[{"busName":"messenger.bus.default"}]',
    "Content-Type": "application/json",
}


def of(value: bytes | str) -> list[bytes]:
    return [b"message", value if isinstance(value, bytes) else value.encode()]


def test_an_entry_is_symfonys():
    """Its value is JSON with the body, as text, and the headers."""
    value = entries.write(Outgoing('{"text":"é"}'.encode(), {"type": "note"}))

    assert {"body": '{"text":"é"}', "headers": {"type": "note"}} == json.loads(value)


def test_a_member_is_symfonys():
    """It has a random text besides, so that the same message may be delayed twice."""
    first, second = (json.loads(entries.write_member(Outgoing(b"{}", {}))) for _ in range(2))

    assert {"body", "headers", "uniqid"} == set(first)
    assert 12 == len(first["uniqid"])
    assert first["uniqid"] != second["uniqid"]


@pytest.mark.parametrize("wrapping", ["phpredis_serializer_0", "phpredis_serializer_1"])
def test_what_symfony_wrote_is_read(wrapping):
    """Whether phpredis made a string of PHP of it, or not."""
    sample = SYMFONY[wrapping]["json"]

    assert (BODY.encode(), HEADERS, None) == entries.read(of(sample["stream_field_message"]))


@pytest.mark.parametrize("wrapping", ["phpredis_serializer_0", "phpredis_serializer_1"])
def test_what_symfony_delayed_is_read(wrapping):
    """A member becomes an entry as it is."""
    body, headers, _ = entries.read(of(SYMFONY[wrapping]["json"]["zset_member"]))

    assert BODY.encode() == body
    assert HEADERS.items() < headers.items()


@pytest.mark.parametrize("wrapping", ["phpredis_serializer_0", "phpredis_serializer_1"])
def test_what_phps_own_serializer_wrote_is_kept(wrapping):
    """Its body is delivered as it came, with no headers, so it is buried and not lost."""
    body, headers, _ = entries.read(of(SYMFONY[wrapping]["php"]["stream_field_message"]))

    assert body.startswith(b'O:36:\\"Symfony\\\\Component\\\\Messenger\\\\Envelope\\"')
    assert {} == headers


def test_a_value_that_phpredis_wrote_as_json_is_read():
    """With serializer=4 it is a string of JSON that holds JSON."""
    value = json.dumps(json.dumps({"body": "{}", "headers": {"type": "note"}}))

    assert (b"{}", {"type": "note"}, None) == entries.read(of(value))


@pytest.mark.parametrize(
    ("value", "body", "headers"),
    [
        ('{"body": "x", "headers": []}', b"x", {}),
        ('{"body": "x", "headers": {"number": 7, "list": [1]}}', b"x", {"number": "7", "list": "[1]"}),
        ('{"body": {"a": 1}, "headers": {}}', b'{"a": 1}', {}),
        ('{"body": "x", "headers": {}, "more": 1}', b"x", {}),
        ('{"user": 13}', b'{"user": 13}', {}),
        ("[1, 2]", b"[1, 2]", {}),
        ("no JSON", b"no JSON", {}),
        ("", b"", {}),
        (b"\xff\x00", b"\xff\x00", {}),
        ('s:7:"no JSON";', b's:7:"no JSON";', {}),
        ('"no JSON"', b'"no JSON"', {}),
        ('s:8:"no JSON";', b's:8:"no JSON";', {}),
        ('{"body": "\\ud800", "headers": {}}', b'{"body": "\\ud800", "headers": {}}', {}),
        ("[" * 2000 + "]" * 2000, b"[" * 2000 + b"]" * 2000, {}),
        ('{"body": "x", "headers": {"big": 1e999, "type": "note"}}', b"x", {"big": "1e999", "type": "note"}),
        ('{"body": %s, "headers": {}}' % ("9" * 5000), b"9" * 5000, {}),
    ],
)
def test_any_other_value_is_delivered_as_it_is(value, body, headers):
    """A body and headers where there are such, else all that is there."""
    assert (body, headers, None) == entries.read(of(value))


@pytest.mark.parametrize(
    "value",
    [
        b'{"body": "\xff", "headers": {}}',
        b'{"body": "x", "headers": {"type": "\xff"}}',
        b'{"body": "x", "headers": {"\xff": 1}}',
        b'{"body": "x", "headers": ["type"]}',
        b'{"body": "x", "headers": null}',
        b's:32:"{"body": "x", "headers": [1, 2]}";',
    ],
)
def test_a_message_that_cannot_be_read_has_a_problem(value):
    """It is delivered as it came, with the reason, whatever is wrong inside."""
    body, headers, problem = entries.read(of(value))

    assert (value, {}) == (body, headers)
    assert problem is not None
    assert "its" in problem


@pytest.mark.parametrize("depth", [2000, 100_000])
@pytest.mark.parametrize(
    "template", ['{"body": %s, "headers": {}}', '{"body": "x", "headers": {"deep": %s}}', '{"headers": {}, "body": %s}']
)
def test_a_message_with_deep_nesting_is_read_or_comes_as_it_is(template, depth):
    """How deep a Python reads JSON depends on its version; nothing raises, and nothing is lost."""
    deep = "[" * depth + "]" * depth
    value = (template % deep).encode()

    body, headers, problem = entries.read(of(value))

    if problem is None:
        assert deep in (body.decode(), headers.get("deep"))
    else:
        assert (value, {}) == (body, headers)
        assert "RecursionError" in problem


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([b"user", b"13", b"action", b"login"], {"user": "13", "action": "login"}),
        ([b"a", b"\xff", b"b", b""], {"a": {"base64": "/w=="}, "b": ""}),
        ([b"a", b"1", b"a", b"2", b"a", b"3"], [["a", "1"], ["a", "2"], ["a", "3"]]),
        ([b"message", b"1", b"message", b"2"], [["message", "1"], ["message", "2"]]),
        ([b"\xfe", b"1"], [[{"base64": "/g=="}, "1"]]),
        ([b"\xfe", b"1", *of("{}")], [[{"base64": "/g=="}, "1"], ["message", "{}"]]),
        ([], {}),
    ],
)
def test_an_entry_of_other_fields_is_delivered_whole(fields, expected):
    """Its body is JSON of all fields, its headers are none, and it has a problem: no serializer knows such a body."""
    body, headers, problem = entries.read(fields)

    assert (expected, {}) == (json.loads(body), headers)
    assert problem is not None
    assert problem.startswith("its entry has")


def test_further_fields_are_kept_as_headers():
    """So a producer may add some of its own to a message."""
    body, headers, _ = entries.read(
        [b"trace", b"abc", *of('{"body": "x", "headers": {"type": "note"}}'), b"raw", b"\xff"]
    )

    assert b"x" == body
    assert {"type": "note", "X-Redis-Field-trace": "abc", "X-Redis-Field-raw": '{"base64":"/w=="}'} == headers


@pytest.mark.parametrize("body", [b"", b"\x00", b"\xff\xfe", "é".encode(), b'"', bytes(range(256))])
def test_any_body_is_there_and_back(body):
    """What is no text is written as base64."""
    headers = {"type": "note", "empty": "", "quoted": '"\\'}

    value: Any = entries.write(Outgoing(body, headers))

    assert (body, headers, None) == entries.read(of(value))
    assert msgspec.json.decode(value)
