"""What is said when Redis refuses, and that nothing is lost by it."""

from __future__ import annotations

import socket
import threading
import traceback
from contextlib import closing

import pytest
import redis.exceptions

from postbus.errors import ConnectionLost, DsnError, TransportError
from postbus.transport import Outgoing
from postbus_redis.errors import translate
from tests.brokers.network import reserve_port
from tests.brokers.redis import RedisServer
from tests.brokers.server import wait_until

MESSAGE = Outgoing(b"message", {})
SOON = Outgoing(b"soon", {}, 0.05)


def error_of(work) -> TransportError:
    with pytest.raises(TransportError) as caught:
        work()
    return caught.value


def test_full_memory_refuses_messages_and_delivers_them(own_redis, connect_to):
    """What is there can be handled, which makes room; what is due waits until there is some."""
    connection = connect_to(own_redis.dsn)
    connection.setup()
    *_, soon = connection.publish([MESSAGE, MESSAGE, Outgoing(b"soon", {}, 1.0)])
    [kept] = connection.fetch(1, 5)
    own_redis.make_full()
    due = float(soon.partition(".")[0]) / 1000
    with own_redis.client() as client:
        wait_until(lambda: client.time()[0] >= due, "Its time does not come.")

    for refused in (MESSAGE, SOON):
        error = error_of(lambda refused=refused: connection.publish([refused]))
        assert "is full and takes no messages" in str(error)
        assert not isinstance(error, ConnectionLost)
        assert {} == error.stored
    assert "is full" in str(error_of(lambda: connection.replace(kept.tag, MESSAGE)))

    [delivery] = connection.fetch(5, 0.2)
    connection.ack([delivery.tag])
    connection.release([kept.tag])
    [again] = connection.fetch(5, 0.2)
    assert [] == list(connection.keepalive([again.tag]))
    own_redis.make_room()

    [late] = connection.fetch(5, 5)
    assert b"soon" == late.body


def test_a_replica_is_a_lost_connection(own_redis, connect_to):
    """Its role may be a mistake in the DSN, or the first sign of a failover."""
    connection = connect_to(own_redis.dsn)
    connection.publish([MESSAGE])
    own_redis.make_readonly()

    error = error_of(lambda: connection.publish([MESSAGE]))

    assert isinstance(error, ConnectionLost)
    assert "is a replica, which takes no messages. Name its master" in str(error)
    assert {} == error.stored


def test_a_worker_notices_that_its_master_became_a_replica(own_redis, connect_to, in_background):
    """Also while it waits."""
    connection = connect_to(own_redis.dsn)
    waiting = in_background(lambda: connection.fetch(1, 30))
    with own_redis.client() as client:
        wait_until(lambda: any("b" in each["flags"] for each in client.client_list()), "It does not wait.")

    own_redis.make_readonly()

    with pytest.raises(ConnectionLost):
        waiting.result(10)


@pytest.mark.parametrize("suffix", ["", "__queue"])
def test_a_key_of_another_type_is_an_error(client, stream, connect, suffix):
    """Of what was published together, ``stored`` names what is stored."""
    client.set(f"{stream}{suffix}", "text")
    connection = connect()

    error = error_of(lambda: connection.publish([MESSAGE, SOON]))

    assert "has a key of another type where the stream or its delayed set should be" in str(error)
    assert ([1] if suffix == "" else [0]) == list(error.stored)
    assert "another type" in str(error_of(lambda: connection.fetch(1, 0)))


@pytest.mark.parametrize(
    ("user", "told"),
    [
        ("", "refuses the user or the password"),
        ("postbus:wrong@", "refuses the user or the password"),
        ("wrong@", "refuses the user or the password"),
    ],
)
def test_a_wrong_password_is_an_error(redis_acl, connect_to, user, told):
    """Trying again would be no use; nothing of it is shown."""
    _, _, server = redis_acl.dsn.rpartition("@")

    error = error_of(lambda: connect_to(f"redis://{user}{server}").publish([MESSAGE]))

    assert told in str(error)
    assert "wrong" not in str(error).replace("wrong number", "")
    assert not isinstance(error, ConnectionLost)


