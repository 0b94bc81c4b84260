"""The rules of the contract by their ids, and how a new one comes into force.

An id is given once. A rule may come to ask for less under its id; what asks for more is a new rule, with a new id, and
the version of Postbus that it is there ``since``. In that minor version a transport that breaks it is only warned of
it, so that nobody's tests fail because Postbus was upgraded; with the next one it is an error, as all others are.
``POSTBUS_CONTRACT=next`` makes it one at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from msgspec import Struct

from postbus import __version__

F = TypeVar("F", bound=Callable[..., None])

FIRST = "0.1"
"""The version that has the first rules, which nobody was warned of."""


class Promise(Struct, frozen=True):
    """What a rule is known by: ``leases-3``, and the minor version that had it first."""

    id: str
    since: str

    @property
    def is_new(self) -> bool:
        """Whether who breaks it is only warned."""
        if os.environ.get("POSTBUS_CONTRACT") == "next" or self.since == FIRST:
            return False
        return _minor(self.since) >= _minor(__version__)

    @property
    def in_force(self) -> str:
        """The version with which it is an error to break it, whoever asks."""
        major, minor = _minor(self.since)
        return self.since if self.since == FIRST else f"{major}.{minor + 1}"


def promise(id: str, *, since: str) -> Callable[[F], F]:
    """Make a test one of the rules of the contract; its docstring is the promise."""

    def mark(rule: F) -> F:
        rule.__dict__["promise"] = Promise(id, since)
        return rule

    return mark


def promise_of(rule: object) -> Promise | None:
    """Return what a rule is known by; None of a test that is no rule of the contract."""
    found: Promise | None = getattr(rule, "promise", None)
    return found


PROOFS = ("a benchmark", "a queue shared with another system")
"""What tests of a plugin may prove besides what those of the kit do, for `postbus certify`."""


def proves(what: str) -> Callable[[F], F]:
    """Mark a test of a plugin as one that proves something that `postbus certify` asks for: one of `PROOFS`."""
    if what not in PROOFS:
        raise ValueError(f"Nobody asks for {what!r}. Say one of {', '.join(map(repr, PROOFS))}.")

    def mark(test: F) -> F:
        test.__dict__["proves"] = what
        return test

    return mark


def proof_of(test: object) -> str:
    """Return what a test is marked to prove; nothing if it is not."""
    return str(getattr(test, "proves", ""))


def promises_of(contract: type) -> Iterator[tuple[Promise, str]]:
    """Yield each rule of a contract, and what it promises."""
    for group in contract.__mro__:
        for rule in vars(group).values():
            found = promise_of(rule)
            if found is not None:
                yield found, words_of(rule)


def words_of(rule: Any) -> str:
    """Return what a rule promises, in a line."""
    return " ".join((rule.__doc__ or "").split())


def _minor(version: str) -> tuple[int, int]:
    major, minor, *_ = version.split(".")
    return int(major), int(minor)
