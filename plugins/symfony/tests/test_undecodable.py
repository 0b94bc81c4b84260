"""Messages that nobody here can read: kept as they came, and buried so that Symfony can still read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postbus import Envelope, stamps
from postbus.serialization import JsonSerializer, TypeRegistry, Undecodable
from postbus_symfony.serializer import SymfonySerializer, camel_case
from postbus_symfony.twins import ERROR, PREFIX, TWINS

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Hello:
    text: str


types = TypeRegistry()
types.register(Hello, "App\\Hello")
serializer = SymfonySerializer(types)


def undecodable(body: bytes, headers: Mapping[str, str]) -> Envelope:
    envelope = serializer.decode(body, headers)
    assert isinstance(envelope.message, Undecodable)
    return envelope


def reason_of(body: bytes, headers: Mapping[str, str]) -> str:
    reason: str = undecodable(body, headers).message.reason
    return reason


@pytest.mark.parametrize("sample", ["plain", "retry", "failed"])
def test_an_unknown_type_is_sent_on_exactly_as_it_came(wire: Any, sample: str) -> None:
    """Body and headers, whatever stamps of Symfony's are in them."""
    body, headers = wire[sample]["body"].encode(), wire[sample]["headers"]

    assert (body, headers) == serializer.encode(undecodable(body, headers))
    assert f"no message is registered as {headers['type']!r}" == reason_of(body, headers)


def test_an_id_that_came_in_the_context_adds_none_to_it() -> None:
    """As Symfony 6.4 sends on what it has taken the ids off."""
    id = stamps.MessageId("0198c0de-0000-7000-8000-000000000001")
    headers = {
        "type": "App\\Unknown",
        PREFIX + "TransportMessageIdStamp": '[{"id":"17"}]',
        PREFIX + "SerializerStamp": f'[{{"context":{{"postbus_message_id": "{id.id}"}}}}]',
    }
    envelope = undecodable(b"{}", headers)

    assert id == envelope.last(stamps.MessageId)
    assert headers == serializer.encode(envelope).headers


def test_what_is_known_of_it_is_there(wire: Any) -> None:
    """Its stamps are read, so that it is known how often it was tried, and why it failed."""
    envelope = undecodable(wire["failed"]["body"].encode(), wire["failed"]["headers"])

    assert "no such number" == envelope.all(stamps.ErrorDetails)[-1].message
    assert stamps.Buried("async") == envelope.last(stamps.Buried)


def test_it_is_buried_so_that_symfony_can_read_it(wire: Any) -> None:
    """Only the new stamps are added, under Symfony's names and in headers that it ignores."""
    body, headers = wire["retry"]["body"].encode(), wire["retry"]["headers"]
    error = stamps.ErrorDetails("postbus.errors.NotDecoded", "no message is registered", AT)
    copy = undecodable(body, headers).without(stamps.Retried, stamps.Delay).with_(stamps.Buried("shared"), error)
    buried = serializer.encode(copy.with_(stamps.Correlation("x")))

    assert body == buried.body
    assert headers[PREFIX + "BusNameStamp"] == buried.headers[PREFIX + "BusNameStamp"]
    assert '[{"originalReceiverName":"shared"}]' == buried.headers[PREFIX + "SentToFailureTransportStamp"]
    assert '[{"retryCount":0,"redeliveredAt":"2026-11-24T12:00:00Z"}]' == buried.headers[PREFIX + "RedeliveryStamp"]
    assert PREFIX + "DelayStamp" not in buried.headers
    known = {twin.header for twin in TWINS} | {PREFIX + "BusNameStamp"}
    assert {name for name in buried.headers if name.startswith("X-Message-Stamp-")} <= known
    assert [error] == serializer.decode(*buried).all(stamps.ErrorDetails)


def test_it_can_be_read_once_the_code_is_there(wire: Any) -> None:
    """After a trip into the failure transport and back, nothing is missing."""
    body, headers = wire["retry"]["body"].encode(), wire["retry"]["headers"]
    buried = serializer.encode(undecodable(body, headers).with_(stamps.Buried("shared")))

    @dataclass(frozen=True)
    class HelloOfLater:
        text: str
        n: int

    types = TypeRegistry()
    types.register(HelloOfLater, "App\\Message\\Hello")
    envelope = SymfonySerializer(types).decode(*buried)
    assert HelloOfLater("Hé/x", 7) == envelope.message
    assert stamps.Buried("shared") == envelope.last(stamps.Buried)


