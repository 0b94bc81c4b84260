"""How jobs are reserved: all that are ready at once, or the next one that comes, in the server's own waiting.

A link that waits hears of nothing else until its wait is over, and jobs can be settled through their own link alone.
So it is always one that holds nothing which waits; when it gets a job, it takes over from the one before.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence

from postbus.errors import ConnectionLost
from postbus.transport import Delivery
from postbus_beanstalkd import jobs
from postbus_beanstalkd.counting import Taken, look_up
from postbus_beanstalkd.guard import Guard
from postbus_beanstalkd.keeping import keep_counts
from postbus_beanstalkd.link import Link
from postbus_beanstalkd.links import Links
from postbus_beanstalkd.options import BeanstalkdOptions
from postbus_beanstalkd.stamps import BeanstalkdJob

LEAST = 4
"""How many jobs are asked for at least, of those that were wanted."""

NEARLY = 0.05
"""Seconds by which a wait may be longer than it was to be, so that it ends by itself."""

REST = 0.02
"""Seconds between two looks, where there are too many links for one more that waits."""


class Fetcher:
    """Fetches for one connection. At any moment at most one thread is in `fetch`."""

    def __init__(self, links: Links, options: BeanstalkdOptions, guard: Guard) -> None:
        self._links = links
        self._options = options
        self._guard = guard
        self._taker: Link | None = None
        self._number = LEAST
        self._is_over = threading.Event()
        self._stamps: dict[tuple[int, str], tuple[BeanstalkdJob, ...]] = {}

    def fetch(self, tubes: Sequence[Sequence[str]], limit: int, wait: float) -> list[Delivery]:
        """Return up to ``limit`` deliveries, from the first of these groups of tubes that has any; else wait."""
        deadline = time.monotonic() + wait
        try:
            for some in tubes:
                if found := self._take(some, limit):
                    return found
            return self._wait([tube for some in tubes for tube in some], deadline)
        except ConnectionLost:
            if not self._is_over.is_set():  # else another thread has closed the connection
                raise
            return []

    def stop(self) -> None:
        """Fetch no more, and end the wait of another thread."""
        self._is_over.set()

    def _take(self, tubes: Sequence[str], limit: int) -> list[Delivery]:
        """Return what is there."""
        link = self._taker
        if link is None or link.was_dropped():
            link = self._taker = self._links.empty(None) or self._links.add()
        link.watch(tubes)
        found: list[Taken] = []
        begun = time.monotonic()
        while (left := limit - len(found)) > 0:
            number = min(left, self._number)
            some = link.reserve(number, lambda id, data: self._read(link, id, data, begun))
            found += some
            self._number = max(LEAST, 2 * len(some))
            if len(some) < number:
                break
        return self._deliver(link, found, tubes) if found else []

    def _wait(self, tubes: Sequence[str], deadline: float) -> list[Delivery]:
        """Return the next job that comes, if it comes in time."""
        while (left := deadline - time.monotonic()) > 0 and not self._is_over.is_set():
            link = self._links.empty(self._taker)
            if link is not None:
                return self._wait_on(link, tubes, left)
            # So many messages are in hand, one by one, that there is no hurry for the next.
            self._is_over.wait(min(left, REST))
            if found := self._take(tubes, 1):
                return found
        return []

    def _wait_on(self, link: Link, tubes: Sequence[str], left: float) -> list[Delivery]:
        link.watch(tubes)
        seconds = math.ceil(left)
        link.begin_to_wait(seconds)
        ends_itself = seconds - left < NEARLY
        if ends_itself:
            left = seconds + (self._options.read_timeout or math.inf)
        if not link.is_readable(left):
            if ends_itself:
                self._links.drop(link)
                raise ConnectionLost(f"{self._links} does not answer")
            return self._take_late(link, tubes)
        job = link.end_to_wait()
        if job is None:
            return []
        self._taker = link
        # It arrived as it was reserved, a moment ago.
        return self._deliver(link, [self._read(link, *job, time.monotonic() - NEARLY)], tubes)

    def _take_late(self, waiting: Link, tubes: Sequence[str]) -> list[Delivery]:
        """End a wait, and return the job that arrives in this very moment, if one does.

        It goes back as its link is closed; so it is reserved anew, lest that counts as a delivery.
        """
        job = waiting.give_up_waiting()
        self._links.drop(waiting)
        if job is None or self._is_over.is_set():
            return []
        link = self._taker = self._links.empty(self._taker) or self._links.add()
        begun = time.monotonic()
        if link.reserve_these([job[0]]) == [False]:
            return []
        taken = self._read(link, *job, begun)
        taken.uncounted = 1
        return self._deliver(link, [taken], tubes)

    def _read(self, link: Link, id: int, data: bytes, since: float) -> Taken:
        content, options = jobs.read(data), self._options
        priority = options.priority if content.priority is None else content.priority
        ttr = options.ttr if content.ttr is None else content.ttr
        return Taken(link.hold(id, priority, ttr, since), data, content)

    def _deliver(self, link: Link, taken: list[Taken], tubes: Sequence[str]) -> list[Delivery]:
        self._guard.look()
        look_up(link, taken, one_tube=len(tubes) == 1)
        keep_counts(link, taken)
        return [self._make_delivery(one, tubes[0]) for one in taken]

    def _make_delivery(self, one: Taken, tube: str) -> Delivery:
        content, job, stats = one.content, one.job, one.stats
        if stats is not None:
            job.until += stats.ttr - job.ttr
            job.priority, job.ttr, tube = stats.priority, stats.ttr, stats.tube
        return Delivery(
            content.body,
            content.headers,
            job,
            str(job.id),
            one.count,
            self._stamps_for(content, job.priority, tube),
            None if job.ttr == self._options.ttr else float(job.ttr),
            None,
            content.problem,
        )

    def _stamps_for(self, content: jobs.Content, priority: int, tube: str) -> tuple[BeanstalkdJob, ...]:
        """Return the stamp that says how a job lies here, if a copy would lie otherwise without it."""
        options = self._options
        if (priority, tube) == (options.priority, options.tube_name) or BeanstalkdJob.header in content.headers:
            return ()
        if (priority, tube) not in self._stamps:
            stamp = BeanstalkdJob(
                None if priority == options.priority else priority, None, None if tube == options.tube_name else tube
            )
            self._stamps[priority, tube] = (stamp,)
        return self._stamps[priority, tube]
