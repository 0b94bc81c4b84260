"""What the broker pushes, how much of it, and to whom; and what becomes of it."""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from contextlib import closing, contextmanager

import pika
import pytest

from postbus.errors import ConnectionLost, TransportError
from postbus.transport import Outgoing
from tests.brokers.server import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.once]

PATIENCE = 10.0

LEFT_BEHIND = {"x-expires": 600_000}

# Of a queue that is consumed like this, nothing is given back because a test took its time.
KEPT = {"x-single-active-consumer": True}


def numbered(count):
    return [Outgoing(b"%d" % number, {}) for number in range(count)]


def consumers_of(rabbitmq, queue):
    """Return the consumers of a queue, as RabbitMQ's management page shows them."""
    return [one for one in rabbitmq.manage("GET", "consumers/%2f") if one["queue"]["name"] == queue]


def consumer_tags(rabbitmq, queue):
    return {one["consumer_tag"] for one in consumers_of(rabbitmq, queue)}


def wait_for_prefetch(rabbitmq, queue, *expected):
    wait_until(
        lambda: [*expected] == [one["prefetch_count"] for one in consumers_of(rabbitmq, queue)],
        f"The prefetch is not {expected}.",
    )


def wait_for_connection(rabbitmq, name):
    wait_until(
        lambda: name in [one.get("user_provided_name") for one in rabbitmq.connections()], f"No connection is {name}."
    )


def fetched_and_acked(connection, number, *limits):
    """Yield so many deliveries, fetched with these limits in turn."""
    end = time.monotonic() + 3 * PATIENCE
    turns = itertools.cycle(limits)
    while number > 0 and time.monotonic() < end:
        deliveries = connection.fetch(min(next(turns), number), 1.0)
        connection.ack([delivery.tag for delivery in deliveries])
        yield from deliveries
        number -= len(deliveries)


def receive_one(transport):
    """Return what comes, however often the connection is lost before."""
    end = time.monotonic() + 2 * PATIENCE
    received = []
    while not received and time.monotonic() < end:
        received = transport.receive(1, 1.0)
    return received


@pytest.fixture
def while_fetching(in_background):
    """Return what looks at the broker while a fetch waits, which is then ended by a message."""

    @contextmanager
    def wait(connection, limit):
        fetching = in_background(lambda: connection.fetch(limit, 3 * PATIENCE))
        yield
        connection.publish(numbered(1))
        connection.ack([delivery.tag for delivery in fetching.result(PATIENCE)])

    return wait


def test_the_management_page_shows_who_consumes(connect, rabbitmq, name, while_fetching):
    """The consumer, and the connection, have names with the transport, the machine and the process."""
    me = f"test {socket.gethostname()}:{os.getpid()}"

    with while_fetching(connect(), 1):
        wait_until(lambda: consumers_of(rabbitmq, name), "Nobody consumes.")
        [consumer] = consumers_of(rabbitmq, name)
        assert consumer["consumer_tag"].startswith(f"{me} #")
        wait_for_connection(rabbitmq, f"{me} (consume)")


def test_the_name_of_the_connection_can_be_chosen(connect, rabbitmq, name, while_fetching):
    """As in Symfony."""
    with while_fetching(connect(connection_name=name), 1):
        wait_for_connection(rabbitmq, f"{name} (consume)")


@pytest.mark.parametrize(("limit", "prefetch"), [(1, 1), (10, 32), (1000, 1024)])
def test_the_prefetch_goes_by_what_is_asked_for(connect, rabbitmq, name, while_fetching, limit, prefetch):
    """One message at a time is sent to who asks for one, and about two helpings ahead to who asks for many."""
    with while_fetching(connect(), limit):
        wait_for_prefetch(rabbitmq, name, prefetch)


def test_the_prefetch_grows_and_shrinks_with_what_is_asked_for(connect, rabbitmq, name, while_fetching):
    """There is another consumer then, and only one of them at a time."""
    connection = connect()

    for limit, prefetch in [(1, 1), (100, 256), (1, 1)]:
        connection.publish(numbered(300))
        for _ in fetched_and_acked(connection, 300, limit):
            pass
        with while_fetching(connection, limit):
            wait_for_prefetch(rabbitmq, name, prefetch)


