"""FIFO queues: the order of a group, delays, and by what a queue knows what it has taken already."""

from __future__ import annotations

import threading
from contextlib import closing
from datetime import UTC, datetime

import pytest

from postbus import stamps
from postbus.envelope import Envelope
from postbus.testing.subject import Note
from postbus.transport import Outgoing
from postbus_sqs.stamps import SqsDeduplication, SqsGroup

pytestmark = [pytest.mark.slow, pytest.mark.once]


@pytest.fixture
def queue(queue):
    return f"{queue}.fifo"


def of(group, *bodies):
    return [Outgoing(body, {}, stamps=(SqsGroup(group),)) for body in bodies]


def take(connection, number=1):
    taken = []
    while len(taken) < number:
        deliveries = connection.fetch(number - len(taken), 10)
        assert deliveries, "Nothing comes."
        taken += deliveries
    return taken


def test_one_message_of_a_group_is_in_hand(connect):
    """Of what comes together, the first of each group; the next when that is settled."""
    connection = connect()
    connection.publish([*of("one", b"a", b"b", b"c"), *of("two", b"x")])

    first = {delivery.body: delivery for delivery in take(connection, 2)}
    assert {b"a": "one", b"x": "two"} == {body: delivery.group for body, delivery in first.items()}
    assert [] == connection.fetch(10, 0)
    connection.ack([first[b"a"].tag])

    [second] = take(connection)
    assert b"b" == second.body


def test_what_is_given_back_is_not_overtaken(connect):
    """What is behind it in its group goes back with it, also to another worker."""
    connection, other = connect(), connect()
    connection.publish(of("one", b"a", b"b", b"c"))
    [delivery] = take(connection)

    connection.release([delivery.tag])

    came = []
    for _ in range(3):
        [delivery] = take(other)
        came.append(delivery.body)
        other.ack([delivery.tag])
    assert [b"a", b"b", b"c"] == came


def test_closing_gives_back_what_waits_behind_another(connect):
    """And what is in hand comes again when its lease is over, in its order."""
    connection, other = connect(visibility_timeout=2), connect()
    connection.publish(of("one", b"a", b"b"))
    take(connection)

    connection.close()

    came = []
    for _ in range(2):
        [delivery] = take(other)
        came.append(delivery.body)
        other.ack([delivery.tag])
    assert [b"a", b"b"] == came


def test_keeping_one_alive_keeps_what_is_behind_it(connect):
    """Else the next one would be lost before it is handed out."""
    connection, other = connect(visibility_timeout=2), connect(visibility_timeout=2)
    connection.publish(of("one", b"a", b"b"))
    [first] = take(connection)

    for _ in range(6):
        threading.Event().wait(0.5)
        assert [] == connection.keepalive([first.tag])
    connection.ack([first.tag])

    [second] = take(connection)
    assert (b"b", 1) == (second.body, second.count)
    assert [] == connection.ack([second.tag])
    assert [] == other.fetch(1, 0)


def test_a_delayed_message_is_hidden_until_it_is_due(connect):
    """The service cannot do that, so whoever gets it too early hides it; that is no delivery, but others count it."""
    connection = connect()
    connection.publish([Outgoing(b"later", {}, 2.0)])
    assert [] == connection.fetch(1, 0.5)

    [delivery] = take(connection)

    assert (b"later", 1, {}) == (delivery.body, delivery.count, delivery.headers)


def test_a_delayed_message_is_not_overtaken_by_its_group(connect):
    """What is behind it waits too; what is in another group does not."""
    connection = connect()
    connection.publish([Outgoing(b"later", {}, 2.0, (SqsGroup("one"),)), *of("one", b"behind"), *of("two", b"other")])

    came = []
    for _ in range(3):
        [delivery] = take(connection)
        came.append(delivery.body)
        connection.ack([delivery.tag])

    assert [b"other", b"later", b"behind"] == came


def test_equal_messages_are_several(connect):
    """A queue that drops what it has seen within five minutes gets each as one of its own."""
    connection = connect()
    message = Outgoing(b"same", {"type": "same"})
    connection.publish([message, message])
    connection.publish([message])

    assert [b"same"] * 3 == [delivery.body for delivery in take(connection, 3)]


def test_a_deduplication_id_of_the_users_is_obeyed(connect):
    """The second message with it is dropped; both have the same id, since that is what is stored."""
    connection = connect()
    messages = [Outgoing(body, {}, stamps=(SqsDeduplication("order-13"),)) for body in (b"first", b"second")]

    ids = [*connection.publish(messages[:1]), *connection.publish(messages[1:])]
    connection.publish([Outgoing(b"last", {})])

    assert {b"first", b"last"} == {delivery.body for delivery in take(connection, 2)}
    assert 2 == len(ids)


def test_a_retry_is_another_message_of_its_group(sqs, make_transport):
    """The queue does not drop it, whatever the first one was known by, and it keeps the order of its group."""
    transport = make_transport(sqs.dsn)
    transport.send([Envelope.wrap(Note("text"), SqsGroup("one"), SqsDeduplication("order-13"))])
    [received] = transport.receive(1, 10)

    transport.send([received.without(stamps.Received).with_(stamps.Retried(1, datetime.now(UTC)))])
    transport.ack([received])

    [retried] = transport.receive(1, 10)
    assert ("text", "one") == (retried.message.text, retried.last(stamps.Received).group)


def test_a_key_is_a_group(connect):
    """Whatever text it is; a stamp of this plugin wins over it, as that is more exact."""
    connection = connect(group="others")
    keys = ["order-13", "order 13", ""]
    messages = [Outgoing(key.encode(), {}, stamps=(stamps.Key(key),)) for key in keys]
    both = Outgoing(b"both", {}, stamps=(SqsGroup("own"), stamps.Key("order-13")))
    connection.publish([*messages, both, Outgoing(b"none", {})])

    groups = {delivery.body: delivery.group for delivery in take(connection, 5)}

    assert ("order-13", "own", "others") == (groups[b"order-13"], groups[b"both"], groups[b"none"])
    assert 5 == len(set(groups.values()))


def test_a_message_in_doubt_is_stored_once(own_elasticmq, make_transport):
    """Its answer was lost; it is sent again, and the queue knows it."""
    with own_elasticmq.partition() as network:
        transport = make_transport(network.dsn)
        transport.connection.setup()
        network.lose_replies(1, "MessageId")

        transport.send([Envelope.wrap(Note("once"))])
        transport.send([Envelope.wrap(Note("after"))])

    with closing(make_transport(own_elasticmq.dsn)) as reader:
        texts = [envelope.message.text for _ in range(2) for envelope in reader.receive(1, 10)]
        assert ["after", "once"] == sorted(texts)
        assert 0 == reader.connection.count().waiting


def test_a_group_that_sqs_does_not_take_is_refused(connect):
    """Alone, and in words."""
    connection = connect()

    with pytest.raises(Exception, match=r"stamps\.SqsGroup says: it has up to 128 letters") as caught:
        connection.publish([*of("no group", b"a"), *of("one", b"b")])

    assert ([0], [1]) == (list(caught.value.refused), list(caught.value.stored))


def test_messages_may_all_be_in_one_group(connect):
    """Then the whole queue has one order."""
    connection = connect(group="all")
    connection.publish([Outgoing(b"%d" % number, {}) for number in range(12)])

    came = []
    for _ in range(12):
        [delivery] = take(connection)
        came.append(int(delivery.body))
        connection.ack([delivery.tag])

    assert list(range(12)) == came
