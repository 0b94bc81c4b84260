"""`postbus certify` says how far a plugin's tests prove what it promises, and takes for a proof only what is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from postbus.testing.certifying import HISTORIES, Proof, Seen, level_of, proofs_of

BRONZE = [Seen("t::a", "fidelity-1"), Seen("t::own", "")]
SILVER = [*BRONZE, Seen("t::h", "histories"), Seen("t::r", "restarts-1"), Seen("t::f", "foreign-1")]
GOLD = [*SILVER, Seen("t::k", "faults", says="TestFaults, 50 kills: 0 lost.")]
PLATINUM = [*GOLD, Seen("t::b", "a benchmark"), Seen("t::q", "a queue shared with another system")]


def level(seen: list[Seen], histories: int = HISTORIES) -> str:
    return level_of([*proofs_of(seen, histories), Proof("platinum", "strict types", True, "")])


@pytest.mark.parametrize(
    ("seen", "expected"), [([], "none"), (BRONZE, "bronze"), (SILVER, "silver"), (GOLD, "gold"), (PLATINUM, "platinum")]
)
def test_a_level_takes_all_that_is_below_it(seen, expected):
    """Each kind of test lifts the plugin by its level, if those below are there."""
    assert expected == level(seen)
    assert "none" == level([one for one in seen if "-" not in one.proves])


@pytest.mark.parametrize(
    ("spoilt", "outcome", "expected"),
    [
        ("fidelity-1", "failed", "none"),
        ("", "failed", "none"),
        ("histories", "failed", "none"),
        ("histories", "skipped", "bronze"),
        ("restarts-1", "unproven", "bronze"),
        ("foreign-1", "unproven", "bronze"),
        ("restarts-1", "broken", "bronze"),
        ("faults", "skipped", "silver"),
        ("a benchmark", "skipped", "gold"),
    ],
)
def test_what_did_not_pass_proves_nothing(spoilt, outcome, expected):
    """A test that was skipped, or lacks a hook, costs the level that asks for it; one that failed costs all."""
    seen = [Seen(one.test, one.proves, outcome if one.proves == spoilt else one.outcome) for one in PLATINUM]

    assert expected == level(seen)


def test_a_rule_is_proven_where_its_hook_is():
    """Another class of the same tests need not have it; but what no class has shown is not proven."""
    elsewhere = Seen("t::other", "restarts-1", "unproven")

    assert "platinum" == level([elsewhere, *PLATINUM])
    assert "bronze" == level([*PLATINUM, Seen("t::other", "restarts-2", "unproven")])


def test_fewer_histories_are_no_silver():
    """Whoever is in a hurry gets what that is worth."""
    assert "bronze" == level(PLATINUM, histories=999)


def test_what_the_ledger_said_is_the_proof():
    """The table shows what came of every message."""
    [proof] = [proof for proof in proofs_of(GOLD, HISTORIES) if proof.level == "gold"]

    assert proof.is_proven
    assert "TestFaults, 50 kills: 0 lost." in proof.by


TESTS = """\
from uuid import uuid4

from postbus.testing import TransportContract, TransportFaults, TransportHistories, proves
from postbus.transport import Guarantees


class Setting:
    guarantees = Guarantees(durable=True, ordering="fifo", lease=True, delivery_count=True)
    short_lease = {"redeliver_timeout": 1, "poll_interval": 0.02}

    def dsn(self) -> str:
        return f"filesystem://{self.tmp_path}/{uuid4()}?fsync=false"


class TestIt(Setting, TransportContract):
    pass


class TestHistories(Setting, TransportHistories):
    short_delay = 0.1
    steps = 5


class TestFaults(Setting, TransportFaults):
    pass


@proves("a benchmark")
def test_speed():
    pass
"""


@pytest.mark.slow
@pytest.mark.once
def test_a_folder_is_certified(tmp_path):
    """What its tests prove is printed, with what lacks by its name; the exit code says whether it is enough."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "postbus-mine"\nversion = "1.0"\n')
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_mine.py").write_text(TESTS)
    asked = ("certify", str(tmp_path), "--histories", "2", "--kills", "2", "--format", "json", "--at-least", "silver")
    only = (
        "--",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "binary or restart or others_wrote or history or killed or speed",
    )
    path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry)

    done = subprocess.run(
        [sys.executable, "-m", "postbus", *asked, *only],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=100,
    )

    assert done.returncode == 1, done.stderr
    certificate = json.loads(done.stdout)
    proven = {proof["what"]: (proof["is_proven"], proof["by"]) for proof in certificate["proofs"]}
    assert ("postbus-mine 1.0", "bronze") == (certificate["package"], certificate["level"])
    assert proven["the contract"][0], proven
    assert not proven["restarts of the broker"][0]
    assert "for lack of broker()" in proven["restarts of the broker"][1]
    assert "for lack of put_foreign()" in proven["what other programs write"][1]
    assert "TestFaults, 2 kills: " in proven["workers killed, 0 messages lost"][1]
    assert " 0 lost, " in proven["workers killed, 0 messages lost"][1]
    assert proven["a benchmark"][0]
    assert not proven["a queue shared with another system"][0]


def test_what_is_not_there_is_said():
    """Before anything is run: what was meant is a folder, or a name of what is installed from one."""
    done = subprocess.run([sys.executable, "-m", "postbus", "certify", "nowhere"], capture_output=True, text=True)

    assert done.returncode == 2
    assert "'nowhere' is neither a folder with a pyproject.toml nor installed." in done.stderr
