"""What a DSN means, and what it may not say."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from postbus.dsn import Dsn, Host
from postbus.errors import DsnError
from postbus.plugins import Plugin, Plugins
from postbus.serialization import JsonSerializer, TypeRegistry
from postbus.transport import TransportContext
from postbus_redis import GUARANTEES, RedisOptions, make_transport
from postbus_redis.keys import Keys, keys_for
from postbus_redis.options import Address, address_of
from postbus_redis.tls import tls_settings

LOCAL = (Host("localhost", 6379),)
THREE = (Host("redis1", 26379), Host("redis2", 26379), Host("redis3", 26379))
FOUR = tuple(Host(f"host-0{number}", 6379) for number in range(1, 5))


def options_of(dsn: str, **configured: object) -> RedisOptions:
    return RedisOptions.from_dsn(Dsn.parse(dsn).with_options(configured))


def address(dsn: str, **configured: object) -> Address:
    parsed = Dsn.parse(dsn).with_options(configured)
    return address_of(parsed, RedisOptions.from_dsn(parsed))


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("redis://localhost:6379/messages", Address(LOCAL, None, False, False)),
        ("redis://localhost", Address(LOCAL, None, False, False)),
        ("valkey://localhost", Address(LOCAL, None, False, False)),
        ("rediss://localhost:6379/messages", Address(LOCAL, None, True, False)),
        ("valkeys://localhost", Address(LOCAL, None, True, False)),
        ("redis://[::1]", Address((Host("::1", 6379),), None, False, False)),
        ("redis://[::1]:7000/messages", Address((Host("::1", 7000),), None, False, False)),
        ("redis://localhost:1234?port=6379", Address(LOCAL, None, False, False)),
        ("redis:///var/run/redis.sock", Address((), "/var/run/redis.sock", False, False)),
        ("redis:/var/run/redis.sock", Address((), "/var/run/redis.sock", False, False)),
        ("redis://user:password@/var/run/redis.sock", Address((), "/var/run/redis.sock", False, False)),
        (
            "redis://host-01:6379,redis://host-02:6379,redis://host-03:6379,redis://host-04:6379",
            Address(FOUR, None, False, True),
        ),
        ("redis://host-01,host-02,host-03,host-04/messages", Address(FOUR, None, False, True)),
        ("redis://localhost?cluster=true", Address(LOCAL, None, False, True)),
        (
            "redis:?host[redis1:26379]&host[redis2:26379]&host[redis3:26379]&sentinel_master=db",
            Address(THREE, None, False, False),
        ),
        (
            "redis:?host[redis1:26379]&host[redis2:26379]&host[redis3:26379]&redis_sentinel=db",
            Address(THREE, None, False, False),
        ),
    ],
)
def test_a_dsn_leads_to_servers(dsn, expected):
    """One host is a server, several are a Cluster or Sentinels, none is a Unix socket."""
    assert expected == address(dsn)


def test_hosts_may_come_from_the_configuration():
    """A list of hosts, as Symfony's option has it, takes the place of those in the DSN."""
    assert FOUR == address("redis://localhost", host=["host-01", "host-02", "host-03:6379", "host-04"]).hosts
    assert LOCAL == address("redis:///messages", host="localhost").hosts
    assert "messages" == options_of("redis:///messages", host="localhost").stream


@pytest.mark.parametrize(
    ("dsn", "stream", "group", "consumer"),
    [
        ("redis://localhost", "messages", "postbus", None),
        ("redis://localhost/", "messages", "postbus", None),
        ("redis://localhost:6379/jobs", "jobs", "postbus", None),
        ("redis://localhost/jobs/symfony/consumer/", "jobs", "symfony", "consumer"),
        ("redis://localhost/a%2Fb", "a/b", "postbus", None),
        ("redis://localhost/jobs/symfony?stream=other&group=mine", "other", "mine", None),
        ("redis:///var/run/redis.sock", "messages", "postbus", None),
        ("redis:///var/run/redis.sock?stream=jobs&consumer=me", "jobs", "postbus", "me"),
        ("redis:/jobs/mine?host[redis1:26379]&sentinel_master=db", "jobs", "mine", None),
    ],
)
def test_the_path_names_stream_group_and_consumer(dsn, stream, group, consumer):
    """An option of that name wins over the path."""
    options = options_of(dsn)

    assert (stream, group, consumer) == (options.stream, options.group, options.consumer)


