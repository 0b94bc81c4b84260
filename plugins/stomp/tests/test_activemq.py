"""What is particular to ActiveMQ and to STOMP."""

from __future__ import annotations

import logging
import time
from uuid import uuid4

import pytest

from plugins.stomp.tests.conftest import Connect
from plugins.stomp.tests.foreign import Stranger
from postbus.dsn import Dsn
from postbus.errors import ConnectionLost, MessageRefused, TransportError
from postbus.stamps import Key
from postbus.transport import Outgoing
from postbus_stomp import stamps
from postbus_stomp.options import Settings
from tests.brokers.broker import Broker

pytestmark = pytest.mark.slow

PATIENCE = 10
MESSAGE = Outgoing(b"message", {})

ODD_HEADERS = {
    "destination": "/queue/elsewhere",
    "receipt": "13",
    "transaction": "none",
    "content-length": "3",
    "persistent": "false",
    "transformation": "jms-xml",
    "JMSXGroupID": "group",
    "AMQ_SCHEDULED_DELAY": "100000",
    "with:colon": "x",
    "line\nbreak": "x",
    "": "no name",
    "nul": "a\0b",
    "half": "\udfff",
    "long": "x" * 20_000,
    "colons": ":" * 20_000,
    "X-Postbus-Headers-0": "{}",
    "type": "shop.OrderPlaced",
}
"""What ActiveMQ would take for its own, would cut off, or would close the connection over."""


def test_any_header_arrives(connect: Connect) -> None:
    """Whatever ActiveMQ does with such a header: each comes as it was, and means nothing."""
    connection = connect()
    connection.publish([Outgoing(b"odd", ODD_HEADERS)])

    [delivery] = connection.fetch(1, PATIENCE)

    assert ODD_HEADERS == delivery.headers
    assert b"odd" == delivery.body


def test_there_may_be_thousands_of_headers(connect: Connect) -> None:
    """ActiveMQ closes the connection over a thousand."""
    headers = {f"header-{number}": "x" * 100 for number in range(3000)}
    connection = connect()
    connection.publish([Outgoing(b"many", headers)])

    [delivery] = connection.fetch(1, PATIENCE)

    assert headers == delivery.headers


def test_what_comes_again_and_again_is_no_dead_letter(connect: Connect) -> None:
    """ActiveMQ takes a NACK, and nothing else here, for a reason to give a message up."""
    connection = connect()
    connection.publish([MESSAGE])

    for _ in range(30):
        [delivery] = connection.fetch(1, PATIENCE)
        connection.release([delivery.tag])

    [delivery] = connection.fetch(1, PATIENCE)
    [received] = delivery.stamps
    assert isinstance(received, stamps.StompReceived)
    assert received.redelivered


def test_what_is_given_back_keeps_its_place(connect: Connect) -> None:
    """It comes before what is behind it, in its order, and to others."""
    connection = connect()
    connection.publish([Outgoing(b"%d" % number, {}) for number in range(6)])
    deliveries = connection.fetch(3, PATIENCE)
    while len(deliveries) < 3:
        deliveries = [*deliveries, *connection.fetch(3 - len(deliveries), PATIENCE)]

    connection.release([delivery.tag for delivery in deliveries])

    other = connect()
    came: list[bytes] = []
    while len(came) < 6:
        came += [delivery.body for delivery in other.fetch(6 - len(came), PATIENCE)]
    assert [b"%d" % number for number in range(6)] == came


def test_what_is_rejected_is_a_dead_letter(connect: Connect, activemq: Broker) -> None:
    """ActiveMQ keeps it, where it keeps those that it gave up itself."""
    connection = connect()
    body = uuid4().bytes
    connection.publish([Outgoing(body, {})])
    connection.reject([delivery.tag for delivery in connection.fetch(1, PATIENCE)])

    dead = connect(f"{activemq.dsn}/ActiveMQ.DLQ")
    while (delivery := dead.fetch(1, PATIENCE)[0]).body != body:
        dead.ack([delivery.tag])


def test_a_message_says_what_jms_calls_its_headers(connect: Connect) -> None:
    """They travel on to its copies; the time at which it expires does not."""
    connection = connect()
    stamp = stamps.StompMessage(priority=7, expiration=60, correlation_id="a:b", reply_to="/queue/answers")
    connection.publish([Outgoing(b"first", {}, stamps=(stamp,))])

    [delivery] = connection.fetch(1, PATIENCE)
    connection.replace(delivery.tag, Outgoing(b"copy", {}, stamps=delivery.stamps))

    [copy] = connection.fetch(1, PATIENCE)
    [received, again] = copy.stamps
    assert isinstance(received, stamps.StompReceived)
    assert (7, "a:b", "/queue/answers") == (received.priority, received.correlation_id, received.reply_to)
    assert stamps.StompMessage(priority=7, correlation_id="a:b", reply_to="/queue/answers") == again


