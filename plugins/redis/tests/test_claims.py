"""Who holds a message, for how long, and what becomes of those who went away."""

from __future__ import annotations

import pytest

from postbus import stamps
from postbus.envelope import Envelope
from postbus.testing.subject import Note
from postbus.transport import Outgoing
from tests.brokers.server import wait_until

pytestmark = pytest.mark.slow

MESSAGES = [Outgoing(b"%d" % number, {}) for number in range(5)]
SHORT = {"redeliver_timeout": 0.2, "claim_interval": 10}


def bodies(deliveries):
    return [delivery.body for delivery in deliveries]


def consumers(client, stream):
    return {each["name"] for each in client.xinfo_consumers(stream, "postbus")}


def test_no_two_workers_share_a_name(client, stream, connect):
    """Also where they run in one process, and read the same DSN."""
    for worker in [connect() for _ in range(3)]:
        worker.publish(MESSAGES[:1])
        worker.fetch(1, 5)

    assert 3 == len(consumers(client, stream))


def test_a_given_name_is_used(client, stream, connect):
    """Somebody may have a reason."""
    worker = connect(consumer="me")
    worker.publish(MESSAGES[:1])
    worker.fetch(1, 5)

    assert {"me"} == consumers(client, stream)


def test_workers_that_share_a_given_name_take_nothing_from_each_other(connect):
    """As a DSN taken over from Symfony may have it; a message is in the hand of the one that it was delivered to."""
    first, second = connect(consumer="consumer"), connect(consumer="consumer")
    first.publish(MESSAGES)
    held = first.fetch(3, 5)

    others = second.fetch(5, 5)

    assert [b"0", b"1", b"2"] == bodies(held)
    assert [b"3", b"4"] == bodies(others)
    first.ack([delivery.tag for delivery in held])
    second.ack([delivery.tag for delivery in others])
    assert 0 == first.count().in_flight


def test_what_is_in_hand_is_not_delivered_again_after_a_reconnection(own_redis, make_transport):
    """A worker whose connection broke goes on with what it has, and settles it on the next connection."""
    transport = make_transport(own_redis.dsn)
    transport.send([Envelope.wrap(Note("one")), Envelope.wrap(Note("two"))])
    received = transport.receive(2, 5)
    assert 2 == len(received)

    with own_redis.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)

    assert [] == [envelope for _ in range(3) for envelope in transport.receive(2, 0.3)]
    transport.ack(received)
    counts = transport.connection.count()
    assert (0, 0) == (counts.waiting, counts.in_flight)


def test_a_reply_that_got_lost_comes_again_at_once(own_redis, make_transport, in_background):
    """What Redis delivered into a dead connection need not wait until its lease is over."""
    with own_redis.partition() as network:
        transport = make_transport(network.dsn, read_timeout=0.5)
        publisher = make_transport(own_redis.dsn)
        receiving = in_background(lambda: transport.receive(1, 1.0))
        with own_redis.client() as client:
            wait_until(lambda: any("b" in each["flags"] for each in client.client_list()), "It does not wait.")
            network.black_hole()
            publisher.send([Envelope.wrap(Note("lost"))])
            wait_until(lambda: publisher.connection.count().in_flight == 1, "It is not delivered.")
        assert [] == receiving.result(10)
        network.heal()

        found: list[Envelope] = []
        wait_until(lambda: bool(found.extend(transport.receive(1, 1.0)) or found), "It does not come.")
        transport.ack(found)

    assert 0 == publisher.connection.count().in_flight


def test_lost_replies_are_no_deliveries(own_redis, make_transport):
    """However often the connection breaks under them, the messages were in nobody's hands: no worker died of them."""
    make_transport(own_redis.dsn).send([Envelope.wrap(Note(f"message-{number}")) for number in range(20)])
    with own_redis.partition() as network:
        transport = make_transport(network.dsn)
        network.lose_replies(4, "message-19")

        found: list[Envelope] = []
        wait_until(lambda: bool(found.extend(transport.receive(20, 0.1)) or len(found) == 20), "They do not come.")

        assert {1} == {envelope.last(stamps.Received).count for envelope in found}
        assert [] == transport.ack(found)
        counts = transport.connection.count()
    assert (0, 0) == (counts.waiting, counts.in_flight)


