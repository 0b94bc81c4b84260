"""What a broken network or server does to those who send, wait and settle."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import threading
from contextlib import suppress
from functools import partial

import pytest

from postbus.dsn import Dsn
from postbus.envelope import Envelope
from postbus.errors import ConnectionLost, MessageRefused, TransportError
from postbus.testing.subject import Note
from postbus.transport import Counts, Outgoing
from postbus_beanstalkd.link import Link
from postbus_beanstalkd.options import BeanstalkdOptions, address_of
from postbus_beanstalkd.server import Server
from tests.brokers.beanstalkd import BeanstalkdServer
from tests.brokers.server import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.once]

MESSAGES = [Outgoing(b"%d" % number, {}) for number in range(3)]
PATIENCE = 30.0
IMPATIENT = {"connect_timeout": 1, "read_timeout": 1}


@pytest.fixture
def network(own_beanstalkd):
    with own_beanstalkd.partition() as network:
        yield network


@pytest.fixture
def serve():
    """Return what starts a server that gives each of these answers to whatever it is told; returns its DSN."""
    sockets = []

    def start(*answers: bytes) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        sockets.append(server)

        def talk() -> None:
            client, _ = server.accept()
            with client:
                for answer in answers:
                    client.recv(1 << 16)
                    client.sendall(answer)
                client.shutdown(socket.SHUT_WR)
                client.recv(1 << 16)

        threading.Thread(target=talk, daemon=True).start()
        return f"beanstalkd://127.0.0.1:{server.getsockname()[1]}"

    yield start
    for server in sockets:
        server.close()


@pytest.fixture
def refuser():
    """Return the DSN of a server that resets each connection as soon as it has taken it."""
    server = socket.create_server(("127.0.0.1", 0))

    def talk() -> None:
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()

    threading.Thread(target=talk, daemon=True).start()
    yield f"beanstalkd://127.0.0.1:{server.getsockname()[1]}"
    server.close()


class SlowToOpen(Server):
    """A server that one comes to so slowly that it has reset the connection meanwhile."""

    def _connect(self) -> socket.socket:
        sock = super()._connect()
        assert select.select([sock], [], [], PATIENCE)[0]
        return sock


def test_a_connection_that_is_reset_while_it_is_opened_is_a_lost_one(refuser):
    """As any other that is lost; the client asks whom it is connected to before it says anything."""
    dsn = Dsn.parse(refuser)
    with pytest.raises(ConnectionLost):
        SlowToOpen(address_of(dsn), BeanstalkdOptions.from_dsn(dsn)).open()


USING = b"USING x\r\n"


@pytest.mark.parametrize(
    "answer",
    [b"", b"INSER", b"INSERTED", b"INSERTED 1", b"INSERTED \r\n", b"INSERTED one\r\n", b"BAD_FORMAT\r\n", b"\r\n"],
)
def test_an_answer_that_is_cut_or_makes_no_sense_is_a_lost_connection(serve, connect_to, answer):
    """Nothing is stored for certain, and the connection is not used again."""
    connection = connect_to(serve(USING, answer), **IMPATIENT)

    with pytest.raises(ConnectionLost) as caught:
        connection.publish(MESSAGES)

    assert {} == caught.value.stored
    assert "beanstalkd at 127.0.0.1:" in str(caught.value)


def test_what_was_stored_before_the_cut_is_told(serve, connect_to):
    """Each with its id; the rest is in doubt."""
    with pytest.raises(ConnectionLost) as caught:
        connect_to(serve(USING, b"INSERTED 7\r\nINSERTED 8\r\nINS"), **IMPATIENT).publish(MESSAGES)

    assert {0: "7", 1: "8"} == caught.value.stored


@pytest.mark.parametrize(
    "answer",
    [
        b"RESERVED 1 5\r\nhel",
        b"RESERVED 1 5\r\nhello",
        b"RESERVED 1 5\r\nhello-\r\n",
        b"RESERVED 1\r\n",
        b"RESERVED one 5\r\nhello\r\n",
        b"UNKNOWN_COMMAND\r\n",
        b"SOMETHING ELSE\r\n",
    ],
)
def test_a_job_that_is_cut_or_makes_no_sense_is_a_lost_connection(serve, connect_to, answer):
    """Nothing of it is delivered: the server gives it to somebody else."""
    connection = connect_to(serve(b"WATCHING 2\r\nWATCHING 1\r\n", answer), **IMPATIENT)

    with pytest.raises(ConnectionLost):
        connection.fetch(1, 5)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"DRAINING\r\n", "takes no new messages, as it was told to drain. Restart it."),
        (b"OUT_OF_MEMORY\r\n", "has no memory left, or no room for its log. Make room."),
        (b"INTERNAL_ERROR\r\n", "has failed in itself: INTERNAL_ERROR. Look into its own log."),
        (b"BURIED 9\r\n", "has no memory left, or no room for its log. Make room."),
    ],
)
def test_a_server_that_cannot_take_a_message_says_so(serve, connect_to, answer, told):
    """The others of the batch are stored, and the connection is as good as before."""
    connection = connect_to(serve(USING, b"INSERTED 7\r\n" + answer + b"INSERTED 8\r\n", b"INSERTED 9\r\n"))

    with pytest.raises(TransportError, match=told) as caught:
        connection.publish(MESSAGES)

    assert not isinstance(caught.value, ConnectionLost)
    assert {0: "7", 2: "8"} == caught.value.stored
    assert ["9"] == connection.publish(MESSAGES[:1])


def test_a_server_that_drains_is_named(own_beanstalkd, connect_to):
    """What is there is still handled."""
    connection = connect_to(own_beanstalkd.dsn)
    connection.publish(MESSAGES[:1])
    [server] = own_beanstalkd.servers
    os.killpg(server._process.pid, signal.SIGUSR1)
    try:
        wait_until(lambda: connection.missing() != [], "It does not drain.")

        with pytest.raises(TransportError, match="told to drain"):
            connection.publish(MESSAGES)

        assert "told to drain" in connection.missing()[0]
        connection.ack([connection.fetch(1, 5)[0].tag])
    finally:
        own_beanstalkd.restart()


def test_a_message_that_is_too_large_for_the_server_is_refused_alone(own_beanstalkd, connect_to):
    """By the limit that the server has, whatever the DSN says; just as large as that is not too large."""
    program = own_beanstalkd.find("beanstalkd", package="beanstalkd")
    server = BeanstalkdServer("large", program, "-z", "100000")
    server.start()
    try:
        connection = connect_to(f"beanstalkd://127.0.0.1:{server.port}", max_job_size=2_000_000)
        size = 100_000 - len(b'{"body":"","headers":{},"priority":1024,"ttr":90}')
        fits, large = Outgoing(b"x" * size, {}), Outgoing(b"x" * (size + 1), {})

        with pytest.raises(MessageRefused) as caught:
            connection.publish([MESSAGES[0], large, fits])

        assert [1] == list(caught.value.refused)
        assert "takes messages of up to 100000 bytes, and this one has 100001." in str(caught.value)
        assert [b"0", fits.body] == [connection.fetch(1, 5)[0].body for _ in range(2)]
    finally:
        server.close()


def test_a_server_that_takes_less_than_usual_refuses_by_itself(own_beanstalkd, connect_to):
    """It is not asked for its limit for every message."""
    program = own_beanstalkd.find("beanstalkd", package="beanstalkd")
    server = BeanstalkdServer("small", program, "-z", "100")
    server.start()
    try:
        connection = connect_to(f"beanstalkd://127.0.0.1:{server.port}")

        with pytest.raises(MessageRefused) as caught:
            connection.publish([MESSAGES[0], Outgoing(b"x" * 200, {}), MESSAGES[1]])

        assert ([1], [0, 2]) == (list(caught.value.refused), list(caught.value.stored))
        assert 2 == connection.count().waiting
    finally:
        server.close()


@pytest.mark.parametrize("wait", [0.4, 1.0])
def test_a_worker_that_nobody_answers_finds_out(network, connect_to, in_background, wait):
    """A network that swallows everything is found by who waits, at its next fetch at the latest."""
    worker = connect_to(network.dsn, **IMPATIENT)
    assert [] == worker.fetch(1, 0)
    waiting = in_background(lambda: [worker.fetch(1, wait) for _ in range(3)])
    network.black_hole()

    with pytest.raises(ConnectionLost):
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


def test_after_a_socket_timeout_a_job_that_was_sent_meanwhile_goes_back(own_beanstalkd, connect_to, in_background):
    """The connection is closed at once, so that the server does not hold the job for it."""
    worker, other = connect_to(own_beanstalkd.dsn, **IMPATIENT), connect_to(own_beanstalkd.dsn)
    other.publish(MESSAGES[:1])
    worker.count()
    own_beanstalkd.pause()
    try:
        with pytest.raises(ConnectionLost):
            in_background(partial(worker.fetch, 1, 1.0)).result(10)
    finally:
        own_beanstalkd.resume()

    found = []
    wait_until(lambda: bool(found.extend(other.fetch(1, 1)) or found), "It does not come.")
    assert [b"0"] == [delivery.body for delivery in found]


def test_a_server_that_hangs_is_found(own_beanstalkd, connect_to, in_background):
    """Those who wait, send and settle hear of a lost connection."""
    worker, sender = (connect_to(own_beanstalkd.dsn, **IMPATIENT) for _ in range(2))
    sender.publish(MESSAGES)
    [delivery] = worker.fetch(1, 5)

    own_beanstalkd.pause()
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
        own_beanstalkd.resume()


def test_an_idle_connection_that_was_dropped_costs_nothing(network, make_transport, caplog):
    """Load balancers do that. After a while it is noticed before anything is sent, and not remarked."""
    transport = make_transport(network.dsn)
    transport.send([Envelope.wrap(Note("before"))])
    transport.ack(transport.receive(1, 5))
    network.cut()
    network.heal()
    threading.Event().wait(1.1)

    transport.send([Envelope.wrap(Note("after"))])
    [received] = transport.receive(1, 5)

    assert "after" == received.message.text
    assert "Lost 'test'" not in caplog.text


def test_what_was_held_on_a_lost_connection_comes_again_at_once(network, make_transport):
    """The server gives it back as the connection closes, long before its ttr is over; settling it late is quiet."""
    transport = make_transport(network.dsn)
    transport.send([Envelope.wrap(Note("held"))])
    [held] = transport.receive(1, 5)
    network.cut()
    network.heal()

    transport.ack([held])
    again: list[Envelope] = []
    wait_until(lambda: bool(again.extend(transport.receive(1, 1.0)) or again), "It does not come again.")

    assert [] == transport.ack(again)
    assert Counts(0, 0, 0) == transport.connection.count()


def test_an_interrupted_exchange_costs_the_link(connect, monkeypatch):
    """The answer that is under way would be taken for that to the next command."""
    connection = connect()
    connection.publish(MESSAGES)
    link = connection._links.talker

    def interrupt(client):
        client._sock.sendall(b"stats\r\n")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        link.ask(interrupt)

    assert link.lost
    assert 3 == connection.count().waiting
    assert isinstance(connection._links.talker, Link)


def test_a_host_without_a_name_is_a_lost_connection(connect_to):
    """It may have one soon."""
    for host in ("no-such-host.invalid", "a..b"):
        with pytest.raises(ConnectionLost, match="cannot be reached"):
            connect_to(f"beanstalkd://{host}").publish(MESSAGES)


def accepts_at(path):
    """Tell whether somebody listens at a socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def test_a_unix_socket_is_a_way_to_a_server(own_beanstalkd, tmp_path, connect_to):
    """Where there is none, it cannot be reached."""
    program = own_beanstalkd.find("beanstalkd", package="beanstalkd")
    path = tmp_path / "socket"
    dsn = f"beanstalkd://{path}"
    with pytest.raises(ConnectionLost, match="cannot be reached"):
        connect_to(dsn).publish(MESSAGES)
    with subprocess.Popen([program, "-l", f"unix:{path}"]) as server:
        try:
            # The file is there a moment before anybody listens.
            wait_until(lambda: accepts_at(path), "Nobody listens at the socket.")
            connection = connect_to(dsn)
            connection.publish(MESSAGES)
            assert [b"0"] == [delivery.body for delivery in connection.fetch(1, 5)]
        finally:
            server.kill()
