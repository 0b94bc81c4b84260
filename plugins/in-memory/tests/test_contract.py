"""The contract, on queues in memory."""

from typing import ClassVar
from uuid import uuid4

from postbus.testing import TransportContract
from postbus_in_memory import GUARANTEES


class TestInMemory(TransportContract):
    plugin = "postbus_in_memory"
    guarantees = GUARANTEES
    short_lease: ClassVar = {"lease": 0.3}
    short_delay = 0.2
    quiet = 0.05

    def dsn(self) -> str:
        return f"in-memory://{uuid4()}"
