"""The table of what has held on which brokers says what a run has seen."""

import pytest

from tests.contract.proven import RULES, in_short, proven_table

pytestmark = pytest.mark.once


def test_a_row_says_what_held_and_what_was_not_tried():
    """A rule that was skipped for one variant, and has held for another on the same broker, has held."""
    seen = {rule: {"passed", "skipped"} for rule in RULES if not rule.startswith("groups-")}
    row = proven_table({("redis", "Redis 8.0"): seen}).splitlines()[-1]

    assert f"| `postbus-redis` | Redis 8.0 | {len(seen)} of {len(RULES)} | all of `groups` |" == row


def test_what_is_broken_is_named():
    """Although it has held for another variant."""
    seen = {rule: {"passed"} for rule in RULES} | {"leases-3": {"passed", "failed"}}
    row = proven_table({("redis", "Redis 8.0"): seen}).splitlines()[-1]

    assert f"{len(RULES) - 1} of {len(RULES)}; broken: `leases-3`" in row


def test_some_of_a_group_are_named_one_by_one():
    """Unless they are many in a row."""
    assert "`leases-1`, `leases-3`" == in_short({"leases-3", "leases-1"})
    assert "`leases-1`, `leases-3` to `leases-6`" == in_short({f"leases-{number}" for number in (1, 3, 4, 5, 6)})
