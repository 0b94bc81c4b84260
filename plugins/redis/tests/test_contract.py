"""The contract, on each way to reach Redis."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import quote
from uuid import uuid4

import pytest

from postbus.dsn import Dsn
from postbus.testing import TransportContract, TransportFaults, TransportHistories
from postbus.testing.rules.batches import Batches
from postbus.testing.rules.concurrency import Concurrency
from postbus.testing.rules.counting import Counting
from postbus.testing.rules.fidelity import Fidelity
from postbus.testing.rules.restarts import Restarts
from postbus.testing.rules.settling import Settling
from postbus.testing.rules.setup import Setup
from postbus.testing.rules.waiting import Waiting
from postbus.testing.workbench import Broker as Breakable
from postbus.testing.workbench import Workbench
from postbus.transport import Outgoing
from postbus_redis import GUARANTEES
from tests.brokers.redis import OwnRedis, Redis, RedisTls
from tests.faults.subjects import certified

pytestmark = pytest.mark.slow


class OnRedis(Workbench):
    """Each test has a stream of its own."""

    plugin = "postbus_redis"
    guarantees = GUARANTEES
    short_lease: ClassVar = {"redeliver_timeout": 1, "claim_interval": 50}
    short_delay = 0.2
    refused = Outgoing(b"refused", {}, delay=math.inf)

    redis: Redis
    options = ""

    def dsn(self) -> str:
        query = "&".join(filter(None, [f"stream={uuid4()}", self.options]))
        return f"{self.redis.dsn}{'&' if '?' in self.redis.dsn else '?'}{query}"

    def put_foreign(self, body: bytes, headers: Mapping[str, object] | None) -> bool:
        value = body if headers is None else json.dumps({"body": body.decode(), "headers": headers})
        stream = str(Dsn.parse(self.queue).options["stream"])
        with self.redis.client_for(stream) as client:
            client.xadd(stream, {"message": value})
        return True


class TestPlain(OnRedis, TransportContract):
    @pytest.fixture(autouse=True)
    def _use(self, redis_plain: Redis) -> None:
        self.redis = redis_plain


@pytest.mark.once
class TestWithUser(OnRedis, Batches, Counting, Fidelity, Settling, Setup):
    """A user who may less; the rest is the same server, and the same client."""

    @pytest.fixture(autouse=True)
    def _use(self, redis_acl: Redis) -> None:
        self.redis = redis_acl


@pytest.mark.once
class TestUnixSocket(OnRedis, Batches, Counting, Fidelity, Settling, Setup):
    """Another way to the same server; the largest bodies take this one, too."""

    largest_to_try = GUARANTEES.largest_message or 0

    @pytest.fixture(autouse=True)
    def _use(self, redis_unix: Redis) -> None:
        self.redis = redis_unix


@pytest.mark.once
class TestTls(OnRedis, Batches, Concurrency, Counting, Fidelity, Settling, Setup, Waiting):
    """The same server through another kind of socket; the rules about what goes through it, and when."""

    @pytest.fixture(autouse=True)
    def _use(self, redis_tls: RedisTls) -> None:
        self.redis = redis_tls
        self.options = f"ssl[cafile]={quote(str(redis_tls.certificates.ca_file), safe='')}"


@pytest.mark.once
class TestSentinel(OnRedis, TransportContract):
    @pytest.fixture(autouse=True)
    def _use(self, redis_sentinel: Redis) -> None:
        self.redis = redis_sentinel


@pytest.mark.once
class TestCluster(OnRedis, TransportContract):
    @pytest.fixture(autouse=True)
    def _use(self, redis_cluster: Redis) -> None:
        self.redis = redis_cluster


class TestBreakable(OnRedis, Restarts):
    @pytest.fixture(autouse=True)
    def _use(self, own_redis: OwnRedis) -> None:
        self.redis = own_redis

    def broker(self) -> Breakable:
        return self.redis


class TestHistories(OnRedis, TransportHistories):
    short_lease: ClassVar = {"redeliver_timeout": 0.15, "claim_interval": 10}
    short_delay = 0.05

    @pytest.fixture(autouse=True)
    def _use(self, redis_plain: Redis) -> None:
        self.redis = redis_plain


@certified
@pytest.mark.once
@pytest.mark.timeout(0)
class TestFaults(OnRedis, TransportFaults):
    short_lease: ClassVar = {"redeliver_timeout": 2, "claim_interval": 200}

    @pytest.fixture(autouse=True)
    def _use(self, redis_plain: Redis) -> None:
        self.redis = redis_plain