@pytest.mark.parametrize(
    ("dsn", "auth"),
    [
        ("redis://localhost", None),
        ("redis://password@localhost", ("password",)),
        ("redis://:password@localhost", ("password",)),
        ("redis://password:@localhost", ("password",)),
        ("redis://0@localhost", ("0",)),
        ("redis://user:p%40ss%2Fword@localhost", ("user", "p@ss/word")),
        ("redis://user:password@/var/run/redis.sock", ("user", "password")),
        ("redis://user:password@localhost?auth=other", ("other",)),
        ("redis://localhost?auth[]=user&auth[]=password", ("user", "password")),
    ],
)
def test_a_user_part_alone_is_the_password(dsn, auth):
    """A pair is user and password; the option ``auth`` wins over both."""
    assert auth == options_of(dsn).auth


def test_every_option_of_the_example_is_read():
    """The DSN that Symfony's documentation shows is taken over as it is."""
    options = options_of(
        "redis://password@localhost:6379/messages/symfony/consumer"
        "?auto_setup=true&serializer=1&stream_max_entries=0&dbindex=0&delete_after_ack=true"
    )

    assert ("messages", "symfony", "consumer") == (options.stream, options.group, options.consumer)
    assert (True, 1, 0, 0, True) == (
        options.auto_setup,
        options.serializer,
        options.stream_max_entries,
        options.dbindex,
        options.delete_after_ack,
    )


def test_the_defaults_are_symfonys():
    """A DSN that says nothing means what it means there, but for the names, and for how soon the dead are noticed."""
    options = options_of("redis://localhost")

    assert (60, 15_000) == (options.redeliver_timeout, options.claim_interval)
    assert (True, True, 0) == (options.delete_after_ack, options.delete_after_reject, options.stream_max_entries)


def test_the_configuration_wins_over_the_query_and_that_over_the_path():
    """So it is for every transport."""
    dsn = "redis://:secret@localhost/path?group=query&stream=query"

    options = options_of(dsn, stream="configured", auth=["user", "configured"])

    assert ("configured", "query", ("user", "configured")) == (options.stream, options.group, options.auth)


def test_durations_may_be_written_as_such():
    """A number is in Symfony's unit; a suffix says another one."""
    options = options_of("redis://localhost?redeliver_timeout=500ms&claim_interval=5s&read_timeout=1m")

    assert (0.5, 5000, 60) == (options.redeliver_timeout, options.claim_interval, options.read_timeout)


def test_what_belongs_to_php_alone_is_accepted_without_effect():
    """An existing DSN can be taken over as it is, and it can be told what in it means nothing here."""
    dsn = Dsn.parse("redis://localhost?serializer=0&lazy=false&persistent_id=x&retry_interval=100")

    RedisOptions.from_dsn(dsn)

    assert {"serializer", "lazy", "persistent_id", "retry_interval"} == set(RedisOptions.without_effect(dsn))


@pytest.mark.parametrize(
    ("dsn", "told"),
    [
        ("redis://localhost?strem=x", "Did you mean 'stream'?"),
        ("redis://localhost?stream_max_entrie=1", "Did you mean 'stream_max_entries'?"),
        ("redis://localhost?stream_max_entries=abc", "Option 'stream_max_entries' of redis:// must be an int"),
        ("redis://localhost?stream_max_entries=-1", "must be at least 0, got -1"),
        ("redis://localhost?redeliver_timeout=-1", "must be at least 0.1, got -1"),
        ("redis://localhost?redeliver_timeout=soon", "Option 'redeliver_timeout' of redis:// must be a float of sec"),
        ("redis://localhost?auto_setup=maybe", "Option 'auto_setup' of redis:// must be"),
        ("redis://localhost?claim_interval=0", "must be at least 10, got 0"),
        ("redis://localhost?serializer=2", "serializer=0"),
        ("redis://localhost?serializer=5", "must be at most 4"),
        ("redis://localhost?stream=", "The stream of redis:// is empty"),
        ("redis://localhost//group", "The stream of redis:// is empty"),
        ("redis://localhost/stream//consumer", "The group of redis:// is empty"),
        ("redis://localhost/a/b/c/d", "is /stream/group/consumer, got 4 names"),
        ("redis://localhost?auth[]=a&auth[]=b&auth[]=c", "must be a password, or a user and a password"),
        ("redis://localhost?sentinel_master=a&redis_sentinel=b", "mean the same"),
        ("redis://localhost?sentinel_master=a&cluster=true", "exclude each other"),
        ("redis://a,b?dbindex=1", "must be 0: Redis Cluster has one database"),
        ("redis://a,b/one}two", "cannot be in a Redis Cluster"),
        ("redis://", "names no server. Write redis://localhost:6379/messages"),
        ("redis:", "names no server"),
        ("rediss:///var/run/redis.sock", "takes no TLS"),
        ("redis://localhost:99999", "with a port of 1 to 65535"),
        ("redis://localhost?ssl[cafile]=ca.pem", "Write rediss:// or valkeys://"),
        ("rediss://localhost?ssl[cafil]=ca.pem", "Did you mean 'cafile'?"),
        ("rediss://localhost?ssl[verify_peer]=maybe", "'verify_peer'"),
        ("rediss://localhost?ssl[allow_self_signed]=true", "ssl[cafile]"),
    ],
)
def test_what_is_wrong_is_refused(dsn, told):
    """The error names the option, and what is wanted."""
    context = TransportContext("test", JsonSerializer(TypeRegistry()), lambda envelope: envelope, GUARANTEES)

    with pytest.raises(DsnError) as caught:
        make_transport(Dsn.parse(dsn), context)

    assert told in str(caught.value)


