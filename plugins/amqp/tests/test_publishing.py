"""What was published is stored, or the error says what is."""

from __future__ import annotations

import pytest

from postbus.errors import ConnectionLost, TransportError
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


@pytest.mark.parametrize(
    "message",
    [
        Outgoing(b"", {"n" * 256: "too long a name"}),
        Outgoing(b"", {}, stamps=(stamps.AmqpRouting("k" * 256),)),
        Outgoing(b"", {}, stamps=(stamps.AmqpRouting(priority=256),)),
        Outgoing(b"", {}, stamps=(stamps.AmqpRouting(headers={"object": object()}),)),
        Outgoing(b"", {}, stamps=(stamps.AmqpRouting(headers={"number": 2**64}),)),
        Outgoing(b"", {"surrogate": "\ud800"}),
    ],
)
def test_what_amqp_has_no_form_for_is_refused(connect, take, message):
    """It is an error of this message; those before it in the batch may be stored, and the connection goes on."""
    connection = connect()

    with pytest.raises(TransportError, match="A message cannot be written as AMQP"):
        connection.publish([message])

    connection.publish(numbered(1))
    take(connection)


def test_what_was_sent_before_an_error_is_known_to_be_stored(connect, take):
    """A batch goes out in parts; one that cannot be written stops only itself and what follows."""
    connection = connect()

    with pytest.raises(TransportError) as caught:
        connection.publish([*numbered(150), Outgoing(b"", {"n" * 256: ""})])

    assert set(range(100)) == set(caught.value.stored)
    assert 100 == connection.count().waiting


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
