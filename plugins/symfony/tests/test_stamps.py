"""Headers: what is understood of Symfony's, what Symfony is given to read, and what is kept as it came."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postbus import Envelope, Postbus, Stamp, stamps
from postbus.errors import SerializationError
from postbus.limits import Limits
from postbus.serialization import JsonSerializer, TypeRegistry
from postbus.transport import Outgoing
from postbus_symfony.serializer import SymfonySerializer, camel_case
from postbus_symfony.twins import PREFIX, UNKNOWN

AT = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
ID = "0198c0de-0000-7000-8000-000000000001"


@dataclass(frozen=True)
class Hello:
    text: str
    n: int


@dataclass(frozen=True)
class SmsNotification:
    phone_number: str
    text: str
    meta_data: dict[str, str] = field(default_factory=dict)


class Tenant(Stamp):
    wire_name = "tests.symfony.tenant"
    name: str


class Brand(Stamp, rename="camel"):
    wire_name = "App\\Stamp\\Brand"
    brand_name: str


def make_serializer(**options: Any) -> SymfonySerializer:
    types = TypeRegistry()
    types.register(Hello, "App\\Message\\Hello")
    types.register(SmsNotification, "App\\Message\\SmsNotification")
    return SymfonySerializer(types, **options)


serializer = make_serializer()
camel = make_serializer(rename=camel_case)


def without_ours(headers: dict[str, str]) -> dict[str, str]:
    """Return what Symfony looks at."""
    return {name: text for name, text in headers.items() if not name.startswith("X-Postbus-")}


def written(*stamps: Stamp) -> dict[str, Any]:
    """Return the stamps that Symfony finds on a message with these, by the last part of their class."""
    headers = serializer.encode(Envelope(Hello("x", 1), stamps)).headers
    return {name.removeprefix(PREFIX): json.loads(text) for name, text in headers.items() if name.startswith(PREFIX)}


def read(headers: dict[str, str], serializer: SymfonySerializer = serializer) -> Envelope:
    envelope = serializer.decode(b'{"text":"x","n":1}', {"type": "App\\Message\\Hello", **headers})
    assert Hello("x", 1) == envelope.message
    return envelope


def travelling(envelope: Envelope) -> list[Stamp]:
    """Return what another process sees of an envelope's stamps."""
    kept = [stamp for stamp in envelope.stamps if stamp.header is not None or type(stamp) is stamps.Delay]
    return sorted(kept, key=lambda stamp: type(stamp).__qualname__)  # A sort keeps the order within a kind.


def test_a_message_of_symfonys_is_read(wire: Any) -> None:
    """The type is looked up by PHP's name of the class, and escapes are understood."""
    envelope = serializer.decode(wire["plain"]["body"].encode(), wire["plain"]["headers"])

    assert Hello("Hé/x", 7) == envelope.message
    assert [] == travelling(envelope)


def test_a_retry_of_symfonys_is_understood(wire: Any) -> None:
    """How often it was tried, when last, and how long it had to wait."""
    envelope = serializer.decode(wire["retry"]["body"].encode(), wire["retry"]["headers"])

    at = datetime(2024, 10, 23, 10, tzinfo=UTC)
    assert [stamps.Delay(1.0), stamps.Retried(1, at)] == travelling(envelope)


def test_what_symfony_buried_is_understood(wire: Any) -> None:
    """Where it failed, why, when, and which handlers are done; the count of retries begins anew."""
    envelope = camel.decode(wire["failed"]["body"].encode(), wire["failed"]["headers"])

    first, last = envelope.all(stamps.ErrorDetails)
    assert SmsNotification("+49 30", "Grüße/x", {}) == envelope.message
    assert stamps.Buried("async") == envelope.last(stamps.Buried)
    assert ("RuntimeException", "gateway is down") == (first.type, first.message)
    assert datetime(2026, 11, 24, 12, tzinfo=UTC) == first.at
    assert ("LogicException", "no such number", "#0 {main}") == (last.type, last.message, last.traceback)
    assert datetime(2026, 11, 24, 12, 0, 1, tzinfo=UTC) == last.at
    assert [0] == [stamp.count for stamp in envelope.all(stamps.Retried)[-1:]]
    assert [stamps.Handled("App\\Handler\\LogSms::__invoke")] == envelope.all(stamps.Handled)


