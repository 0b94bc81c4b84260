"""The network in front of a broker, on a real conversation."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.brokers.network import Partition


class Echo(socketserver.BaseRequestHandler):
    """A server that answers with what it hears."""

    def handle(self) -> None:
        while data := self.request.recv(65536):
            self.request.sendall(data)
        self.server.ended.set()


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        self.ended.set()  # Reset by a client.


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Echo) as server:
        server.ended = threading.Event()
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def network(server: Server) -> Iterator[Partition]:
    port = server.server_address[1]
    with Partition(f"echo://127.0.0.1:{port}/x", "127.0.0.1", port) as network:
        yield network


def connect(network: Partition) -> socket.socket:
    return socket.create_connection(("127.0.0.1", network.port), timeout=10)


def says(connection: socket.socket, text: bytes) -> bytes:
    connection.sendall(text)
    return connection.recv(100)


def test_a_conversation_passes(network: Partition) -> None:
    """What goes through the proxy arrives, in both directions, whole and in order."""
    sent = bytes(range(256)) * 40_000
    with connect(network) as connection:
        threading.Thread(target=connection.sendall, args=(sent,)).start()
        received = bytearray()
        while len(received) < len(sent):
            received += connection.recv(1 << 20)

    assert sent == received
    assert network.dsn == f"echo://127.0.0.1:{network.port}/x"


def test_a_cut_resets_and_refuses(network: Partition) -> None:
    """A cut resets the connections and refuses new ones, until the network is healed."""
    with connect(network) as connection:
        assert b"hello" == says(connection, b"hello")
        network.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
    with pytest.raises(ConnectionRefusedError):
        connect(network)

    network.heal()
    with connect(network) as connection:
        assert b"again" == says(connection, b"again")


def test_a_black_hole_says_nothing(network: Partition) -> None:
    """In a black hole, connections stay open and new ones are accepted; no one hears anything."""
    with connect(network) as before:
        assert b"hello" == says(before, b"hello")
        network.black_hole()
        with connect(network) as within:
            for connection in before, within:
                connection.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    says(connection, b"lost")

            network.heal()
            for connection in before, within:
                with pytest.raises(TimeoutError):
                    says(connection, b"lost too")
            with connect(network) as after:
                assert b"again" == says(after, b"again")


def test_the_broker_hears_of_a_client_that_left_in_a_black_hole(network: Partition, server: Server) -> None:
    """A client that left while nothing came through has gone for the broker when the network is healed."""
    with connect(network) as connection:
        assert b"hello" == says(connection, b"hello")
        network.black_hole()
    assert not server.ended.wait(0.1)

    network.heal()
    assert server.ended.wait(10)


def test_a_delay_makes_everything_later(network: Partition) -> None:
    """With a delay, everything arrives in order, and no sooner than after the delay."""
    with connect(network) as connection:
        network.delay(0.1)
        started = time.monotonic()
        for number in range(10):
            connection.sendall(b"%d" % number)
        received = b""
        while len(received) < 10:
            received += connection.recv(100)
        took = time.monotonic() - started
        network.heal()
        assert b"again" == says(connection, b"again")

    assert b"0123456789" == received
    assert took >= 0.2


def test_a_reply_is_lost(network: Partition) -> None:
    """Its connection is reset in its place, so many times; all others go on."""
    network.lose_replies(2, "secret")
    with connect(network) as other:
        for _ in range(2):
            with connect(network) as connection:
                assert b"hello" == says(connection, b"hello")
                with pytest.raises(ConnectionResetError):
                    says(connection, b"a secret")

        assert b"a secret" == says(other, b"a secret")
