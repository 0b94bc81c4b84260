"""A connection that is lost is found and told, whichever way it was lost, and nothing is settled in its place."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import threading
import time

import pytest

from postbus.errors import ConnectionLost, TransportError
from postbus.transport import Outgoing
from tests.brokers.server import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.once]

PATIENCE = 10.0


def numbered(count):
    return [Outgoing(b"%d" % number, {}) for number in range(count)]


def take_all(connection, number):
    deliveries = []
    end = time.monotonic() + 3 * PATIENCE
    while len(deliveries) < number and (left := end - time.monotonic()) > 0:
        deliveries += connection.fetch(number, left)
    return deliveries


def closing_connections(broker, is_over):
    """Close what the management side tells of at each look: that is late, and of those of earlier tests at first."""

    def close():
        broker.close_connections()
        return is_over()

    return close


def test_a_connection_that_is_forced_closed_is_lost(connect, own_rabbitmq, in_background):
    """Somebody closes it from the management side: a fetch that waits, and whoever comes later, hears why."""
    connection = connect(own_rabbitmq.dsn)
    waiting = in_background(lambda: connection.fetch(1, 3 * PATIENCE))

    wait_until(closing_connections(own_rabbitmq, waiting.done), "Its connection is not closed.")

    with pytest.raises(ConnectionLost, match="Closed via management plugin"):
        waiting.result(PATIENCE)
    for use in (lambda: connection.publish(numbered(1)), lambda: connection.fetch(1, PATIENCE)):
        with pytest.raises(ConnectionLost):
            use()


def test_a_connection_that_is_cut_is_lost(connect, own_rabbitmq, in_background):
    """The network resets it."""
    with own_rabbitmq.partition() as network:
        connection = connect(network.dsn)
        connection.publish(numbered(1))
        connection.fetch(1, PATIENCE)
        waiting = in_background(lambda: connection.fetch(1, 3 * PATIENCE))

        network.cut()

        with pytest.raises(ConnectionLost, match="was lost"):
            waiting.result(PATIENCE)


def test_a_silent_broker_is_lost(connect, own_rabbitmq, in_background):
    """A black hole swallows everything and tells nobody: heartbeats find out, also while a handler takes its time."""
    with own_rabbitmq.partition() as network:
        connection = connect(network.dsn, heartbeat=1, confirm_timeout=30)
        connection.publish(numbered(1))
        [delivery] = connection.fetch(1, PATIENCE)
        network.black_hole()

        publishing = in_background(lambda: connection.publish(numbered(1)))
        waiting = in_background(lambda: connection.fetch(1, 6 * PATIENCE))

        for lost in (publishing, waiting):
            with pytest.raises(ConnectionLost, match="No activity"):
                lost.result(2 * PATIENCE)
        connection.ack([delivery.tag])  # It comes again, so this is ignored.


def test_a_confirm_that_does_not_come_is_an_error(connect, own_rabbitmq):
    """Nobody waits longer than `confirm_timeout`; what is in doubt is not called stored."""
    connection = connect(own_rabbitmq.dsn, confirm_timeout=0.3, heartbeat=60)
    connection.publish(numbered(1))
    own_rabbitmq.pause()

    with pytest.raises(TransportError, match="did not confirm within 0.3 s") as caught:
        connection.publish(numbered(1))
    assert {} == caught.value.stored

    own_rabbitmq.resume()


def test_a_command_without_an_answer_is_a_lost_connection(connect, own_rabbitmq):
    """Nobody waits longer than `rpc_timeout`."""
    connection = connect(own_rabbitmq.dsn, rpc_timeout=0.3, heartbeat=60)
    connection.setup()
    own_rabbitmq.pause()

    with pytest.raises(ConnectionLost, match="did not answer within 0.3 s"):
        connection.count()

    own_rabbitmq.resume()


def test_heartbeats_are_served_while_a_handler_takes_its_time(connect, own_rabbitmq):
    """A connection from which nobody fetches for several heartbeats is still the same."""
    connection = connect(own_rabbitmq.dsn, heartbeat=1)
    connection.publish(numbered(2))
    [delivery] = connection.fetch(1, PATIENCE)

    threading.Event().wait(5)  # A broker gives up after three of them.

    connection.ack([delivery.tag])
    [other] = connection.fetch(1, PATIENCE)
    assert (b"1", False) == (other.body, other.stamps[0].redelivered)


@pytest.fixture
def impatient(own_rabbitmq):
    """Return what lets the broker close the channel of whoever keeps a message for half a second, until that ends."""

    @contextlib.contextmanager
    def be():
        own_rabbitmq.control("eval", "application:set_env(rabbit, consumer_timeout, 500).")
        own_rabbitmq.control("eval", "application:set_env(rabbit, channel_tick_interval, 300).")
        try:
            yield
        finally:
            own_rabbitmq.control("eval", "application:set_env(rabbit, channel_tick_interval, 60000).")
            own_rabbitmq.control("eval", "application:set_env(rabbit, consumer_timeout, 1800000).")

    return be


def test_a_delivery_that_is_settled_too_late_for_the_broker_comes_again(connect, own_rabbitmq, impatient):
    """The broker closes the channel of whoever keeps a message for too long; a waiting fetch hears of it."""
    with impatient():
        connection = connect(own_rabbitmq.dsn)
        connection.publish(numbered(1))
        [kept] = connection.fetch(1, PATIENCE)

        with pytest.raises(ConnectionLost, match="delivery acknowledgement on channel .* timed out"):
            take_all(connection, 1)
        assert [kept.tag] == connection.ack([kept.tag])

    connection = connect(own_rabbitmq.dsn)
    [again] = take_all(connection, 1)
    assert [kept.tag] == connection.ack([kept.tag])
    connection.close()
    [and_again] = take_all(connect(own_rabbitmq.dsn), 1)
    assert kept.body == again.body == and_again.body


def test_what_is_settled_while_the_broker_closes_the_channel_is_lost(connect, own_rabbitmq, impatient, in_background):
    """An ack that was handed over before that was known, and can be sent no more, is not called settled."""
    with impatient():
        connection = connect(own_rabbitmq.dsn)
        connection.publish(numbered(2))
        settled, kept = take_all(connection, 2)
        assert [] == connection.ack([settled.tag])
        thread = connection._client.thread
        goes_on = threading.Event()
        thread.post(lambda: goes_on.wait(6 * PATIENCE))
        other = connect(own_rabbitmq.dsn)
        wait_until(lambda: other.count().waiting == 1, "The channel is not closed.")

        acking = in_background(lambda: connection.ack([settled.tag, kept.tag]))
        wait_until(lambda: thread._work, "Nobody acknowledges.")
        goes_on.set()

        assert [settled.tag, kept.tag] == acking.result(PATIENCE)


def test_a_tag_of_a_lost_connection_settles_nothing_on_the_next(make_transport, own_rabbitmq):
    """The numbers of deliveries begin anew on each channel; an old one must not hit the message that has it now."""
    transport = make_transport(own_rabbitmq.dsn)
    transport._publish(numbered(2))
    first, second = take_all(transport.connection, 2)
    own_rabbitmq.restart()
    assert [] == transport.receive(1, 0)
    again = take_all(transport.connection, 2)

    transport.connection.ack([first.tag, second.tag])
    transport.connection.close()

    assert [b"0", b"1"] == [delivery.body for delivery in again]
    other = make_transport(own_rabbitmq.dsn).connection
    assert {b"0", b"1"} == {delivery.body for delivery in take_all(other, 2)}


def test_a_lost_connection_is_not_reported_by_the_client_library(connect, own_rabbitmq, caplog, in_background):
    """It is mended, and told once by Postbus; who wants to see more sets the level of the logger ``pika``."""
    caplog.set_level(logging.DEBUG)
    connection = connect(own_rabbitmq.dsn)
    waiting = in_background(lambda: connection.fetch(1, 3 * PATIENCE))
    wait_until(closing_connections(own_rabbitmq, waiting.done), "Its connection is not closed.")
    waiting.exception(PATIENCE)

    assert [] == [record.getMessage() for record in caplog.records if record.name.startswith("pika")]


def has_greeted(client):
    """Whether an attempt to connect waits for the broker's answer."""
    connector = client._attempt and client._attempt._connector
    return bool(connector and connector._amqp_conn)