@pytest.mark.parametrize("sample", ["plain", "retry", "failed"])
@pytest.mark.parametrize("serializer", [serializer, camel, make_serializer(buses={"default": "messenger.bus.default"})])
def test_what_is_sent_on_is_as_it_came(wire: Any, sample: str, serializer: SymfonySerializer) -> None:
    """Body and headers are those of Symfony, byte for byte, also stamps that mean nothing here."""
    body, headers = wire[sample]["body"].encode(), wire[sample]["headers"]
    encoded = serializer.encode(serializer.decode(body, headers))

    assert body == encoded.body
    assert headers == without_ours(encoded.headers)


def test_what_is_added_leaves_the_others_as_they_came(wire: Any) -> None:
    """One more error of ours stands behind Symfony's own, which keep their trace."""
    envelope = camel.decode(wire["failed"]["body"].encode(), wire["failed"]["headers"])
    error = stamps.ErrorDetails("builtins.ValueError", "boom", AT, "shop.send", "Traceback")
    _, headers = camel.encode(envelope.with_(error))

    came: str = wire["failed"]["headers"][PREFIX + "ErrorDetailsStamp"]
    assert headers[PREFIX + "ErrorDetailsStamp"].startswith(came[:-1] + ",")
    assert [*envelope.all(stamps.ErrorDetails), error] == camel.decode(b"{}", headers).all(stamps.ErrorDetails)


@pytest.mark.parametrize("serializer", [serializer, camel])
def test_fields_that_are_unknown_here_are_sent_on(serializer: SymfonySerializer) -> None:
    """A retry does not cost Symfony what only it knows of the message."""
    body, headers = b'{"text":"x","n":1,"newField":{"a":[]}}', {"type": "App\\Message\\Hello"}
    envelope = serializer.decode(body, headers)

    assert Hello("x", 1) == envelope.message
    assert body == serializer.encode(envelope.with_(stamps.Retried(1, AT))).body


def test_what_is_removed_is_not_sent() -> None:
    """A stamp that was taken off does not come back because it had come from Symfony."""
    came = read({PREFIX + "SentToFailureTransportStamp": '[{"originalReceiverName":"async"}]'})

    assert PREFIX + "SentToFailureTransportStamp" not in serializer.encode(came.without(stamps.Buried)).headers


# What Symfony is given.


def test_symfony_sees_its_own_stamps() -> None:
    """Each stamp that Symfony has too is written under its name and in its shape."""
    failed = written(
        stamps.MessageId(ID),
        stamps.Delay(1.5),
        stamps.Retried(2, AT),
        stamps.Buried("orders"),
        stamps.Handled("shop.send_receipt"),
        stamps.ErrorDetails("builtins.ValueError", "boom", AT, "shop.send", "Traceback"),
    )

    assert {
        "TransportMessageIdStamp": [{"id": ID}],
        "SerializerStamp": [{"context": {"postbus_message_id": ID}}],
        "DelayStamp": [{"delay": 1500}],
        "RedeliveryStamp": [{"retryCount": 2, "redeliveredAt": "2026-11-24T12:00:00.123456Z"}],
        "SentToFailureTransportStamp": [{"originalReceiverName": "orders"}],
        "HandledStamp": [{"handlerName": "shop.send_receipt", "result": None}],
        "ErrorDetailsStamp": [
            {
                "exceptionClass": "builtins.ValueError",
                "exceptionCode": 0,
                "exceptionMessage": "boom",
                "flattenException": None,
            }
        ],
    } == failed


def test_symfony_is_told_when_a_buried_message_failed() -> None:
    """It looks for that in the redelivery stamp, where its own failure transport has it."""
    error = stamps.ErrorDetails("builtins.ValueError", "boom", AT)

    assert [{"retryCount": 0, "redeliveredAt": "2026-11-24T12:00:00.123456Z"}] == written(
        stamps.Buried("orders"), error
    )["RedeliveryStamp"]
    assert [0] == [entry["retryCount"] for entry in written(stamps.Buried("orders"))["RedeliveryStamp"]]


def test_symfony_gets_no_stamp_that_it_does_not_know() -> None:
    """Of the headers that it takes for stamps, each has a class of its own or one that the user named so."""
    everything = [
        stamps.BusName("default"),
        stamps.MessageId("order-13"),
        stamps.Correlation(ID),
        stamps.Causation(ID),
        stamps.NotBefore(datetime(2026, 11, 30, tzinfo=UTC)),
        Tenant("acme"),
        Brand("acme"),
    ]
    headers = serializer.encode(Envelope(Hello("x", 1), tuple(everything))).headers

    assert {"X-Message-Stamp-App\\Stamp\\Brand"} == {name for name in headers if name.startswith("X-Message-Stamp-")}
    assert '[{"brandName":"acme"}]' == headers["X-Message-Stamp-App\\Stamp\\Brand"]
    assert '[{"name":"acme"}]' == headers["X-Postbus-Stamp-tests.symfony.tenant"]
    assert '[{"at":"2026-11-30T00:00:00Z"}]' == headers["X-Postbus-Stamp-not-before"]


