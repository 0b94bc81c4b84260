"""What a broken network or server does to those who send and those who wait."""

from __future__ import annotations

import gc
import multiprocessing
import os
import secrets
import sys
import threading
import traceback
from functools import partial

import pytest

from postbus.envelope import Envelope
from postbus.errors import ConnectionLost
from postbus.testing.subject import Note
from postbus.transport import Outgoing
from tests.brokers.server import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.once]

MESSAGES = [Outgoing(b"%d" % number, {}) for number in range(3)]
IMPATIENT = {"timeout": 1, "read_timeout": 1}


@pytest.fixture
def network(own_redis):
    with own_redis.partition() as network:
        yield network


def test_a_worker_that_nobody_answers_finds_out(network, connect_to, in_background):
    """A network that swallows everything is found by who waits, soon after its wait should have been over."""
    worker = connect_to(network.dsn, **IMPATIENT)
    worker.setup()
    waiting = in_background(partial(worker.fetch, 1, 1.0))
    network.black_hole()

    with pytest.raises(ConnectionLost, match="cannot be reached"):
        waiting.result(10)


@pytest.mark.parametrize("fault", ["cut", "black_hole"])
def test_a_sender_that_nobody_answers_finds_out(network, connect_to, fault):
    """It is in doubt about all of its messages, on a connection from before and on a new one."""
    sender = connect_to(network.dsn, **IMPATIENT)
    sender.publish(MESSAGES)
    getattr(network, fault)()

    for connection in (sender, connect_to(network.dsn, **IMPATIENT)):
        with pytest.raises(ConnectionLost) as caught:
            connection.publish(MESSAGES)
        assert {} == caught.value.stored


def test_a_transport_goes_on_when_the_network_is_back(network, make_transport):
    """It was cut while a worker waited, and nothing is lost."""
    transport = make_transport(network.dsn, **IMPATIENT)
    transport.send([Envelope.wrap(Note("before"))])
    network.cut()
    assert [] == transport.receive(1, 1.0)
    network.heal()

    found: list[Envelope] = []
    wait_until(lambda: bool(found.extend(transport.receive(1, 1.0)) or found), "It does not come.")

    assert ["before"] == [envelope.message.text for envelope in found]


def test_a_server_that_hangs_is_found(own_redis, connect_to, in_background):
    """Those who wait, send and settle hear of a lost connection; what was sent is stored or not, once."""
    worker, sender = (connect_to(own_redis.dsn, **IMPATIENT) for _ in range(2))
    sender.publish(MESSAGES)
    [delivery] = worker.fetch(1, 5)

    own_redis.pause()
    try:
        for work in (
            partial(sender.publish, MESSAGES[:1]),
            partial(worker.ack, [delivery.tag]),
            partial(worker.fetch, 1, 1.0),
        ):
            with pytest.raises(ConnectionLost):
                in_background(work).result(10)
        in_background(worker.close).result(10)
    finally:
        own_redis.resume()


@pytest.mark.parametrize("idle", [0.0, 1.1])
def test_an_idle_connection_that_was_dropped_costs_nothing(own_redis, make_transport, caplog, idle):
    """Servers and load balancers do that. After a while it is noticed before anything is sent, and not remarked."""
    transport = make_transport(own_redis.dsn)
    transport.send([Envelope.wrap(Note("before"))])
    transport.ack(transport.receive(1, 5))
    threading.Event().wait(idle)
    with own_redis.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)

    transport.send([Envelope.wrap(Note("after"))])
    transport.receive(1, 5)

    assert 1 == transport.connection.count().in_flight
    if idle:
        assert "Lost 'test'" not in caplog.text


def test_a_server_that_loads_its_data_is_a_lost_connection(own_redis, connect_to):
    """It answers, but not yet; all is there when it does."""
    connect_to(own_redis.dsn).publish(MESSAGES)
    with own_redis.client() as client:
        for number in range(100):
            client.set(f"key-{number}", secrets.token_hex(200))
        client.save()
    [server] = own_redis.servers
    server.stop()
    told: list[str] = []

    def is_told() -> bool:
        try:
            connect_to(own_redis.dsn).publish(MESSAGES[:1])
        except ConnectionLost as error:
            told.append(str(error))
        return "is still loading its data" in told[-1]

    delay = ("--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024")
    server.launch("--appendonly", "no", *delay)
    try:
        wait_until(is_told, "Nobody says that it is loading.")
        server.wait_until_ready()
        assert 3 == connect_to(own_redis.dsn).count().waiting
    finally:
        own_redis.restart()