@pytest.mark.parametrize("query", ["auth=s3cret", "auth[]=user&auth[]=s3cret", "sentinel_password=s3cret"])
def test_a_password_is_not_shown(query):
    """Neither by the DSN nor by the options that were read from it."""
    dsn = Dsn.parse(f"redis://localhost?{query}")

    assert "s3cret" not in f"{dsn} {dsn!r} {RedisOptions.from_dsn(dsn)!r}"


def test_tls_verifies_unless_it_is_told_otherwise():
    """What Symfony hands to PHP's stream is handed to Python's."""
    dsn = Dsn.parse(
        "rediss://localhost?ssl[cafile]=/ca.pem&ssl[local_cert]=/cert.pem&ssl[local_pk]=/key.pem&ssl[passphrase]=x"
        "&ssl[capture_peer_cert]=true&ssl[verify_peer_name]=false"
    )
    options = RedisOptions.from_dsn(dsn)

    settings = tls_settings("rediss", address_of(dsn, options), options)

    assert ("/ca.pem", "/cert.pem", "/key.pem", "x") == (
        settings["ssl_ca_certs"],
        settings["ssl_certfile"],
        settings["ssl_keyfile"],
        settings["ssl_password"],
    )
    assert ("required", False) == (settings["ssl_cert_reqs"], settings["ssl_check_hostname"])


@pytest.mark.parametrize(
    ("stream", "cluster", "expected"),
    [
        ("messages", False, Keys(b"messages", b"messages__queue", b"messages__wake")),
        ("messages", True, Keys(b"messages", b"{messages}__queue", b"{messages}__wake")),
        ("{app}jobs", True, Keys(b"{app}jobs", b"{app}jobs__queue", b"{app}jobs__wake")),
        ("{app}jobs", False, Keys(b"{app}jobs", b"{app}jobs__queue", b"{app}jobs__wake")),
    ],
)
def test_the_keys_of_a_queue_are_symfonys(stream, cluster, expected):
    """In a Cluster, where these would lie on several servers, they are tagged with the name of the stream."""
    assert expected == keys_for(stream, cluster=cluster)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "valkey", "valkeys"])
def test_each_scheme_is_registered_with_its_options(scheme):
    """A DSN of each scheme finds its factory, its options and its guarantees."""
    plugins = Plugins()
    plugins.add(sys.modules["postbus_redis"], Plugin("postbus_redis", "postbus_redis", "test"))

    registered = plugins.scheme_for(Dsn.parse(f"{scheme.upper()}://localhost"))

    assert RedisOptions is registered.options
    assert registered.guarantees is not None
    assert registered.guarantees.lease


def test_a_path_that_looks_like_a_database_is_remarked(caplog):
    """Other clients write the number of the database there; here it names a stream."""
    context = TransportContext("test", JsonSerializer(TypeRegistry()), lambda envelope: envelope, GUARANTEES)

    with caplog.at_level(logging.WARNING):
        make_transport(Dsn.parse("redis://localhost:6379/0"), context)

    assert "Write dbindex=0" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("dsn", ["redis:/localhost:6379/orders", "valkey:/v:6379"])
def test_a_host_behind_one_slash_is_no_socket(dsn):
    """A worker would wait for that file for ever."""
    parsed = Dsn.parse(dsn)
    with pytest.raises(DsnError) as caught:
        make_transport(parsed, TransportContext("test", JsonSerializer(TypeRegistry()), lambda sent: sent, GUARANTEES))
    assert f"{parsed.scheme}:/ names a socket. Write two slashes for a host: {parsed.scheme}://localhost:6379." == str(
        caught.value
    )


def test_importing_the_plugin_imports_no_client():
    """The client is loaded when a transport is made, not with the plugin."""
    program = "import sys, postbus_redis; print({'redis', 'hiredis', 'ssl'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)

    assert "set()" == done.stdout.strip()
