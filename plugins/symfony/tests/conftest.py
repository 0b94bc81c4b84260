"""What the tests share: what Symfony wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def wire() -> Any:
    """Return the content of wire.json; its entry ``about`` says where it comes from."""
    return json.loads(Path(__file__).with_name("wire.json").read_text(encoding="utf-8"))
