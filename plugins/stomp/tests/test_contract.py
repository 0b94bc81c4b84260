"""The promises of `postbus.transport`, kept on ActiveMQ: plainly, over TLS, by priority, and while it goes away."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import quote
from uuid import uuid4

import pytest

from plugins.stomp.tests.foreign import Stranger
from postbus.testing import TransportContract, TransportFaults, TransportHistories
from postbus.testing.rules.batches import Batches
from postbus.testing.rules.concurrency import Concurrency
from postbus.testing.rules.fidelity import Fidelity
from postbus.testing.rules.order import Order
from postbus.testing.rules.restarts import Restarts
from postbus.testing.rules.settling import Settling
from postbus.testing.rules.waiting import Waiting
from postbus.testing.workbench import Workbench
from postbus.transport import Outgoing
from postbus_stomp import GUARANTEES, WITH_PRIORITIES, stamps
from tests.brokers.broker import Broker
from tests.brokers.stomp import PRIORITIZED, ActiveMqTls
from tests.faults.subjects import certified


class OnActiveMq(Workbench):
    """Queues that are new for each test, on the broker that a fixture gives."""

    plugin = "postbus_stomp"
    guarantees = GUARANTEES
    load = 1000
    base: str
    query = ""

    @pytest.fixture(autouse=True)
    def _use(self, activemq: Broker) -> None:
        self.base = activemq.dsn

    def dsn(self) -> str:
        return f"{self.base}/contract-{uuid4()}{self.query}"

    def put_foreign(self, body: bytes, headers: Mapping[str, object] | None) -> bool:
        if not self.base.startswith("stomp:"):
            return False
        texts = {
            name: value if isinstance(value, str) else json.dumps(value) for name, value in (headers or {}).items()
        }
        with Stranger(self.queue.partition("?")[0]) as stranger:
            stranger.put(body, texts)
        return True


@pytest.mark.slow
class TestContract(OnActiveMq, TransportContract):
    """Each promise by itself; those about a broker that goes away are below."""


@pytest.mark.slow
@pytest.mark.once
class TestTls(OnActiveMq, Batches, Concurrency, Fidelity, Settling, Waiting):
    """The same broker over TLS; the rules about what goes through it, and when."""

    @pytest.fixture(autouse=True)
    def _use(self, activemq_tls: ActiveMqTls) -> None:
        self.base = activemq_tls.dsn
        self.query = f"?cacert={quote(str(activemq_tls.certificates.ca_file))}"


@pytest.mark.slow
class TestPriorities(OnActiveMq, Order):
    """A queue with the policy ``prioritizedMessages``."""

    guarantees = WITH_PRIORITIES

    def dsn(self) -> str:
        return f"{self.base}/{PRIORITIZED}.{uuid4()}?prioritized=true"

    def urgent(self, body: bytes) -> Outgoing:
        return Outgoing(body, {}, stamps=(stamps.StompMessage(priority=9),))


@pytest.mark.slow
@pytest.mark.once
class TestRestarts(OnActiveMq, Restarts):
    """What the broker keeps, and how a client goes on, when it is stopped, killed and started again."""

    patience = 30.0

    @pytest.fixture(autouse=True)
    def _use(self, own_activemq: Broker) -> None:
        self.base, self._broker = own_activemq.dsn, own_activemq

    def broker(self) -> Broker:
        return self._broker


@pytest.mark.slow
class TestHistories(OnActiveMq, TransportHistories):
    """Many steps of several clients, in any order. The clock of ActiveMQ cannot be moved."""


@certified
@pytest.mark.slow
@pytest.mark.once
@pytest.mark.timeout(0)
class TestFaults(OnActiveMq, TransportFaults):
    """Workers are killed amid all that they do, and a ledger says that none of their messages is lost."""

    query = "?heartbeat=2&confirm_timeout=5"
