"""Delays are never early, need few queues, and lose nothing in them."""

from __future__ import annotations

import contextlib
import random
from contextlib import closing
from datetime import UTC, datetime
from urllib.error import HTTPError

import pika
import pytest

from postbus import stamps as core
from postbus.errors import ConnectionLost, MessageRefused, TransportError
from postbus.transport import Outgoing
from postbus_amqp import stamps
from postbus_amqp.delays import LENGTHS, LONGEST_DELAY, rounded_up

DAY = 86_400.0

RETRIED = core.Retried(1, datetime(2026, 1, 1, tzinfo=UTC))


def to(key, delay=DAY, body=b"body"):
    """Return a delayed message with a routing key."""
    return Outgoing(body, {}, delay, (stamps.AmqpRouting(key),))


def retry_of(delivery, delay):
    """Return the copy that is tried again after a while."""
    return Outgoing(delivery.body, delivery.headers, delay, (RETRIED, *delivery.stamps))


def waiting_queues(rabbitmq, name):
    """Return the queues in which messages of a test's exchange wait, as the broker knows them."""
    return [queue for queue in rabbitmq.manage("GET", "queues/%2f") if queue["name"].startswith(f"delay_{name}")]


@pytest.mark.parametrize(
    ("seconds", "milliseconds"),
    [
        (0.001, 1),
        (0.0004, 1),
        (0.099, 99),
        (0.1, 100),
        (0.1001, 110),
        (1.0, 1000),
        (1.001, 1100),
        (59.3, 60_000),
        (9.95, 10_000),
    ],
)
def test_a_delay_is_rounded_up_to_two_digits(seconds, milliseconds):
    """It gets longer by a tenth at most, and never shorter."""
    assert milliseconds == rounded_up(seconds)


def test_jitter_makes_few_queues():
    """A thousand retries after about a second need no more than a dozen different lengths."""
    assert len({rounded_up(random.uniform(0.9, 1.1)) for _ in range(1000)}) <= 12


def test_all_lengths_are_known():
    """Purging finds every queue in which a message can wait."""
    lengths = set(LENGTHS)

    assert {rounded_up(LONGEST_DELAY), rounded_up(0.001)} <= lengths
    assert all(rounded_up(10 ** random.uniform(-3, 6.5)) in lengths for _ in range(1000))