def test_an_attempt_that_is_given_up_leaves_no_thread_and_no_socket(connect, own_rabbitmq, in_background, caplog):
    """Whoever closes while a broker takes its time to answer ends that, too."""

    def give_up():
        connection = connect(own_rabbitmq.dsn)
        publishing = in_background(lambda: connection.publish(numbered(1)))
        wait_until(lambda: has_greeted(connection._client), "Nobody tries to connect.")
        connection.close()
        assert isinstance(publishing.exception(PATIENCE), ConnectionLost)
        assert connection._client.thread.join(PATIENCE)

    own_rabbitmq.pause()
    give_up()
    own_rabbitmq.resume()

    assert [] == [record.getMessage() for record in caplog.records]
    gc.collect()  # A socket that was left open is a warning, and so an error.


def test_a_closed_connection_leaves_no_thread_and_no_socket(connect, own_rabbitmq):
    """Whether the broker said goodbye or not."""
    before = threading.active_count()
    good, bad = connect(own_rabbitmq.dsn, heartbeat=60), connect(own_rabbitmq.dsn, heartbeat=60)
    for connection in (good, bad):
        connection.publish(numbered(1))
        connection.fetch(1, PATIENCE)
    good.close()
    own_rabbitmq.pause()
    bad.close()
    own_rabbitmq.resume()

    assert before == threading.active_count()
    del connection, good, bad
    gc.collect()  # A socket that was left open is a warning, and so an error.


def test_a_forked_process_leaves_its_parents_connection_alone(make_transport, rabbitmq, take):
    """The child has a connection of its own; that it ends, or is killed, is nothing to the parent."""
    transport = make_transport()
    transport._publish(numbered(2))
    [delivery] = transport.connection.fetch(1, PATIENCE)

    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            transport._publish([Outgoing(b"from the child", {})])
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)

    transport.connection.ack([delivery.tag])
    assert [b"1", b"from the child"] == [delivery.body for delivery in take(transport.connection, 2)]
    assert not any(delivery.stamps[0].redelivered for delivery in [delivery])


def test_a_delay_queue_that_a_crash_has_spoilt_is_avoided(connect, own_rabbitmq):
    """One that was declared in the moment before may confirm nothing any more: later messages wait in another."""
    connection = connect(own_rabbitmq.dsn, confirm_timeout=2)
    connection.setup()
    own_rabbitmq.sync()
    connection.publish([Outgoing(b"before", {}, 600.0)])
    own_rabbitmq.kill()
    own_rabbitmq.start()
    # Whether the queue is spoilt is a matter of luck. Then a first message finds out, and it must be the last.
    connection = connect(own_rabbitmq.dsn, confirm_timeout=2)
    with contextlib.suppress(TransportError):
        connection.publish([Outgoing(b"first", {}, 600.0)])

    connection.publish([Outgoing(b"after", {}, 600.0)])