def test_a_stamp_that_cannot_be_read_is_not_overwritten() -> None:
    """It is kept under another name when its place is needed."""
    header = PREFIX + "RedeliveryStamp"
    headers = {"type": "App\\Hello", header: '[{"retryCount":"many"}]'}
    envelope = undecodable(b'{"text":"x"}', headers)
    encoded = serializer.encode(envelope.with_(stamps.Retried(1, AT)))

    assert f"header {header}: $[0].retryCount: expected int, got str" == envelope.message.reason
    assert headers[header] == encoded.headers["X-Postbus-Broken-" + header]
    assert [stamps.Retried(1, AT)] == serializer.decode(*encoded).all(stamps.Retried)


def test_phps_own_serializer_is_called_by_its_name(wire: Any) -> None:
    """The most likely mistake: the reason says what to set, and where."""
    for body in (wire["native_body"], wire["native_body_base64"]):
        assert "it was written by PHP's own serializer" in reason_of(body.encode(), {})
        assert "messenger.transport.symfony_serializer" in reason_of(body.encode(), {})


def test_another_format_is_called_by_its_name() -> None:
    """Symfony can be set to write XML, YAML or CSV."""
    headers = {"type": "App\\Hello", "Content-Type": "application/xml"}

    assert "it is application/xml, of which only JSON can be read here" == reason_of(b"<x/>", headers)
    assert "there is no type header" == reason_of(b"{}", {"Content-Type": "application/json"})


def test_one_of_another_transport_can_share_the_failure_transport() -> None:
    """What came in our own format keeps its stamps, in headers that Symfony ignores or understands."""
    ours = JsonSerializer(types)
    came = {"type": "unknown", "X-Message-Stamp-id": '[{"id":"a"}]', "X-Message-Stamp-retried": "[]", "other": "x"}
    buried = serializer.encode(ours.decode(b"{}", came).with_(stamps.Buried("jobs")))
    back = serializer.decode(*buried)

    assert [stamps.MessageId("a")] == back.all(stamps.MessageId)
    assert stamps.Buried("jobs") == back.last(stamps.Buried)
    assert b"{}" == buried.body
    assert "x" == buried.headers["other"]
    assert "X-Message-Stamp-id" not in buried.headers


header_names = st.sampled_from(
    [
        "type",
        "X-Postbus-Stamp-error",
        "X-Postbus-Stamp-id",
        "X-Postbus-Stamp-other",
        "X-Message-Stamp-App\\Other",
        *(twin.header for twin in TWINS),
    ]
) | st.text(max_size=5)
header_values = (
    st.text(max_size=5)
    | st.sampled_from(["[]", "[{}]", "[null]", '[{"id":"a"}]', '[{"delay":5}]', '[{"delay":5},{"delay":"x"}]'])
    | st.sampled_from(['[{"originalReceiverName":"x"}]', '[{"id":"12"},{"id":"0198c0de-0000-7000-8000-000000000001"}]'])
    | st.just('[{"type":"T","message":"m","at":"2026-11-24T12:00:00Z"}]')
    | st.just('[{"exceptionClass":"T","exceptionCode":0,"exceptionMessage":"m"}]')
    | st.just('[{"retryCount":1,"redeliveredAt":"2026-11-24T12:00:00+00:00"}]')
)


@given(
    st.binary(max_size=5) | st.just(b'{"text":"x"}'),
    st.dictionaries(header_names, header_values),
    st.sampled_from([serializer, SymfonySerializer(types, rename=camel_case, buses={"a": "b"})]),
)
def test_whatever_comes_is_sent_on(body: bytes, headers: dict[str, str], serializer: SymfonySerializer) -> None:
    """No body and no header makes decoding raise, and nothing of it is lost."""
    envelope = serializer.decode(body, headers)
    encoded = serializer.encode(envelope)

    assert body == encoded.body
    if isinstance(envelope.message, Undecodable):
        assert headers.items() <= encoded.headers.items()
        assert encoded.headers.keys() - headers.keys() <= {ERROR.header}  # Which belongs to a header of ours.
    else:
        assert encoded == serializer.encode(serializer.decode(*encoded))
