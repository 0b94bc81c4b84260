"""Requests that wait at the service: they outlive a fetch, and nothing that they bring is kept from others."""

from __future__ import annotations

import logging
import threading
from functools import partial

import pytest

from postbus.errors import ConnectionLost
from postbus.transport import Outgoing

pytestmark = [pytest.mark.slow, pytest.mark.once]

MESSAGE = Outgoing(b"message", {})


@pytest.fixture
def receives(caplog):
    """Return what counts the requests for messages that boto3 has sent."""
    caplog.set_level(logging.DEBUG, "botocore.endpoint")

    def count() -> int:
        texts = [record.getMessage() for record in caplog.records if record.name == "botocore.endpoint"]
        return sum(text.startswith("Making request") and "ReceiveMessage" in text for text in texts)

    return count


def test_an_idle_worker_asks_seldom(connect, receives):
    """It looks up twice a second, and joins the request that waits already; each waits for longer than the last."""
    connection = connect()
    connection.setup()

    for _ in range(14):
        assert [] == connection.fetch(1, 0.25)

    assert 1 <= receives() <= 4


def test_a_wait_that_has_ended_keeps_no_message_from_others(connect):
    """What its request brings when nobody fetches any more is given back."""
    first, other = connect(), connect()
    first.setup()
    assert [] == first.fetch(1, 0.1)
    other.publish([MESSAGE])

    [delivery] = other.fetch(1, 10)

    assert MESSAGE.body == delivery.body


def test_closing_keeps_no_message_from_others(connect, in_background):
    """The request that waits goes on without it, and gives back what it brings."""
    first, other = connect(), connect()
    first.setup()
    waiting = in_background(partial(first.fetch, 1, 20))
    threading.Event().wait(0.5)
    first.close()
    assert [] == waiting.result(10)
    other.publish([MESSAGE])

    [delivery] = other.fetch(1, 10)

    assert MESSAGE.body == delivery.body


def test_what_came_between_two_fetches_is_there_for_the_next(connect, in_background):
    """A worker that looks up again at once gets it, with what is left of its lease, at its first delivery."""
    worker, other = connect(visibility_timeout=30), connect()
    worker.setup()
    assert [] == worker.fetch(1, 0.1)
    other.publish([MESSAGE])

    deliveries = []
    while not deliveries:
        deliveries = worker.fetch(1, 0.1)

    [delivery] = deliveries
    assert 1 == delivery.count
    assert [] == worker.ack([delivery.tag])


def test_many_are_fetched_by_several_requests(connect, receives):
    """Ten is the most that one brings; who asks for more, and got all he asked for, has several under way."""
    connection = connect(visibility_timeout=5)
    connection.publish([Outgoing(b"%d" % number, {}) for number in range(100)])

    seen, fetches = set(), 0
    while len(seen) < 100:
        try:
            deliveries = connection.fetch(100, 5)
        except ConnectionLost:  # moto answers one of several requests with 500, once in hundreds of runs.
            connection = connect(visibility_timeout=5)
            continue
        connection.ack([delivery.tag for delivery in deliveries])
        seen |= {delivery.body for delivery in deliveries}
        fetches += 1

    assert receives() > fetches


def test_fewer_may_be_asked_for_than_have_come(connect):
    """The rest is for the next fetch, or for others if there is none."""
    first, other = connect(), connect()
    first.publish([Outgoing(b"%d" % number, {}) for number in range(8)])
    first._fetcher._ask(10, 1)

    [one] = first.fetch(1, 10)
    [two] = first.fetch(1, 0)
    bodies = {one.body, two.body}
    while len(bodies) < 8:
        bodies |= {delivery.body for delivery in other.fetch(10, 10)}

    assert {b"%d" % number for number in range(8)} == bodies
