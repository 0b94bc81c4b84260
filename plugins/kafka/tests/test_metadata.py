"""What a commit says beside its offset is read again as it was meant, and never takes more room than there is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postbus_kafka.metadata import DONE, LARGEST, UNTOUCHED, Run, State, after_a_death, decode, encode

STATES = st.one_of(st.just(DONE), st.builds(State, st.just(False), st.booleans(), st.integers(0, 9)))
RUNS = st.lists(st.builds(Run, st.integers(1, 10**9), STATES), max_size=30)


def spread(runs: list[Run], number: int) -> list[State]:
    """Return the states of the first offsets; what nothing is said of is untouched."""
    states = [state for run in runs for state in [run.state] * min(run.length, number)]
    return (states + [UNTOUCHED] * number)[:number]


@given(st.lists(st.builds(Run, st.integers(1, 5), STATES), max_size=30))
def test_what_is_written_is_read(runs: list[Run]) -> None:
    """Every offset has the state that it had."""
    assert spread(runs, 200) == spread(decode(encode(runs)), 200)


@given(RUNS, st.integers(10, 80))
def test_what_does_not_fit_is_left_out_from_the_end(runs: list[Run], largest: int) -> None:
    """The text is never longer than it may be, and what it says of the first offsets is right."""
    text = encode(runs, largest)

    assert len(text) <= largest
    said = decode(text)
    total = sum(run.length for run in said)
    at, states = 0, []
    for run in runs:
        states += [(at, run.state)]
        at += run.length
    ends = [sum(run.length for run in said[: n + 1]) for n in range(len(said))]
    for start, state in states:
        if start < total:
            assert said[next(n for n, end in enumerate(ends) if start < end)].state == state


def test_a_thousand_gaps_fit() -> None:
    """Every other of a thousand records may be done; the last ones of many more are left out."""
    runs = [Run(1, DONE), Run(1, State(is_in_hand=True))] * 5000

    text = encode(runs)

    assert len(text.encode()) <= LARGEST
    assert 2000 <= sum(run.length for run in decode(text))


@pytest.mark.parametrize(
    "text", [None, "", "2 5A", "1 5", "1 A", "1 5Aé", "from another tool", "1 99999999999999999999A"]
)
def test_what_others_wrote_says_nothing(text: str | None) -> None:
    """Metadata of another program, or of another version of this one, is passed over."""
    assert [] == decode(text)


def test_who_takes_over_counts_a_death_for_what_was_in_hand() -> None:
    """What the other one had in hand it may have died of; what was waiting or done, not."""
    runs = [
        Run(2, State(is_in_hand=True)),
        Run(1, DONE),
        Run(3, State(is_in_hand=True, deaths=9)),
        Run(1, State(deaths=1)),
    ]

    taken = after_a_death(runs)

    assert [Run(2, State(deaths=1)), Run(1, DONE), Run(3, State(deaths=9)), Run(1, State(deaths=1))] == taken
