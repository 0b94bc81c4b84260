"""The author's guide leaves out no rule, no promise and no ability, and quotes what the tests really say."""

import re
from itertools import chain
from pathlib import Path

import pytest

from postbus import transport
from postbus.testing import TransportContract
from postbus.testing.promises import promises_of
from postbus.transport import Guarantees

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "authors-guide.md").read_text(encoding="utf-8")
RULES = [promise.id for promise, _ in promises_of(TransportContract)]
FILLED_IN = re.compile(r"…|[\[(].*?[\])]+|\b[\d.]+\b|carrier|TestContract|broker|put_foreign|Supports")
"""What stands in a text for that which the kit fills in."""
SOURCE = " ".join(
    chain.from_iterable(path.read_text(encoding="utf-8").split() for path in (ROOT / "core/src/postbus").rglob("*.py"))
)


def rows_below(heading):
    """Return the rows of the tables that begin with this cell, each as its cells."""
    _, *tables = PAGE.split(f"\n| {heading} |")
    rows = [row for table in tables for row in table.split("\n\n")[0].splitlines()[2:]]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]


def rules_in(cell):
    """Return the ids in a cell, those in between of "`order-1` to `order-4`" too."""
    found = []
    for group, first, last in re.findall(r"`([a-z]+)-(\d+)`(?: to `\1-(\d+)`)?", cell):
        found += [f"{group}-{number}" for number in range(int(first), int(last or first) + 1)]
    return found


@pytest.mark.once
def test_each_rule_is_proof_of_something():
    """Each is in one row, so that a new one comes with what a broker has to be able to do for it."""
    assert sorted(RULES) == sorted(id for row in rows_below("Your broker") for id in rules_in(row[3]))


@pytest.mark.once
def test_each_rule_that_is_named_is_there():
    """Wherever on the page."""
    groups = "|".join({rule.rpartition("-")[0] for rule in RULES})
    assert set() == set(re.findall(rf"`((?:{groups})-\d+)`", PAGE)) - set(RULES)


@pytest.mark.once
def test_each_promise_and_each_ability_is_told():
    """With what a broker has to be able to do for it."""
    told = set(re.findall(r"\w+", " ".join(cell for row in rows_below("Your broker") for cell in row)))
    abilities = [name for name in vars(transport) if name.startswith("Supports") and name != "SupportsEncode"]

    assert set() == {*Guarantees.__struct_fields__, *abilities} - told


@pytest.mark.once
@pytest.mark.parametrize("heading", ["The run says", "A failure says", "It says"])
def test_what_is_quoted_is_what_is_said(heading):
    """A text in a first cell is one of the kit's, but for the numbers and names in it."""
    quoted = [text for row in rows_below(heading) for text in re.findall(r"`([^`]+)`", row[0])]
    parts = [part for text in quoted for part in FILLED_IN.split(text)]

    assert [] == [part for part in map(str.strip, parts) if len(part) > 7 and part not in SOURCE]


@pytest.mark.once
def test_each_hook_that_a_rule_asks_for_is_told():
    """By the name under which a run says that it lacks."""
    hooks = {*re.findall(r'unproven\("(\w+)', SOURCE), *re.findall(r'skip\("[^"]*: see (\w+)', SOURCE)}
    assert set() == hooks - set(re.findall(r"\w+", " ".join(row[0] for row in rows_below("The run says"))))
