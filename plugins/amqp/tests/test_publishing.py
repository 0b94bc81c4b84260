"""What was published is stored, or the error says what is."""

from __future__ import annotations

import contextlib
import math
import socket
import socketserver
import threading
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from urllib.parse import urlsplit

import pytest

from postbus.errors import ConnectionLost, MessageRefused, TransportError
from postbus.transport import Outgoing
from postbus_amqp import stamps

pytestmark = pytest.mark.slow


def numbered(count):
    return [Outgoing(b"%d" % number, {}) for number in range(count)]


def test_an_unroutable_message_is_an_error(connect, take, name):
    """It names exchange and key; the others of the batch, before and behind it, are stored and known to be."""
    connection = connect(exchange={"type": "direct"})
    lost = Outgoing(b"lost", {}, stamps=(stamps.AmqpRouting("nowhere"),))

    with pytest.raises(TransportError, match=f"Exchange '{name}' has no queue for the routing key 'nowhere'") as caught:
        connection.publish([*numbered(2), lost, *numbered(1), lost])

    assert {0, 1, 3} == set(caught.value.stored)
    assert [b"0", b"1", b"0"] == [delivery.body for delivery in take(connection, 3)]


def test_of_messages_alike_only_those_without_a_queue_are_in_doubt(connect, name):
    """The same body with another key, or with other headers, is another message."""
    connection = connect(exchange={"type": "headers"}, queues={name: {"binding_arguments": {"to": "me"}}})
    mine, theirs = ({"to": to} for to in ("me", "you"))

    with pytest.raises(TransportError) as caught:
        connection.publish([Outgoing(b"body", mine), Outgoing(b"body", theirs), Outgoing(b"body", mine)])

    assert {0, 2} == set(caught.value.stored)


@pytest.mark.parametrize(
    "headers",
    [
        {"at": datetime(2026, 11, 30, 12, 0, 0, 5, tzinfo=UTC)},
        {"text": "ä" * 100_000},
        {"list": (1, 2)},
        {"ratio": 0.25},
        {"decimal": Decimal("1.50")},
        {"BCC": ["nobody"]},
    ],
)
def test_what_is_returned_is_not_stored(connect, take, headers):
    """Whatever becomes of its headers on the way: it is known by a number of its own, which nobody gets to see."""
    connection = connect(exchange={"type": "direct"})
    lost, taken = (Outgoing(b"body", {}, stamps=(stamps.AmqpRouting(key, headers=headers),)) for key in ("nowhere", ""))

    with pytest.raises(TransportError, match="no queue for the routing key 'nowhere'") as caught:
        connection.publish([taken, lost, taken])

    assert {0, 2} == {*caught.value.stored}
    for delivery in take(connection, 2):
        assert {*headers} - {"BCC"} == {*delivery.headers, *delivery.stamps[0].headers}


@pytest.fixture
def forgetful(rabbitmq):
    """Give the DSN of a way to the broker on which messages that come back have lost what they are known by."""
    address = urlsplit(rabbitmq.dsn)

    def pass_on(source, target, replaced):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data.replace(replaced, replaced[::-1]))
            target.shutdown(socket.SHUT_WR)

    class Way(socketserver.BaseRequestHandler):
        def handle(self):
            with socket.create_connection((address.hostname, address.port)) as broker:
                back = threading.Thread(target=pass_on, args=(broker, self.request, b"x-postbus-number"))
                back.start()
                pass_on(self.request, broker, b"nothing of this")
                back.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Way) as server:
        threading.Thread(target=server.serve_forever).start()
        yield rabbitmq.dsn.replace(f":{address.port}", f":{server.server_address[1]}")
        server.shutdown()


def test_a_return_that_nobody_knows_puts_all_in_doubt(forgetful, connect):
    """Then nothing that was under way is said to be stored; what is sent next is."""
    connection = connect(forgetful, exchange={"type": "direct"})

    with pytest.raises(ConnectionLost, match="nobody can tell which") as caught:
        connection.publish([*numbered(2), routed(routing_key="nowhere")])

    assert 2 not in caught.value.stored
    connection.publish(numbered(1))


def test_a_full_queue_refuses(connect, name):
    """A queue with a limit says no; what it took before is known to be stored."""
    connection = connect(queues={name: {"arguments": {"x-max-length": 2, "x-overflow": "reject-publish"}}})

    def fill():
        for message in numbered(10):  # A queue may take a few more than it should.
            connection.publish([message])

    with pytest.raises(TransportError, match="refused a message .* Look whether it is full") as caught:
        fill()

    assert not isinstance(caught.value, ConnectionLost)
    assert {} == caught.value.stored


