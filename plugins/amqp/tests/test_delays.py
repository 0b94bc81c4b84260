"""Delays are never early, need few queues, and lose nothing when one of those goes away."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from postbus import stamps as core
from postbus.errors import MessageRefused, TransportError
from postbus.transport import Outgoing
from postbus_amqp import stamps
from postbus_amqp.delays import LENGTHS, LONGEST_DELAY, rounded_up

DAY = 86_400.0


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

    def test_a_queue_outlives_the_last_message_in_it(self, connect, rabbitmq, name):
        """It expires when it was not declared for an hour longer than a message may wait in it; it is durable."""
        connect().publish([Outgoing(b"1", {}, 100.0)])

        [queue] = waiting_queues(rabbitmq, name)
        assert queue["durable"]
        assert (100_000, 3_700_000) == (queue["arguments"]["x-message-ttl"], queue["arguments"]["x-expires"])

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
        connection.publish([Outgoing(b"tomorrow", {}, DAY)])
        rabbitmq.manage("DELETE", f"exchanges/%2f/{name}-delays")

        with pytest.raises(TransportError):
            connection.publish([Outgoing(b"again", {}, DAY)])

        connect(delay={"exchange_name": f"{name}-delays"}).publish([Outgoing(b"again", {}, DAY)])

    def test_the_names_and_arguments_can_be_chosen(self, connect, rabbitmq, name, take):
        """As in Symfony: the exchange, the beginning of the queues' names, and further arguments."""
        delay = {
            "exchange_name": f"{name}-delays",
            "queue_name_pattern": f"delay_{name}-%exchange_name%-%delay%-%routing_key%",
            "arguments": {"x-queue-type": "classic"},
        }
        connection = connect(delay=delay)

        connection.publish([Outgoing(b"tomorrow", {}, DAY, (stamps.AmqpRouting("key"),))])

        [queue] = waiting_queues(rabbitmq, name)
        assert queue["name"].startswith(f"delay_{name}-{name}-87000000-key_delay_")
        assert "classic" == queue["type"]
        assert "x-dead-letter-strategy" not in queue["arguments"]
        [binding] = rabbitmq.manage("GET", f"exchanges/%2f/{name}-delays/bindings/source")
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
        retried = core.Retried(1, datetime(2026, 1, 1, tzinfo=UTC))
        connection = connect(queues={f"{name}-a": {}, f"{name}-b": {}})
        connection.publish([Outgoing(b"body", {})])
        for queue in (f"{name}-a", f"{name}-b"):
            [delivery] = take(connection, 1, queue)
            connection.publish([Outgoing(b"body", {}, DAY, (retried, *delivery.stamps))])

        queues = waiting_queues(rabbitmq, name)
        assert {f"{name}-a", f"{name}-b"} == {queue["arguments"]["x-dead-letter-routing-key"] for queue in queues}
        assert {""} == {queue["arguments"]["x-dead-letter-exchange"] for queue in queues}
