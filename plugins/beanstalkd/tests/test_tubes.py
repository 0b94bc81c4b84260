"""What lies where, and how urgent it is there; what was buried, and what can be seen of it."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
from click.testing import CliRunner

from postbus import stamps
from postbus.cli import main
from postbus.envelope import Envelope
from postbus.errors import MessageRefused
from postbus.testing.subject import Note
from postbus.transport import Counts, Outgoing
from postbus_beanstalkd import BeanstalkdJob
from tests.brokers.server import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.once]

MESSAGE = Outgoing(b"message", {"type": "note"})


def test_a_job_is_put_as_the_dsn_says(connect, client):
    """Into its tube, with its priority and its ttr."""
    [id] = connect(priority=7, ttr=33).publish([MESSAGE])

    stats = client.stats_job(int(id))

    assert (7, 33, 0, "ready") == (stats["pri"], stats["ttr"], stats["delay"], stats["state"])


def test_a_stamp_says_otherwise(connect, beanstalkd):
    """For one message, and as far as it says anything."""
    other = f"other-{uuid4()}"
    [id, usual] = connect().publish(
        [Outgoing(b"", {}, stamps=(BeanstalkdJob(priority=0, ttr=5, tube=other),)), MESSAGE],
    )

    with beanstalkd.client() as client:
        stats, of_usual = client.stats_job(int(id)), client.stats_job(int(usual))
    assert (0, 5, other) == (stats["pri"], stats["ttr"], stats["tube"].strip('"'))
    assert (1024, 90) == (of_usual["pri"], of_usual["ttr"])


@pytest.mark.parametrize(
    ("stamp", "why"),
    [
        (BeanstalkdJob(priority=-1), "A priority is a number from 0 to 4294967295, not -1."),
        (BeanstalkdJob(priority=2**32), "A priority is a number from 0 to 4294967295, not 4294967296."),
        (BeanstalkdJob(ttr=1), "A ttr is 2 to 4294967295 seconds, not 1."),
        (BeanstalkdJob(tube="a\r\ndelete 1"), "which is no name of a tube"),
        (BeanstalkdJob(tube=""), "an empty name of a tube"),
    ],
)
def test_a_stamp_that_cannot_be_kept_is_refused(connect, stamp, why):
    """Alone: a line break, above all, never reaches the server, to which it is the end of a command."""
    connection = connect()

    with pytest.raises(MessageRefused) as caught:
        connection.publish([MESSAGE, Outgoing(b"", {}, stamps=(stamp,))])

    assert [0] == list(caught.value.stored)
    assert why in caught.value.refused[1]


@pytest.mark.parametrize(("delay", "seconds"), [(0.0, 0), (0.001, 1), (1.0, 1), (1.001, 2), (2**32 - 1, 2**32 - 1)])
def test_a_delay_is_rounded_up(connect, client, delay, seconds):
    """Never down: there are whole seconds only, and nothing comes early."""
    [id] = connect().publish([Outgoing(b"", {}, delay)])

    assert seconds == client.stats_job(int(id))["delay"]


def test_a_retry_is_as_urgent_as_the_message_was(make_transport, beanstalkd, tube):
    """And in its tube; so is what comes back from a failure transport, which keeps its own."""
    other = f"other-{uuid4()}"
    transport = make_transport(beanstalkd.dsn, tubes=[tube, other])
    failed = make_transport(beanstalkd.dsn, tube_name=f"failed-{uuid4()}")
    transport.send([Envelope.wrap(Note("hello"), BeanstalkdJob(priority=5, tube=other))])

    for via in (transport, failed, transport):
        [received] = transport.receive(1, 5)
        with beanstalkd.client() as client:
            stats = client.stats_job(int(received.last(stamps.Received).id))
        assert (5, other) == (stats["pri"], stats["tube"].strip('"'))
        copy = received.without(stamps.Received)
        if via is failed:
            failed.send([copy.with_(stamps.Buried("test"))])
            [buried] = failed.receive(1, 5)
            copy = buried.without(stamps.Received).without(stamps.Buried)
            failed.ack([buried])
        transport.send([copy])
        transport.ack([received])
    [received] = transport.receive(1, 5)
    assert 1 == len(received.all(BeanstalkdJob))


def test_what_others_put_with_a_priority_keeps_it(make_transport, beanstalkd, client):
    """A copy of it is as urgent."""
    transport = make_transport(beanstalkd.dsn)
    client.put(b'{"body": "{}", "headers": {"type": "elsewhere"}}', priority=3, ttr=90)
    [received] = transport.receive(1, 5)

    transport.send([received.without(stamps.Received)])
    transport.ack([received])

    job = client.reserve(timeout=5)
    assert 3 == client.stats_job(job)["pri"]


def test_a_job_that_is_given_back_keeps_its_priority_and_waits(connect, client):
    """One bad job that is given back again and again does not keep all others from being handled."""
    connection = connect()
    bad = Outgoing(b"bad", {}, stamps=(BeanstalkdJob(priority=1),))
    connection.publish([bad, Outgoing(b"good", {}, stamps=(BeanstalkdJob(priority=1),))])
    [first] = connection.fetch(1, 5)

    connection.release([first.tag])

    assert (1, "delayed") == (client.stats_job(int(first.id))["pri"], client.stats_job(int(first.id))["state"])
    assert [b"good", b"bad"] == [connection.fetch(1, 5)[0].body for _ in range(2)]


def test_tubes_that_nobody_uses_are_empty(connect):
    """They are no error, and nothing is made of them."""
    assert Counts(0, 0, 0) == connect().count()
    assert 0 == connect().kick(10)
    assert [] == list(connect().peek())


def test_all_tubes_are_counted(connect, client):
    """What is buried is in no number."""
    other = f"other-{uuid4()}"
    connection = connect(tubes=[other, client.using()])
    delayed, elsewhere = Outgoing(b"", {}, 60), Outgoing(b"", {}, stamps=(BeanstalkdJob(tube=other),))
    connection.publish([MESSAGE, MESSAGE, delayed, elsewhere, elsewhere])
    job = client.reserve(timeout=5)

    assert Counts(3, 1, 1) == connection.count()

    client.bury(job)
    assert Counts(3, 1, 0) == connection.count()


def test_what_is_rejected_may_be_buried(connect, client, tube):
    """It stays there, as urgent as it was, until it is kicked."""
    connection = connect(bury_on_reject=True)
    connection.publish([Outgoing(b"bad", {}, stamps=(BeanstalkdJob(priority=4),))])
    [delivery] = connection.fetch(1, 5)

    assert [] == connection.reject([delivery.tag])

    stats = client.stats_job(int(delivery.id))
    assert ("buried", 4) == (stats["state"], stats["pri"])
    assert 1 == connection.kick(10)
    [again] = connection.fetch(1, 5)
    assert b"bad" == again.body
    connection.ack([again.tag])
    assert 0 == client.stats_tube(tube)["current-jobs-buried"]


def test_what_is_acked_is_never_buried(connect, client, tube):
    """Nor is what was rejected, unless that was asked for."""
    burying, other = connect(bury_on_reject=True), connect()
    burying.publish([MESSAGE, MESSAGE])
    [first], [second] = burying.fetch(1, 5), other.fetch(1, 5)

    burying.ack([first.tag])
    other.reject([second.tag])

    assert 0 == client.stats_tube(tube)["current-jobs-buried"]
    assert Counts(0, 0, 0) == other.count()


def test_what_comes_next_is_shown(connect, client):
    """One job of each state, untouched; the protocol shows no more."""
    connection = connect()
    connection.publish([Outgoing(b"first", {"type": "note"}), MESSAGE, Outgoing(b"later", {}, 60)])
    client.put(b"bad", priority=0)
    client.bury(client.reserve(timeout=5), priority=9)

    shown = {one.state: (one.number, one.delivery.body, one.priority) for one in connection.peek()}

    expected = {"ready": (2, b"first", 1024), "delayed": (1, b"later", 1024), "buried": (1, b"bad", 9)}
    assert expected == shown
    assert [1, 1] == [delivery.count for delivery in connection.fetch(10, 5)]


def test_the_commands_peek_and_kick(beanstalkd, tube, client, tmp_path, monkeypatch):
    """``postbus beanstalkd`` shows what comes next, and makes ready what was buried."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "postbus.toml"
    file.write_text(
        f'[transports]\norders = "{beanstalkd.dsn}?tube_name={tube}"\nother = "in-memory://"\n', encoding="utf-8"
    )
    client.put(b'{"body": "one\\u001b[2J", "headers": {"type": "note"}}', priority=1)
    client.bury(client.reserve(timeout=5), priority=1)

    def run(*words: str) -> str:
        done = CliRunner().invoke(main, ["beanstalkd", *words])
        assert (done.exit_code != 0) == ("other" in words), done.output
        return done.output

    shown = run("peek", "orders")
    assert "buried" in shown
    assert "\x1b[2J" not in shown
    [head] = json.loads(run("peek", "orders", "--format", "json"))
    assert (tube, "buried", 1, "note", "one\x1b[2J") == tuple(
        head[name] for name in ("tube", "state", "jobs", "type", "body")
    )
    assert "orders: 1 message made ready" in run("kick", "orders")
    assert b"one" in client.peek_ready().body
    assert "Transport 'other' is not on beanstalkd." in run("kick", "other")


