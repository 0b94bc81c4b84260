"""The page about the configuration has every key, and no other; and what pages show of one is taken."""

import re
import tomllib
from pathlib import Path

import pytest

from postbus import Backoff
from postbus.config import BusConfig, Config, TransportConfig, check
from postbus.doubts import VARIABLES
from postbus.errors import ConfigurationError
from postbus.worker.kill_switch import KillSwitch
from tests.documentation.tables import PLUGINS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGE = (DOCS / "configuration.md").read_text(encoding="utf-8")


def rows_below(head, page):
    """Return the cells of each row of the table with this head."""
    _, table = page.split(head)
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.split("\n\n")[0].splitlines()]


def defaults_of(kind):
    """Return the default of each field that has one which says something, as TOML writes it."""
    defaults = dict(zip(reversed(kind.__struct_fields__), reversed(kind.__struct_defaults__), strict=False))
    said = {name: default for name, default in defaults.items() if isinstance(default, str | int | float)}
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in said.items()}


@pytest.mark.parametrize(
    ("heading", "kind"), {"Key": Config, "Key of a transport": TransportConfig, "Key of a bus": BusConfig}.items()
)
def test_every_key_is_in_the_table(heading, kind):
    """Each once, in whatever order."""
    rows = rows_below(f"| {heading} | Means |\n|---|---|\n", PAGE)
    keys = [key for row in rows for key in re.findall(r"`(\w+)`", row[0])]
    assert sorted(kind.__struct_fields__) == sorted(keys)


@pytest.mark.parametrize(
    ("heading", "kind"), {"Key of a transport": TransportConfig, "Key of a bus": BusConfig}.items()
)
def test_every_default_is_told(heading, kind):
    """What holds where a key is missing stands in its row."""
    rows = rows_below(f"| {heading} | Means |\n|---|---|\n", PAGE)
    told = {name: meaning for keys, meaning in rows for name in re.findall(r"`(\w+)`", keys)}
    assert {} == {name: default for name, default in defaults_of(kind).items() if default not in told[name]}


@pytest.mark.parametrize(("page", "kind"), {"failures.md": Backoff, "worker.md": KillSwitch}.items())
def test_every_option_of_a_table_is_told_with_its_default(page, kind):
    """Those of ``retry`` and ``kill_switch`` are on the pages about these."""
    rows = rows_below("| Option | Default | |\n|---|---|---|\n", (DOCS / page).read_text(encoding="utf-8"))
    told = {name.strip(" `"): default.strip() for name, default, _ in rows}

    assert set(kind.__struct_fields__) == set(told)
    for name, default in defaults_of(kind).items():
        assert float(default) == float(told[name]), name


def test_every_variable_is_told():
    """Also the one that is the whole configuration."""
    assert set(VARIABLES) == set(re.findall(r"`(POSTBUS_\w+)`", PAGE))


def shown():
    """Yield each block of TOML, and where it is."""
    for page in (ROOT / "README.md", *sorted(DOCS.glob("*.md")), *(folder / "README.md" for folder in PLUGINS)):
        text = page.read_text(encoding="utf-8")
        for block in re.finditer(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, block.start(1)) + 1
            yield pytest.param(block[1], id=f"{page.relative_to(ROOT)}:{line}")


@pytest.mark.once
@pytest.mark.parametrize("block", list(shown()))
def test_a_configuration_that_is_shown_is_taken(block):
    """Every key of it is known, and of the right type; only the DSN may stand elsewhere."""
    configuration = tomllib.loads(block)
    configuration = configuration.get("tool", {"postbus": configuration}).get("postbus", {})
    problems = ()
    if "project" not in configuration:  # Else it is what a distribution says of itself.
        try:
            check(configuration, {})
        except ConfigurationError as error:
            problems = error.problems

    assert [] == [problem for problem in problems if ".dsn is missing." not in problem]
