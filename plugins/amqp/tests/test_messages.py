"""What others have written is read, or said to be unreadable, and costs no other message anything."""

from __future__ import annotations

import math
import struct
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from plugins.amqp.tests.foreign import nested, publish, short, sized, written
from postbus import Limits, Postbus
from postbus import stamps as core
from postbus.errors import Unrecoverable
from postbus.serialization import Undecodable
from postbus.transport import Outgoing
from postbus_amqp import stamps

pytestmark = pytest.mark.slow

MILLISECONDS = 1_764_504_000_000
AT = datetime(2025, 11, 30, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Parcel:
    number: int


@pytest.fixture
def foreign(connect, rabbitmq, name):
    """Return what publishes a message as somebody else does, and what gets it."""
    connection = connect()
    connection.setup()

    def pass_on(take, properties, body=b"body", **options):
        publish(rabbitmq.dsn, name, (properties, body), **options)
        [delivery] = take(connection)
        return delivery

    return pass_on


def test_a_timestamp_in_milliseconds_is_read(foreign, take):
    """Some producers write it so, and pika raises for such a header in the thread that owns the connection."""
    at = struct.pack(">Q", MILLISECONDS)

    delivery = foreign(take, written({b"at": b"T" + at}, timestamp=at))

    assert (None, b"body") == (delivery.problem, delivery.body)
    assert (AT, {"at": AT}) == (delivery.stamps[0].timestamp, delivery.stamps[0].headers)


def test_a_timestamp_that_is_no_time_is_a_number(foreign, take):
    """The largest that there is, beyond all calendars."""
    delivery = foreign(take, written({b"at": b"T" + b"\xff" * 8}, timestamp=b"\xff" * 8))

    assert (None, None, {"at": 2**64 - 1}) == (
        delivery.problem,
        delivery.stamps[0].timestamp,
        delivery.stamps[0].headers,
    )


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        (b"t\1", True),
        (b"t\0", False),
        (b"b\xff", -1),
        (b"B\xff", 255),
        (b"s\xff\xfe", -2),
        (b"u\xff\xfe", 65534),
        (b"I\xff\xff\xff\xfd", -3),
        (b"i\xff\xff\xff\xfd", 4_294_967_293),
        (b"l" + b"\xff" * 8, -1),
        (b"f" + struct.pack(">f", 0.25), 0.25),
        (b"d" + struct.pack(">d", 0.1), 0.1),
        (b"D\2\0\0\0\x96", Decimal("1.50")),
        (b"T" + struct.pack(">Q", MILLISECONDS // 1000), AT),
        (b"V", None),
        (sized(b"x", b"\xff"), b"\xff"),
        (sized(b"S", b"\xff"), b"\xff"),
        (sized(b"A", b"V" + sized(b"S", b"a")), [None, "a"]),
        (sized(b"F", short(b"a") + sized(b"A", b"t\1")), {"a": [True]}),
        (sized(b"A", b""), []),
        (nested(100), None),
    ],
)
def test_each_type_of_amqp_is_read(foreign, take, encoded, value):
    """With its own value, type and sign; a text that is no UTF-8 is bytes."""
    delivery = foreign(take, written({b"h": encoded, b"text": sized(b"S", "ä".encode())}))

    assert (None, {"text": "ä"}) == (delivery.problem, delivery.headers)
    [(name, read)] = delivery.stamps[0].headers.items()
    if encoded != nested(100):
        assert ("h", value, type(value)) == (name, read, type(read))


@pytest.mark.parametrize(
    ("properties", "problem"),
    [
        ({"headers": {b"\xff": b"V"}}, "the name of its header b'\\xff' is no UTF-8"),
        ({"headers": {b"h": sized(b"F", short(b"\xff") + b"V")}}, "its header 'h' holds a name that is no UTF-8"),
        ({"headers": {b"h": nested(2000)}}, "its header 'h' is nested too deep"),
        ({"correlation_id": short(b"\xff")}, "its correlation_id is no UTF-8"),
        ({"content_encoding": short(b"\xff")}, "its content_encoding is no UTF-8"),
    ],
)
def test_what_cannot_be_read_is_a_problem_of_one_message(foreign, take, properties, problem):
    """It comes with its body and all that can be read; what it came with is kept, to be looked at or sent back."""
    as_they_came = written(**properties, priority=b"\5")

    delivery = foreign(take, as_they_came)

    assert (problem, b"body", 5) == (delivery.problem, delivery.body, delivery.stamps[0].priority)
    assert as_they_came == delivery.stamps[1].encoded
    assert foreign(take, written()).problem is None


def test_a_content_type_that_is_no_utf_8_is_a_problem(foreign, take):
    """It is a header here, of which there is none then."""
    delivery = foreign(take, written(content_type=short(b"\xff")))

    assert ("its content_type is no UTF-8", {}) == (delivery.problem, delivery.headers)


def test_a_routing_key_that_is_no_utf_8_is_shown(foreign, take, name):
    """The message can be read nevertheless."""
    delivery = foreign(take, written(), exchange=name, key=b"key \xff")

    assert (None, "key \\xff") == (delivery.problem, delivery.stamps[0].routing_key)


@pytest.mark.parametrize("kind", ["classic", "quorum"])
@pytest.mark.parametrize("forged", [b"I\0\0\0\x19", sized(b"S", b"25"), b"d" + struct.pack(">d", 25.0), b"t\1"])
def test_a_count_that_the_publisher_has_set_does_not_count(connect, take, rabbitmq, name, kind, forged):
    """Not at the first delivery, nor when the message was given back."""
    connection = connect(queues={name: {"arguments": {"x-queue-type": kind}}})
    connection.setup()
    publish(rabbitmq.dsn, name, (written({b"x-delivery-count": forged}), b"body"))

    [first] = connection.fetch(1, 10)
    connection.release([first.tag])
    [second] = connection.fetch(1, 10)

    assert (1, 2 if kind == "quorum" else None) == (first.count, second.count)
    connection.ack([second.tag])


def test_numbers_are_sent_and_received_as_such(connect, take):
    """Floats too, of which pika can send none, and reads those of others as whole numbers."""
    headers = {
        "half": 0.5,
        "large": 1e300,
        "zero": -0.0,
        "int": 2**63 - 1,
        "small": -(2**63),
        "tuple": (1, (2.5, None)),
        "decimal": Decimal("-1.50"),
        "whole": Decimal("2E+3"),
        "bytes": b"\0\xff",
        "at": AT,
        "table": {"list": [True, {"": b""}]},
    }
    connection = connect()
    connection.publish([Outgoing(b"body", {}, stamps=(stamps.AmqpRouting(headers=headers),))])

    [delivery] = take(connection)

    expected = headers | {"tuple": [1, [2.5, None]], "whole": Decimal(2000)}
    assert expected == delivery.stamps[0].headers
    assert math.copysign(1, delivery.stamps[0].headers["zero"]) == -1
    assert type(delivery.stamps[0].headers["whole"]) is Decimal


@pytest.fixture
def app(rabbitmq, name, tmp_path):
    """Give an app on RabbitMQ whose failure transport is on SQLite."""
    queue = {name: {"arguments": {"x-expires": 600_000}}}
    app = Postbus(
        transports={
            "parcels": {"dsn": f"{rabbitmq.dsn}/{name}", "options": {"exchange": {"flags": 18}, "queues": queue}},
            "failed": f"sqlite:///{tmp_path / 'failed.db'}",
        },
        routing={Parcel: "parcels"},
        failure_transport="failed",
    )
    with closing(app):
        yield app


def send_back(app):
    """Send what is buried back to where it came from, and return it as it is received there."""
    failed, parcels = app.transport("failed"), app.transport("parcels")
    [buried] = failed.receive(1, 10)
    parcels.send([buried.without(core.Received, core.Buried, core.ErrorDetails)])
    failed.ack([buried])
    [back] = parcels.receive(1, 10)
    parcels.ack([back])
    return back


def test_properties_and_headers_survive_another_broker(app):
    """Buried on SQLite and sent back they are there again, with their types; what was about the journey is not."""
    headers = {
        "tenant": 5,
        "tags": ["a", {"b": None}],
        "ratio": 0.25,
        "at": AT,
        "raw": b"\xff",
        "price": Decimal("1.50"),
        "is": True,
        "large": 2**62,
    }
    properties = {
        "priority": 3,
        "correlation_id": "c",
        "reply_to": "r",
        "content_encoding": "utf-8",
        "message_id": "m",
        "type": "t",
        "app_id": "a",
    }

    @app.handler
    def fail(parcel: Parcel) -> None:
        raise Unrecoverable("lost in the post")

    on_its_way = {"headers": headers | {"x-death": ["before"]}, "expiration": 600.0, "user_id": "guest"}
    app.dispatch(Parcel(1), stamps.AmqpRouting(**properties, **on_its_way))
    app.worker("parcels", limits=Limits(failures=1)).run()
    back = send_back(app)

    received = back.last(stamps.AmqpReceived)
    assert Parcel(1) == back.message
    assert headers == received.headers
    assert [type(value) for value in headers.values()] == [type(received.headers[name]) for name in headers]
    assert properties == {name: getattr(received, name) for name in properties}
    assert (None, None) == (received.expiration, received.user_id)
    assert 1 == len(back.all(stamps.AmqpProperties))


def test_what_cannot_be_read_is_buried_as_it_came(app, rabbitmq, name):
    """With the bytes of its body and of its properties; the good one behind it is handled."""
    handled = []

    @app.handler
    def handle(parcel: Parcel) -> None:
        handled.append(parcel)

    app.transport("parcels").connection.setup()
    properties = written({b"\xff": b"V", b"tenant": b"I\0\0\0\5", b"text": sized(b"S", b"a")})
    publish(rabbitmq.dsn, name, (properties, b"\xff\0"))
    app.dispatch(Parcel(1))
    app.worker("parcels", limits=Limits(messages=2)).run()

    assert [Parcel(1)] == handled
    [buried] = app.transport("failed").receive(1, 10)
    assert isinstance(buried.message, Undecodable)
    assert (b"\xff\0", "a") == (buried.message.body, buried.message.headers["text"])
    kept = written({b"\xff": b"V", b"tenant": b"I\0\0\0\5"})
    assert kept == buried.last(stamps.AmqpProperties).encoded
