"""The contract, on queues in memory."""

from collections.abc import Mapping
from typing import ClassVar
from uuid import uuid4

from postbus.queue_transport import QueueTransport
from postbus.testing import TransportContract, TransportHistories
from postbus.transport import Outgoing
from postbus_in_memory import GUARANTEES, Clock, InMemoryTransport


class TestInMemory(TransportContract):
    plugin = "postbus_in_memory"
    guarantees = GUARANTEES
    short_lease: ClassVar = {"lease": 0.3}
    short_delay = 0.2
    quiet = 0.05

    def dsn(self) -> str:
        return f"in-memory://{uuid4()}"

    def put_foreign(self, body: bytes, headers: Mapping[str, object] | None) -> bool:
        texts = {name: value for name, value in (headers or {}).items() if isinstance(value, str)}
        self.connect().publish([Outgoing(body, texts)])
        return True


class TestHistories(TransportHistories):
    plugin = "postbus_in_memory"
    guarantees = GUARANTEES
    short_lease: ClassVar = {"lease": 60}
    short_delay = 20
    histories = 50

    def dsn(self) -> str:
        return f"in-memory://{uuid4()}"

    def clock_of(self, transport: QueueTransport) -> Clock:
        assert isinstance(transport, InMemoryTransport)
        return transport.clock