def test_an_exchange_that_was_deleted_is_declared_again(make_transport, take, rabbitmq, name):
    """The connection is given up, and the transport sends on a new one, which sets up what is missing."""
    transport = make_transport()
    transport._publish([Outgoing(b"before", {})])
    rabbitmq.manage("DELETE", f"exchanges/%2f/{name}")

    transport._publish([Outgoing(b"after", {})])

    assert [b"before", b"after"] == [delivery.body for delivery in take(transport.connection, 2)]


def test_without_auto_setup_a_missing_exchange_is_an_error(connect, name):
    """It says what to run; the connection can be used afterwards."""
    connection = connect(auto_setup=False)

    for _ in range(2):
        with pytest.raises(TransportError, match=f"no exchange '{name}' in vhost '/'. Run `postbus setup`") as caught:
            connection.publish(numbered(1))
        assert not isinstance(caught.value, ConnectionLost)

    connection.setup()
    connection.publish(numbered(1))


def test_a_queue_that_was_deleted_is_declared_again(connect, take, rabbitmq, name):
    """Who published before, and finds that nobody gets the message, sets up once more."""
    connection = connect(exchange={"flags": 2})
    connection.publish(numbered(1))
    rabbitmq.delete_queue(name)

    connection.publish(numbered(2))

    assert [b"0", b"1"] == [delivery.body for delivery in take(connection, 2)]
    rabbitmq.manage("DELETE", f"exchanges/%2f/{name}")


def test_no_messages_are_no_error(connect):
    """There is nothing to wait for."""
    assert [] == connect().publish([])


def routed(**properties):
    return Outgoing(b"", {}, stamps=(stamps.AmqpRouting(**properties),))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Outgoing(b"", {"n" * 300: ""}), "the name of header 'n*… has 300 bytes, and may have 255"),
        (Outgoing(b"", {"surrogate": "\ud800"}), "header 'surrogate' holds half a character"),
        (routed(routing_key="k" * 256), "its routing key has 256 bytes, and may have 255"),
        (routed(correlation_id="c" * 256), "its correlation_id has 256 bytes, and may have 255"),
        (routed(correlation_id=5), "its correlation_id is no text"),
        (routed(priority=256), "its priority is out of range"),
        (routed(headers={5: "five"}), "the name of header 5 is no text"),
        (routed(headers={"secret": {1, 2}}), "header 'secret' holds a set, for which AMQP has no form"),
        (routed(headers={"secret": date(2026, 11, 30)}), "header 'secret' holds a date, for which AMQP has no form"),
        (routed(headers={"secret": [{"a": object()}]}), "header 'secret' holds a object, for which AMQP has no form"),
        (routed(headers={"secret": 2**63}), "header 'secret' holds a int that is out of range"),
        (routed(headers={"secret": Decimal("1e-300")}), "header 'secret' holds a Decimal that is out of range"),
        (
            routed(headers={"secret": datetime(1, 1, 1, tzinfo=UTC)}),
            "header 'secret' holds a datetime that is out of range",
        ),
        (routed(headers={"secret": math.nan}), "header 'secret' holds a number that is not finite"),
        (routed(headers={"secret": math.inf}), "header 'secret' holds a number that is not finite"),
        (Outgoing(b"b" * 2**24, {"text": "h" * 200_000}), "its body has 16977... bytes, and may have 16777216"),
        (routed(headers={"secret": b"s" * 200_000}), "its headers that are no texts have 2000.. bytes"),
    ],
)
def test_what_amqp_has_no_form_for_is_refused_alone(connect, take, message, reason):
    """It is said what is wrong, and nothing of the value; its neighbours are stored, and the connection goes on."""
    connection = connect()

    with pytest.raises(MessageRefused, match=f"^A message cannot be written as AMQP: {reason}") as caught:
        connection.publish([*numbered(1), message, *numbered(1)])

    assert ({1}, {0, 2}) == ({*caught.value.refused}, {*caught.value.stored})
    assert [b"0", b"0"] == [delivery.body for delivery in take(connection, 2)]


def test_a_list_that_holds_itself_is_refused(connect):
    """It has no end, and so has no form."""
    circle: list[object] = []
    circle.append(circle)

    with pytest.raises(MessageRefused, match="header 'circle' holds more than 100 tables or lists in each other"):
        connect().publish([routed(headers={"circle": circle})])


@pytest.mark.parametrize("expiration", [-1.0, math.nan, math.inf, 1e10])
def test_an_expiration_that_cannot_be_is_refused(connect, expiration):
    """Before the broker closes the channel for it."""
    with pytest.raises(MessageRefused, match="can have an expiration from 0 to 315360000 s"):
        connect().publish([routed(expiration=expiration)])


@pytest.mark.parametrize("wrong", [{"expiration": "5"}, {"timestamp": 5}, {"headers": [1]}])
def test_a_value_of_the_wrong_type_is_refused(connect, wrong):
    """A mistake of the sender's is a sentence, and not an error of Python's."""
    with pytest.raises(MessageRefused, match="stamps.AmqpRouting: a value has the wrong type"):
        connect().publish([routed(**wrong)])


