"""The contract, on SQLite files."""

from typing import ClassVar
from uuid import uuid4

import pytest

from postbus.testing import TransportContract
from postbus.transport import Outgoing
from postbus_sql import GUARANTEES, stamps


@pytest.mark.slow
class TestSqlite(TransportContract):
    plugin = "postbus_sql"
    guarantees = GUARANTEES
    short_lease: ClassVar = {"redeliver_timeout": 1}
    refused = Outgoing(b"refused", {}, stamps=(stamps.Transaction("no connection"),))  # type: ignore[arg-type]

    def dsn(self) -> str:
        # No test pulls the plug, so none need wait for the disk.
        return f"sqlite:///{self.tmp_path}/messages.db?synchronous=normal&queue_name={uuid4()}"
