"""Every variant of Redis answers at its DSN, and can be broken as its class says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from tests.brokers.redis import OwnRedis, Redis, RedisAcl, RedisCluster, RedisSentinel, RedisTls, RedisUnix

PATIENCE = 10

# The tests are about processes, and those cost more than a second.
pytestmark = [pytest.mark.slow, pytest.mark.once]


def client_of(dsn: str, **options: object) -> redis.Redis:
    return redis.Redis.from_url(dsn, socket_timeout=PATIENCE, **options)


def test_plain(redis_plain: Redis) -> None:
    """A server that everybody may use."""
    with client_of(redis_plain.dsn) as client:
        assert client.ping()


def test_acl(redis_acl: RedisAcl) -> None:
    """The user may work and not administer; the password alone may do both; without either, nothing goes."""
    with client_of(redis_acl.dsn) as client:
        assert client.set("key", "value")
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.config_get("maxmemory")
    with client_of(redis_acl.password_dsn.replace("//", "//:")) as client:
        assert client.config_get("maxmemory")
    with client_of(f"redis://{redis_acl.dsn.rpartition('@')[2]}") as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_unix(redis_unix: RedisUnix) -> None:
    """The socket is there, and answers."""
    assert redis_unix.socket.is_socket()
    with client_of(f"unix://{redis_unix.socket}") as client:
        assert client.ping()


def test_tls(redis_tls: RedisTls) -> None:
    """The server shows a certificate of our authority; a client may show one too."""
    files = redis_tls.certificates
    trust = {"ssl_ca_certs": str(files.ca_file), "ssl_check_hostname": True}
    mine = {"ssl_certfile": str(files.certificate), "ssl_keyfile": str(files.key)}
    for options in trust, trust | mine:
        with client_of(redis_tls.dsn, **options) as client:
            assert client.ping()
    with client_of(redis_tls.dsn) as client, pytest.raises(redis.ConnectionError, match="certificate"):
        client.ping()


def test_cluster(redis_cluster: RedisCluster) -> None:
    """Any of the three masters leads to all keys."""
    for dsn in redis_cluster.dsn.split(","):
        with redis.RedisCluster.from_url(dsn) as client:
            assert 3 == len(client.get_primaries())
            for number in range(20):
                client.set(f"key {number}", number)


def test_sentinel(redis_sentinel: RedisSentinel) -> None:
    """After a failover all sentinels name the other server, which has the data."""
    master = redis_sentinel.master
    with redis_sentinel.client() as client:
        client.set("key", "value")
        assert 1 == client.wait(1, 1000 * PATIENCE)

    redis_sentinel.failover()

    assert redis_sentinel.master is not master
    with redis_sentinel.client() as client:
        assert "value" == client.get("key")


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_data_outlives_the_server(own_redis: OwnRedis, how: str) -> None:
    """Stopped or killed, and started again on the same port, it has what it acknowledged."""
    with client_of(own_redis.dsn) as client:
        client.set("key", "value")
        getattr(own_redis, how)()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        own_redis.start()
        assert b"value" == client.get("key")


def test_a_paused_server_answers_later(own_redis: OwnRedis) -> None:
    """A paused server keeps its connections and is silent; when it goes on, it answers."""
    with ThreadPoolExecutor() as threads, client_of(own_redis.dsn) as client:
        assert client.ping()
        own_redis.pause()
        answer = threads.submit(client.ping)
        with pytest.raises(TimeoutError):
            answer.result(0.2)
        own_redis.resume()
        assert answer.result(PATIENCE)


def test_a_full_server_refuses(own_redis: OwnRedis) -> None:
    """A full server takes nothing more, until there is room."""
    with client_of(own_redis.dsn) as client:
        own_redis.make_full()
        with pytest.raises(redis.OutOfMemoryError):
            client.set("key", "value")
        own_redis.make_room()
        assert client.set("key", "value")


def test_a_replica_refuses(own_redis: OwnRedis) -> None:
    """A read-only server takes nothing, until it is a master again."""
    with client_of(own_redis.dsn) as client:
        own_redis.make_readonly()
        with pytest.raises(redis.ReadOnlyError):
            client.set("key", "value")
        own_redis.make_writable()
        assert client.set("key", "value")


def test_a_broken_server_is_mended_for_the_next_test(own_redis: OwnRedis) -> None:
    """Whatever a test did to it, the next one gets an empty server that works."""
    with client_of(own_redis.dsn) as client:
        client.set("key", "value")
        own_redis.make_full()
        own_redis.make_readonly()
        own_redis.pause()
        own_redis.mend()
        assert [] == client.keys()
        own_redis.kill()
        own_redis.mend()
        assert client.set("key", "value")


def test_a_network_goes_in_front(own_redis: OwnRedis) -> None:
    """A client on the other side of a partition loses its connection, and comes back when it is healed."""
    with own_redis.partition() as network, client_of(network.dsn) as client:
        assert client.ping()
        network.cut()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        network.heal()
        assert client.ping()
