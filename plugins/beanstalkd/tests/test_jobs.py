"""How messages lie in jobs, and what is made of those that others have put."""

from __future__ import annotations

import json

import pytest

from postbus.transport import Outgoing
from postbus_beanstalkd.jobs import read, with_attempts, write

MESSAGE = Outgoing(b'{"n": 1}', {"type": "note", "X-Other": "\u00fc"})


def test_a_job_holds_body_and_headers_as_symfony_has_them():
    """Beside them stand the priority and the ttr, which nobody there looks at."""
    written = json.loads(write(MESSAGE, 1024, 90))

    assert {
        "body": '{"n": 1}',
        "headers": {"type": "note", "X-Other": "\u00fc"},
        "priority": 1024,
        "ttr": 90,
    } == written


def test_what_was_written_is_read():
    """Text and bytes come as they were, with what was said of the job."""
    for body in (b"", b"text", "\u4f60\u597d".encode(), bytes(range(256))):
        content = read(write(Outgoing(body, {"a": "b"}), 7, 60))

        assert (body, {"a": "b"}, None) == (content.body, content.headers, content.problem)
        assert (7, 60, 0) == (content.priority, content.ttr, content.attempts)


def test_attempts_are_added_to_a_job():
    """The message stays as it is; a number that is there already is replaced."""
    once = with_attempts(write(MESSAGE, 1024, 90), 1024, 90, 1, "a")
    assert once is not None
    twice = with_attempts(once, 1024, 90, 2, "b")
    assert twice is not None

    content = read(twice)

    assert (2, "b") == (content.attempts, content.server)
    assert (MESSAGE.body, MESSAGE.headers) == (content.body, content.headers)


@pytest.mark.parametrize("data", [b"", b"Order 13 was placed.", b"[]", b'{"body": 1, "headers": {}}', b"\xff"])
def test_there_is_no_place_for_attempts_in_what_others_wrote(data):
    """It is left as it is."""
    assert None is with_attempts(data, 1024, 90, 1, "a")


@pytest.mark.parametrize(
    "said",
    [
        '"priority": -1, "ttr": 90',
        '"priority": 4294967296, "ttr": 90',
        '"priority": 1024',
        '"ttr": 90',
        '"priority": 1024, "ttr": 0',
    ],
)
def test_what_a_job_cannot_have_been_put_with_is_not_believed(said):
    """The server is asked then."""
    content = read(b'{"body": "x", "headers": {}, %s}' % said.encode())

    assert (None, None) == (content.priority, content.ttr)


@pytest.mark.parametrize("attempts", [-1, 1_000_001, 10**300])
def test_attempts_that_cannot_be_are_none(attempts):
    """Whoever may put a job may write anything."""
    content = read(b'{"body": "x", "headers": {}, "attempts": %d}' % attempts)

    assert (b"x", 0, None) == (content.body, content.attempts, content.problem)


def test_a_sample_of_symfonys_is_read():
    """An empty map is a list there."""
    content = read(b'{"body":"{\\"text\\":\\"hello\\"}","headers":[]}')

    assert (b'{"text":"hello"}', {}, None) == (content.body, content.headers, content.problem)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b'{"body": "x", "headers": 7}', "its headers are no JSON object"),
        (b'{"body": "x", "headers": {}, "more": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", "its JSON cannot be read"),
    ],
)
def test_what_cannot_be_read_comes_as_it_is(data, problem):
    """With the reason, so that it is buried."""
    content = read(data)

    assert (data, {}) == (content.body, content.headers)
    assert content.problem is not None
    assert problem in content.problem
