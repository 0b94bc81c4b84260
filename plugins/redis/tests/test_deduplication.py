"""The store of keys in Redis, and what it does for two apps that share it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import uuid4

import pytest
from redis import Redis

from postbus import Limits, Postbus
from postbus.deduplication import Deduplicate
from postbus.stamps import Deduplication, Duplicate
from postbus_redis.deduplication import RedisStore
from tests.brokers.redis import Redis as Broker
from tests.contract.deduplication_stores import StoreContract


class TestRedisStore(StoreContract):
    @pytest.fixture(params=[False, True], ids=["bytes", "texts"])
    def store(self, request: pytest.FixtureRequest, redis_plain: Broker) -> Iterator[RedisStore]:
        with Redis.from_url(redis_plain.dsn, decode_responses=request.param) as client:
            yield RedisStore(client)


@dataclass(frozen=True)
class Order:
    number: int


def test_a_key_is_held_for_all_who_share_the_store(redis_plain: Broker, stream: str, client: Redis) -> None:
    """A worker, elsewhere, frees it."""
    apps = [
        Postbus(
            transports={"orders": {"dsn": redis_plain.dsn, "options": {"stream": stream}}},
            routing={"*": "orders"},
            buses={"default": {"middleware": [Deduplicate(RedisStore(client, prefix=f"{stream}:"))]}},
        )
        for _ in range(3)
    ]
    apps[2].handler(lambda order: None, handles=Order, name="nothing")
    apps[2].types.register(Order)
    key = Deduplication(str(uuid4()))
    assert [False, True] == [app.dispatch(Order(1), key).has(Duplicate) for app in apps[:2]]
    apps[2].worker("orders", limits=Limits(messages=1)).run()
    assert not apps[1].dispatch(Order(1), key).has(Duplicate)
    for app in apps:
        app.close()