def test_the_prefetch_can_be_fixed(connect, rabbitmq, name, while_fetching):
    """Then it is what the option says, whatever is asked for."""
    connection = connect(prefetch_count=7)

    for limit in (1, 100):
        with while_fetching(connection, limit):
            wait_for_prefetch(rabbitmq, name, 7)


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_order_and_redelivery_survive_a_growing_prefetch(connect, name, kind):
    """What was on its way when the consumer was replaced is neither given back nor lost nor out of order."""
    connection = connect(queues={name: {"arguments": {"x-queue-type": kind}}})
    connection.publish(numbered(1000))

    deliveries = list(fetched_and_acked(connection, 1000, 1, 2, 4, 8, 16, 64, 1, 32))

    assert [b"%d" % number for number in range(1000)] == [delivery.body for delivery in deliveries]
    assert not any(delivery.stamps[0].redelivered for delivery in deliveries)


BRIEF = {"x-expires": 500}


@pytest.fixture(
    params=[{"flags": 18}, {"arguments": BRIEF}, {"arguments": {"x-queue-type": "quorum", **BRIEF}}],
    ids=["auto-delete", "expiring", "expiring-quorum"],
)
def fleeting(request, connect, name):
    """Give a connection on a queue that is deleted, with all that is in it, when it has no consumer; it has one."""
    connection = connect(queues={name: request.param}, exchange={"flags": 2})
    connection.fetch(1, 0.1)
    return connection


def test_a_queue_that_lives_by_its_consumer_is_never_without_one(fleeting):
    """The prefetch grows and shrinks all the same, and what comes is in order."""
    fleeting.publish(numbered(1500))

    deliveries = list(fetched_and_acked(fleeting, 1500, 1, 2, 4, 100, 1, 32, 1000))

    assert [b"%d" % number for number in range(1500)] == [delivery.body for delivery in deliveries]


def test_whoever_is_idle_goes_on_consuming_a_queue_that_lives_by_it(fleeting, connect, name):
    """Be it because a handler takes its time, or because its message was given back."""
    fleeting.publish(numbered(20))
    deliveries = []
    while len(deliveries) < 3:
        deliveries += fleeting.fetch(3, PATIENCE)

    threading.Event().wait(2)  # It is idle after half a second, and the queue lives for half a second.
    fleeting.release([deliveries[0].tag])
    threading.Event().wait(2)
    fleeting.ack([delivery.tag for delivery in deliveries[1:]])

    rest = [delivery.body for delivery in fetched_and_acked(fleeting, 20 - len(deliveries) + 1, 5)]
    assert sorted(message.body for message in numbered(20)) == sorted(
        [*rest, *(delivery.body for delivery in deliveries[1:])]
    )


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_whoever_is_idle_comes_back_before_a_queue_expires(connect, name, kind, monkeypatch):
    """From a queue that lives for long without a consumer, its messages are left to others meanwhile."""
    monkeypatch.setattr("postbus_amqp.options.SHORT_LIFE", 2.0)
    queues = {name: {"arguments": {"x-queue-type": kind, "x-expires": 4000}}}
    connection = connect(queues=queues, exchange={"flags": 2})
    connection.publish(numbered(1))
    [delivery] = connection.fetch(10, PATIENCE)
    connection.publish([Outgoing(b"1", {})])

    threading.Event().wait(7)  # The queue would be deleted about 4.5 s from here.

    connection.ack([delivery.tag])
    assert [b"1"] == [delivery.body for delivery in fetched_and_acked(connection, 1, 10)]


def test_a_silent_consumer_of_a_queue_that_lives_by_it_is_replaced_in_time(connect, rabbitmq, name, in_background):
    """The next consumer is there before the former one goes."""
    connection = connect(queues={name: {"flags": 18}}, exchange={"flags": 2}, heartbeat=1, prefetch_count=10)
    waiting = in_background(lambda: connection.fetch(10, 3 * PATIENCE))
    wait_until(lambda: consumer_tags(rabbitmq, name), "Nobody consumes.")
    first = consumer_tags(rabbitmq, name)

    wait_until(lambda: (others := consumer_tags(rabbitmq, name)) and first.isdisjoint(others), "It is not replaced.")

    connection.publish(numbered(1))
    assert [b"0"] == [delivery.body for delivery in waiting.result(PATIENCE)]


