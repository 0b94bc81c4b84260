"""How often jobs were delivered: the server counts, and tells it of each job that it is asked about.

That costs as much as reserving it, so most jobs are proven to be new instead. Of one priority, a server hands out
jobs in the order of their ids. So if a job was never reserved before, nor ever delayed, then none that was put later,
and is no more urgent, was reserved before either. One that says nothing of its own priority is always asked about.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from postbus_beanstalkd.jobs import Content
from postbus_beanstalkd.link import Job, JobStats, Link

FEW = 16
"""How many are asked about next, if the first of a batch proves nothing."""


class Taken(Struct, gc=False):
    """A job that was just reserved, and what is known of it."""

    job: Job
    data: bytes
    content: Content
    stats: JobStats | None = None
    uncounted: int = 0
    """How often it was reserved by mistake."""
    count: int = 1
    """How often its message was delivered, this time included."""


def look_up(link: Link, taken: Sequence[Taken], *, one_tube: bool) -> None:
    """Ask for the stats of jobs that may not be new. They are in the order in which they were reserved."""
    number, unknown = 1, list(taken)
    if not one_tube:  # Others may consume one of the tubes alone.
        number = len(unknown)
    while unknown:
        asked, unknown = unknown[:number], unknown[number:]
        for one, stats in zip(asked, link.stats_of([one.job.id for one in asked]), strict=True):
            one.stats = stats
            one.count = _count_of(one, link)
        proof = next((one for one in asked if _is_proof(one)), None)
        if proof is not None:
            unknown = [one for one in unknown if not _is_new(one, proof)]
        number = FEW if number == 1 else len(unknown)


def _count_of(one: Taken, link: Link) -> int:
    stats, content = one.stats, one.content
    if stats is None:  # It has gone meanwhile.
        return content.attempts + 1
    # The time that it became this job at is among the attempts, and among the reserves of the server that saw it.
    twice = 1 if content.attempts and content.server == link.server else 0
    return max(1, content.attempts + stats.reserves - stats.releases - one.uncounted - twice)


def _is_proof(one: Taken) -> bool:
    """Say whether a job was ready from the moment in which it was put until we got it."""
    stats = one.stats
    return stats is not None and (stats.reserves, stats.releases, stats.kicks, stats.delay) == (1, 0, 0, 0)


def _is_new(one: Taken, proof: Taken) -> bool:
    """Say whether a job can have been reserved later than the proof only, and so for the first time."""
    content, stats = one.content, proof.stats
    return (
        stats is not None
        and content.priority is not None
        and content.priority >= stats.priority
        and content.attempts == 0
        and one.job.id > proof.job.id
    )
