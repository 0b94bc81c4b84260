"""Whose turn it is among several transports, as a property of any weights and any stretch of turns."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from postbus.worker.strategies import Turns

NAMES = tuple("abcdef")
weights = st.lists(st.integers(1, 20), min_size=1, max_size=6).map(lambda ws: dict(zip(NAMES, ws, strict=False)))


@given(weights, st.integers(0, 300), st.integers(1, 300))
def test_in_every_stretch_each_gets_its_share(weights: dict[str, int], skipped: int, length: int) -> None:
    """As long as all want turns, each has its share of any stretch of them, to within two: nobody starves."""
    turns = Turns(tuple(weights), "weighted", weights)
    for _ in range(skipped):
        turns.next(tuple(weights))

    given_out = Counter(turns.next(tuple(weights)) for _ in range(length))

    for name, weight in weights.items():
        assert abs(given_out[name] - length * weight / sum(weights.values())) <= 2


@given(weights, st.lists(st.sets(st.sampled_from(NAMES)), max_size=100))
def test_who_comes_back_gets_its_share_from_then_on(weights: dict[str, int], wishes: list[set[str]]) -> None:
    """Who did not want turns for a while neither catches up on them all, nor has to wait for long."""
    turns = Turns(tuple(weights), "weighted", weights)
    for wish in wishes:
        if wanting := [name for name in weights if name in wish]:
            assert turns.next(wanting) in wanting

    total = sum(weights.values())
    rounds = 5
    given_out = Counter(turns.next(tuple(weights)) for _ in range(rounds * total))

    for name, weight in weights.items():
        assert abs(given_out[name] - rounds * weight) <= len(weights) + 2


@given(st.lists(st.sets(st.sampled_from(NAMES), min_size=1), max_size=50))
def test_strict_is_always_the_first(wishes: list[set[str]]) -> None:
    """The first that wants a turn gets it, however often it had one."""
    turns = Turns(NAMES, "strict", {})
    for wish in wishes:
        assert min(wish) == turns.next(wish)


def test_round_robin_goes_round() -> None:
    """By turns, in the order of the names."""
    turns = Turns(NAMES[:3], "round-robin", {})
    assert list("abcabcabc") == [turns.next(NAMES[:3]) for _ in range(9)]


def test_heavier_ones_are_spread() -> None:
    """Turns of a heavy one are not given out in one go."""
    turns = Turns(("a", "b"), "weighted", {"a": 3, "b": 2})
    assert "ababa" * 2 == "".join(turns.next(("a", "b")) for _ in range(10))


def test_a_rotation_begins_with_whose_turn_it_is() -> None:
    """Queues of one transport are fetched from in this order, so that each comes first as often as it should."""
    turns = Turns(("high", "low"), "weighted", {"high": 2})
    assert ["high", "low", "high"] * 2 == [turns.rotation()[0] for _ in range(6)]
    assert {"high", "low"} == set(turns.rotation())
    assert ("high", "low") == Turns(("high", "low"), "strict", {}).rotation()
    assert () == Turns((), "round-robin", {}).rotation()
