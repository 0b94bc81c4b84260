"""The contract, on both doubles of SQS, and on both kinds of queue."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from msgspec.structs import replace

from postbus.dsn import Dsn
from postbus.testing import TransportContract, TransportFaults, TransportHistories
from postbus.testing.rules.batches import Batches
from postbus.testing.rules.counting import Counting
from postbus.testing.rules.delays import Delays
from postbus.testing.rules.fidelity import Fidelity
from postbus.testing.rules.foreign import Foreign
from postbus.testing.rules.groups import Groups
from postbus.testing.rules.leases import Leases
from postbus.testing.rules.order import Order
from postbus.testing.rules.restarts import Restarts
from postbus.testing.rules.settling import Settling
from postbus.testing.rules.setup import Setup
from postbus.testing.workbench import Broker as Breakable
from postbus.testing.workbench import Workbench
from postbus.transport import Counts, Outgoing
from postbus_sqs import FIFO, STANDARD
from postbus_sqs.connection import SqsConnection
from tests.brokers.sqs import ElasticMq, Moto, OwnElasticMq, Sqs
from tests.faults.subjects import certified

pytestmark = pytest.mark.slow


class OnSqs(Workbench):
    """Each test has a queue of its own."""

    plugin = "postbus_sqs"
    guarantees = STANDARD
    short_lease: ClassVar = {"visibility_timeout": 1}
    short_delay = 1.0
    load = 1000
    refused = Outgoing(b"refused", {}, delay=math.inf)
    suffix = ""
    options: ClassVar[Mapping[str, object]] = {}

    sqs: Sqs

    def dsn(self) -> str:
        # A busy machine is no lost connection.
        return self.sqs.queue_dsn(f"test-{uuid4()}{self.suffix}", read_timeout=30, **self.options)

    def put_foreign(self, body: bytes, headers: Mapping[str, object] | None) -> bool:
        client = self.sqs.client()
        queue = Dsn.parse(self.queue).segments[-1]
        text, attributes = as_text(body)
        for name, value in (headers or {}).items():
            if isinstance(value, str):
                attributes[name] = {"DataType": "String", "StringValue": value}
            elif type(value) in (int, float):
                attributes[name] = {"DataType": "Number", "StringValue": str(value)}
        fifo = {"MessageGroupId": uuid4().hex, "MessageDeduplicationId": uuid4().hex} if self.suffix else {}
        url = client.get_queue_url(QueueName=queue)["QueueUrl"]
        client.send_message(QueueUrl=url, MessageBody=text, MessageAttributes=attributes, **fifo)
        client.close()
        return True


def as_text(body: bytes) -> tuple[str, dict[str, Any]]:
    """Return bytes as SQS takes them: those that are no text in the way that MIME has for them."""
    try:
        text = body.decode()
        if text and not set(text) & set(map(chr, range(9))):
            return text, {}
    except UnicodeDecodeError:
        pass
    mark = {"DataType": "String", "StringValue": "base64"}
    return b64encode(body).decode() or "=", {"Content-Transfer-Encoding": mark}


class TestElasticMq(OnSqs, TransportContract):
    @pytest.fixture(autouse=True)
    def _use(self, elasticmq: ElasticMq) -> None:
        self.sqs = elasticmq


class OnMoto(OnSqs):
    """What the service itself decides, asked of the other double too; the rest is the same code on any of them.

    There are no rules about many at once here: moto hands one message to two who ask together, or fails. boto3 alone
    sees it too: five threads that received 160 messages got 161, one of them twice.
    """

    options: ClassVar = {"wait_time": 2, "parallel": 1}  # Its cost grows with the number of requests that wait.
    short_lease: ClassVar = {"visibility_timeout": 2}  # It may take a second to answer, and a lease begins before that.
    patience = 30.0

    @pytest.fixture(autouse=True)
    def _use(self, moto: Moto) -> None:
        self.sqs = moto


@pytest.mark.once
class TestMoto(OnMoto, Fidelity, Foreign, Settling, Batches, Delays, Leases, Counting, Setup):
    """It lets an old handle delete, as AWS does, and has its own ideas of text and attributes."""


class OnFifo(OnSqs):
    guarantees = FIFO
    suffix = ".fifo"

    # The service cannot keep a message of a FIFO queue back: whoever is given it too early does. So nobody can tell
    # what is delayed there, and these two rules hold in another form.

    def test_count_tells_what_is_delayed(self) -> None:
        """What is delayed is counted as waiting, until it was given to somebody too early."""
        connection = self.connect()
        later = Outgoing(b"later", {}, self.long_delay)
        self.publish(connection, [Outgoing(b"message", {}), later, later])
        assert isinstance(connection, SqsConnection)
        assert Counts(3) == self.until(connection, waiting=3)

        self.take(connection, 1)
        self.assert_quiet(connection)

        assert Counts(0) == self.until(connection, waiting=0)

    def test_age_begins_when_a_message_could_be_delivered(self) -> None:
        """Nobody tells how old the oldest message is."""
        connection = self.connect()
        connection.publish([Outgoing(b"message", {})])

        assert isinstance(connection, SqsConnection)
        assert connection.count().oldest_age is None


@pytest.mark.once
class TestFifoElasticMq(OnFifo, TransportContract):
    @pytest.fixture(autouse=True)
    def _use(self, elasticmq: ElasticMq) -> None:
        self.sqs = elasticmq


@pytest.mark.once
class TestFifoMoto(OnFifo, OnMoto, Settling, Order, Groups, Delays, Leases):
    """It keeps a group in one hand, where ElasticMQ gives a message again while later ones are in flight."""


@pytest.mark.once
class TestBreakable(OnSqs, Restarts):
    @pytest.fixture(autouse=True)
    def _use(self, own_elasticmq: OwnElasticMq) -> None:
        self.sqs = own_elasticmq

    def broker(self) -> Breakable:
        return self.sqs


@pytest.mark.once
class TestHistories(OnSqs, TransportHistories):
    histories = 5
    steps = 20
    rounding = 1.0

    @pytest.fixture(autouse=True)
    def _use(self, elasticmq: ElasticMq) -> None:
        self.sqs = elasticmq


@pytest.mark.once
class TestFifoHistories(OnMoto, TransportHistories):
    """On the double that keeps a group in one hand."""

    # What is received behind something delayed in its group is put back with it, and the service counts that.
    guarantees = replace(FIFO, delivery_count=False)
    suffix = OnFifo.suffix
    histories = 5
    steps = 20
    rounding = 1.0
    counts = False


@certified
@pytest.mark.once
@pytest.mark.timeout(0)
class TestFaults(OnSqs, TransportFaults):
    short_lease: ClassVar = {"visibility_timeout": 2}

    @pytest.fixture(autouse=True)
    def _use(self, elasticmq: ElasticMq) -> None:
        self.sqs = elasticmq