def test_what_a_server_says_of_a_login_is_not_repeated(own_redis, connect_to):
    """One that has no AUTH, or another name for it, shows what came with that, as do some that stand in between."""
    server = RedisServer(
        "renamed", own_redis.find("redis-server", package="redis-server"), "--rename-command", "AUTH", ""
    )
    server.start()
    with closing(server):
        long = "s3cret" * 100
        for credentials in ("user:s3cret", f"user:{long}", ":s3cret"):
            error = error_of(
                lambda given=credentials: connect_to(f"redis://{given}@127.0.0.1:{server.port}").publish([MESSAGE])
            )

            assert not isinstance(error, ConnectionLost)
            assert "s3cret" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "answer",
    [
        b"-ERR no such login: s3cret\r\n",
        b"-ERR login failed for us3cret@here\r\n",
        b"+s3cret\r\n",
        b"*1\r\n$6\r\ns3cret\r\n",
        b"s3cret?\r\n",
    ],
)
def test_no_answer_to_a_login_is_shown_with_a_password_in_it(connect_to, answer):
    """Whatever stands there in place of Redis: neither the error nor its traceback repeats what was sent to it."""
    with socket.create_server(("127.0.0.1", reserve_port())) as server:

        def talk() -> None:
            client, _ = server.accept()
            with client:
                client.recv(1000)
                client.sendall(answer)
                client.recv(1000)

        threading.Thread(target=talk, daemon=True).start()
        port = server.getsockname()[1]
        dsn = f"redis://:{'s3'}cret@127.0.0.1:{port}"  # So written, it is not in a line that a traceback quotes.
        error = error_of(lambda: connect_to(dsn).publish([MESSAGE]))

    assert "s3cret" not in "".join(traceback.format_exception(error))


