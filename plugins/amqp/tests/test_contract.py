"""The contract, on classic and on quorum queues, over TLS, in another virtual host, and while the broker goes away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar
from urllib.parse import quote
from uuid import uuid4

import pytest

from plugins.amqp.tests.foreign import publish, value_of, written
from postbus.testing import TransportContract, TransportFaults, TransportHistories
from postbus.testing.rules.batches import Batches
from postbus.testing.rules.concurrency import Concurrency
from postbus.testing.rules.counting import Counting
from postbus.testing.rules.fidelity import Fidelity
from postbus.testing.rules.order import Order
from postbus.testing.rules.restarts import Restarts
from postbus.testing.rules.settling import Settling
from postbus.testing.rules.setup import Setup
from postbus.testing.rules.waiting import Waiting
from postbus.testing.workbench import Workbench
from postbus.transport import Outgoing
from postbus_amqp import CLASSIC, QUORUM, WITH_PRIORITIES, stamps
from tests.brokers.broker import Broker
from tests.brokers.rabbitmq import RabbitMQTls
from tests.faults.subjects import certified

# Long enough for any test; what a run leaves behind goes by itself.
ARGUMENTS = {"x-expires": "600000"}


class OnRabbitMQ(Workbench):
    """Queues that are new for each test, on the broker that a fixture gives."""

    plugin = "postbus_amqp"
    guarantees = CLASSIC
    arguments: ClassVar[dict[str, str]] = ARGUMENTS
    query = ""
    refused = Outgoing(b"refused", {}, stamps=(stamps.AmqpRouting("nowhere"),))
    base: str

    def dsn(self) -> str:
        return self._dsn_of(f"contract-{uuid4()}", {})

    def dsn_with(self, queues: Sequence[str]) -> str:
        return self._dsn_of(f"contract-{uuid4()}", {queue: queue for queue in queues})

    def outgoing_for(self, queue: str, body: bytes) -> Outgoing:
        return Outgoing(body, {}, stamps=(stamps.AmqpRouting(queue),))

    def urgent(self, body: bytes) -> Outgoing:
        return Outgoing(body, {}, stamps=(stamps.AmqpRouting(priority=5),))

    @pytest.fixture(autouse=True)
    def _sweep(self, _use: Broker, sweep: Callable[[Broker, str], None]) -> Iterator[None]:
        self.exchanges = list[str]()
        yield
        for exchange in self.exchanges:
            sweep(_use, exchange)

    def put_foreign(self, body: bytes, headers: Mapping[str, object] | None) -> bool:
        if not self.base.startswith("amqp:"):
            return False
        queue = self.queue.partition("?")[0].rpartition("/")[2]
        table = {name.encode(): value_of(value) for name, value in headers.items()} if headers is not None else None
        publish(self.base, queue, (written(table), body))
        return True

    def _dsn_of(self, exchange: str, keys: dict[str, str]) -> str:
        self.exchanges.append(exchange)
        items = ["exchange[type]=direct"]
        for queue, key in (keys or {exchange: ""}).items():
            items += [f"queues[{queue}][arguments][{name}]={value}" for name, value in self.arguments.items()]
            items.append(f"queues[{queue}][binding_keys][0]={key}")
        return f"{self.base}/{exchange}?{'&'.join(items)}{self.query}"


@pytest.mark.slow
class TestClassicQueues(OnRabbitMQ, TransportContract):
    @pytest.fixture(autouse=True)
    def _use(self, rabbitmq: Broker) -> Broker:
        self.base = rabbitmq.dsn
        return rabbitmq


@pytest.mark.slow
@pytest.mark.once
class TestQuorumQueues(TestClassicQueues):
    guarantees = QUORUM
    arguments: ClassVar = ARGUMENTS | {"x-queue-type": "quorum"}


@pytest.mark.slow
class TestPriorities(OnRabbitMQ, Order):
    guarantees = WITH_PRIORITIES
    arguments: ClassVar = ARGUMENTS | {"x-max-priority": "9"}

    @pytest.fixture(autouse=True)
    def _use(self, rabbitmq: Broker) -> Broker:
        self.base = rabbitmq.dsn
        return rabbitmq


@pytest.mark.slow
@pytest.mark.once
class TestTls(OnRabbitMQ, Batches, Concurrency, Counting, Fidelity, Settling, Setup, Waiting):
    """The same server, for pika's other way to read and write; the rules about what goes through it, and when."""

    @pytest.fixture(autouse=True)
    def _use(self, rabbitmq_tls: RabbitMQTls) -> Broker:
        self.base = rabbitmq_tls.dsn
        self.query = f"&cacert={quote(str(rabbitmq_tls.certificates.ca_file))}"
        return rabbitmq_tls


@pytest.mark.slow
@pytest.mark.once
class TestAnotherVirtualHost(OnRabbitMQ, Batches, Counting, Fidelity, Settling, Setup):
    """A way to the same server, for a user who may less; the rules about what such a one does, and how it is named."""

    @pytest.fixture(autouse=True)
    def _use(self, rabbitmq_vhost: Broker) -> Broker:
        self.base = rabbitmq_vhost.dsn
        return rabbitmq_vhost


@pytest.mark.slow
@pytest.mark.once
class TestRestartsWithClassicQueues(OnRabbitMQ, Restarts):
    @pytest.fixture(autouse=True)
    def _use(self, own_rabbitmq: Broker) -> Broker:
        self.base, self._broker = own_rabbitmq.dsn, own_rabbitmq
        return own_rabbitmq

    def broker(self) -> Broker:
        return self._broker


@pytest.mark.slow
@pytest.mark.once
class TestRestartsWithQuorumQueues(TestRestartsWithClassicQueues):
    """What survives; how a client finds out and goes on is the same with either kind of queue."""

    guarantees = QUORUM
    arguments: ClassVar = ARGUMENTS | {"x-queue-type": "quorum"}

    test_a_waiting_fetch_hears_of_a_lost_broker = None  # type: ignore[assignment]
    test_fetching_without_a_broker_is_a_lost_connection = None  # type: ignore[assignment]
    test_publishing_without_a_broker_is_an_error = None  # type: ignore[assignment]
    test_closing_without_a_broker_is_quiet = None  # type: ignore[assignment]
    test_a_transport_receives_after_a_restart = None  # type: ignore[assignment]
    test_a_loss_is_told_once = None  # type: ignore[assignment]

    def test_what_was_published_survives_a_crash(self) -> None:
        """What `publish` has returned for is there, whole, when the broker was killed and started again.

        A node takes some seconds to register a new quorum queue on its disk, and loses it if it is killed
        before: unless, as in a cluster, others have it too. One that was there when it started is safe.
        """
        self.connect()
        self._broker.restart()
        super().test_what_was_published_survives_a_crash()


@pytest.mark.slow
@pytest.mark.once
class TestHistories(OnRabbitMQ, TransportHistories):
    """Of one client: what RabbitMQ has handed to one, no other gets."""

    clients = 1
    histories = 5
    rounding = 0.1
    held_by_connection = True

    @pytest.fixture(autouse=True)
    def _use(self, rabbitmq: Broker) -> Broker:
        self.base = rabbitmq.dsn
        return rabbitmq


@certified
@pytest.mark.slow
@pytest.mark.once
@pytest.mark.timeout(0)
class TestFaults(OnRabbitMQ, TransportFaults):
    query = "&heartbeat=2&confirm_timeout=5&connect_timeout=2"
    unanswered = 1.0

    @pytest.fixture(autouse=True)
    def _use(self, rabbitmq: Broker) -> Broker:
        self.base = rabbitmq.dsn
        return rabbitmq
