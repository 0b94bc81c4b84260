"""What is stored, where else, and for how long it stays."""

from __future__ import annotations

import json
import logging
import math

import pytest

from postbus.envelope import Envelope
from postbus.errors import ConnectionLost, MessageRefused, TransportError
from postbus.testing.subject import Note
from postbus.transport import Outgoing
from tests.brokers.server import wait_until

MESSAGES = [Outgoing(b"%d" % number, {"is": str(number)}) for number in range(5)]
TOMORROW = Outgoing(b"tomorrow", {}, 86_400)
KEEP = {"delete_after_ack": False, "delete_after_reject": False}


def bodies_in(client, stream):
    return [json.loads(fields["message"])["body"] for _, fields in client.xrange(stream)]


def test_messages_lie_where_symfony_looks_for_them(client, stream, connect):
    """Those at once in the stream, those that are delayed in a set, by the millisecond in which they are due."""
    seconds, microseconds = client.time()

    connect().publish([MESSAGES[0], TOMORROW])

    assert [{"body": "0", "headers": {"is": "0"}}] == [json.loads(f["message"]) for _, f in client.xrange(stream)]
    [(member, due)] = client.zrange(f"{stream}__queue", 0, -1, withscores=True)
    assert "tomorrow" == json.loads(member)["body"]
    assert due == int(due)
    assert due >= 1000 * (seconds + 86_400) + microseconds / 1000


def test_what_is_due_is_moved_as_it_is(client, stream, connect):
    """The entry holds the member, whoever wrote it."""
    member = '{"body":"theirs","headers":[],"uniqid":"x"}'
    client.zadd(f"{stream}__queue", {member: 1})

    connect().fetch(1, 5)

    assert [member] == [fields["message"] for _, fields in client.xrange(stream)]
    assert 0 == client.zcard(f"{stream}__queue")


def test_handled_entries_may_be_kept(client, stream, connect):
    """They are neither delivered again nor counted nor shown."""
    connection = connect(**KEEP)
    connection.publish(MESSAGES[:4])
    acked, acked_in_doubt, rejected, _ = connection.fetch(4, 5)
    acked_in_doubt.tag.certain_until = 0.0

    connection.ack([acked.tag])
    connection.ack([acked_in_doubt.tag])
    connection.reject([rejected.tag])

    assert ["0", "1", "2", "3"] == bodies_in(client, stream)
    counts = connection.count()
    assert (0, 1) == (counts.waiting, counts.in_flight)
    assert [b"3"] == [shown.body for shown in connection.browse(10)]
    assert connection.find(acked.id) is None
    assert 0 == connection.remove([acked.id])


def test_each_kind_of_settling_has_its_option(client, stream, connect):
    """One may be deleted and the other kept."""
    connection = connect(delete_after_reject=False)
    connection.publish(MESSAGES[:2])
    first, second = connection.fetch(2, 5)

    connection.ack([first.tag])
    connection.reject([second.tag])

    assert ["1"] == bodies_in(client, stream)


def test_groups_share_a_stream_whose_entries_are_kept(connect):
    """Each gets every message; a group that deletes is refused."""
    first, second = connect(group="first", **KEEP), connect(group="second", **KEEP)
    first.publish(MESSAGES[:1])

    for connection in (first, second):
        [delivery] = connection.fetch(1, 5)
        connection.ack([delivery.tag])

    deleting = connect(group="first")
    with pytest.raises(TransportError, match="another group, 'second', which would miss what is deleted"):
        deleting.fetch(1, 0)
    with pytest.raises(TransportError, match="another group"):
        deleting.setup()
    assert "another group" in deleting.missing()[0]


def test_purging_leaves_the_messages_of_another_group(connect):
    """It deletes what this group has not handled, and the other one has its own."""
    first, second = connect(group="first", **KEEP), connect(group="second", **KEEP)
    first.setup()
    second.setup()
    first.publish(MESSAGES[:2])

    assert 2 == first.purge()

    assert 0 == first.count().waiting
    assert 2 == len(second.fetch(2, 5))


def test_a_limit_deletes_only_what_all_groups_have_handled(client, stream, connect):
    """The oldest handled entries go; those that wait or are in flight stay, whatever the limit says."""
    connection = connect(stream_max_entries=3, **KEEP)
    connection.publish(MESSAGES)
    first, second, *_ = connection.fetch(4, 5)
    connection.ack([first.tag])

    connection.publish([Outgoing(b"5", {})])
    assert ["1", "2", "3", "4", "5"] == bodies_in(client, stream)

    connection.ack([second.tag])
    client.xgroup_create(stream, "slow", first.id)
    connection.publish([Outgoing(b"6", {})])
    assert ["1", "2", "3", "4", "5", "6"] == bodies_in(client, stream)


def test_a_limit_is_kept_exactly(client, stream, connect):
    """As many entries are kept as it says, handled or not."""
    connection = connect(stream_max_entries=3, **KEEP)
    connection.publish(MESSAGES)
    connection.ack([delivery.tag for delivery in connection.fetch(5, 5)])

    connection.publish([Outgoing(b"5", {})])

    assert ["3", "4", "5"] == bodies_in(client, stream)


def test_a_limit_that_cannot_be_kept_is_remarked_once(connect, caplog):
    """Nothing is deleted, and nothing refused."""
    connection = connect(stream_max_entries=3)
    with caplog.at_level(logging.WARNING):
        connection.publish(MESSAGES)
        connection.publish(MESSAGES)

    [remark] = caplog.messages
    assert "has 2 entries more than stream_max_entries" in remark
    assert 10 == connection.count().waiting


