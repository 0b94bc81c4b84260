"""The plugin: what it registers, and what its README says of it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from postbus import Envelope, Postbus, stamps
from postbus_symfony.twins import REDELIVERY, TWINS, make_bus_twin

README = Path(__file__).parents[1] / "README.md"


@dataclass(frozen=True)
class Order:
    order_id: int


@pytest.mark.parametrize(
    ("name", "field", "stamp"),
    [
        ("symfony", "order_id", "retryCount"),
        ("symfony-camel-case", "orderId", "retryCount"),
        ("symfony-snake-case", "order_id", "retry_count"),
    ],
)
def test_each_serializer_is_named_after_the_spelling(name: str, field: str, stamp: str) -> None:
    """A transport gets it by its name."""
    app = Postbus(transports={"shared": {"dsn": "in-memory://", "serializer": name}})
    transport: Any = app.transport("shared")
    body, headers = transport.serializer.encode(Envelope(Order(1), (stamps.Retried(1, datetime.now(UTC)),)))

    assert {field: 1} == json.loads(body)
    assert stamp in json.loads(headers[REDELIVERY.header])[0]


def test_the_readme_has_a_row_for_each_twin() -> None:
    """In the order of the code, each with both names."""
    block = re.search(r"<!-- stamps -->\n(.*?)<!-- end -->", README.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None

    rows = re.findall(r"^\| `stamps\.(\w+)` \| `(\w+)` \|", block[1], re.MULTILINE)
    twins = [*TWINS, make_bus_twin({"here": "there"})]
    assert [(twin.kind.__name__, twin.shape.__name__) for twin in twins] == rows
