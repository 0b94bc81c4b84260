"""What is declared, what is missing, and what is wrong with the DSN once the broker sees it."""

from __future__ import annotations

import shutil
import socket
import subprocess

import pytest

from postbus.errors import ConnectionLost, TransportError
from postbus.transport import Outgoing
from tests.brokers.server import wait_until

pytestmark = pytest.mark.slow


def numbered(count):
    return [Outgoing(b"%d" % number, {}) for number in range(count)]


def test_nothing_is_there_before_setup_and_everything_after(connect, name):
    """Each exchange and queue is named, and looking for them makes none."""
    connection = connect(
        exchange={"name": f"{name}-x"}, queues={f"{name}-a": {}, f"{name}-b": {}}, delay={"exchange_name": f"{name}-d"}
    )

    for _ in range(2):
        assert [
            f"Exchange '{name}-x' does not exist.",
            f"Exchange '{name}-d' does not exist.",
            f"Queue '{name}-a' does not exist.",
            f"Queue '{name}-b' does not exist.",
        ] == list(connection.missing())

    connection.setup()
    assert [] == list(connection.missing())


def test_exchange_and_queue_are_declared_as_described(connect, rabbitmq, name):
    """Type, flags and arguments, and a binding for each key with the arguments."""
    queue = {
        "flags": 0,
        "binding_keys": ["a", "b"],
        "binding_arguments": {"x": 1},
        "arguments": {"x-max-length": 5, "x-queue-mode": "lazy", "x-message-ttl": 60_000},
    }
    connection = connect(
        exchange={"type": "topic", "flags": 16, "arguments": {"alternate-exchange": "amq.fanout"}}, queues={name: queue}
    )

    connection.setup()

    declared = rabbitmq.manage("GET", f"exchanges/%2f/{name}")
    assert ("topic", False, True, False) == tuple(
        declared[key] for key in ("type", "durable", "auto_delete", "internal")
    )
    assert {"alternate-exchange": "amq.fanout"} == declared["arguments"]
    declared = rabbitmq.manage("GET", f"queues/%2f/{name}")
    assert (False, False) == (declared["durable"], declared["auto_delete"])
    assert {"x-max-length": 5, "x-queue-mode": "lazy"}.items() <= declared["arguments"].items()
    bindings = rabbitmq.manage("GET", f"exchanges/%2f/{name}/bindings/source")
    assert [("a", {"x": 1}), ("b", {"x": 1})] == sorted((one["routing_key"], one["arguments"]) for one in bindings)


def test_other_arguments_than_those_that_are_there_are_told(connect, name):
    """The error says which argument of which queue differs, and that nothing can change it."""
    connect().setup()
    connection = connect(queues={name: {"arguments": {"x-max-length": 5}}})

    for use in (connection.setup, lambda: connection.publish(numbered(1)), lambda: connection.fetch(1, 1)):
        with pytest.raises(
            TransportError, match=f"inequivalent arg 'x-max-length' for queue '{name}'.*it cannot be changed"
        ) as caught:
            use()
        assert not isinstance(caught.value, ConnectionLost)


def test_what_is_there_with_other_arguments_is_missing(connect, name):
    """Who looks for what is missing hears what a worker would, unless that declares nothing; and nothing is changed."""
    connect().setup()
    queue = {"flags": 2, "arguments": {"x-max-length": 5}}

    [exchange, other] = connect(exchange={"type": "topic"}, queues={name: queue}).missing()
    assert f"inequivalent arg 'type' for exchange '{name}'" in exchange
    assert f"inequivalent arg 'x-max-length' for queue '{name}'" in other
    assert "it cannot be changed" in other
    assert [] == connect(queues={name: queue}, auto_setup=False).missing()
    assert [] == connect().missing()


def test_an_exclusive_queue_is_not_missing(connect, name):
    """It is there as long as its consumer is; then nobody else can have it, and is told so."""
    assert [f"Exchange '{name}' does not exist."] == connect(queues={name: {"flags": 8}}).missing()
    connection = connect(queues={name: {"flags": 8}})
    connection.setup()

    assert [] == connection.missing()
    [problem] = connect(queues={name: {"flags": 8}}).missing()
    assert problem.startswith("RESOURCE_LOCKED")


@pytest.mark.parametrize("told", [-1, "-1"], ids=["number", "text"])
def test_no_limit_of_deliveries_is_what_the_server_takes_for_it(connect, take, rabbitmq, name, told):
    """RabbitMQ 4 has a limit unless told otherwise; RabbitMQ 3 has none, and would drop what is given back once."""
    connection = connect(queues={name: {"arguments": {"x-queue-type": "quorum", "x-delivery-limit": told}}})
    connection.publish(numbered(1))

    for _ in range(25):
        [delivery] = connection.fetch(1, 10)
        connection.release([delivery.tag])

    take(connection)
    version = rabbitmq.manage("GET", "overview")["rabbitmq_version"]
    declared = rabbitmq.manage("GET", f"queues/%2f/{name}")["arguments"]
    assert (version >= "4") is ("x-delivery-limit" in declared)