def test_a_stamp_of_the_users_application_is_read() -> None:
    """A stamp of ours whose wire name is PHP's name of a class is its twin."""
    assert Brand("acme") == read({"X-Message-Stamp-App\\Stamp\\Brand": '[{"brandName":"acme"}]'}).last(Brand)


@pytest.mark.parametrize("handler", [object(), float("nan").hex])
def test_a_stamp_that_cannot_be_written_is_a_serialization_error(handler: Any) -> None:
    """The error names the stamp."""
    with pytest.raises(SerializationError, match=r"stamp postbus\.stamps\.Handled cannot be written .* HandledStamp"):
        written(stamps.Handled(handler))


def test_a_delay_that_is_over_is_none() -> None:
    """Symfony lets a delay be negative, and handles its message at once."""
    assert stamps.Delay(0) == read(
        {"X-Message-Stamp-Symfony\\Component\\Messenger\\Stamp\\DelayStamp": '[{"delay":-5}]'}
    ).last(stamps.Delay)


# Buses.


def test_a_message_of_an_unknown_bus_is_handled_on_the_default_bus(wire: Any) -> None:
    """Symfony's name for its bus means nothing here, and that does not make the message fail."""
    app = Postbus(
        transports={"shared": {"dsn": "in-memory://", "serializer": "symfony"}},
        buses={"events": {}, "commands": {}},
        default_bus="commands",
    )
    app.message("App\\Message\\Hello")(Hello)
    seen: list[Envelope] = []

    @app.handler(bus="commands")
    def greet(hello: Hello, envelope: Envelope) -> None:
        seen.append(envelope)

    shared: Any = app.transport("shared")
    shared.connection.publish([Outgoing(wire["plain"]["body"].encode(), wire["plain"]["headers"])])
    app.worker(limits=Limits(messages=1)).run()

    assert [Hello("Hé/x", 7)] == [envelope.message for envelope in seen]
    assert 1 == len(shared.acknowledged)


def test_a_bus_may_have_a_name_on_each_side() -> None:
    """With ``buses`` the name is understood in both directions."""
    serializer = make_serializer(buses={"events": "event.bus"})
    header = {PREFIX + "BusNameStamp": '[{"busName":"event.bus"}]'}
    envelope = read(header, serializer)

    assert stamps.BusName("events") == envelope.last(stamps.BusName)
    assert header.items() <= serializer.encode(Envelope(Hello("x", 1), (stamps.BusName("events"),))).headers.items()
    assert not read({PREFIX + "BusNameStamp": '[{"busName":"other.bus"}]'}, serializer).has(stamps.BusName)


def test_another_bus_keeps_its_name_between_two_of_us() -> None:
    """It travels in a header of ours, and does not take the place of Symfony's."""
    came = read({PREFIX + "BusNameStamp": '[{"busName":"other.bus"}]'})
    headers = serializer.encode(came.with_(stamps.BusName("mine"))).headers

    assert '[{"busName":"other.bus"}]' == headers[PREFIX + "BusNameStamp"]
    assert stamps.BusName("mine") == read(headers).last(stamps.BusName)


# Ids.


def test_the_id_survives_a_trip_through_symfony() -> None:
    """Symfony keeps it among the ids that brokers gave, of which it uses the last."""
    headers = without_ours(serializer.encode(Envelope(Hello("x", 1), (stamps.MessageId(ID),))).headers)
    header = PREFIX + "TransportMessageIdStamp"
    headers[header] = headers[header][:-1] + ',{"id":"12"},{"id":"5c6f7f9e-1111-4222-8333-444444444444"}]'

    assert [stamps.MessageId(ID)] == read(headers).all(stamps.MessageId)
    assert headers[header] == serializer.encode(read(headers)).headers[header]


@pytest.mark.parametrize("id", ["12", 13, "1700000000000-0", None])
def test_the_id_of_a_broker_is_not_the_messages_own(id: object) -> None:
    """It is not unique, and nothing is gained by it; it is sent on, before ours."""
    header = PREFIX + "TransportMessageIdStamp"
    came = read({header: json.dumps([{"id": id}])})
    headers = serializer.encode(came.with_(stamps.MessageId(ID))).headers

    assert not came.has(stamps.MessageId)
    assert [{"id": id}, {"id": ID}] == json.loads(headers[header])
    assert [stamps.MessageId(ID)] == read(headers).all(stamps.MessageId)


