"""A fetch that waits ends when it has something to deliver, and not later."""

import pytest

from postbus.transport import Outgoing

MESSAGE = Outgoing(b"message", {})


@pytest.fixture
def waiting(connect, in_background):
    """Return a connection, and its fetch, which waits for longer than any test does."""
    connection = connect(redeliver_timeout=1)
    connection.setup()
    return connection, in_background(lambda: connection.fetch(10, 100))


@pytest.mark.slow
def test_a_message_of_another_process_ends_the_wait(waiting, start):
    """A commit by another process is seen, although nothing was said to this one."""
    child = start("publish")
    assert not waiting[1].done()

    child.begin()

    assert [b"from a child"] == [delivery.body for delivery in waiting[1].result(30)]


def test_a_message_of_another_connection_here_ends_the_wait(waiting, connect):
    """So is a commit by another connection in this process."""
    connect().publish([MESSAGE])

    assert [MESSAGE.body] == [delivery.body for delivery in waiting[1].result(30)]


def test_a_row_that_symfony_inserts_ends_the_wait(waiting, sql):
    """So is a commit by a program that knows nothing of Postbus."""
    sql(
        "INSERT INTO messenger_messages (body, headers, queue_name, created_at, available_at)"
        " VALUES ('{}', '[]', 'default', '2024-10-23 10:00:00', '2024-10-23 10:00:00')"
    )

    assert [b"{}"] == [delivery.body for delivery in waiting[1].result(30)]


@pytest.mark.slow
def test_the_end_of_a_delay_ends_the_wait(waiting):
    """A delayed message is delivered when it is due, though nobody writes anything then."""
    connection, fetching = waiting

    connection.publish([Outgoing(b"later", {}, 1.0)])

    assert [b"later"] == [delivery.body for delivery in fetching.result(30)]


@pytest.mark.slow
def test_the_end_of_a_lease_ends_the_wait(connect, in_background):
    """What a dead worker left is delivered when its lease is over, though nobody writes anything then."""
    dead, alive = connect(), connect(redeliver_timeout=1)
    dead.publish([MESSAGE])
    dead.fetch(1, 0)

    fetching = in_background(lambda: alive.fetch(1, 100))

    assert [MESSAGE.body] == [delivery.body for delivery in fetching.result(30)]


def test_a_message_for_another_queue_does_not(waiting, connect, in_background):
    """A wait goes on when the change was none of its business."""
    other = connect(queue_name="other")
    other.publish([MESSAGE])

    with pytest.raises(TimeoutError):
        waiting[1].result(0.3)
    assert 1 == len(other.fetch(1, 0))


def test_closing_ends_the_wait(waiting):
    """The fetch returns with nothing."""
    connection, fetching = waiting

    connection.close()

    assert [] == fetching.result(30)


def test_threads_share_a_database_in_memory(connect, in_background):
    """``sqlite://`` lives in one transport, whose threads publish, settle and wait at the same time."""
    connection = connect("sqlite://")
    fetching = in_background(lambda: connection.fetch(1, 100))
    [id] = connection.publish([MESSAGE])
    [delivery] = fetching.result(30)
    fetching = in_background(lambda: connection.fetch(1, 100))

    connection.release([delivery.tag])

    assert [id] == [again.id for again in fetching.result(30)]
    assert [] == connect("sqlite://").fetch(1, 0)