def test_lost_replies_are_not_counted_beside_real_deaths(own_redis, stream, make_transport):
    """What a worker that died had was delivered once, whatever became of the replies to who takes it over."""
    publisher = make_transport(own_redis.dsn, **SHORT)
    publisher.connection.setup()
    publisher.send([Envelope.wrap(Note("message"))])
    with own_redis.client() as client:
        client.xreadgroup("postbus", "dead", {stream: ">"})
    with own_redis.partition() as network:
        transport = make_transport(network.dsn, redeliver_timeout=30, claim_interval=10)
        with own_redis.client() as client:
            [pending] = client.xpending_range(stream, "postbus", "-", "+", 1)
            client.xclaim(stream, "postbus", "dead", 0, [pending["message_id"]], idle=60_000, justid=True)
        network.lose_replies(3, "message")

        found: list[Envelope] = []
        wait_until(lambda: bool(found.extend(transport.receive(1, 0.1)) or found), "It does not come.")

    assert [2] == [envelope.last(stamps.Received).count for envelope in found]


def test_many_abandoned_messages_come_in_batches(client, stream, connect):
    """However many a dead worker had, and however few are asked for at once."""
    worker = connect(**SHORT)
    worker.setup()
    worker.publish([Outgoing(b"%d" % number, {}) for number in range(300)])
    client.xreadgroup("postbus", "dead", {stream: ">"}, count=300)

    found = []

    def take_some() -> bool:
        some = worker.fetch(7, 1)
        worker.ack([delivery.tag for delivery in some])
        found.extend(some)
        return len(found) == 300

    wait_until(take_some, "They do not come.")

    assert {(b"%d" % number, 2) for number in range(300)} == {(each.body, each.count) for each in found}
    assert len({each.id for each in found}) == 300


def test_an_abandoned_message_that_was_deleted_is_forgotten(client, stream, connect):
    """It is in nobody's way, and no longer in flight."""
    worker = connect(**SHORT)
    worker.setup()
    [id] = worker.publish(MESSAGES[:1])
    client.xreadgroup("postbus", "dead", {stream: ">"})
    client.xdel(stream, id)

    wait_until(lambda: worker.fetch(1, 0.1) or worker.count().in_flight == 0, "It is still in flight.")


@pytest.mark.parametrize("verb", ["ack", "reject", "release"])
def test_what_others_have_deleted_is_told(stream, connect, verb):
    """Of a batch, exactly those that are no longer there to be settled, though no lease is over."""
    worker = connect()
    worker.publish(MESSAGES)
    delivered = worker.fetch(5, 5)
    assert 2 == worker.remove([delivered[1].id, delivered[3].id])

    lost = getattr(worker, verb)([delivery.tag for delivery in delivered])

    assert [delivered[1].tag, delivered[3].tag] == list(lost)


def test_what_is_handled_is_gone_though_its_group_is_another_one(client, stream, connect):
    """A group that was deleted is made anew from the beginning of the stream; that does not bring it back."""
    worker = connect()
    worker.publish(MESSAGES)
    delivered = worker.fetch(5, 5)
    client.xgroup_destroy(stream, "postbus")
    worker.setup()

    lost = worker.ack([delivery.tag for delivery in delivered[:4]])

    assert [] == list(lost)
    assert [b"4"] == bodies(worker.fetch(5, 5))


def test_all_is_lost_with_the_stream(client, stream, connect):
    """Nothing is there any more that could be settled, and that is told."""
    worker = connect()
    worker.publish(MESSAGES)
    tags = [delivery.tag for delivery in worker.fetch(5, 5)]
    client.delete(stream)

    assert tags == list(worker.ack(tags))
    assert tags == list(worker.ack(tags))
    assert tags == list(worker.release(tags))


