"""Bodies and headers as text."""

from base64 import b64decode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postbus import text
from postbus.transport import Outgoing


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_what_is_packed_is_unpacked(headers):
    """Headers come back out of the one that holds them; those beside it stay."""
    packed = text.packed(headers)

    assert [text.PACKED] == list(packed)
    assert packed[text.PACKED].isascii()
    headers.pop(text.PACKED, None)
    assert headers | {"type": "note"} == text.unpacked({**text.packed(headers), "type": "note"})


@pytest.mark.parametrize("value", ["", "[]", "{", '{"a": 1}', '{"a":' * 100_000, "\ud800"])
def test_what_others_have_packed_stays_as_it_is(value):
    """Whatever a header of that name holds, it costs nobody the message."""
    headers = {text.PACKED: value, "type": "note"}

    assert headers == text.unpacked(headers)


@given(st.binary() | st.text().map(str.encode), st.dictionaries(st.text(min_size=1), st.text()))
def test_what_is_written_is_read(body, headers):
    """Every body and every header come back as they were."""
    written, written_headers = text.write_body(Outgoing(body, headers))

    read_headers = text.read_headers(text.write_headers(written_headers))

    assert body == text.read_body(written.encode(), read_headers)
    assert headers == read_headers


@pytest.mark.parametrize("mark", ["base64", "gzip", "base64;base64", ";", ""])
def test_the_mark_of_another_is_kept(mark):
    """What came from elsewhere with our mark on it leaves with it, and with the body that it had."""
    headers = {"X-Postbus-Body-Encoding": mark, "type": "note"}

    written, written_headers = text.write_body(Outgoing(b"AAAA", headers))

    assert b"AAAA" == text.read_body(written.encode(), written_headers)
    assert headers == written_headers


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
    assert {"X-Postbus-Unreadable-Headers": "broken"} == text.read_headers(b"broken")


@pytest.mark.parametrize(
    "headers",
    [
        b"broken\xff",
        b'{"type": "\xff"}',
        b'{"\xff": "note"}',
        b'{"type": "\\ud800"}',
        b'{"\\ud800": 1}',
        b"[" * 2000,
        b'["type"]',
        b"",
        b"null",
    ],
)
def test_unreadable_headers_are_kept_to_the_byte(headers):
    """What is no JSON object is in one header, in base64 where it is no text either."""
    read = text.read_headers(headers)

    kept = read.pop("X-Postbus-Unreadable-Headers")
    is_text = read.pop("X-Postbus-Unreadable-Headers-Encoding", None) is None
    assert headers == (kept.encode() if is_text else b64decode(kept))
    assert {} == read


@pytest.mark.parametrize("depth", [2000, 100_000])
def test_headers_with_deep_nesting_are_kept(depth):
    """How deep a Python reads JSON depends on its version; nothing raises, and nothing is lost."""
    deep = "[" * depth + "]" * depth
    headers = f'{{"tags": {deep}}}'

    assert text.read_headers(headers.encode()) in ({"tags": deep}, {"X-Postbus-Unreadable-Headers": headers})


def test_the_number_of_another_is_kept_as_it_is_written():
    """However large it is; the headers beside it are read."""
    digits = "9" * 5000

    read = text.read_headers(b'{"big": %s, "more": 1e999, "share": 1.50, "type": "note"}' % digits.encode())

    assert {"big": digits, "more": "1e999", "share": "1.50", "type": "note"} == read