CONTEXT = PREFIX + "SerializerStamp"


def test_the_id_survives_a_trip_through_a_symfony_that_takes_ids_off() -> None:
    """Symfony 6.4 does, on all brokers but RabbitMQ; what its serializer was given as context it sends on."""
    headers = without_ours(serializer.encode(Envelope(Hello("x", 1), (stamps.MessageId(ID),))).headers)
    headers[PREFIX + "TransportMessageIdStamp"] = '[{"id":"17"}]'
    again = serializer.encode(read(headers)).headers

    assert [stamps.MessageId(ID)] == read(headers).all(stamps.MessageId)
    assert [{"id": "17"}, {"id": ID}] == json.loads(again[PREFIX + "TransportMessageIdStamp"])
    assert headers[CONTEXT] == again[CONTEXT]


@pytest.mark.parametrize("context", ['{"groups":["sms"],"x":1.5}', "[]", "{}"])
def test_the_context_of_the_application_is_left_to_it(context: str) -> None:
    """The id is put beside what is there. A second context would be the one that Symfony writes the message by."""
    came = read({CONTEXT: f'[{{"context":{context}}},{{"context":{{"x":2}}}}]'})
    headers = serializer.encode(came.with_(stamps.MessageId(ID))).headers

    expected = {**dict(json.loads(context)), "postbus_message_id": ID}
    assert [{"context": expected}, {"context": {"x": 2}}] == json.loads(headers[CONTEXT])


@pytest.mark.parametrize("context", ["[]", "[1]", '[{"context":[1]}]', "{", '[{"context":{"postbus_message_id":"1"}}]'])
def test_a_context_without_an_id_of_ours_says_nothing(context: str) -> None:
    """It is sent on as it came."""
    came = read({CONTEXT: context})

    assert not came.has(stamps.MessageId)
    assert context == serializer.encode(came).headers[CONTEXT]


# Errors.


def test_the_details_of_an_error_survive_between_two_of_us_only() -> None:
    """When Symfony has written the message anew, what its stamp can say is left."""
    error = stamps.ErrorDetails("builtins.ValueError", "boom", AT, "shop.send", "Traceback")
    headers = serializer.encode(Envelope(Hello("x", 1), (error, stamps.Retried(1, AT)))).headers

    assert [error] == read(headers).all(stamps.ErrorDetails)
    assert [msgspec.structs.replace(error, handler=None, traceback=None)] == read(without_ours(headers)).all(
        stamps.ErrorDetails
    )


def test_errors_of_both_sides_are_told_apart() -> None:
    """A header of ours that is older than Symfony's stamps, as RabbitMQ can bring it back, adds what it knows."""
    ours = [stamps.ErrorDetails("builtins.ValueError", "boom", AT + timedelta(hours=n), "send", "T") for n in (0, 1)]
    headers = serializer.encode(Envelope(Hello("x", 1), (*ours, stamps.Retried(2, AT)))).headers
    errors = json.loads(headers[PREFIX + "ErrorDetailsStamp"])
    theirs = {"exceptionClass": "LogicException", "exceptionCode": "HY000", "exceptionMessage": "no"}
    headers[PREFIX + "ErrorDetailsStamp"] = json.dumps([errors[0], theirs, errors[1]])

    first, second, third = read(headers).all(stamps.ErrorDetails)
    assert ours == [first, third]
    assert ("LogicException", "no") == (second.type, second.message)


@pytest.mark.parametrize("date", ["24.11.2026", None, 5, {"timezone": "UTC"}])
def test_an_unknown_format_of_dates_costs_only_the_date(date: object) -> None:
    """The application may have chosen another one; the count is what matters."""
    header = {PREFIX + "RedeliveryStamp": json.dumps([{"retryCount": 2, "redeliveredAt": date}])}

    assert stamps.Retried(2, UNKNOWN) == read(header).last(stamps.Retried)


def test_an_application_may_write_snake_case() -> None:
    """One that renames all its properties for JSON does so with those of stamps, and reads both."""
    headers = {
        PREFIX + "RedeliveryStamp": '[{"retry_count":2,"redelivered_at":"2026-11-24T12:00:00+00:00"}]',
        PREFIX + "SentToFailureTransportStamp": '[{"original_receiver_name":"async"}]',
        PREFIX + "HandledStamp": '[{"result":null,"handler_name":"a"}]',
        PREFIX + "ErrorDetailsStamp": '[{"exception_class":"E","exception_code":0,"exception_message":"no"}]',
    }
    envelope = read(headers)

    at = datetime(2026, 11, 24, 12, tzinfo=UTC)
    assert [stamps.Retried(2, at)] == envelope.all(stamps.Retried)
    assert [stamps.Buried("async")] == envelope.all(stamps.Buried)
    assert [stamps.Handled("a")] == envelope.all(stamps.Handled)
    assert [stamps.ErrorDetails("E", "no", at)] == envelope.all(stamps.ErrorDetails)


