"""What a waiting worker is woken by, and what it does for the others."""

from __future__ import annotations

import logging
from functools import partial

import pytest

from postbus.transport import Outgoing
from tests.brokers.server import wait_until

pytestmark = pytest.mark.slow

NOW = Outgoing(b"now", {})
SOON = Outgoing(b"soon", {}, 0.3)
LATER = Outgoing(b"later", {}, 0.6)
TOMORROW = Outgoing(b"tomorrow", {}, 86_400)
LONG = 30.0


@pytest.fixture
def wake_ups(client, stream):
    """Return what tells how many wake-ups there have been, and how many of them were taken."""

    def look() -> tuple[int, int]:
        [group] = client.xinfo_groups(f"{stream}__wake")
        return client.xinfo_stream(f"{stream}__wake")["entries-added"], group["entries-read"] or 0

    return look


@pytest.fixture
def wait(in_background):
    """Return what lets a connection wait."""
    return lambda connection, limit=1: in_background(partial(connection.fetch, limit, LONG))


def is_blocked(client, connection) -> bool:
    id = int(connection._fetcher._client_id or 0)
    return any(int(each["id"]) == id and "b" in each["flags"] for each in client.client_list())


def test_only_one_worker_is_woken_by_a_delay(client, stream, connect, wait, wake_ups):
    """All wait for messages, and one of them for the time when a delayed one is due, too."""
    workers = [connect() for _ in range(3)]
    fetching = [wait(worker) for worker in workers]
    wait_until(lambda: all(is_blocked(client, worker) for worker in workers), "They do not wait.")

    connect().publish([TOMORROW])

    wait_until(lambda: wake_ups() == (1, 1), "The wake-up is not taken.")
    wait_until(lambda: all(is_blocked(client, worker) for worker in workers), "They do not wait.")
    assert not any(future.done() for future in fetching)


def test_an_idle_worker_asks_once_in_each_of_its_waits(own_redis, connect_to):
    """One read for messages, which waits for them; there is no other before, and none after."""
    connection = connect_to(own_redis.dsn)
    connection.fetch(1, 0.05)
    with own_redis.client() as client:
        client.config_resetstat()

        assert not any(connection.fetch(1, 0.05) for _ in range(5))

        assert 5 == client.info("commandstats")["cmdstat_xreadgroup"]["calls"]


def test_what_was_released_is_claimed_by_who_begins_to_wait(client, stream, connect, wait):
    """Also where the wake-up for it is lost, as somebody died who had taken it."""
    one, other = connect(), connect()
    one.publish([NOW])
    [delivery] = one.fetch(1, 10)
    one.release([delivery.tag])
    client.xtrim(f"{stream}__wake", maxlen=0)

    assert [b"now"] == [again.body for again in wait(other).result(10)]


def test_only_the_first_to_be_due_wakes_somebody(connect, wait, wake_ups):
    """A message that is delayed for longer than another one makes no difference to anybody who waits."""
    connection = connect()
    connection.setup()

    connection.publish([LATER, TOMORROW, TOMORROW, SOON])

    assert 2 == wake_ups()[0]


def test_who_looks_after_a_delay_hands_it_on(client, connect, wait, wake_ups):
    """When it leaves with another message, somebody else is woken to look after the delayed one."""
    worker = connect()
    fetching = wait(worker)
    wait_until(lambda: is_blocked(client, worker), "It does not wait.")
    connect().publish([TOMORROW])
    wait_until(lambda: wake_ups() == (1, 1), "The wake-up is not taken.")

    connect().publish([NOW])

    assert [b"now"] == [delivery.body for delivery in fetching.result(10)]
    assert 2 == wake_ups()[0]


def test_all_waiting_workers_get_their_share(connect, wait):
    """Several messages that are due at once go to several workers, though one of them was woken."""
    fetching = [wait(connect()) for _ in range(3)]

    connect().publish([Outgoing(b"%d" % number, {}, 0.3) for number in range(3)])

    bodies = [delivery.body for future in fetching for delivery in future.result(10)]
    assert {b"0", b"1", b"2"} == set(bodies)


def test_an_earlier_message_overtakes(connect, wait):
    """A worker that waits for one delayed message is woken for one that is due before it."""
    fetching = wait(connect())
    publisher = connect()

    publisher.publish([TOMORROW])
    publisher.publish([SOON])

    assert [b"soon"] == [delivery.body for delivery in fetching.result(10)]