def test_an_auto_delete_queue_can_be_purged(connect, take, name):
    """It may go with that, and comes back."""
    connection = connect(queues={name: {"flags": 18}}, exchange={"flags": 2})
    connection.publish(numbered(5))
    assert connection.fetch(2, PATIENCE)

    assert 5 == connection.purge()

    connection.publish(numbered(1))
    take(connection)


def test_an_exclusive_queue_belongs_to_who_consumes(connect, take, name):
    """Whichever comes first, to publish or to fetch; another connection is told why it cannot."""
    connection = connect(queues={name: {"flags": 8}})
    connection.publish(numbered(1))
    take(connection)

    for other in (connect(queues={name: {"flags": 8}}), connect(queues={name: {"flags": 8}})):
        with pytest.raises(TransportError, match="RESOURCE_LOCKED.*It is exclusive: as long as") as caught:
            other.fetch(1, 1.0)
        assert not isinstance(caught.value, ConnectionLost)


def test_more_may_be_fetched_while_much_is_unsettled(connect):
    """Who handles many messages at once gets more of them, however many he has in hand."""
    connection = connect()
    connection.publish(numbered(100))

    deliveries = []
    while len(deliveries) < 100:
        fetched = connection.fetch(1, PATIENCE)
        assert fetched
        deliveries += fetched

    connection.ack([delivery.tag for delivery in deliveries])


def test_what_is_given_back_is_not_overtaken(connect):
    """Who fetches again at once gets it before what was behind it: no consumer begins until the broker has it all."""
    connection = connect()
    connection.publish(numbered(1000))

    deliveries = []
    while len(deliveries) < 1000:
        fetched = connection.fetch(min(1 + len(deliveries), 100), PATIENCE)
        assert fetched
        handled = fetched[: 1 + len(fetched) // 2]
        connection.ack([delivery.tag for delivery in handled])
        connection.release([delivery.tag for delivery in fetched[len(handled) :]])
        deliveries += handled

    assert [b"%d" % number for number in range(1000)] == [delivery.body for delivery in deliveries]


def test_what_is_given_back_together_comes_back_in_order(connect, name):
    """What was fetched is given back before what was sent ahead: a quorum queue keeps to the order of that."""
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 100, **KEPT}
    connection = connect(queues={name: {"arguments": arguments}})
    connection.publish(numbered(20))
    fetched = []
    while len(fetched) < 5:
        fetched += connection.fetch(5 - len(fetched), PATIENCE)

    connection.release([delivery.tag for delivery in fetched])

    again = fetched_and_acked(connection, 20, 20)
    assert [b"%d" % number for number in range(20)] == [delivery.body for delivery in again]


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_what_somebody_had_who_is_gone_comes_first_and_in_order(connect, name, kind):
    """Fetched by him or only sent ahead to him, it is put back in front."""
    queues = {name: {"arguments": {"x-queue-type": kind, **KEPT}}}
    gone, connection = connect(queues=queues), connect(queues=queues)
    connection.publish(numbered(200))
    assert gone.fetch(50, PATIENCE)
    gone.close()

    deliveries = fetched_and_acked(connection, 200, 200)

    assert [b"%d" % number for number in range(200)] == [delivery.body for delivery in deliveries]


def test_whoever_is_idle_leaves_the_messages_to_others(connect, take):
    """What was sent ahead to a connection that does not fetch any more soon goes to one that does."""
    idle, other = connect(), connect()
    idle.publish(numbered(10))
    in_hand = {delivery.body for delivery in idle.fetch(4, PATIENCE)}

    rest = {delivery.body for delivery in take(other, 10 - len(in_hand))}

    assert {message.body for message in numbered(10)} == in_hand | rest


def test_whoever_was_idle_consumes_again(connect, take, rabbitmq, name):
    """The next fetch begins anew."""
    connection = connect()
    connection.fetch(1, 0)
    wait_until(lambda: not consumers_of(rabbitmq, name), "It still consumes.")

    connection.publish(numbered(1))

    take(connection)


def test_whoever_has_a_long_message_in_hand_goes_on_consuming(connect, rabbitmq, name):
    """As long as nothing can be sent ahead to it, an idle consumer keeps nothing from others, and so its place."""
    connection = connect()
    connection.publish(numbered(2))
    [delivery] = connection.fetch(1, PATIENCE)

    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        wait_for_prefetch(rabbitmq, name, 1)

    connection.ack([delivery.tag])
    assert [b"1"] == [delivery.body for delivery in connection.fetch(1, PATIENCE)]


