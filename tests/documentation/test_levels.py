"""The README of each plugin with a transport says which level its tests have reached."""

from __future__ import annotations

import pytest

from postbus.testing.certifying import LEVELS, Certificate, Proof
from tests.documentation.levels import BLOCK, LINE, filled
from tests.documentation.tables import PLUGINS


def read_tests_of(folder):
    """Return the text of a plugin's tests."""
    return "".join(path.read_text(encoding="utf-8") for path in folder.glob("tests/**/*.py"))


HELD = [folder for folder in PLUGINS if "TransportContract" in read_tests_of(folder)]
"""Those whose tests hold a transport to the contract."""

RESTS_ON = {"silver": ("TransportHistories", "put_foreign"), "gold": ("TransportFaults",)}
"""What the tests cannot be without, by level."""


@pytest.mark.parametrize("folder", HELD, ids=lambda folder: folder.name)
def test_a_readme_says_the_level(folder):
    """What that level rests on is still there; whether it passes is seen by `./run certify`, which writes the line."""
    block = BLOCK.search((folder / "README.md").read_text(encoding="utf-8"))
    assert block, (
        f"It has no place for a level: write <!-- level --> and <!-- end -->, and ./run certify -- {folder.name}"
    )
    said = LINE.search(block[1])
    assert said or block[1].strip().startswith("Not certified yet:")

    reached = LEVELS[1 : LEVELS.index(said[1]) + 1] if said else ()
    assert [] == [part for level in reached for part in RESTS_ON.get(level, ()) if part not in read_tests_of(folder)]


def test_what_is_proven_stands_there():
    """In the place that is marked, and nowhere else; what is not proven is left out."""
    proofs = [Proof("gold", "no loss", False, "nothing"), Proof("bronze", "the contract", True, "3 passed")]

    text = filled("before\n<!-- level -->\nold\n<!-- end -->\nafter", Certificate("postbus-x 1", "bronze", proofs))

    assert "Level: **bronze**" in text
    assert "| bronze | the contract | 3 passed |" in text
    assert "no loss" not in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter")
