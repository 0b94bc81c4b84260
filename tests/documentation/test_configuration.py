"""The page about the configuration has every key, and no other."""

import re
from pathlib import Path

import pytest

from postbus.config import BusConfig, Config, TransportConfig
from postbus.doubts import VARIABLES

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("heading", "kind"), {"Key": Config, "Key of a transport": TransportConfig, "Key of a bus": BusConfig}.items()
)
def test_every_key_is_in_the_table(heading, kind):
    """Each once, in whatever order."""
    _, table = PAGE.split(f"| {heading} | Means |\n|---|---|\n")
    rows = table.split("\n\n")[0].splitlines()
    keys = [key for row in rows for key in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(kind.__struct_fields__) == sorted(keys)


def test_every_variable_is_told():
    """Also the one that is the whole configuration."""
    assert set(VARIABLES) == set(re.findall(r"`(POSTBUS_\w+)`", PAGE))