def test_workers_share_messages_of_all_kinds(connect, in_background):
    """At once, delayed and given back: each is handled once, by one of several workers that wait."""
    workers = [connect() for _ in range(4)]
    publisher, over = connect(), threading.Event()
    released: set[bytes] = set()
    handled: list[bytes] = []

    def work(worker) -> None:
        while not over.is_set():
            for delivery in worker.fetch(2, 1.0):
                if delivery.body.endswith(b"3") and delivery.body not in released:
                    released.add(delivery.body)
                    worker.release([delivery.tag])
                    continue
                worker.ack([delivery.tag])
                handled.append(delivery.body)

    working = [in_background(partial(work, worker)) for worker in workers]
    for number in range(60):
        publisher.publish([Outgoing(b"%d" % number, {}, (number % 4) / 20)])
    wait_until(lambda: len(handled) >= 60, "Not everything was handled.")
    over.set()
    for future in working:
        future.result(10)

    assert sorted(b"%d" % number for number in range(60)) == sorted(handled)
    counts = publisher.count()
    assert (0, 0, 0) == (counts.waiting, counts.delayed, counts.in_flight)


@pytest.fixture
def fork():
    """Return what does something in a forked child, and returns its exit code."""

    def fork(work) -> int:
        child = os.fork()
        if child == 0:
            try:
                work()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    return fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system does not fork.")
@pytest.mark.parametrize("variant", ["redis_plain", "redis_tls"])
def test_a_child_that_closes_leaves_its_parents_connection_alone(request, make_transport, fork, in_background, variant):
    """While a thread of the parent waits and another has something in hand: the child closes, and collects garbage."""
    broker = request.getfixturevalue(variant)
    tls = {"ssl": {"cafile": str(broker.certificates.ca_file)}} if variant == "redis_tls" else {}
    transport = make_transport(broker.dsn, **tls)
    transport.send([Envelope.wrap(Note("in hand"))])
    in_hand = transport.receive(1, 5)
    connection = transport.connection
    waiting = in_background(partial(transport.receive, 1, 60))
    with broker.client() as client:
        wait_until(lambda: any("b" in each["flags"] for each in client.client_list()), "It does not wait.")

    def close() -> None:
        transport.close()
        transport._inherited.clear()
        gc.collect()

    assert 0 == fork(close)

    transport.send([Envelope.wrap(Note("after"))])
    assert ["after"] == [envelope.message.text for envelope in waiting.result(30)]
    assert [] == transport.ack(in_hand)
    assert connection is transport.connection


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system does not fork.")
def test_a_child_talks_through_a_connection_of_its_own(redis_plain, make_transport, fork, in_background):
    """As another worker, under another name, while its parent waits; and neither is given what the other has."""
    transport = make_transport(redis_plain.dsn)
    transport.send([Envelope.wrap(Note("parent's"))])
    in_hand = transport.receive(1, 5)

    def work() -> None:
        transport.send([Envelope.wrap(Note("child's"))])
        [received] = transport.receive(2, 5)
        assert "child's" == received.message.text
        assert [] == transport.ack([received])
        transport.close()

    assert 0 == fork(work)

    assert [] == transport.ack(in_hand)
    counts = transport.connection.count()
    assert (0, 0) == (counts.waiting, counts.in_flight)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="This system does not fork.")
def test_a_process_that_ends_as_usual_leaves_its_parents_connection_alone(redis_plain, make_transport, in_background):
    """With all that Python does at the end of a process of multiprocessing."""
    transport = make_transport(redis_plain.dsn)
    waiting = in_background(partial(transport.receive, 1, 60))
    with redis_plain.client() as client:
        wait_until(lambda: any("b" in each["flags"] for each in client.client_list()), "It does not wait.")

    process = multiprocessing.get_context("fork").Process(target=sys.exit, args=(7,))
    process.start()
    process.join(30)

    assert 7 == process.exitcode
    transport.send([Envelope.wrap(Note("after"))])
    assert ["after"] == [envelope.message.text for envelope in waiting.result(30)]