def test_a_permission_that_is_missing_is_named(redis_acl, stream, connect_to):
    """The user gets to know which command it is."""
    with redis_acl.client() as client:
        client.acl_setuser("reader", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", "-xadd"])

    _, _, server = redis_acl.dsn.rpartition("@")
    error = error_of(lambda: connect_to(f"redis://reader:pw@{server}").publish([MESSAGE]))

    assert "denies the user of the DSN a permission" in str(error)
    assert "xadd" in str(error)


def test_a_user_needs_no_more_than_is_documented(redis_acl, stream, connect_to):
    """The rule in the README is enough for everything."""
    with redis_acl.client() as client:
        rules = "+@stream +@scripting +@connection +zadd +zrange +zrem +zcard +zcount +hset +hdel +hmget +time +unlink"
        client.execute_command("ACL", "SETUSER", "minimal", "on", ">pw", "nocommands", f"~{stream}*", *rules.split())
    _, _, server = redis_acl.dsn.rpartition("@")

    connection = connect_to(f"redis://minimal:pw@{server}", claim_interval=10)
    connection.setup()
    connection.publish([MESSAGE, SOON, Outgoing(b"later", {}, 3600)])
    for _ in range(2):
        [delivery] = connection.fetch(1, 5)
        connection.replace(delivery.tag, MESSAGE)
    [first] = connection.fetch(1, 5)
    [second] = connection.fetch(1, 5)
    connection.keepalive([first.tag])
    connection.release([first.tag])
    connection.ack([second.tag])
    connection.count()
    connection.remove([shown.id for shown in connection.browse(10) if shown.id])
    connection.purge()
    connection.write_note("shop/paused/orders", "by somebody")
    connection.write_note("shop/paused/mails", None)
    assert ["by somebody"] == connection.read_notes(["shop/paused/orders"])


def test_a_user_may_do_without_client_commands(redis_acl, stream, connect_to, in_background):
    """They only make closing gentle; without them, the connection of who waits is cut."""
    with redis_acl.client() as client:
        client.acl_setuser("blind", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", "-client"])
        _, _, server = redis_acl.dsn.rpartition("@")
        connection = connect_to(f"redis://blind:pw@{server}")
        waiting = in_background(lambda: connection.fetch(1, 30))
        wait_until(lambda: any("b" in each["flags"] for each in client.client_list()), "It does not wait.")

    in_background(connection.close).result(10)

    assert [] == waiting.result(10)


def test_a_wrong_password_of_sentinels_is_told_without_it(redis_sentinel, connect_to):
    """They have users of their own."""
    for sentinel in redis_sentinel.sentinels:
        with sentinel.client() as client:
            client.execute_command("ACL", "SETUSER", "watcher", "on", ">s3cret", "allcommands", "allchannels")
    right = {"sentinel_password": ["watcher", "s3cret"]}
    wrong = {"sentinel_password": ["watcher", "s3crets"]}

    connect_to(redis_sentinel.dsn, **right).publish([MESSAGE])
    error = error_of(lambda: connect_to(redis_sentinel.dsn, **wrong).publish([MESSAGE]))

    assert "refuses the user or the password" in str(error)
    assert "s3cret" not in f"{error!r} {error.__cause__!r}"


def test_a_master_that_sentinels_do_not_know_is_a_lost_connection(redis_sentinel, connect_to):
    """They may hear of it later."""
    error = error_of(lambda: connect_to(redis_sentinel.dsn, sentinel_master="other").publish([MESSAGE]))

    assert isinstance(error, ConnectionLost)
    assert "Redis master 'other' is not known at 127.0.0.1:" in str(error)


def test_a_host_without_a_name_is_a_lost_connection(connect_to):
    """It may have one soon."""
    error = error_of(lambda: connect_to("redis://no-such-host.invalid").publish([MESSAGE]))

    assert isinstance(error, ConnectionLost)
    assert "no-such-host.invalid" in str(error)
    assert "cannot be reached" in str(error)


def test_a_certificate_that_is_not_trusted_is_an_error(redis_tls, connect_to):
    """Nothing is sent to a server that may be another one."""
    error = error_of(lambda: connect_to(redis_tls.dsn).publish([MESSAGE]))

    assert "has a certificate that cannot be verified" in str(error)
    assert "See option 'ssl'" in str(error)
    assert not isinstance(error, ConnectionLost)


def test_a_certificate_is_for_the_host_in_the_dsn(redis_tls, connect_to):
    """Unless that check is turned off."""
    dsn = redis_tls.dsn.replace("localhost", "127.1")
    trust = {"cafile": str(redis_tls.certificates.ca_file)}

    assert "cannot be verified" in str(error_of(lambda: connect_to(dsn, ssl=trust).publish([MESSAGE])))
    connect_to(dsn, ssl={**trust, "verify_peer_name": False}).publish([MESSAGE])
    connect_to(dsn, ssl={"verify_peer": False}).publish([MESSAGE])


def test_a_client_may_have_a_certificate(redis_tls, connect_to):
    """As Symfony's options name it."""
    files = redis_tls.certificates
    ssl = {"cafile": str(files.ca_file), "local_cert": str(files.certificate), "local_pk": str(files.key)}

    connect_to(redis_tls.dsn, ssl=ssl).publish([MESSAGE])


def test_a_node_of_a_cluster_says_what_it_is(redis_cluster, connect_to):
    """Who names one server reaches the wrong one, mostly."""
    errors = []
    for server in redis_cluster.servers:
        try:
            connect_to(f"redis://127.0.0.1:{server.port}").publish([MESSAGE])
        except ConnectionLost as error:
            errors.append(str(error))

    assert 2 == len(errors)
    assert all("Name several nodes, or set cluster=true" in error for error in errors)


def test_a_cluster_with_a_node_that_hangs_is_found(redis_cluster, connect_to):
    """Any node that answers knows where the stream is; only the one that has it is needed."""
    connection = connect_to(redis_cluster.dsn)
    connection.publish([MESSAGE])
    _, port = connection._links._server._found
    hung = next(server for server in redis_cluster.servers if server.port != port)
    hung.pause()
    try:
        connect_to(redis_cluster.dsn, timeout=1, read_timeout=1).publish([MESSAGE])
    finally:
        hung.resume()


def test_a_wrong_password_of_a_cluster_is_an_error(redis_cluster, connect_to):
    """As it is elsewhere."""
    dsn = redis_cluster.dsn.replace("redis://", "redis://user:secret@", 1)

    error = error_of(lambda: connect_to(dsn).publish([MESSAGE]))

    assert "refuses the user or the password" in str(error)
    assert not isinstance(error, ConnectionLost)


def test_one_node_of_a_cluster_is_enough_where_it_is_called_so(redis_cluster, connect_to):
    """It tells where the others are."""
    connection = connect_to(f"redis://127.0.0.1:{redis_cluster.servers[0].port}", cluster=True)

    connection.publish([MESSAGE])

    assert 1 == len(connection.fetch(1, 5))


def test_a_server_that_is_no_redis_is_an_error(connect_to):
    """It is told from one that is not there."""
    with socket.create_server(("127.0.0.1", reserve_port())) as server:

        def answer() -> None:
            client, _ = server.accept()
            with client:
                client.recv(100)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        port = server.getsockname()[1]
        error = error_of(lambda: connect_to(f"redis://127.0.0.1:{port}").publish([MESSAGE]))

    assert "does not speak the protocol of Redis" in str(error)


def test_without_setup_a_missing_group_is_an_error(connect):
    """It says what to do; publishing needs no group."""
    connection = connect(auto_setup=False)
    connection.publish([MESSAGE])

    error = error_of(lambda: connection.fetch(1, 0))

    assert "has no group 'postbus'. Run `postbus setup`." in str(error)
    assert str(error) == connection.missing()[0]
    connection.setup()
    assert 1 == len(connection.fetch(1, 5))


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (redis.exceptions.BusyLoadingError("Redis is loading"), ConnectionLost, "is still loading its data"),
        (redis.exceptions.NoScriptError("No matching script"), ConnectionLost, "has forgotten the scripts"),
        (redis.exceptions.ClusterDownError("The cluster is down"), ConnectionLost, "cannot serve this stream"),
        (redis.exceptions.TryAgainError("Try again"), ConnectionLost, "cannot serve this stream"),
        (redis.exceptions.ResponseError("MISCONF Errors writing"), ConnectionLost, "at the moment: MISCONF Errors"),
        (redis.exceptions.ResponseError("NOREPLICAS Not enough"), ConnectionLost, "at the moment: NOREPLICAS Not"),
        (redis.exceptions.ResponseError("ERR no such thing"), TransportError, "refuses: ERR no such thing."),
        (
            redis.exceptions.ResponseError("unknown command 'XADD', with args beginning with: 'stream' '{...}'"),
            TransportError,
            "refuses: unknown command 'XADD'.",
        ),
        (
            redis.exceptions.ConnectionError("Error 111 connecting to localhost:6379. Connection refused."),
            ConnectionLost,
            "cannot be reached: Connection refused. Check that it runs, and the DSN.",
        ),
        (
            redis.exceptions.AuthenticationError("AUTH <password> called without any. Are you sure it is correct?"),
            TransportError,
            "Are you sure it is correct. Correct them in the DSN.",
        ),
        (redis.exceptions.ConnectionError(), ConnectionLost, "cannot be reached: ConnectionError"),
    ],
)
def test_every_error_of_the_client_has_its_sentence(error, kind, told):
    """A lost connection is one that may be better next time."""
    translated = translate(error, "Redis at localhost:6379")

    assert kind is type(translated)
    assert str(translated).startswith("Redis at localhost:6379 ")
    assert told in str(translated)