def test_a_single_active_consumer_keeps_its_turn(connect, rabbitmq, name):
    """Who waits behind it gets nothing while it lives, though it fetches no more: or the order would be lost."""
    queues = {name: {"arguments": {"x-single-active-consumer": True}}}
    active, waiting = connect(queues=queues), connect(queues=queues)
    active.publish(numbered(3))
    [first] = active.fetch(1, PATIENCE)

    assert [] == waiting.fetch(10, 1.5)
    active.ack([first.tag])
    assert [b"1", b"2"] == [delivery.body for delivery in active.fetch(10, PATIENCE)]

    active.close()
    deliveries = [*waiting.fetch(1, PATIENCE), *waiting.fetch(1, PATIENCE)]
    assert [b"1", b"2"] == [delivery.body for delivery in deliveries]


def test_settling_in_any_order_settles_each(connect):
    """Whether a message is settled with those before it or alone, what is not settled comes again, and nothing else."""
    connection = connect()
    connection.publish(numbered(9))
    deliveries = []
    while len(deliveries) < 9:
        deliveries += connection.fetch(9, PATIENCE)
    tags = {delivery.body: delivery.tag for delivery in deliveries}

    connection.ack([tags[b"3"], tags[b"1"]])
    connection.reject([tags[b"0"]])
    connection.ack([tags[b"2"], tags[b"4"], tags[b"7"]])
    connection.close()

    other = connect()
    again = []
    while len(again) < 3:
        again += other.fetch(9, PATIENCE)
    assert [b"5", b"6", b"8"] == [delivery.body for delivery in again]
    assert all(delivery.stamps[0].redelivered for delivery in again)


def test_what_is_rejected_is_dead_lettered(connect, take, name):
    """The broker sends it on if the queue says where to; the exchange of dead letters is the user's."""
    dead = connect(exchange={"name": f"{name}-dead"}, queues={f"{name}-dead": {}})
    dead.setup()
    connection = connect(queues={name: {"arguments": {"x-dead-letter-exchange": f"{name}-dead"}}})
    connection.publish(numbered(1))
    [delivery] = connection.fetch(1, PATIENCE)

    connection.reject([delivery.tag])

    [delivery] = take(dead)
    assert "rejected" == delivery.stamps[0].headers["x-death"][0]["reason"]


def test_a_classic_queue_tells_only_the_first_delivery(connect, name):
    """A message that is delivered again may have been delivered any number of times."""
    connection, other = connect(), connect()
    connection.publish(numbered(1))
    [first] = connection.fetch(1, PATIENCE)
    connection.release([first.tag])

    [again] = other.fetch(1, PATIENCE)

    assert (1, None) == (first.count, again.count)


def test_a_queue_that_is_deleted_under_a_consumer_is_a_lost_connection(make_transport, rabbitmq, name, in_background):
    """A fetch that waits hears of it at once; the transport opens a new connection, which declares the queue again."""
    transport = make_transport(exchange={"flags": 2})
    waiting = in_background(lambda: transport.connection.fetch(1, PATIENCE))
    wait_until(lambda: consumers_of(rabbitmq, name), "Nobody consumes.")

    rabbitmq.delete_queue(name)

    with pytest.raises(ConnectionLost, match=f"Queue '{name}' was deleted"):
        waiting.result(PATIENCE)
    receiving = in_background(lambda: [transport.receive(1, 1.0), transport.receive(1, PATIENCE)])
    wait_until(lambda: consumers_of(rabbitmq, name), "Nobody consumes.")
    transport._publish(numbered(1))
    assert [0, 1] == [len(received) for received in receiving.result(PATIENCE)]
    rabbitmq.manage("DELETE", f"exchanges/%2f/{name}")


@pytest.mark.parametrize(
    "arguments", [{}, {"x-queue-type": "quorum"}, {"x-queue-type": "quorum", "x-single-active-consumer": True}]
)
def test_a_queue_that_is_deleted_and_declared_at_once_is_consumed(
    make_transport, rabbitmq, name, in_background, arguments
):
    """RabbitMQ tells no consumer of a quorum queue then, and takes for sent what it sends to nobody."""
    queues = {name: {"arguments": arguments}}
    transport = make_transport(queues=queues, exchange={"flags": 2}, heartbeat=1)
    receiving = in_background(lambda: receive_one(transport))
    wait_until(lambda: consumers_of(rabbitmq, name), "Nobody consumes.")

    with closing(pika.BlockingConnection(pika.URLParameters(rabbitmq.dsn))) as somebody:
        channel = somebody.channel()
        channel.queue_delete(name)
        channel.queue_declare(name, durable=True, arguments={**LEFT_BEHIND, **arguments})
        channel.basic_publish("", name, b"0")

    assert receiving.result(3 * PATIENCE)
    rabbitmq.manage("DELETE", f"exchanges/%2f/{name}")


