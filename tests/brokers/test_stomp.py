"""Every variant of ActiveMQ lets its user in at its DSN, and can be broken as its class says."""

from __future__ import annotations

import socket
import ssl
from contextlib import ExitStack

import pytest

from tests.brokers.stomp import PASSWORD, USER, ActiveMq, ActiveMqTls, OwnActiveMq

# The tests are about processes, and those cost more than a second.
pytestmark = [pytest.mark.slow, pytest.mark.once]


def frame(command: str, *headers: str, body: str = "") -> bytes:
    lines = "\n".join([command, *headers])
    return f"{lines}\n\n{body}\0".encode()


def ask(port: int, *frames: bytes, context: ssl.SSLContext | None = None, password: str = PASSWORD) -> str:
    """Return what is answered to frames behind a login."""
    with ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection(("localhost", port), timeout=10))
        if context is not None:
            connection = stack.enter_context(context.wrap_socket(connection, server_hostname="localhost"))
        login = frame("CONNECT", "accept-version:1.2", "host:localhost", f"login:{USER}", f"passcode:{password}")
        connection.sendall(b"".join([login, *frames]))
        heard = b""
        while heard.count(b"\0") <= len(frames) and (more := connection.recv(4096)):
            heard += more
        return heard.decode()


def test_a_broker_lets_its_user_in(activemq: ActiveMq) -> None:
    """And nobody else."""
    assert ask(activemq.server.port).startswith("CONNECTED")
    assert ask(activemq.server.port, password="wrong").startswith("ERROR")


def test_a_broker_over_tls(activemq_tls: ActiveMqTls) -> None:
    """It shows a certificate that the authority of the tests has made out."""
    context = ssl.create_default_context(cafile=activemq_tls.certificates.ca_file)

    assert ask(activemq_tls.server.tls_port, context=context).startswith("CONNECTED")


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_data_outlives_the_server(own_activemq: OwnActiveMq, how: str) -> None:
    """Stopped or killed, and started again on the same port, it has what it gave a receipt for."""
    queue = f"destination:/queue/{how}"
    sent = ask(own_activemq.server.port, frame("SEND", queue, "persistent:true", "receipt:1", body="message"))
    assert "receipt-id:1" in sent

    getattr(own_activemq, how)()
    own_activemq.start()

    assert "message\0" in ask(own_activemq.server.port, frame("SUBSCRIBE", queue, "id:1", "ack:auto"))