def test_without_replicas_a_message_that_needs_one_is_in_doubt(connect):
    """`publish` says so, in time, and names nothing as stored."""
    connection = connect(wait_replicas=1, read_timeout=1)

    with pytest.raises(TransportError, match="Only 0 of 1 replicas") as caught:
        connection.publish(MESSAGES)

    assert not isinstance(caught.value, ConnectionLost)
    assert {} == caught.value.stored


@pytest.mark.slow
def test_what_a_replica_has_confirmed_survives_a_failover(redis_sentinel, make_transport):
    """Sender and receiver find the new master, and on it all that was stored before."""
    transport = make_transport(redis_sentinel.dsn, wait_replicas=1)
    transport.send([Envelope.wrap(Note("before")), Envelope.wrap(Note("in flight"))])
    [in_flight] = transport.receive(1, 5)

    redis_sentinel.failover()

    sent = []
    wait_until(lambda: sent or _sends(transport, sent), "Nothing can be sent.")
    found: list[Envelope] = []
    wait_until(lambda: bool(found.extend(transport.receive(10, 1.0)) or len(found) >= 2), "The messages do not come.")
    transport.ack([in_flight, *found])
    assert {"in flight", "after"} == {envelope.message.text for envelope in found}
    counts = transport.connection.count()
    assert (0, 0) == (counts.waiting, counts.in_flight)


def _sends(transport, sent):
    try:
        sent.extend(transport.send([Envelope.wrap(Note("after"))]))
    except TransportError:
        return False
    return True


def test_nobody_else_is_asked_for_the_next_message_of_a_cluster(redis_cluster, connect_to):
    """A stream, its delayed messages and its wake-ups lie on one node, whatever the stream is called."""
    for stream in ("messages", "{app}jobs", "a:b", "with space", "ünï"):
        connection = connect_to(redis_cluster.dsn, stream=f"{stream}-{connect_to.__hash__()}")
        connection.publish([Outgoing(b"now", {}), Outgoing(b"soon", {}, 0.05)])
        found = [*connection.fetch(1, 5), *connection.fetch(1, 5)]
        connection.ack([delivery.tag for delivery in found])
        assert [b"now", b"soon"] == [delivery.body for delivery in found]
        assert 0 == connection.purge()


THOUSAND_YEARS = 1000 * 365 * 86_400
LARGE = 1024 * 1024


@pytest.mark.parametrize(
    "refused",
    [
        Outgoing(b"late", {}, delay=THOUSAND_YEARS + 1),
        Outgoing(b"never", {}, delay=math.inf),
        Outgoing(b"half a character", {"type": "\ud800"}),
        Outgoing(b"half a character in a name", {"\udfff": "note"}, delay=1),
        Outgoing(b"no text", {"type": object()}),  # type: ignore[dict-item]
    ],
    ids=lambda message: message.body.decode(),
)
def test_what_is_refused_is_so_alone(client, stream, connect, refused):
    """All others of the batch are stored and told so, however large it is and wherever in it that message lies."""
    connection = connect(stream_max_entries=10_000)
    messages = [Outgoing(b"%d" % number, {}, delay=number % 2 * 3600) for number in range(300)]

    with pytest.raises(MessageRefused) as caught:
        connection.publish([*messages[:151], refused, *messages[151:]])

    assert [151] == list(caught.value.refused)
    assert {*range(301)} - {151} == set(caught.value.stored)
    assert 150 == client.xlen(stream) == client.zcard(f"{stream}__queue")
    assert b"299" == connection.find(caught.value.stored[300]).body


@pytest.mark.parametrize("setting", ["proto-max-bulk-len", "client-query-buffer-limit"])
@pytest.mark.parametrize("delay", [0, 3600])
def test_what_is_too_large_for_the_server_is_refused_alone(own_redis, connect_to, setting, delay):
    """Redis closes a connection over such a message, and does not read what is behind it; so it is never sent."""
    with own_redis.client() as client:
        before = client.config_get(setting)
        client.config_set(setting, LARGE)
        try:
            connection = connect_to(own_redis.dsn)
            large = Outgoing(b"x" * LARGE, {}, delay)

            with pytest.raises(MessageRefused, match=r"takes messages of up to [0-9]+ bytes") as caught:
                connection.publish([MESSAGES[0], large, MESSAGES[1]])
            connection.publish([Outgoing(b"x" * (LARGE - 70_000), {}, delay)])
            delivered = connection.fetch(2, 5)
            with pytest.raises(MessageRefused):
                connection.replace(delivered[0].tag, large)
        finally:
            client.config_set(setting, before[setting])

    assert ([1], [0, 2]) == (list(caught.value.refused), list(caught.value.stored))
    assert [b"0", b"1"] == [delivery.body for delivery in delivered]
    assert [] == list(connection.ack([delivery.tag for delivery in delivered]))


def test_a_user_who_may_not_see_the_configuration_sends_as_much_as_is_usual(redis_acl, connect_to):
    """How much this server takes remains unknown; half a gigabyte is what it takes by default."""
    connection = connect_to(redis_acl.dsn)

    connection.publish([Outgoing(b"x" * 3 * LARGE, {})])

    assert 3 * LARGE == len(connection.fetch(1, 5)[0].body)


def test_a_full_server_refuses_no_message(own_redis, connect_to):
    """It may take it later, so that is an error of the transport."""
    connection = connect_to(own_redis.dsn)
    own_redis.make_full()

    with pytest.raises(TransportError, match="is full") as caught:
        connection.publish(MESSAGES)

    assert not isinstance(caught.value, MessageRefused)