def test_a_message_that_symfony_delayed_comes(client, stream, connect, wait):
    """It comes, though Symfony wakes nobody, when the worker looks the next time."""
    client.zadd(f"{stream}__queue", {'{"body":"theirs","headers":[],"uniqid":"x"}': 1})

    assert [b"theirs"] == [delivery.body for delivery in wait(connect()).result(10)]


def test_released_messages_go_to_several_workers(client, connect, wait):
    """Each of those who wait takes as many as it wanted, and wakes the next one."""
    holder = connect()
    holder.publish([Outgoing(b"%d" % number, {}) for number in range(3)])
    held = holder.fetch(3, LONG)
    workers = [connect() for _ in range(3)]
    fetching = [wait(worker) for worker in workers]
    wait_until(lambda: all(is_blocked(client, worker) for worker in workers), "They do not wait.")

    holder.release([delivery.tag for delivery in held])

    found = [delivery for future in fetching for delivery in future.result(10)]
    assert {(b"0", 1), (b"1", 1), (b"2", 1)} == {(delivery.body, delivery.count) for delivery in found}


def test_a_released_message_comes_to_a_busy_worker_too(connect):
    """Who finds plenty without waiting does not leave alone what was released."""
    holder, worker = connect(), connect()
    holder.publish([Outgoing(b"released", {})])
    holder.release([delivery.tag for delivery in holder.fetch(1, LONG)])
    holder.publish([Outgoing(b"%d" % number, {}) for number in range(10)])

    bodies = [delivery.body for _ in range(3) for delivery in worker.fetch(1, 0)]

    assert b"released" in bodies


def test_closing_gives_back_what_arrives_at_that_moment(client, stream, connect, in_background):
    """However closing and arriving meet, the message is for others at once."""
    other = connect()
    for number in range(20):
        worker = connect()
        fetching = in_background(partial(worker.fetch, 1, LONG))
        wait_until(lambda worker=worker: is_blocked(client, worker), "It does not wait.")
        publishing = in_background(partial(other.publish, [Outgoing(b"%d" % number, {})]))
        worker.close()
        publishing.result(10)
        got = [delivery.body for delivery in fetching.result(10)]
        # What was returned before the closing is in the hand of the worker.
        if not got:
            [delivery] = other.fetch(1, 5)
            assert b"%d" % number == delivery.body
            other.ack([delivery.tag])


def test_closing_ends_a_wait_that_is_about_to_begin(own_redis, connect_to, in_background):
    """Who closes while the fetch still connects, to wait then, does not leave it waiting."""
    worker = connect_to(own_redis.dsn)
    worker.setup()
    own_redis.pause()
    fetching = in_background(partial(worker.fetch, 1, LONG))
    wait_until(worker._fetcher._busy.locked, "It does not fetch.")

    closing = in_background(worker.close)
    wait_until(lambda: not worker._links._idle, "It does not take its leave.")
    own_redis.resume()

    closing.result(10)
    assert [] == fetching.result(10)


def test_a_stream_that_vanishes_is_made_again(own_redis, connect_to, in_background, caplog):
    """A worker that waits when everything is deleted goes on, says so, and gets what comes next."""
    worker, publisher = connect_to(own_redis.dsn), connect_to(own_redis.dsn)
    fetching = in_background(partial(worker.fetch, 1, LONG))
    with own_redis.client() as client:
        wait_until(lambda: is_blocked(client, worker), "It does not wait.")
        with caplog.at_level(logging.WARNING):
            client.flushall()
            wait_until(lambda: client.keys("*") != [], "Nothing is made again.")
            wait_until(lambda: is_blocked(client, worker), "It does not wait.")
            publisher.publish([NOW])
            assert [b"now"] == [delivery.body for delivery in fetching.result(10)]

    assert "is no longer there. Creating it again" in caplog.text


def test_a_group_that_vanishes_is_made_again(client, stream, connect, wait, caplog):
    """What the stream still holds is delivered again."""
    worker = connect()
    worker.publish([NOW])
    worker.fetch(1, LONG)

    client.xgroup_destroy(stream, "postbus")

    with caplog.at_level(logging.WARNING):
        assert [b"now"] == [delivery.body for delivery in wait(worker).result(10)]
    assert "is no longer there" in caplog.text