def test_another_type_than_that_of_the_exchange_is_told(connect, name):
    """As with queues."""
    connect().setup()

    with pytest.raises(TransportError, match=f"inequivalent arg 'type' for exchange '{name}'"):
        connect(exchange={"type": "topic"}).setup()


def test_an_unknown_type_is_told(connect):
    """It may be the type of a plugin that the broker does not have, so that the broker must say it."""
    with pytest.raises(TransportError, match="x-delayed-message"):
        connect(exchange={"type": "x-delayed-message", "arguments": {"x-delayed-type": "direct"}}).setup()


def test_a_name_that_is_too_long_is_told(connect):
    """AMQP has 255 bytes for one; the connection goes on."""
    connection = connect(queues={"q" * 256: {}})

    for _ in range(2):
        with pytest.raises(TransportError, match="AMQP has no form for this") as caught:
            connection.setup()
        assert not isinstance(caught.value, ConnectionLost)


def test_a_missing_source_is_told(connect, name):
    """An exchange that another one is to be bound to is not declared, since nobody knows its type."""
    with pytest.raises(TransportError, match=f"no exchange '{name}-source'"):
        connect(exchange={"bindings": {f"{name}-source": {}}}).setup()


def test_flags_may_ask_for_what_is_there(connect, name):
    """With the flag 4, passive, nothing is declared, and what is missing is an error."""
    passive = {"exchange": {"flags": 4}, "queues": {name: {"flags": 4}}}
    with pytest.raises(TransportError, match=f"no exchange '{name}'"):
        connect(**passive).publish(numbered(1))
    connect().setup()

    connection = connect(**passive)

    connection.publish(numbered(1))
    assert 1 == connection.count().waiting


@pytest.fixture
def limited(rabbitmq, name):
    """Give the DSN of a user who may declare nothing."""
    rabbitmq.manage("PUT", f"users/{name}", {"password": "limited", "tags": ""})
    rabbitmq.manage("PUT", f"permissions/%2f/{name}", {"configure": "", "write": ".*", "read": ".*"})
    yield rabbitmq.dsn.replace("guest:guest", f"{name}:limited")
    rabbitmq.manage("DELETE", f"users/{name}")


def test_a_missing_permission_is_told(connect, limited, name):
    """The error names what is refused, and says who can help; without auto_setup such a user can work."""
    with pytest.raises(TransportError, match=f"access to exchange '{name}'.*refused.*auto_setup=false") as caught:
        connect(limited).publish(numbered(1))
    assert not isinstance(caught.value, ConnectionLost)

    connect().setup()
    connection = connect(limited, auto_setup=False)
    connection.publish(numbered(1))
    assert [b"0"] == [delivery.body for delivery in connection.fetch(1, 10)]
    assert [] == list(connection.missing())


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("guest:guest", "guest:wr0ng", r"refuses the user 'guest': ACCESS_REFUSED .*logfile\. Correct"),
        ("guest:guest", "n0body:wr0ng", "refuses the user 'n0body': ACCESS_REFUSED"),
        ("/%2f", "/no-such-vhost", r"has no such vhost: NOT_ALLOWED - vhost no-such-vhost not found\. Make it, or"),
    ],
)
def test_who_may_not_come_in_is_told(connect, rabbitmq, old, new, told):
    """A wrong password or virtual host is no lost connection: another try would end the same. No password is shown."""
    connection = connect(rabbitmq.dsn.replace(old, new))

    for use in (lambda: connection.publish(numbered(1)), lambda: connection.fetch(1, 5)):
        with pytest.raises(TransportError, match=told) as caught:
            use()
        assert not isinstance(caught.value, ConnectionLost)
        assert "wr0ng" not in str(caught.value)


def test_a_broker_that_is_not_there_is_a_lost_connection(connect):
    """It may come back."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        connection = connect(f"amqp://127.0.0.1:{unused.getsockname()[1]}/%2f")

        with pytest.raises(
            ConnectionLost, match=r"RabbitMQ at 127.0.0.1:[0-9]+ .* cannot be reached: Connection refused\. Check"
        ):
            connection.publish(numbered(1))


def test_a_broker_that_never_answers_is_a_lost_connection(connect):
    """Something takes the connection, and says nothing: after `connect_timeout` that is enough."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        connection = connect(f"amqp://127.0.0.1:{silent.getsockname()[1]}/%2f", connect_timeout=0.2)

        with pytest.raises(ConnectionLost, match="cannot be reached"):
            connection.fetch(1, 5)