def test_forgotten_scripts_are_loaded_again(own_redis, make_transport):
    """What was not done for lack of one is done on the next connection."""
    from postbus import stamps
    from postbus.envelope import Envelope
    from postbus.testing.subject import Note

    transport = make_transport(own_redis.dsn)
    transport.send([Envelope.wrap(Note("now"))])
    with own_redis.client() as client:
        client.script_flush()

    transport.send([Envelope.wrap(Note("later"), stamps.Delay(3600))])

    assert 1 == transport.connection.count().delayed


@pytest.mark.parametrize(
    ("name", "shown"),
    [(name, ": '/nowhere/redis.pem'") for name in ("cafile", "capath", "local_cert")] + [("local_pk", "")],
)
def test_an_option_of_tls_that_names_no_file(make_transport, name, shown):
    """It is found before anything is connected to; what may be a key itself is not shown."""
    with pytest.raises(DsnError) as caught:
        make_transport("rediss://localhost", ssl={name: "/nowhere/redis.pem"})

    assert f"Option 'ssl[{name}]' of rediss:// names what is not there{shown}. Correct the path." == str(caught.value)


def test_tls_to_a_port_that_has_none(make_transport):
    """Who answers in plain text does not encrypt: an error for good, which says what to write."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer_plainly, args=[server])
        thread.start()
        error = error_of(make_transport(f"rediss://127.0.0.1:{server.getsockname()[1]}").connection.count)
        thread.join()

    assert type(error) is TransportError
    assert str(error).startswith("Redis with TLS at 127.0.0.1:")
    assert str(error).endswith(" does not encrypt on this port. Write redis://, or name the port that does.")


def test_a_port_that_encrypts_is_told(redis_tls, connect_to):
    """It answers nothing that could be understood in plain text: an error for good, which says what to write."""
    error = error_of(lambda: connect_to(redis_tls.dsn.replace("rediss://", "redis://")).publish([MESSAGE]))

    assert type(error) is TransportError
    assert str(error).startswith("Redis at localhost:")
    assert str(error).endswith(" encrypts on this port. Write rediss://, or name the port that does not.")


def test_a_redis_that_does_not_encrypt_is_told(redis_plain, connect_to):
    """It waits for the end of the line that it takes the greeting for, and so says nothing."""
    dsn = redis_plain.dsn.replace("redis://", "rediss://")
    error = error_of(lambda: connect_to(dsn, timeout=0.5, read_timeout=0.5).publish([MESSAGE]))

    assert type(error) is TransportError
    assert str(error).endswith(" does not encrypt on this port. Write redis://, or name the port that does.")


def test_one_of_several_that_encrypts_is_no_error_for_good(redis_tls, connect_to):
    """Another one may come back, so that is a lost connection, wherever it stands among them."""
    host = redis_tls.dsn.removeprefix("rediss://").partition("/")[0]
    away = f"127.0.0.1:{reserve_port()}"
    for hosts in (f"{host},{away}", f"{away},{host}"):
        error = error_of(lambda hosts=hosts: connect_to(f"redis://{hosts}?cluster=true").publish([MESSAGE]))
        assert isinstance(error, ConnectionLost)
    error = error_of(lambda: connect_to(f"redis://{host},{host}?cluster=true").publish([MESSAGE]))
    assert "encrypts on this port" in str(error)


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_a_port_where_nobody_answers_is_a_lost_connection(connect_to, scheme):
    """Neither in plain text nor in any other: it may be a server that stands still."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        dsn = f"{scheme}://127.0.0.1:{server.getsockname()[1]}?timeout=0.2&read_timeout=0.2"
        error = error_of(lambda: connect_to(dsn).publish([MESSAGE]))

    assert isinstance(error, ConnectionLost)


def answer_plainly(server):
    connection, _ = server.accept()
    with connection:
        connection.recv(1 << 16)
        connection.sendall(b"-ERR unknown command\r\n")


@pytest.mark.slow
def test_a_server_that_deletes_streams_when_it_is_full(make_transport, own_redis):
    """A policy of eviction that would take the messages is a sentence of `missing`, as far as there is a limit."""
    connection = make_transport(own_redis.dsn).connection
    connection.setup()
    with own_redis.client() as server:
        for policy, limit, expected in (
            ("allkeys-lru", "100mb", ["deletes streams, with all that is in them, when it is full (allkeys-lru)."]),
            ("allkeys-lru", "0", []),
            ("volatile-lru", "100mb", []),
            ("noeviction", "100mb", []),
        ):
            server.config_set("maxmemory", limit, "maxmemory-policy", policy)
            told = connection.missing()
            assert len(expected) == len(told)
            assert all(part in sentence for part, sentence in zip(expected, told, strict=True))
