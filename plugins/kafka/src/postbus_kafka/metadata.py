"""What a commit says beside its offset: what behind it is done, what is in hand, and what workers died of.

Kafka keeps one offset for a partition, and up to 4096 bytes of text with it. This is the form of that text: a version,
and runs of offsets that begin at the committed one, each a length and a letter::

    1 5A3d992A

Five records are in a worker's hands, three are done, and up to 992 more may be in its hands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

LARGEST = 4096
"""Bytes that a broker takes, unless its `offset.metadata.max.bytes` says less."""

MOST_DEATHS = 9
"""More than these are not counted."""

VERSION = "1 "

_DONE = "d"
_IN_HAND = "ABCDEFGHIJ"
_WAITING = "qrstuvwxyz"
_RUN = re.compile(f"([0-9]{{1,18}})([{_DONE}{_IN_HAND}{_WAITING}])")
_TEXT = re.compile(f"{VERSION}(?:{_RUN.pattern})*")


class State(NamedTuple):
    """What is known of a record that the group has not handled, or has."""

    is_done: bool = False
    is_in_hand: bool = False
    deaths: int = 0
    """How many workers died while they had it."""


UNTOUCHED = State()
DONE = State(is_done=True)


class Run(NamedTuple):
    """So many offsets, one after the other, and the state of each."""

    length: int
    state: State


def encode(runs: Iterable[Run], largest: int = LARGEST) -> str:
    """Return the text for these runs, which begin at the committed offset.

    What is too much is left out from the end: then what is done there comes once more, which is all that it costs.
    """
    text, said = VERSION, VERSION
    length, last = 0, UNTOUCHED
    for run in [*runs, Run(0, UNTOUCHED)]:
        if run.state == last:
            length += run.length
            continue
        if length:
            text += f"{length}{_letter_of(last)}"
            if len(text) > largest:
                return said
            said = text if last != UNTOUCHED else said
        length, last = run.length, run.state
    return said


def decode(text: str | None) -> list[Run]:
    """Return the runs that a text says; none if somebody else wrote it."""
    if text is None or not _TEXT.fullmatch(text):
        return []
    return [Run(int(length), _state_of(letter)) for length, letter in _RUN.findall(text)]


def after_a_death(runs: Iterable[Run]) -> list[Run]:
    """Return the runs that a worker finds which takes over: what another one still had in hand, that one died of."""
    return [
        Run(length, state._replace(is_in_hand=False, deaths=min(state.deaths + 1, MOST_DEATHS)))
        if state.is_in_hand
        else Run(length, state)
        for length, state in runs
    ]


def _letter_of(state: State) -> str:
    if state.is_done:
        return _DONE
    return (_IN_HAND if state.is_in_hand else _WAITING)[min(state.deaths, MOST_DEATHS)]


def _state_of(letter: str) -> State:
    if letter == _DONE:
        return DONE
    if letter in _IN_HAND:
        return State(is_in_hand=True, deaths=_IN_HAND.index(letter))
    return State(deaths=_WAITING.index(letter))
