"""How a message lies on SQS, and what is read of one that somebody else has put there."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postbus.transport import Outgoing
from postbus_sqs.messages import Unacceptable, read, write


def received(entry):
    """Return what a message of a request is when it comes."""
    return {"Body": entry["MessageBody"], "MessageAttributes": entry.get("MessageAttributes", {})}


def attribute(value, kind="String"):
    return {"DataType": kind, "BinaryValue" if kind == "Binary" else "StringValue": value}


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode), st.dictionaries(st.text(), st.text(), max_size=5))
def test_what_is_written_is_read(body, headers):
    """Whatever is in it."""
    written = write(Outgoing(body, headers))

    assert (body, headers, 0) == read(received(written.entry))


def test_the_layout_is_that_of_symfony():
    """Two headers are attributes, as every program may want to look at them; all others are in one."""
    written = write(
        Outgoing(b"{}", {"type": "a", "Content-Type": "b", "X-Message-Stamp-App\\Stamp": "[{}]", "more": ""})
    )

    texts = {name: value["StringValue"] for name, value in written.entry["MessageAttributes"].items()}
    assert {"type": "a", "Content-Type": "b"} == {name: texts[name] for name in ("type", "Content-Type")}
    assert {"X-Message-Stamp-App\\Stamp": "[{}]", "more": ""} == json.loads(texts["X-Symfony-Messenger"])


def test_what_symfony_wrote_is_read():
    """Headers with a name that SQS takes are attributes, whatever they are; attributes win."""
    message = {
        "Body": '{"id":1}',
        "MessageAttributes": {
            "type": attribute("App\\Order"),
            "X-Custom": attribute("x"),
            "X-Symfony-Messenger": attribute('{"X-Message-Stamp-A\\\\B":"[{\\"a\\":1}]","X-Custom":"y"}'),
        },
    }

    headers = {"type": "App\\Order", "X-Custom": "x", "X-Message-Stamp-A\\B": '[{"a":1}]'}
    assert (b'{"id":1}', headers, 0) == read(message)


@pytest.mark.parametrize("text", ["", "{", "[]", "[[", "7", '"x"', "[" * 20_000])
def test_what_is_no_json_is_a_header(text):
    """Somebody else may call an attribute what Symfony does."""
    message = {"Body": "x", "MessageAttributes": {"X-Symfony-Messenger": attribute(text)}}

    assert {"X-Symfony-Messenger": text} == read(message)[1]


def test_values_of_others_are_text():
    """Numbers, bytes, and what is in JSON besides."""
    message = {
        "Body": "x",
        "MessageAttributes": {
            "number": attribute("13", "Number"),
            "custom": attribute("text", "String.kind"),
            "utf8": attribute("ü".encode(), "Binary"),
            "bytes": attribute(b"\xff", "Binary"),
            "X-Symfony-Messenger": attribute('{"n": 1.50, "list": [1, {"a": null}], "half": "\\ud800"}'),
        },
    }

    headers = read(message)[1]

    assert {"number": "13", "custom": "text", "utf8": "ü", "bytes": "/w=="}.items() <= headers.items()
    assert '[1, {"a": null}]' == headers["list"]
    assert {str} == {type(value) for value in headers.values()}


def test_what_says_that_it_is_base64_and_is_not_comes_as_it_is():
    """With the header that says so."""
    message = {"Body": "no base64!", "MessageAttributes": {"Content-Transfer-Encoding": attribute("base64")}}

    assert (b"no base64!", {"Content-Transfer-Encoding": "base64"}, 0) == read(message)


@pytest.mark.parametrize("delay", ["", "-1", "1.5", "many", "9" * 400, "\u0661"])
def test_a_delay_that_is_none_is_none(delay):
    """Nothing that somebody else wrote keeps a message back."""
    assert 0 == read({"Body": "x", "MessageAttributes": {"X-Postbus-Delay": attribute(delay, "Number")}})[2]


def test_a_header_without_a_form_is_refused():
    """A value that is no text is a mistake of whoever sends it."""
    with pytest.raises(Unacceptable, match="has no form"):
        write(Outgoing(b"", {"bad": object()}))


def test_the_size_is_that_of_aws():
    """The body, and name, type and value of each attribute, in bytes."""
    written = write(Outgoing("ä".encode(), {"type": "ö"}))

    assert 2 + len("type") + len("String") + 2 == written.size