def test_check_names_a_server_without_a_log(beanstalkd_in_memory, beanstalkd, connect_to):
    """What is stored there is lost when it ends."""
    assert [] == connect_to(beanstalkd.dsn).missing()
    [sentence] = connect_to(beanstalkd_in_memory.dsn).missing()

    assert "keeps its jobs in memory only, and loses them when it ends. Start it with -b and a folder" in sentence


def test_check_names_a_limit_that_is_not_the_servers(beanstalkd, connect_to):
    """Large messages would be dispatched, and then refused."""
    [sentence] = connect_to(beanstalkd.dsn, max_job_size=100_000).missing()

    assert "takes jobs of up to 65535 bytes. Start it with -z 100000, or say max_job_size=65535." in sentence


def test_named_tubes_are_consumed_in_their_order(connect):
    """A worker of some tubes takes from the first that has anything."""
    one, two, three = (f"{name}-{uuid4()}" for name in ("one", "two", "three"))
    connection = connect(tube_name=one, tubes=[one, two, three])
    for tube in (one, two, three):
        connection.publish([Outgoing(tube.encode(), {}, stamps=(BeanstalkdJob(tube=tube),))])

    bodies = [connection.fetch_from([three, one], 10, 0.1) for _ in range(3)]

    assert [[three.encode()], [one.encode()], []] == [[delivery.body for delivery in some] for some in bodies]
    wait_until(lambda: connection.count().waiting == 1, "The tube that was not named is not as it was.")