def test_a_channel_is_closed_when_all_is_settled(connect, rabbitmq, name):
    """However often consumers come and go, only those that brought what is in hand keep theirs."""
    connection = connect(connection_name=name)
    connection.publish(numbered(10))
    [kept] = connection.fetch(1, PATIENCE)
    for _ in range(5):
        connection.release([delivery.tag for delivery in connection.fetch(1, PATIENCE)])

    def channels():
        mine = f"{name} (consume)"
        return sum(one.get("channels", 0) for one in rabbitmq.connections() if one.get("user_provided_name") == mine)

    wait_until(lambda: channels() == 1, "There are other channels than the one of the message in hand.")
    connection.ack([kept.tag])
    wait_until(lambda: channels() == 0, "A channel is left.")


@pytest.mark.parametrize("arguments", [{}, {"x-single-active-consumer": True}])
def test_a_silent_consumer_is_replaced_unless_that_is_felt(connect, rabbitmq, name, in_background, arguments):
    """Nothing that it has in hand, or waits for, is lost by that; a single active consumer keeps its turn meanwhile."""
    connection = connect(queues={name: {"arguments": arguments}}, heartbeat=1, prefetch_count=10)
    connection.publish(numbered(1))
    [delivery] = connection.fetch(1, PATIENCE)
    waiting = in_background(lambda: connection.fetch(10, 3 * PATIENCE))
    wait_until(lambda: consumer_tags(rabbitmq, name), "Nobody consumes.")
    first = consumer_tags(rabbitmq, name)

    if arguments:
        threading.Event().wait(2)
        assert first == consumer_tags(rabbitmq, name)
        connection.ack([delivery.tag])
    wait_until(lambda: (others := consumer_tags(rabbitmq, name)) and first.isdisjoint(others), "It is not replaced.")

    connection.publish([Outgoing(b"1", {})])
    [other] = waiting.result(PATIENCE)
    connection.ack([delivery.tag, other.tag])
    assert (b"1", False) == (other.body, other.stamps[0].redelivered)
    connection.close()
    assert [] == connect(queues={name: {"arguments": arguments}}).fetch(1, 0.5)


def test_without_auto_setup_a_missing_queue_is_an_error(connect, name):
    """It names the queue, and says what to do; it is not the connection's fault."""
    connection = connect(auto_setup=False)

    for _ in range(2):
        with pytest.raises(TransportError, match=f"no queue '{name}' in vhost '/'.*postbus setup") as caught:
            connection.fetch(1, PATIENCE)
        assert not isinstance(caught.value, ConnectionLost)

    connection.setup()
    connection.publish(numbered(1))
    assert 1 == len(connection.fetch(1, PATIENCE))


def test_a_queue_that_the_dsn_does_not_name_can_be_consumed(connect, take, name):
    """As long as somebody has declared it, with whatever arguments."""
    owner = connect()
    owner.publish(numbered(1))
    connection = connect(exchange={"name": f"{name}-other"}, queues={})

    assert [b"0"] == [delivery.body for delivery in take(connection, 1, name)]


def test_a_queue_that_is_not_asked_for_any_more_is_left_to_others(connect, take, name):
    """What was sent ahead from it, or is on its way, goes back."""
    queues = {f"{name}-a": {}, f"{name}-b": {}}
    connection, other = connect(queues=queues), connect(queues=queues)
    connection.publish(numbered(50))
    fetched = connection.fetch(20, PATIENCE)

    connection.fetch_from([f"{name}-b"], 1, PATIENCE)

    left = 50 - len([delivery for delivery in fetched if delivery.stamps[0].queue == f"{name}-a"])
    take(other, left, f"{name}-a")


def test_a_connection_without_queues_fetches_nothing(connect):
    """Who only publishes, and is asked for messages all the same, waits as long as he is told."""
    assert [] == connect(queues={}).fetch(1, 0.1)
