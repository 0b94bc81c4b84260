"""The contract on each mutant, and on the healthy transports: what `proof` runs, one class at a time."""

from __future__ import annotations

from typing import Any

from postbus.testing import TransportContract
from tests.contract.healthy import Plain
from tests.contract.proof import CONNECTIONS


def _contract_for(connection: type[Plain]) -> type[TransportContract]:
    attributes: dict[str, Any] = {
        "plugin": f"{connection.__module__}:{connection.__name__}",
        "guarantees": connection.guarantees,
        "short_lease": {"lease": 0.5},
        "short_delay": 0.1,
        "quiet": 0.03,
        "patience": 2.0,
        "load": 400,
        "dsn": lambda self: connection.new_dsn(self.tmp_path),
        **connection.settings,
    }
    return type(connection.__name__, (TransportContract,), attributes)


for _name, _connection in CONNECTIONS.items():
    globals()[_name] = _contract_for(_connection)