def test_an_ack_in_doubt_leaves_alone_what_another_one_has(client, stream, connect):
    """Once a lease may be over, the group is asked first."""
    worker = connect()
    worker.publish(MESSAGES[:2])
    lost, held = worker.fetch(2, 5)
    client.xclaim(stream, "postbus", "other", 0, [lost.id])
    lost.tag.certain_until = held.tag.certain_until = 0.0

    worker.ack([lost.tag, held.tag])

    assert [lost.id] == [each["message_id"] for each in client.xpending_range(stream, "postbus", "-", "+", 10)]
    assert [lost.id] == [id for id, _ in client.xrange(stream)]


def test_a_lease_is_told_from_a_later_one_of_the_same_worker(client, stream, connect):
    """A worker that got back what it had lost settles it by the new tag alone."""
    worker = connect(**SHORT)
    worker.publish(MESSAGES[:1])
    [first] = worker.fetch(1, 5)
    second = []
    wait_until(lambda: second.extend(worker.fetch(1, 1)) or second, "It does not come again.")

    worker.release([first.tag])
    assert [first.tag] == list(worker.keepalive([first.tag]))

    assert 1 == worker.count().in_flight
    worker.ack([second[0].tag])
    assert 0 == worker.count().in_flight


def test_a_worker_that_closes_leaves_no_name_behind(client, stream, connect):
    """Unless it still holds something, which would be forgotten with it."""
    holder, idle = connect(), connect()
    holder.publish(MESSAGES[:1])
    holder.fetch(1, 5)
    idle.publish(MESSAGES[:1])
    idle.ack([delivery.tag for delivery in idle.fetch(1, 5)])
    assert 2 == len(consumers(client, stream))

    holder.close()
    idle.close()

    assert [1] == [each["pending"] for each in client.xinfo_consumers(stream, "postbus")]


def test_dead_workers_are_forgotten_once_they_hold_nothing(client, stream, connect):
    """Their messages are taken over first."""
    worker = connect(**SHORT)
    worker.setup()
    worker.publish(MESSAGES[:1])
    client.xreadgroup("postbus", "dead", {stream: ">"})
    client.xgroup_createconsumer(stream, "postbus", "idle")
    client.xgroup_createconsumer(f"{stream}__wake", "postbus", "dead")

    found = []

    def are_forgotten() -> bool:
        some = worker.fetch(1, 0.1)
        worker.ack([delivery.tag for delivery in some])
        found.extend(some)
        return not {"dead", "idle"} & consumers(client, stream)

    wait_until(are_forgotten, "They stay.")

    assert [b"0"] == bodies(found)
    assert "dead" not in {each["name"] for each in client.xinfo_consumers(f"{stream}__wake", "postbus")}


def test_a_worker_that_holds_something_is_not_forgotten(client, stream, connect):
    """However long nothing was heard of it, as long as its lease is not over."""
    worker = connect(claim_interval=10)
    worker.setup()
    worker.publish(MESSAGES[:1])
    client.xreadgroup("postbus", "quiet", {stream: ">"})

    for _ in range(5):
        worker.fetch(1, 0.02)

    assert "quiet" in consumers(client, stream)


def test_released_messages_can_be_claimed_by_symfony(client, stream, connect):
    """What was given back looks as if it had been idle for ever."""
    worker = connect()
    worker.publish(MESSAGES[:1])
    [delivery] = worker.fetch(1, 5)
    worker.release([delivery.tag])

    claimed = client.xclaim(stream, "postbus", "symfony", 3_600_000, [delivery.id], justid=True)

    assert [delivery.id] == claimed


def test_the_tag_of_what_was_given_back_settles_no_later_delivery(connect):
    """Who released a message, and got it again, can settle it by the tag that came then, and by no other."""
    worker = connect()
    worker.publish(MESSAGES[:1])
    [earlier] = worker.fetch(1, 5)
    worker.release([earlier.tag])
    [later] = worker.fetch(1, 5)

    worker.ack([earlier.tag])

    assert [earlier.tag] == worker.keepalive([earlier.tag, later.tag])
    worker.ack([later.tag])
    assert 0 == worker.count().in_flight
