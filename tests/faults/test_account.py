"""The account notices what it is there to notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from postbus.testing.faults.account import Account
from postbus.testing.faults.ledger import (
    AtRisk,
    Buried,
    Dispatched,
    Entry,
    Handled,
    Intended,
    Ledger,
    Postponed,
    Reader,
    Unanswered,
)


def account_of(*entries: Entry, unanswered: float = 0.0, moving: float = 0.0) -> Account:
    account = Account(unanswered, moving)
    account.take(entries)
    return account


def test_what_nobody_has_seen_again_is_lost():
    """A message whose dispatch returned must be handled or buried; one whose dispatch did not return need not."""
    entries = [Intended(["a", "b", "c", "d"]), Dispatched(["a", "b", "c"]), Handled("a", "w"), Buried(["b"])]

    account = account_of(*entries)

    assert {"c"} == account.lost
    with pytest.raises(AssertionError, match="lost"):
        account.check()
    account_of(*entries, Handled("c", "w")).check()


def test_a_duplicate_must_be_explained_for_that_very_message():
    """A message may come again once for each time it was at risk, and another's risk is no excuse."""
    twice = [Intended(["a", "b"]), Dispatched(["a", "b"]), Handled("a", "w"), Handled("a", "w"), Handled("b", "w")]

    with pytest.raises(AssertionError, match="duplicates"):
        account_of(*twice).check()
    with pytest.raises(AssertionError, match="duplicates"):
        account_of(*twice, AtRisk("killed", "w", 9.0, ["b"])).check()
    with pytest.raises(AssertionError, match="duplicates"):
        account_of(*twice, AtRisk("killed", "w", 9.0, ["a"]), Buried(["a"])).check()
    account_of(*twice, AtRisk("killed", "w", 9.0, ["a"])).check()
    account_of(*twice, Unanswered(["a"])).check()


def test_what_was_just_settled_is_at_risk_where_a_settle_is_not_answered():
    """On such a broker, and on no other, what was settled shortly before may come again."""
    entries = [Intended(["a"]), Dispatched(["a"]), Handled("a", "w"), Handled("a", "w")]
    entries += [AtRisk("killed", "w", 9.0, [], [("a", 8.6)])]

    account_of(*entries, unanswered=0.5).check()
    with pytest.raises(AssertionError, match="duplicates"):
        account_of(*entries).check()


def test_what_was_due_shortly_before_is_at_risk_where_workers_move_it():
    """There a death may let what was delayed come once more; not what was due long before, or is due later."""
    entries = [Intended(["a"]), Dispatched(["a"]), Handled("a", "w"), Handled("a", "w")]
    death = AtRisk("killed", "w", 9.0, ["b"])

    account_of(*entries, Postponed(["a"], [8.6]), death, moving=0.5).check()
    for due, moving in ((8.6, 0.0), (8.4, 0.5), (9.1, 0.5)):
        with pytest.raises(AssertionError, match="duplicates"):
            account_of(*entries, Postponed(["a"], [due]), death, moving=moving).check()


def test_what_nobody_has_sent_is_noticed():
    """A message that came and was never about to be dispatched is something else's."""
    with pytest.raises(AssertionError, match="nowhere"):
        account_of(Handled("a", "w")).check()


def test_an_entry_torn_by_a_kill_spoils_no_other(tmp_path: Path):
    """Of an entry that was written in part nothing is read; all others are, once they are there whole."""
    ledger, reader = Ledger(tmp_path / "ledger"), Reader(tmp_path / "ledger")
    ledger.write(Dispatched(["a"]))
    with (tmp_path / "ledger").open("ab") as file:
        file.write(b'\n{"type":"Handled","id":"a","wor')
    ledger.write(Dispatched(["b"]))
    first = reader.news()
    with (tmp_path / "ledger").open("ab") as file:
        file.write(b'\n{"type":"Buried","ids":')
    second = reader.news()
    with (tmp_path / "ledger").open("ab") as file:
        file.write(b'["c"]}\n')

    assert [Dispatched(["a"]), Dispatched(["b"])] == first
    assert [] == second
    assert [Buried(["c"])] == reader.news()
    ledger.close()
    reader.close()