def test_such_an_application_is_written_to_in_snake_case() -> None:
    """It would refuse the stamps otherwise, and with them the message."""
    snake = make_serializer(snake_case_stamps=True)
    some = (stamps.Retried(1, AT), stamps.Buried("orders"), stamps.ErrorDetails("E", "no", AT), stamps.MessageId(ID))
    headers = snake.encode(Envelope(Hello("x", 1), some)).headers

    assert '[{"retry_count":1,"redelivered_at":"2026-11-24T12:00:00.123456Z"}]' == headers[PREFIX + "RedeliveryStamp"]
    assert '[{"original_receiver_name":"orders"}]' == headers[PREFIX + "SentToFailureTransportStamp"]
    assert {"exception_class", "exception_code", "exception_message", "flatten_exception"} == set(
        json.loads(headers[PREFIX + "ErrorDetailsStamp"])[0]
    )
    assert sorted(map(repr, some)) == sorted(map(repr, travelling(read(headers))))


def test_a_message_is_answered_as_it_is_spelt() -> None:
    """One that came in snake case goes back so, even if the serializer was not told to."""
    came = read({PREFIX + "BusNameStamp": '[{"bus_name":"messenger.bus.default"}]'})
    headers = serializer.encode(came.with_(stamps.Retried(1, AT))).headers

    assert headers[PREFIX + "RedeliveryStamp"].startswith('[{"retry_count":1,')


# From one of us to another.


texts = st.text(st.characters(codec="utf-8"))
moments = st.datetimes(timezones=st.just(UTC) | st.just(timezone(timedelta(hours=-5, minutes=30))))
any_stamps = st.lists(
    st.one_of(
        st.builds(stamps.BusName, texts),
        st.builds(stamps.Correlation, texts),
        st.builds(stamps.Causation, texts),
        st.builds(stamps.Handled, texts),
        st.builds(stamps.Retried, st.integers(0, 100), moments),
        st.builds(stamps.ErrorDetails, texts, texts, moments, st.none() | texts, st.none() | texts),
        st.builds(stamps.Delay, st.integers(0, 10**9).map(lambda number: number / 1000)),
        st.builds(Tenant, texts),
        st.builds(Brand, texts),
    )
)
any_serializer = st.sampled_from(
    [
        serializer,
        camel,
        make_serializer(buses={"": "default", "a": "b"}),
        make_serializer(snake_case_stamps=True),
    ]
)
any_id = st.lists(st.builds(stamps.MessageId, texts | st.uuids().map(str)), max_size=1)


@given(any_stamps, any_id, any_serializer)
def test_between_two_of_us_nothing_is_lost(
    some: Sequence[Stamp], id: Sequence[Stamp], serializer: SymfonySerializer
) -> None:
    """Every stamp that travels arrives, the user's own too; and so again, when the message is sent on."""
    envelope = Envelope(Hello("x", 1), (*some, *id))
    encoded = serializer.encode(envelope)
    again = serializer.encode(serializer.decode(*encoded))

    assert travelling(envelope) == travelling(serializer.decode(*encoded))
    assert encoded == again


def test_a_failure_transport_may_use_another_serializer() -> None:
    """What came from Symfony and is kept in our own format comes back with all that was said of it."""
    types = TypeRegistry()
    types.register(Hello, "App\\Message\\Hello")
    json_serializer = JsonSerializer(types)
    came = read({PREFIX + "ValidationStamp": '[{"groups":["a"]}]', "X-Postbus-Stamp-from-later": "[{}]"})
    kept = json_serializer.encode(came.with_(stamps.Correlation(ID), stamps.Buried("shared")))

    assert '[{"id":"' + ID + '"}]' == kept.headers["X-Message-Stamp-correlation"]
    assert "[{}]" == kept.headers["X-Message-Stamp-from-later"]

    back = serializer.encode(json_serializer.decode(*kept))
    assert '[{"groups":["a"]}]' == back.headers[PREFIX + "ValidationStamp"]
    assert "[{}]" == back.headers["X-Postbus-Stamp-from-later"]
    assert '[{"originalReceiverName":"shared"}]' == back.headers[PREFIX + "SentToFailureTransportStamp"]