@pytest.mark.slow
class TestQueues:
    def test_alike_delays_wait_in_one_queue(self, connect, rabbitmq, name):
        """Two connections that delay by almost the same time use the same queue."""
        connect().publish([Outgoing(b"1", {}, DAY)])
        connect().publish([Outgoing(b"2", {}, DAY + 60)])

        assert 1 == len(waiting_queues(rabbitmq, name))

    @pytest.mark.parametrize("kind", ["quorum", "classic"])
    def test_a_queue_never_ends_by_itself(self, connect, take, rabbitmq, name, kind):
        """Whatever lies in it, be it delayed or to be retried, gets out, though the DSN wants such queues to expire.

        Neither who publishes nor who declares renews the life of a quorum queue.
        """
        connection = connect(delay={"arguments": {"x-expires": 1500, "x-queue-type": kind}})
        for _ in range(3):  # The first of these makes the queues; the last is still in them 1.5 s after that.
            connection.publish([Outgoing(b"body", {}, 0.6)])
            [delivery] = take(connection)
            connection.publish([retry_of(delivery, 0.6)])
            take(connection)

        queues = waiting_queues(rabbitmq, name)
        assert [True, True] == [queue["durable"] for queue in queues]
        assert not any("x-expires" in queue["arguments"] for queue in queues)

    def test_many_routing_keys_wait_in_one_queue(self, connect, rabbitmq, name, take):
        """There is a queue for each length of time, through which each message keeps its key, and its place."""
        connection = connect(exchange={"type": "topic"}, queues={name: {"binding_keys": ["tenant.#"]}})
        keys = [f"tenant.{number}" for number in range(150)]

        for delay in (0.3, 60.0, 3600.0, DAY):
            connection.publish([to(key, delay, key.encode()) for key in keys])

        deliveries = take(connection, len(keys))
        assert keys == [delivery.body.decode() for delivery in deliveries]
        assert [(name, key) for key in keys] == [
            (delivery.stamps[0].exchange, delivery.stamps[0].routing_key) for delivery in deliveries
        ]
        assert 4 == len(waiting_queues(rabbitmq, name))

    @pytest.mark.parametrize(
        ("kind", "queue", "good"),
        [
            ("direct", {"binding_keys": ["a", "b"]}, {"routing_key": "b"}),
            ("topic", {"binding_keys": ["a.*"]}, {"routing_key": "a.b"}),
            ("headers", {"binding_arguments": {"x-match": "all", "format": "pdf"}}, {"headers": {"format": "pdf"}}),
        ],
    )
    def test_a_delayed_message_that_nobody_would_get_is_refused(self, connect, take, name, kind, queue, good):
        """As without a delay, and at once; what is published along with it is stored."""
        connection = connect(exchange={"type": kind}, queues={name: queue})
        bad = Outgoing(b"bad", {}, 0.2, (stamps.AmqpRouting("nowhere"),))

        with pytest.raises(TransportError, match=f"exchange '{name}' by the routing key 'nowhere'") as caught:
            connection.publish([bad, Outgoing(b"good", {}, 0.2, (stamps.AmqpRouting(**good),)), bad])

        assert not isinstance(caught.value, ConnectionLost)
        assert {1: None} == caught.value.stored
        assert [b"good"] == [delivery.body for delivery in take(connection)]

    def test_a_delayed_message_to_a_queue_that_is_not_there_is_refused(self, connect, take, name):
        """The default exchange goes by the names of queues, and of these the broker knows each."""
        connection = connect(exchange={"name": ""}, queues={name: {}})

        with pytest.raises(MessageRefused, match="no queue 'nowhere'") as caught:
            connection.publish([to("nowhere", 0.2), to(name, 0.2)])

        assert ([0], {1: None}) == ([*caught.value.refused], caught.value.stored)
        take(connection)

    @pytest.mark.parametrize("theirs", [{"queues": {}}, {"auto_setup": False}])
    def test_keys_that_somebody_else_has_bound_are_taken_on_trust(self, connect, take, name, theirs):
        """Who has no queues, or does not declare them, cannot know what is bound."""
        exchange = {"type": "topic", "flags": 2}
        worker = connect(exchange=exchange, queues={name: {"binding_keys": ["order.*"]}})
        worker.setup()

        connect(exchange=exchange, **theirs).publish([to("order.placed", 0.1)])

        take(worker)

    def test_who_may_not_declare_delay_queues_is_refused_the_delay_alone(self, connect, take, rabbitmq, name):
        """It is about the delayed messages: all others are stored, and the connection goes on."""
        connect().setup()
        rabbitmq.manage("PUT", f"users/{name}", {"password": "limited", "tags": ""})
        rabbitmq.manage(
            "PUT", f"permissions/%2f/{name}", {"configure": "^(delays|test-.*)$", "write": ".*", "read": ".*"}
        )
        connection = connect(rabbitmq.dsn.replace("guest:guest", f"{name}:limited"))

        with pytest.raises(MessageRefused, match="cannot be delayed: ACCESS_REFUSED .*auto_setup") as caught:
            connection.publish([Outgoing(b"0", {}), Outgoing(b"1", {}, DAY), Outgoing(b"2", {})])

        assert ([1], {0: None, 2: None}) == ([*caught.value.refused], caught.value.stored)
        assert [b"0", b"2"] == [delivery.body for delivery in take(connection, 2)]
        connection.close()
        rabbitmq.manage("DELETE", f"users/{name}")

    def test_a_queue_of_an_earlier_version_is_drained(self, connect, take, rabbitmq, name):
        """What waits in a queue that goes to one routing key, or to one queue for a retry, still comes."""
        connection = connect(exchange={"type": "direct"}, queues={name: {"binding_keys": ["key"]}})
        connection.setup()
        targets = {f"delay_{name}_key_300_delay_x": (name, "key"), f"delay_{name}_{name}_300_retry_x": ("", name)}
        with closing(pika.BlockingConnection(pika.URLParameters(rabbitmq.dsn))) as former:
            channel = former.channel()
            channel.confirm_delivery()
            for queue, (exchange, key) in targets.items():
                arguments = {
                    "x-queue-type": "quorum",
                    "x-message-ttl": 300,
                    "x-expires": 60_000,
                    "x-dead-letter-exchange": exchange,
                    "x-dead-letter-routing-key": key,
                    "x-dead-letter-strategy": "at-least-once",
                    "x-overflow": "reject-publish",
                }
                channel.queue_declare(queue, durable=True, arguments=arguments)
                channel.queue_bind(queue, "delays", queue)
                channel.basic_publish("delays", queue, b"body", mandatory=True)

        connection.publish([to("key", 0.3)])

        received = [delivery.stamps[0] for delivery in take(connection, 3)]
        assert {(name, "key"), ("", name)} == {(one.exchange, one.routing_key) for one in received}

    def test_purging_finds_whatever_waits(self, connect, take, rabbitmq, name):
        """For whichever key it was sent, through whichever transport on the exchange, or to be retried."""
        exchange = {"type": "topic"}
        connection = connect(exchange=exchange, queues={name: {"binding_keys": ["a.*"]}})
        connection.publish([to("a.1", 0)])
        [delivery] = take(connection)
        connection.publish([to("a.1"), to("a.2", 60.0), retry_of(delivery, 5.0)])
        connect(exchange=exchange, queues={}).publish([to("a.3")])

        assert 4 == connect(exchange=exchange, queues={name: {"binding_keys": ["a.*"]}}).purge()

        assert [] == waiting_queues(rabbitmq, name)
        connection.publish([to("a.1", 0.1), retry_of(delivery, 0.1)])
        take(connection, 2)

    @pytest.mark.parametrize("kind", ["classic", "quorum"])
    def test_messages_wait_in_a_quorum_queue(self, connect, rabbitmq, name, take, kind):
        """Only such a queue keeps a message until the next one, of whatever kind, has confirmed it."""
        connection = connect(queues={name: {"arguments": {"x-queue-type": kind}}})
        connection.publish([Outgoing(b"later", {}, DAY), Outgoing(b"soon", {}, 0.1)])

        assert [b"soon"] == [delivery.body for delivery in take(connection)]
        queues = waiting_queues(rabbitmq, name)
        assert [("quorum", "at-least-once", "reject-publish")] * 2 == [
            (queue["type"], queue["arguments"]["x-dead-letter-strategy"], queue["arguments"]["x-overflow"])
            for queue in queues
        ]

    def test_a_queue_that_was_deleted_is_declared_again(self, connect, rabbitmq, name, take):
        """The broker returns a message that finds its queue gone, and it is published once more."""
        connection = connect()
        connection.publish([Outgoing(b"lost with its queue", {}, DAY)])
        rabbitmq.delete_queue(waiting_queues(rabbitmq, name)[0]["name"])

        connection.publish([Outgoing(b"tomorrow", {}, DAY), Outgoing(b"now", {})])

        assert [b"now"] == [delivery.body for delivery in take(connection)]
        assert 1 == len(waiting_queues(rabbitmq, name))

    def test_a_delay_exchange_that_was_deleted_is_declared_again(self, connect, rabbitmq, name, take):
        """A connection that knew it gets to know that it is gone; the transport then opens a new one."""
        connection = connect(delay={"exchange_name": f"{name}-delays"})
        connection.publish([Outgoing(b"now", {})])
        [delivery] = take(connection)
        for message in (Outgoing(b"tomorrow", {}, DAY), retry_of(delivery, DAY)):
            connection = connect(delay={"exchange_name": f"{name}-delays"})
            connection.publish([message])
            [queue, *_] = waiting_queues(rabbitmq, name)
            for exchange in (queue["name"], f"{name}-delays"):
                with contextlib.suppress(HTTPError):
                    rabbitmq.manage("DELETE", f"exchanges/%2f/{exchange}")

            with pytest.raises(ConnectionLost):
                connection.publish([message])

            connect(delay={"exchange_name": f"{name}-delays"}).publish([message])

    def test_the_names_and_arguments_can_be_chosen(self, connect, rabbitmq, name, take):
        """As in Symfony: the exchange, the beginning of the queues' names, and further arguments."""
        delay = {
            "exchange_name": f"{name}-delays",
            "queue_name_pattern": f"delay_{name}-%exchange_name%-%delay%-%routing_key%",
            "arguments": {"x-queue-type": "classic"},
        }
        connection = connect(delay=delay)
        connection.publish([Outgoing(b"now", {})])
        [delivery] = take(connection)

        connection.publish([to("key"), retry_of(delivery, DAY)])

        queues = sorted(waiting_queues(rabbitmq, name), key=lambda queue: queue["name"])
        assert queues[0]["name"].startswith(f"delay_{name}-{name}-87000000-_delay_")
        assert queues[1]["name"].startswith(f"delay_{name}-{name}-87000000-{name}_retry_")
        assert ["classic"] * 2 == [queue["type"] for queue in queues]
        assert not any("x-dead-letter-strategy" in queue["arguments"] for queue in queues)
        sources = [queues[0]["name"], f"{name}-delays"]
        for queue, source in zip(queues, sources, strict=True):
            [binding] = rabbitmq.manage("GET", f"exchanges/%2f/{source}/bindings/source")
            assert queue["name"] == binding["destination"]

    def test_other_arguments_make_another_queue(self, connect, rabbitmq, name):
        """Who changes the arguments is not refused because of the queues that are there."""
        connect().publish([Outgoing(b"1", {}, DAY)])
        connect(delay={"arguments": {"x-queue-type": "classic"}}).publish([Outgoing(b"2", {}, DAY)])

        assert 2 == len(waiting_queues(rabbitmq, name))

    def test_a_long_routing_key_fits_into_a_name(self, connect, rabbitmq, name, take):
        """AMQP's names have 255 bytes, which a routing key alone may have too."""
        connection = connect()

        connection.publish([Outgoing(b"body", {}, 0.1, (stamps.AmqpRouting("ä" * 127),))])

        [delivery] = take(connection)
        assert "ä" * 127 == delivery.stamps[0].routing_key

    def test_a_delayed_message_keeps_its_routing_key_and_properties(self, connect, take, name):
        """It comes as it would have come without the delay."""
        connection = connect(exchange={"type": "topic"}, queues={name: {"binding_keys": ["a.*"]}})

        connection.publish(
            [Outgoing(b"body", {"text": "x"}, 0.1, (stamps.AmqpRouting("a.b", priority=2, app_id="me"),))]
        )

        [delivery] = take(connection)
        received = delivery.stamps[0]
        assert (name, "a.b", 2, "me") == (received.exchange, received.routing_key, received.priority, received.app_id)
        assert {"text": "x"} == delivery.headers

    def test_without_a_delay_exchange_the_default_one_is_used(self, connect, take):
        """An empty name needs no exchange at all, and no permission to declare one."""
        connection = connect(delay={"exchange_name": ""})

        connection.publish([Outgoing(b"body", {}, 0.1)])

        take(connection)

    def test_a_message_cannot_expire_while_it_is_delayed(self, connect):
        """A broker would deliver it when it expires, and so too early; that is refused before it is sent."""
        connection = connect()

        with pytest.raises(MessageRefused, match="cannot have a delay and an expiration") as caught:
            connection.publish([Outgoing(b"1", {}), Outgoing(b"2", {}, 5.0, (stamps.AmqpRouting(expiration=1.0),))])

        assert ({0}, {1}) == ({*caught.value.stored}, {*caught.value.refused})
        assert 1 == connection.count().waiting

    def test_retries_of_several_queues_wait_apart(self, connect, take, rabbitmq, name):
        """The broker must know for each queue of waiting messages where these go back to."""
        connection = connect(queues={f"{name}-a": {}, f"{name}-b": {}})
        connection.publish([Outgoing(b"body", {})])
        for queue in (f"{name}-a", f"{name}-b"):
            [delivery] = take(connection, 1, queue)
            connection.publish([retry_of(delivery, DAY)])

        queues = waiting_queues(rabbitmq, name)
        assert {f"{name}-a", f"{name}-b"} == {queue["arguments"]["x-dead-letter-routing-key"] for queue in queues}
        assert {""} == {queue["arguments"]["x-dead-letter-exchange"] for queue in queues}
