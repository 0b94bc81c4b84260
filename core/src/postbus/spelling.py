"""The known name that somebody may have meant who wrote another one."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name that is most alike, None if none is alike by at least ``cutoff``, from 0 to 1."""
    from difflib import get_close_matches  # noqa: PLC0415  Who makes no mistake need not wait for it.

    return next(iter(get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)