def test_what_expires_is_not_delivered(connect: Connect) -> None:
    """ActiveMQ takes it out of the queue."""
    connection = connect()
    connection.publish([Outgoing(b"late", {}, stamps=(stamps.StompMessage(expiration=0.05),))])
    time.sleep(0.2)
    connection.publish([MESSAGE])

    assert [b"message"] == [delivery.body for delivery in connection.fetch(1, PATIENCE)]


def test_a_group_of_another_program_is_in_one_hand(connect: Connect, queue: str) -> None:
    """ActiveMQ does not tell it, and keeps to it all the same."""
    with Stranger(queue) as stranger:
        for body in (b"a", b"b"):
            stranger.put(body, {"JMSXGroupID": "group"})
        stranger.put(b"c")
    connection = connect()

    first = connection.fetch(3, PATIENCE)
    while len(first) < 2:
        first = [*first, *connection.fetch(3 - len(first), PATIENCE)]

    assert [b"a", b"c"] == [delivery.body for delivery in first]
    assert [] == [delivery.body for delivery in connect().fetch(1, 0.2)]


def test_a_group_of_ours_is_one_of_jms(connect: Connect) -> None:
    """A key has a name there that it keeps in its copies."""
    connection = connect()
    connection.publish([Outgoing(b"message", {}, stamps=(Key("größe"),))])

    [delivery] = connection.fetch(1, PATIENCE)

    assert delivery.group is not None
    assert delivery.group.startswith("sha256:")


def test_what_is_too_large_for_the_broker_is_refused(connect: Connect) -> None:
    """ActiveMQ would close the connection; so it is not asked, and its neighbours are stored."""
    connection = connect(max_frame_size=10_000)

    with pytest.raises(MessageRefused) as caught:
        connection.publish([MESSAGE, Outgoing(b"x" * 10_000, {}), MESSAGE])

    assert [1] == list(caught.value.refused)
    assert 2 == len([*connection.fetch(2, PATIENCE), *connection.fetch(1, 0.2)])


def test_a_copy_that_is_too_large_leaves_the_original(connect: Connect) -> None:
    """It can be given back, and settled."""
    connection = connect(max_frame_size=10_000)
    connection.publish([MESSAGE])
    [delivery] = connection.fetch(1, PATIENCE)

    with pytest.raises(MessageRefused):
        connection.replace(delivery.tag, Outgoing(b"x" * 10_000, {}))

    assert [] == connection.ack([delivery.tag])


@pytest.mark.once
def test_a_broker_that_cannot_wait_says_so(connect: Connect, activemq_without_scheduler: Broker) -> None:
    """ActiveMQ as it comes delivers a delayed message at once; so it is refused, and the others are stored."""
    connection = connect(f"{activemq_without_scheduler.dsn}/test-{uuid4()}")

    with pytest.raises(MessageRefused, match="Set schedulerSupport in its activemq.xml") as caught:
        connection.publish([MESSAGE, Outgoing(b"later", {}, delay=60)])

    assert [1] == list(caught.value.refused)
    assert [b"message"] == [delivery.body for delivery in connection.fetch(10, PATIENCE)]
    assert [] == connection.fetch(10, 0.2)


def test_a_wrong_password_is_no_lost_connection(connect: Connect, queue: str, caplog: pytest.LogCaptureFixture) -> None:
    """A new connection would not help; and neither of the two passwords is shown."""
    caplog.set_level(logging.DEBUG)
    secret = Settings(Dsn.parse(queue)).options.password or ""

    connect().publish([MESSAGE])
    with pytest.raises(TransportError, match="lets nobody in like this") as caught:
        connect(password="wr0ng:one").publish([MESSAGE])

    assert not isinstance(caught.value, ConnectionLost)
    assert "wr0ng" not in str(caught.value)
    assert "wr0ng" not in caplog.text
    assert secret not in caplog.text


def test_what_comes_from_elsewhere_is_not_tls(connect: Connect, queue: str) -> None:
    """Who speaks TLS to a port without it is told that nobody answers, in time."""
    connection = connect(queue.replace("stomp:", "stomps:"), connect_timeout=2)

    with pytest.raises(ConnectionLost):
        connection.publish([MESSAGE])


@pytest.mark.once
@pytest.mark.parametrize("way", ["activemq", "activemq_tls"])
def test_a_silent_broker_is_found_out(way: str, request: pytest.FixtureRequest, connect: Connect) -> None:
    """Over TLS as without: who waits hears of it, and who sends more than any buffer holds does not wait for ever."""
    broker = request.getfixturevalue(way)
    with broker.partition() as network:
        options = {"heartbeat": 0.5, "confirm_timeout": 1.0, "connect_timeout": 2.0, "verify": False}
        connection = connect(f"{network.dsn}/test-{uuid4()}", **options)
        connection.publish([MESSAGE])
        assert 1 == len(connection.fetch(1, PATIENCE))
        network.black_hole()

        with pytest.raises(ConnectionLost):
            connection.publish([Outgoing(b"x" * 30_000_000, {})])
        with pytest.raises(ConnectionLost):
            connection.fetch(1, PATIENCE)
        connection.close()
