"""Where a message goes, what is said about it on the way, and what is known about it when it comes."""

from datetime import UTC, datetime

import pytest

from postbus import stamps as core
from postbus.errors import TransportError
from postbus.transport import Outgoing
from postbus_amqp import stamps

pytestmark = pytest.mark.slow

RETRIED = core.Retried(1, datetime(2026, 1, 1, tzinfo=UTC))


def to(key, body=b"body", **properties):
    """Return a message with a routing key."""
    return Outgoing(body, {}, stamps=(stamps.AmqpRouting(key, **properties),))


def bodies(deliveries):
    return [delivery.body for delivery in deliveries]


def test_a_fanout_exchange_gives_each_queue_a_copy(connect, take, name):
    """Two queues on the exchange both get a message, whatever its key."""
    connection = connect(queues={f"{name}-a": {}, f"{name}-b": {}})

    connection.publish([to("anything")])

    assert [b"body"] == bodies(take(connection, 1, f"{name}-a"))
    assert [b"body"] == bodies(take(connection, 1, f"{name}-b"))


def test_a_direct_exchange_goes_by_the_key(connect, take, name):
    """A message goes to the queues that are bound by its own key, one of which may have several."""
    queues = {f"{name}-a": {"binding_keys": ["a", "c"]}, f"{name}-b": {"binding_keys": ["b"]}}
    connection = connect(exchange={"type": "direct"}, queues=queues)

    connection.publish([to("a", b"1"), to("b", b"2"), to("c", b"3")])

    assert [b"1", b"3"] == bodies(take(connection, 2, f"{name}-a"))
    assert [b"2"] == bodies(take(connection, 1, f"{name}-b"))


def test_a_topic_exchange_goes_by_patterns(connect, take, name):
    """A binding key may have wildcards."""
    queues = {f"{name}-a": {"binding_keys": ["order.*"]}, f"{name}-b": {"binding_keys": ["#.paid"]}}
    connection = connect(exchange={"type": "topic"}, queues=queues)

    connection.publish([to("order.placed", b"1"), to("bill.paid", b"2")])

    assert [b"1"] == bodies(take(connection, 1, f"{name}-a"))
    assert [b"2"] == bodies(take(connection, 1, f"{name}-b"))


def test_a_headers_exchange_goes_by_headers(connect, take, name):
    """The arguments of a binding say which headers a message must have."""
    queues = {
        f"{name}-a": {"binding_arguments": {"x-match": "all", "format": "pdf", "pages": 2}},
        f"{name}-b": {"binding_arguments": {"x-match": "any", "format": "zip", "pages": 2}},
    }
    connection = connect(exchange={"type": "headers"}, queues=queues)

    connection.publish(
        [to(None, b"1", headers={"format": "pdf", "pages": 2}), to(None, b"2", headers={"format": "zip", "pages": 1})]
    )

    assert [b"1"] == bodies(take(connection, 1, f"{name}-a"))
    assert [b"1", b"2"] == bodies(take(connection, 2, f"{name}-b"))


def test_the_default_exchange_goes_by_the_name_of_the_queue(connect, take, name):
    """An exchange without a name is the broker's own, to which every queue is bound."""
    connection = connect(exchange={"name": ""}, queues={f"{name}-a": {}, f"{name}-b": {}})

    connection.publish([Outgoing(b"1", {}), to(f"{name}-b", b"2")])

    assert [b"1"] == bodies(take(connection, 1, f"{name}-a"))
    assert [b"2"] == bodies(take(connection, 1, f"{name}-b"))


def test_an_exchange_gets_messages_from_another_one(connect, take, name):
    """A binding from exchange to exchange passes on what has its key."""
    source = connect(exchange={"type": "topic", "name": f"{name}-source"}, queues={})
    source.setup()
    bindings = {f"{name}-source": {"binding_keys": ["a.*"]}}
    connection = connect(exchange={"bindings": bindings})
    connection.setup()

    source.publish([to("a.1")])

    assert [b"body"] == bodies(take(connection))
    with pytest.raises(TransportError):
        source.publish([to("b.1")])


def test_a_message_without_a_key_has_the_default_one(connect, take, name):
    """So an app that knows nothing of keys can send to a direct exchange."""
    exchange = {"type": "direct", "default_publish_routing_key": "a"}
    connection = connect(exchange=exchange, queues={name: {"binding_keys": ["a"]}})

    connection.publish([Outgoing(b"body", {})])

    [delivery] = take(connection)
    assert "a" == delivery.stamps[0].routing_key