def test_what_the_broker_refuses_is_refused_alone(connect, take):
    """It closes the channel for one message; all others of a large batch are stored, once or more often."""
    connection = connect()
    wrong = {17: {"user_id": "somebody"}, 250: {"headers": {"CC": "no list"}}, 251: {"user_id": "nobody"}}
    messages = [routed(**wrong[n]) if n in wrong else one for n, one in enumerate(numbered(400))]

    with pytest.raises(MessageRefused) as caught:
        connection.publish(messages)

    assert {*wrong} == {*caught.value.refused}
    assert {*range(400)} - {*wrong} == {*caught.value.stored}
    assert "user_id property set to 'somebody'" in caught.value.refused[17]
    assert "CC" in caught.value.refused[250]
    bodies = {delivery.body for delivery in take(connection, connection.count().waiting)}
    assert {one.body for n, one in enumerate(messages) if n not in wrong} == bodies


def test_what_the_broker_refuses_costs_other_threads_nothing(connect, in_background):
    """Their messages, which were under way on the same channel, are stored, and none of them hears of it."""
    connection = connect()
    is_over = threading.Event()

    def be_refused():
        while not is_over.is_set():
            with pytest.raises(MessageRefused, match="user_id property set to 'somebody'"):
                connection.publish([routed(user_id="somebody")])

    def send(number):
        for _ in range(20):
            connection.publish([Outgoing(b"%d" % number, {})])

    culprit = in_background(be_refused)
    for sending in [in_background(partial(send, number)) for number in range(8)]:
        sending.result(60)
    is_over.set()
    culprit.result(60)
    assert 8 * 20 <= connection.count().waiting


def test_headers_of_any_length_arrive(connect, take):
    """AMQP's frames hold 128 KiB; the headers of a buried message, with its tracebacks, may be longer."""
    headers = {"type": "note", "X-Message-Stamp-error": "ä" * 500_000}
    connection = connect()

    connection.publish([Outgoing(b"body", headers, stamps=(stamps.AmqpRouting(content_encoding="gzip"),))])

    [delivery] = take(connection)
    assert (b"body", headers) == (delivery.body, delivery.headers)
    assert "gzip" == delivery.stamps[0].content_encoding


def test_a_body_that_only_looks_as_if_it_held_headers_arrives(connect, take):
    """Whoever else uses that content encoding gets his body back as it was."""
    connection = connect()

    for body in (b"", b"body", b"\x00\x00\x00\x02[]"):
        connection.publish([Outgoing(body, {}, stamps=(stamps.AmqpRouting(content_encoding="x-postbus-headers"),))])
        [delivery] = take(connection)
        assert body == delivery.body


def test_a_body_may_have_several_frames(connect, take):
    """With the smallest frames that there can be."""
    body = bytes(range(256)) * 100
    connection = connect(frame_max=4096)

    connection.publish([Outgoing(body, {})])

    assert [body] == [delivery.body for delivery in take(connection)]


class TestAlarm:
    """What happens while the broker is short of memory."""

    @pytest.fixture
    def alarm(self, own_rabbitmq):
        own_rabbitmq.set_memory_alarm(True)
        return own_rabbitmq

    def test_publishing_raises_instead_of_hanging(self, alarm, connect, take):
        """It says why; when the alarm is over the same connection goes on, and what was held back is not sent."""
        connection = connect(alarm.dsn, blocked_timeout=0.5, auto_setup=False)
        connect(alarm.dsn).setup()

        for _ in range(2):
            with pytest.raises(TransportError, match="takes no messages for now: low on memory") as caught:
                connection.publish([Outgoing(b"meanwhile", {})])
            assert {} == caught.value.stored
            assert not isinstance(caught.value, ConnectionLost)

        alarm.set_memory_alarm(False)
        connection.publish([Outgoing(b"after", {})])
        # What had been sent before the broker said that it is blocked was in doubt, and is stored now.
        bodies = [delivery.body for delivery in take(connection, 2)]
        assert [b"meanwhile", b"after"] == bodies

    def test_consuming_goes_on(self, alarm, connect, take, in_background):
        """Acknowledgements get through while publishing is blocked, or the memory would never be freed."""
        alarm.set_memory_alarm(False)
        connection = connect(alarm.dsn, blocked_timeout=30)
        connection.publish(numbered(100))
        alarm.set_memory_alarm(True)
        publishing = in_background(lambda: connection.publish(numbered(1)))

        take(connection, 100)
        other = connect(alarm.dsn)
        assert [] == other.fetch(10, 0.2)
        assert not publishing.done()

        alarm.set_memory_alarm(False)
        publishing.result(10)