def test_a_host_that_does_not_exist_is_a_lost_connection(connect):
    """Name servers recover, too."""
    with pytest.raises(ConnectionLost, match="no-such-host.invalid"):
        connect("amqp://no-such-host.invalid/%2f").fetch(1, 5)


def test_the_next_host_is_tried(connect, rabbitmq):
    """Of several hosts, one that answers is enough."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        connection = connect(rabbitmq.dsn.replace("@", f"@{address},"))

        connection.publish(numbered(1))


def test_a_host_without_an_address_is_passed_over(connect, rabbitmq):
    """A name server may not know one of the nodes, wherever it stands among them."""
    base = rabbitmq.dsn
    for dsn in (base.replace("@", "@no-such-host.invalid,"), base.replace("/%2f", ",no-such-host.invalid/%2f")):
        connect(dsn).publish(numbered(1))

    with pytest.raises(TransportError, match="refuses the user 'guest'") as caught:
        connect(base.replace("guest:guest", "guest:wr0ng").replace("/%2f", ",no-such-host.invalid/%2f")).count()
    assert not isinstance(caught.value, ConnectionLost)


def test_a_port_that_does_not_encrypt_is_told(connect, rabbitmq):
    """That is no lost connection: it will be the same the next time."""
    with pytest.raises(TransportError, match="does not encrypt on this port. Write amqp://") as caught:
        connect(rabbitmq.dsn.replace("amqp://", "amqps://")).publish(numbered(1))

    assert not isinstance(caught.value, ConnectionLost)


def test_a_port_that_encrypts_is_told(connect, rabbitmq_tls):
    """It answers nothing that could be understood in plain text, and will not the next time either."""
    with pytest.raises(TransportError, match=r"encrypts on this port\. Write amqps://, or name the port") as caught:
        connect(rabbitmq_tls.dsn.replace("amqps://", "amqp://")).publish(numbered(1))

    assert not isinstance(caught.value, ConnectionLost)


def test_a_port_where_nobody_answers_is_a_lost_connection(connect):
    """Neither in plain text nor in any other: it may be a broker that stands still."""
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(ConnectionLost):
        connect(f"amqp://127.0.0.1:{server.getsockname()[1]}/%2f", connect_timeout=0.5).publish(numbered(1))


class TestTls:
    def test_the_systems_authorities_are_trusted_unless_told_otherwise(self, connect, rabbitmq_tls):
        """A certificate of somebody else's is refused; the error says how to name its authority."""
        with pytest.raises(TransportError, match="is not trusted: .*'cacert'") as caught:
            connect(rabbitmq_tls.dsn).publish(numbered(1))

        assert not isinstance(caught.value, ConnectionLost)

    def test_the_host_must_be_the_one_in_the_certificate(self, connect, rabbitmq_tls):
        """A good certificate of another host's is no better."""
        dsn = rabbitmq_tls.dsn.replace("localhost", "127.1")  # which is short for 127.0.0.1

        with pytest.raises(TransportError, match="is not trusted"):
            connect(dsn, cacert=str(rabbitmq_tls.certificates.ca_file)).publish(numbered(1))

    def test_authorities_may_lie_in_a_folder(self, connect, rabbitmq_tls, tmp_path):
        """As OpenSSL has them: each under the hash of its name."""
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("Only OpenSSL's own program knows that hash. Install it: apt-get install openssl")
        ca_file = rabbitmq_tls.certificates.ca_file
        command = [openssl, "x509", "-hash", "-noout", "-in", ca_file]
        hashed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        (tmp_path / f"{hashed}.0").write_bytes(ca_file.read_bytes())

        connect(rabbitmq_tls.dsn, cacert=str(tmp_path)).publish(numbered(1))

    def test_nothing_is_verified_if_that_is_asked_for(self, connect, rabbitmq_tls):
        """For a test machine, say."""
        connect(rabbitmq_tls.dsn, verify=False).publish(numbered(1))

    def test_the_client_may_have_a_certificate(self, connect, rabbitmq_tls):
        """The broker knows whose it is; the key may lie in the same file."""
        certificates = rabbitmq_tls.certificates
        connection = connect(
            rabbitmq_tls.dsn,
            cacert=str(certificates.ca_file),
            cert=str(certificates.certificate),
            key=str(certificates.key),
        )

        connection.publish(numbered(1))

        wait_until(
            lambda: any("CN=client" in (one.get("peer_cert_subject") or "") for one in rabbitmq_tls.connections()),
            "The broker has seen no certificate.",
        )

    def test_a_file_that_is_missing_is_told(self, connect, rabbitmq_tls):
        """It is an error in the options."""
        with pytest.raises(TransportError, match="Option 'cacert' of .* names what is not there: '/no/such/file'"):
            connect(rabbitmq_tls.dsn, cacert="/no/such/file").publish(numbered(1))
