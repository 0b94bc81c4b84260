"""Messages as most are, which are written and read by a shorter way: nobody can tell it from the long one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from postbus import Envelope, Stamp, stamps
from postbus.errors import SerializationError
from postbus.serialization import JsonSerializer, TypeRegistry, Undecodable

ID = "01a230d9-fdb7-77fc-95dc-ff0e116c7000"
OTHER = "01a230d9-fdb7-77fc-95dc-ff0e116c7001"
QUOTED = 'a "quoted" \\ id\n\u2028 ä'


@dataclass(frozen=True)
class Order:
    number: int = 13
    note: str | None = "soon"


@pytest.fixture
def serializer() -> JsonSerializer:
    registry = TypeRegistry()
    registry.register(Order)
    serializer = JsonSerializer(registry)
    serializer.encode(envelope_of(stamps.BusName("known")))  # What is of a type that has been read back is common.
    return serializer


def envelope_of(*given: Stamp) -> Envelope:
    return Envelope.wrap(Order(), *given)


def begun(bus: str = "main", id: str = ID, correlation: str = ID) -> Envelope:
    return envelope_of(stamps.BusName(bus), stamps.MessageId(id), stamps.Correlation(correlation))


@pytest.mark.parametrize(
    "envelope",
    [
        begun(),
        begun(id=QUOTED, correlation=QUOTED),
        begun(bus=QUOTED),
        begun(correlation=OTHER),
        begun(bus="b" * 10_000),
        envelope_of(stamps.MessageId(ID), stamps.Correlation(ID), stamps.BusName("main")),
        envelope_of(*begun().stamps[:2], stamps.Causation(OTHER), *begun().stamps[2:]),
        envelope_of(stamps.MessageId(ID), stamps.MessageId(OTHER), stamps.BusName("main")),
        envelope_of(stamps.MessageId(ID), stamps.Correlation(ID)),
        envelope_of(*begun().stamps, stamps.Delay(1), stamps.Key("k")),
    ],
    ids=str,
)
def test_each_header_is_a_list_of_its_stamps(serializer: JsonSerializer, envelope: Envelope) -> None:
    """Whatever they hold, in whatever order they are; and so they are read, the first time and again."""
    travelling = [stamp for stamp in envelope.stamps if stamp.header is not None]
    headers = {
        str(stamp.header): msgspec.json.encode([one for one in travelling if type(one) is type(stamp)]).decode()
        for stamp in travelling
    }
    for _ in range(2):
        body, written = serializer.encode(envelope)
        assert headers == {name: value for name, value in written.items() if name.startswith("X-Message-Stamp-")}
        again = serializer.decode(body, written)
        assert Order() == again.message
        assert {type(s): again.all(type(s)) for s in travelling} == {type(s): envelope.all(type(s)) for s in travelling}
        assert body is again.all(stamps.Encoded)[0].body


def test_a_stamp_that_holds_no_text_is_written_as_what_it_holds(serializer: JsonSerializer) -> None:
    """Only somebody without a type checker puts on one, and whoever reads it tells."""
    odd: Any = begun(bus=13, id=None, correlation=None)  # type: ignore[arg-type]
    body, headers = serializer.encode(odd)
    assert ['[{"name":13}]', '[{"id":null}]', '[{"id":null}]'] == list(headers.values())[-3:]
    assert isinstance(serializer.decode(body, headers).message, Undecodable)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda body, headers: (b"{", headers),
        lambda body, headers: (b'{"number":"x"}', headers),
        lambda body, headers: (body, headers | {"type": "unknown"}),
        lambda body, headers: (body, headers | {"X-Postbus-Wire": "2"}),
        lambda body, headers: (body, headers | {"X-Message-Stamp-id": "[{}]", "X-Message-Stamp-correlation": "[{}]"}),
    ],
    ids=["body", "field", "type", "wire", "stamp"],
)
def test_what_is_spoiled_is_undecodable(
    serializer: JsonSerializer, spoil: Callable[[bytes, dict[str, str]], tuple[bytes, dict[str, str]]]
) -> None:
    """Also if it came from the same bus as others before, and everything else is as it was."""
    body, headers = serializer.encode(begun())
    assert Order() == serializer.decode(body, headers).message

    message = serializer.decode(*spoil(body, headers)).message

    assert isinstance(message, Undecodable)
    assert message.reason


def test_a_field_that_could_not_be_read_is_refused_after_others_were_sent(serializer: JsonSerializer) -> None:
    """That one message of a class was read back says nothing about the next."""
    serializer.encode(begun())
    wrong: Any = Order("thirteen")  # type: ignore[arg-type]
    with pytest.raises(SerializationError, match="number"):
        serializer.encode(Envelope(wrong, begun().stamps))


def test_a_name_that_is_given_later_is_written_from_then_on() -> None:
    """What is known about a class does not keep its name."""
    registry = TypeRegistry()
    serializer = JsonSerializer(registry)
    serializer.encode(begun())
    registry.register(Order, "order")
    assert "order" == serializer.encode(begun()).headers["type"]
