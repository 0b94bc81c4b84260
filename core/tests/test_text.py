"""Bodies and headers as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postbus import text
from postbus.transport import Outgoing


@given(st.binary() | st.text().map(str.encode), st.dictionaries(st.text(min_size=1), st.text()))
def test_what_is_written_is_read(body, headers):
    """Every body and every header come back as they were."""
    written, written_headers = text.write_body(Outgoing(body, headers))

    read_headers = text.read_headers(text.write_headers(written_headers))

    assert body == text.read_body(written.encode(), read_headers)
    assert headers == read_headers


@pytest.mark.parametrize("body", [b"\xff", b"a\0b"])
def test_a_body_that_is_no_text_is_marked(body):
    """What a text column cannot hold is base64, and a header says so."""
    _, headers = text.write_body(Outgoing(body, {}))

    assert {"X-Postbus-Body-Encoding": "base64"} == headers


def test_a_mark_that_is_not_true_changes_nothing():
    """A body that is said to be base64 and is not stays as it came, and so does the mark."""
    headers = {"X-Postbus-Body-Encoding": "base64"}

    assert b"plain!" == text.read_body(b"plain!", headers)
    assert {"X-Postbus-Body-Encoding": "base64"} == headers


def test_headers_of_others_are_read_as_far_as_possible():
    """PHP's empty map, values that are no strings, and no JSON at all: somebody gets to see them."""
    assert {} == text.read_headers(b"[]")
    assert {"a": "1", "b": '["x"]'} == text.read_headers(b'{"a": 1, "b": ["x"]}')
    assert {"X-Postbus-Unreadable-Headers": "broken\ufffd"} == text.read_headers(b"broken\xff")