def test_what_the_stamp_says_arrives(connect, take, name):
    """Each property of AMQP that was set is there on the other side, and no other."""
    at = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
    properties = {
        "priority": 3,
        "expiration": 60.5,
        "content_encoding": "gzip",
        "correlation_id": "c",
        "reply_to": "r",
        "message_id": "m",
        "timestamp": at,
        "type": "t",
        "user_id": "guest",
        "app_id": "a",
    }
    connection = connect()

    connection.publish([to("key", headers={"number": 7, "text": "x", "list": [1, "2"]}, **properties)])

    [delivery] = take(connection)
    received = delivery.stamps[0]
    assert stamps.AmqpReceived(name, "key", name, False, {"number": 7, "list": [1, "2"]}, **properties) == received
    assert {"text": "x"} == delivery.headers


def test_the_content_type_is_a_property(connect, take):
    """As in Symfony it is no header on the wire; here it is one again."""
    connection = connect()

    connection.publish([Outgoing(b"body", {"type": "note", "Content-Type": "application/json"})])

    [delivery] = take(connection)
    assert {"type": "note", "Content-Type": "application/json"} == delivery.headers


def test_a_retry_goes_back_to_its_own_queue_alone(connect, take, name):
    """The neighbour on the same exchange, which has handled its copy, gets nothing."""
    connection = connect(queues={f"{name}-a": {}, f"{name}-b": {}})
    connection.publish([to("key", priority=4, headers={"number": 7})])
    [delivery] = take(connection, 1, f"{name}-a")
    take(connection, 1, f"{name}-b")

    connection.publish([Outgoing(delivery.body, delivery.headers, stamps=(RETRIED, *delivery.stamps))])

    [again] = take(connection, 1, f"{name}-a")
    received = again.stamps[0]
    assert ("", f"{name}-a", 4, {"number": 7}) == (
        received.exchange,
        received.routing_key,
        received.priority,
        received.headers,
    )
    assert 0 == connection.count().waiting


def test_a_delayed_retry_goes_back_to_its_own_queue_alone(connect, take, name):
    """So it does by way of the queue in which it waits; the traces of that way are left behind by the next retry."""
    connection = connect(queues={f"{name}-a": {}, f"{name}-b": {}})
    connection.publish([to("key")])
    [delivery] = take(connection, 1, f"{name}-a")
    take(connection, 1, f"{name}-b")

    for _ in range(2):
        connection.publish([Outgoing(delivery.body, delivery.headers, 0.1, stamps=(RETRIED, *delivery.stamps))])
        [delivery] = take(connection, 1, f"{name}-a")
        assert 1 == len(delivery.stamps[0].headers["x-death"])

    assert 0 == connection.count().waiting


def test_what_is_buried_forgets_where_it_came_from(connect, take, name):
    """The failure transport on another exchange stores it there, under its own key and not that of the origin."""
    origin = connect(exchange={"type": "direct"}, queues={f"{name}-a": {"binding_keys": ["a"]}})
    failed = connect(
        exchange={"type": "direct", "name": f"{name}-failed", "default_publish_routing_key": "failed"},
        queues={f"{name}-failed": {"binding_keys": ["failed"]}},
    )
    origin.publish([to("a")])
    [delivery] = take(origin)

    failed.publish([Outgoing(delivery.body, delivery.headers, stamps=(core.Buried("origin"), *delivery.stamps))])

    [buried] = take(failed)
    assert (f"{name}-failed", "failed") == (buried.stamps[0].exchange, buried.stamps[0].routing_key)


def test_what_fails_again_in_the_failure_transport_stays_in_its_queue(connect, take, name):
    """A message that came from there, and is buried there again, is not spread over the exchange."""
    failed = connect(queues={f"{name}-a": {}, f"{name}-b": {}})
    failed.publish([to("key")])
    [delivery] = take(failed, 1, f"{name}-a")
    take(failed, 1, f"{name}-b")

    failed.publish([Outgoing(delivery.body, delivery.headers, stamps=(core.Buried("origin"), *delivery.stamps))])

    take(failed, 1, f"{name}-a")
    assert 0 == failed.count().waiting


def test_what_is_sent_on_keeps_its_key(connect, take, name):
    """A message that was received, and is sent once more as it is, goes to the exchange with the same routing key."""
    connection = connect(exchange={"type": "topic"}, queues={name: {"binding_keys": ["#"]}})
    connection.publish([to("some.key")])
    [delivery] = take(connection)

    connection.publish([Outgoing(delivery.body, delivery.headers, stamps=delivery.stamps)])

    [again] = take(connection)
    assert "some.key" == again.stamps[0].routing_key
