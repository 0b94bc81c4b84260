"""How long a job is ours, who looks after that, and what is said when it is nearly over."""

from __future__ import annotations

import threading

import pytest

from postbus.transport import Outgoing
from postbus_beanstalkd import BeanstalkdJob, links
from tests.brokers.server import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.once]

MESSAGE = Outgoing(b"message", {})
SHORT = {"ttr": 2}


def test_what_silent_workers_hold_comes_again(connect):
    """All of it, each time; beanstalkd 1.12 itself forgets every third job of a connection that says nothing."""
    bodies = {b"%d" % number for number in range(30)}
    connect(**SHORT).publish([Outgoing(body, {}) for body in bodies])
    silent = [connect(**SHORT) for _ in bodies]
    held = {delivery.body for worker in silent for delivery in worker.fetch(1, 5)}
    other, missing = connect(), held.copy()

    def comes() -> bool:
        missing.difference_update(delivery.body for delivery in other.fetch(len(bodies), 1))
        return not missing

    wait_until(comes, "Some do not come again.")
    assert held <= bodies


def test_what_is_kept_alive_stays_while_its_neighbour_goes(connect):
    """Of two jobs of one connection, only the one that nobody keeps alive comes again."""
    worker, other = connect(**SHORT), connect(**SHORT)
    worker.publish([Outgoing(b"kept", {}), Outgoing(b"left", {})])
    kept, left = worker.fetch(2, 5)
    again = []

    def comes() -> bool:
        assert [] == worker.keepalive([kept.tag])
        again.extend(other.fetch(1, 0.3))
        return bool(again)

    wait_until(comes, "It does not come again.")
    assert [b"left"] == [delivery.body for delivery in again]
    assert [left.tag] == worker.ack([kept.tag, left.tag])


def test_a_job_has_the_ttr_that_it_was_put_with(connect, client):
    """Which may be another one than that of the DSN, and is told then."""
    worker = connect(ttr=60)
    worker.publish([MESSAGE, Outgoing(b"long", {}, stamps=(BeanstalkdJob(ttr=120),))])
    client.put(b"foreign", ttr=30, priority=1024)
    connect(ttr=45).publish([Outgoing(b"of another DSN", {})])

    taken = worker.fetch(10, 5)

    assert {b"message": None, b"long": 120.0, b"foreign": 30.0, b"of another DSN": 45.0} == {
        delivery.body: delivery.lease for delivery in taken
    }
    assert 60.0 == worker.lease


def test_a_wait_with_a_job_whose_ttr_is_nearly_over_asks_once(connect, client):
    """The server would say so at once, again and again, to the connection that holds it."""
    worker = connect(**SHORT)
    worker.publish([MESSAGE])
    [delivery] = worker.fetch(1, 5)
    threading.Event().wait(1.1)
    before = client.stats()["cmd-reserve-with-timeout"]

    assert [] == worker.fetch(1, 0.5)

    assert client.stats()["cmd-reserve-with-timeout"] - before <= 3
    worker.ack([delivery.tag])


def test_nobody_looks_after_what_was_settled(connect):
    """The thread of a connection that holds nothing sleeps, and ends with it."""
    connection = connect(**SHORT)
    connection.publish([MESSAGE])
    [delivery] = connection.fetch(1, 5)
    thread = connection._guard._thread
    assert thread.is_alive()
    connection.ack([delivery.tag])

    connection.close()

    thread.join(5)
    assert not thread.is_alive()


def test_messages_that_come_one_by_one_need_no_end_of_connections(connect, client, monkeypatch):
    """Each is held through a connection of its own, and one waits; with fifty of them, all others share one."""
    monkeypatch.setattr(links, "MOST", 3)
    worker, sender = connect(), connect()
    held = []
    for number in range(8):
        sender.publish([Outgoing(b"%d" % number, {})])
        held += worker.fetch(1, 5)
        assert [] == worker.fetch(1, 0.05)

    assert [b"%d" % number for number in range(8)] == [delivery.body for delivery in held]
    assert len(worker._links.takers) <= 3
    assert [] == worker.ack([delivery.tag for delivery in held])
    assert 0 == worker.count().in_flight


def test_links_that_hold_nothing_any_more_are_used_again(connect):
    """And no more of them are kept than are good for anything."""
    worker, sender = connect(), connect()
    held = []
    for _ in range(8):
        sender.publish([MESSAGE])
        held += worker.fetch(1, 5)
        worker.fetch(1, 0.01)
    worker.ack([delivery.tag for delivery in held])

    worker.fetch(1, 0.01)

    assert len(worker._links.takers) <= 1 + links.SPARE


def test_a_connection_that_is_busy_is_not_taken_for_dropped(connect, in_background):
    """What another thread has asked for is there to be read, long after the link was last used."""
    connection = connect()
    connection.publish([MESSAGE])
    link = connection._links.talker
    asked, looked = threading.Event(), threading.Event()

    def ask_slowly():
        with link.talk() as client:
            link._used_at -= 10
            client._sock.sendall(b"stats\r\n")
            wait_until(lambda: link.is_readable(0), "There is no answer.")
            asked.set()
            assert looked.wait(10)
            client._reader.read(1)
        return link.lost

    asking = in_background(ask_slowly)
    assert asked.wait(10)
    was_dropped = link.was_dropped()
    looked.set()

    assert (False, False) == (was_dropped, asking.result(10))
