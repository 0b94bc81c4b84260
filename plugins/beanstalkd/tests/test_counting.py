"""How often a message was delivered, whatever the server has forgotten of it."""

from __future__ import annotations

import json
from contextlib import suppress
from uuid import uuid4

import pytest

from postbus.transport import Outgoing
from postbus_beanstalkd import BeanstalkdJob
from postbus_beanstalkd.link import Link
from tests.brokers.server import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.once]

MESSAGE = Outgoing(b"message", {"type": "note"})


def lose(connect, number=1):
    """Let a worker take messages and vanish."""
    worker = connect()
    taken = worker.fetch(number, 5)
    worker.close()
    return taken


@pytest.fixture
def asked(monkeypatch):
    """Return the ids of all jobs that the server was asked about."""
    ids: list[int] = []
    original = Link.stats_of

    def stats_of(self, some):
        ids.extend(some)
        return original(self, some)

    monkeypatch.setattr(Link, "stats_of", stats_of)
    return ids


def test_each_worker_that_vanishes_is_counted(connect):
    """So a message that workers die of is found out."""
    connect().publish([MESSAGE])

    counts = [lose(connect)[0].count for _ in range(5)]

    assert [1, 2, 3, 4, 5] == counts


def test_a_restart_of_the_server_makes_no_message_new(own_beanstalkd, connect_to):
    """The server counts anew; the message says how often it came before."""

    def connect():
        return connect_to(own_beanstalkd.dsn)

    connect().publish([MESSAGE])
    assert [1, 2] == [lose(connect)[0].count for _ in range(2)]

    own_beanstalkd.kill()
    own_beanstalkd.start()

    again = [lose(connect)[0] for _ in range(2)]
    assert [3, 4] == [delivery.count for delivery in again]
    assert {MESSAGE.body} == {delivery.body for delivery in again}


def test_a_message_that_came_before_keeps_its_place_as_a_job(connect, client, tube):
    """The job that says so is as urgent as the one before, and the only one."""
    connect().publish([Outgoing(b"urgent", {}, stamps=(BeanstalkdJob(priority=3, ttr=30),))])
    lose(connect)
    worker = connect()
    [delivery] = worker.fetch(1, 5)

    stats = client.stats_job(int(delivery.id))

    assert (3, 30, "reserved") == (stats["pri"], stats["ttr"], stats["state"])
    assert 1 == sum(client.stats_tube(tube)[f"current-jobs-{state}"] for state in ("ready", "delayed", "reserved"))
    assert 2 == json.loads(client.peek(int(delivery.id)).body)["attempts"]
    assert [] == worker.ack([delivery.tag])
    assert (0, 0) == (worker.count().in_flight, worker.count().delayed)


def test_what_others_wrote_is_counted_by_the_server_alone(connect, client):
    """There is no place in it for a number, and it stays as it is."""
    client.put(b"no message of ours")

    assert [1, 2, 3] == [lose(connect)[0].count for _ in range(3)]
    assert b"no message of ours" == client.peek_ready().body


def test_what_was_given_back_is_as_new(connect):
    """A release is no death."""
    connection = connect()
    connection.publish([MESSAGE])

    for _ in range(3):
        [delivery] = connection.fetch(1, 5)
        assert 1 == delivery.count
        connection.release([delivery.tag])


def test_one_answer_is_enough_for_many(connect, asked):
    """Of jobs that were put in their order, only the first need be asked about."""
    connection = connect()
    connection.publish([Outgoing(b"%d" % number, {}) for number in range(300)])

    taken = [delivery for _ in range(20) for delivery in connection.fetch(300, 0)]

    assert 300 == len(taken)
    assert {1} == {delivery.count for delivery in taken}
    assert len(asked) < 20


def test_those_that_came_before_are_asked_about(connect, asked):
    """Those that came once are in front of all that are new; a job that says so is behind them."""
    connect().publish([Outgoing(b"%d" % number, {}) for number in range(100)])
    lose(connect, 4)
    lose(connect, 2)

    taken = {}
    worker = connect()
    wait_until(lambda: bool(taken.update({d.body: d.count for d in worker.fetch(100, 0)})) or len(taken) == 100, "?")

    assert [3, 3, 2, 2, 1, 1] == [taken[b"%d" % number] for number in range(6)]
    assert 96 == list(taken.values()).count(1)


@pytest.mark.parametrize("delay", [0, 1])
def test_a_message_that_was_delayed_proves_nothing(connect, client, delay):
    """It may be the first and new, while one behind it came before."""
    connection = connect()
    connection.publish([Outgoing(b"first", {}, delay), Outgoing(b"second", {})])
    if delay:
        assert [b"second"] == [delivery.body for delivery in lose(connect)]
        wait_until(lambda: connect().count().waiting == 2, "It is not due.")

    taken = connection.fetch(10, 5) + connection.fetch(10, 0)

    assert {b"first": 1, b"second": 1 + delay} == {delivery.body: delivery.count for delivery in taken}


def test_a_message_proves_nothing_about_a_more_urgent_one(connect):
    """Which may have overtaken it, and be lost, before."""
    normal, urgent = Outgoing(b"normal", {}), Outgoing(b"urgent", {}, stamps=(BeanstalkdJob(priority=0),))
    connect().publish([normal, urgent])
    assert [b"urgent"] == [delivery.body for delivery in lose(connect)]

    worker = connect()
    taken = worker.fetch(10, 5)

    assert {b"normal": 1, b"urgent": 2} == {delivery.body: delivery.count for delivery in taken}


def test_in_several_tubes_each_is_asked_about(connect, beanstalkd, connect_to):
    """Somebody else may consume one of them alone."""
    one, two = f"one-{uuid4()}", f"two-{uuid4()}"
    both = connect_to(beanstalkd.dsn, tube_name=one, tubes=[one, two])
    both.publish([Outgoing(b"one", {}), Outgoing(b"two", {}, stamps=(BeanstalkdJob(tube=two),))])
    lose(lambda: connect_to(beanstalkd.dsn, tube_name=two))

    taken = both.fetch(10, 5)

    assert {b"one": 1, b"two": 2} == {delivery.body: delivery.count for delivery in taken}


def test_a_job_that_arrives_as_a_wait_ends_is_delivered_for_the_first_time(connect, monkeypatch):
    """It is neither lost nor counted twice, although the link that it came through is closed."""
    worker = connect()
    is_readable = Link.is_readable

    def look_away(self, timeout):
        if timeout > 0:
            connect().publish([MESSAGE])
            wait_until(lambda: is_readable(self, 0), "The job does not arrive.")
            return False
        return is_readable(self, timeout)

    monkeypatch.setattr(Link, "is_readable", look_away)

    [delivery] = worker.fetch(1, 0.3)

    assert (MESSAGE.body, 1) == (delivery.body, delivery.count)
    monkeypatch.undo()
    assert [] == worker.ack([delivery.tag])
    assert (0, 0) == (worker.count().waiting, worker.count().in_flight)


def test_dying_while_the_number_is_kept_loses_nothing(connect, monkeypatch):
    """The message comes again, and may come twice; it is never gone."""
    connect().publish([MESSAGE])
    lose(connect)
    worker = connect(ttr=2)

    def die(self, ids):
        self.interrupt()
        raise OSError("the worker is dead")

    monkeypatch.setattr(Link, "reserve_these", die)
    with suppress(OSError):
        worker.fetch(1, 5)
    worker.close()
    monkeypatch.undo()

    [delivery] = connect().fetch(1, 5)
    assert MESSAGE.body == delivery.body
