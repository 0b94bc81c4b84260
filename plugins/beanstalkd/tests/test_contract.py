"""The contract, on a server with and without a log."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar
from uuid import uuid4

import pytest

from postbus.dsn import Dsn
from postbus.testing import TransportContract, TransportFaults, TransportHistories
from postbus.testing.rules.restarts import Restarts
from postbus.testing.workbench import Broker as Breakable
from postbus.testing.workbench import Workbench
from postbus.transport import Outgoing
from postbus_beanstalkd import GUARANTEES, BeanstalkdJob
from tests.brokers.beanstalkd import Beanstalkd, OwnBeanstalkd
from tests.faults.subjects import certified

pytestmark = pytest.mark.slow


class OnBeanstalkd(Workbench):
    """Each test has a tube of its own."""

    plugin = "postbus_beanstalkd"
    guarantees = GUARANTEES
    short_lease: ClassVar = {"ttr": 2}
    short_delay = 1.0
    refused = Outgoing(b"refused", {}, delay=math.inf)

    server: Beanstalkd

    def dsn(self) -> str:
        return f"{self.server.dsn}?tube_name={uuid4()}"

    def dsn_with(self, queues: Sequence[str]) -> str:
        tubes = "&".join(f"tubes[]={queue}" for queue in queues)
        return f"{self.server.dsn}?tube_name={queues[0]}&{tubes}"

    def outgoing_for(self, queue: str, body: bytes) -> Outgoing:
        return Outgoing(body, {}, stamps=(BeanstalkdJob(tube=queue),))

    def urgent(self, body: bytes) -> Outgoing:
        return Outgoing(body, {}, stamps=(BeanstalkdJob(priority=0),))

    def put_foreign(self, body: bytes, headers: Mapping[str, object] | None) -> bool:
        data = body if headers is None else json.dumps({"body": body.decode(), "headers": headers}).encode()
        with self.server.client() as client:
            client.use(str(Dsn.parse(self.queue).options["tube_name"]))
            client.put(data, priority=1024)
        return True


class TestPlain(OnBeanstalkd, TransportContract):
    @pytest.fixture(autouse=True)
    def _use(self, beanstalkd: Beanstalkd) -> None:
        self.server = beanstalkd


@pytest.mark.once
class TestBreakable(OnBeanstalkd, Restarts):
    @pytest.fixture(autouse=True)
    def _use(self, own_beanstalkd: OwnBeanstalkd) -> None:
        self.server = own_beanstalkd

    def broker(self) -> Breakable:
        return self.server


@pytest.mark.once
class TestHistories(OnBeanstalkd, TransportHistories):
    histories = 5
    rounding = 0.5
    pause = 1.0
    held_by_connection = True

    @pytest.fixture(autouse=True)
    def _use(self, beanstalkd: Beanstalkd) -> None:
        self.server = beanstalkd


@certified
@pytest.mark.once
@pytest.mark.timeout(0)
class TestFaults(OnBeanstalkd, TransportFaults):
    copying = "tests.faults.subjects:tell_of_copies"

    @pytest.fixture(autouse=True)
    def _use(self, beanstalkd: Beanstalkd) -> None:
        self.server = beanstalkd
