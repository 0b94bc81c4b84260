"""How the number of deliveries is kept where the server forgets it: beanstalkd starts to count anew at each start.

A job whose message was delivered before is replaced by one that says so. This is done while we have it, so nobody
else sees either of the two in between; should we die amid it, the message comes twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from postbus_beanstalkd import jobs
from postbus_beanstalkd.counting import Taken
from postbus_beanstalkd.link import Link

HIDDEN = 2
"""Seconds of delay with which the new job is put, so that we are the one to reserve it.

No more than that, because in its log a server that was killed finds the delay, and nothing of what came of it.
"""


def keep_counts(link: Link, taken: Sequence[Taken]) -> None:
    """Replace those jobs that were delivered before, as far as there is a place for the number in them."""
    again = defaultdict[str, list[Taken]](list)
    for one in taken:
        if one.stats is not None and one.count > max(1, one.content.attempts):
            again[one.stats.tube].append(one)
    for tube, of_tube in again.items():
        _replace(link, tube, of_tube)


def _replace(link: Link, tube: str, taken: Sequence[Taken]) -> None:
    commands = {one.job: command for one in taken if (command := _command(one, link.server)) is not None}
    replies: list[int | Exception] = []
    link.use(tube)
    link.put(commands.values(), replies)
    copies = [(job, id) for job, id in zip(commands, replies, strict=True) if isinstance(id, int)]
    if not copies:
        return
    reserved = link.reserve_these([id for _, id in copies])
    # Of each pair one goes: the old job, or the copy where that is not ours.
    goes = [job.id if is_ours else id for (job, id), is_ours in zip(copies, reserved, strict=True)]
    link.settle([b"delete %d\r\n" % id for id in goes], b"DELETED\r\n")
    for (job, id), is_ours in zip(copies, reserved, strict=True):
        if is_ours:
            link.rename(job, id)


def _command(one: Taken, server: str) -> bytes | None:
    """Return what puts a job that says how often its message came; None if there is no place for it."""
    stats = one.stats
    if stats is None:
        return None
    data = jobs.with_attempts(one.data, stats.priority, stats.ttr, one.count, server)
    if data is None:
        return None
    return b"put %d %d %d %d\r\n%b\r\n" % (stats.priority, HIDDEN, stats.ttr, len(data), data)
