"""The connection: what is published, settled, kept alive and counted; `fetching` has the rest."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from postbus.errors import TransportError
from postbus.transport import Counts, Delivery, Outgoing
from postbus_beanstalkd.fetching import Fetcher
from postbus_beanstalkd.guard import Guard
from postbus_beanstalkd.link import BURIED, RELEASED, Job, Link
from postbus_beanstalkd.links import Links
from postbus_beanstalkd.options import BeanstalkdOptions
from postbus_beanstalkd.overview import Overview, Peeked
from postbus_beanstalkd.publishing import Publisher
from postbus_beanstalkd.server import Server

PAUSE = 1
"""Seconds for which a job waits that was given back. Without, it would be the very next one to be delivered again."""


class BeanstalkdConnection:
    """Moves messages into and out of tubes."""

    def __init__(self, server: Server, options: BeanstalkdOptions) -> None:
        self._links = Links(server)
        self._options = options
        self._guard = Guard(self._links)
        self._fetcher = Fetcher(self._links, options, self._guard)
        self._publisher = Publisher(self._links, options)
        self._overview = Overview(self._links, options)

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        return self._publisher.publish(messages)

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        return self._fetcher.fetch([self._options.consumed], limit, wait)

    def fetch_from(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        unknown = [queue for queue in queues if queue not in self._options.consumed]
        if unknown:
            raise TransportError(
                f"There is no tube {unknown[0]!r} among those of the transport: "
                f"{', '.join(self._options.consumed)}. Add it to tubes."
            )
        return self._fetcher.fetch([[queue] for queue in queues], limit, wait)

    def ack(self, tags: Sequence[Job]) -> Sequence[Job]:
        return self._end(tags, lambda job: b"delete %d\r\n" % job.id, b"DELETED\r\n")

    def reject(self, tags: Sequence[Job]) -> Sequence[Job]:
        if not self._options.bury_on_reject:
            return self.ack(tags)
        return self._end(tags, lambda job: b"bury %d %d\r\n" % (job.id, job.priority), BURIED)

    def release(self, tags: Sequence[Job]) -> Sequence[Job]:
        return self._end(tags, lambda job: b"release %d %d %d\r\n" % (job.id, job.priority, PAUSE), RELEASED)

    @property
    def lease(self) -> float:
        return float(self._options.ttr)

    def keepalive(self, tags: Sequence[Job]) -> Sequence[Job]:
        def touch(link: Link, held: Sequence[Job]) -> list[bool]:
            now = time.monotonic()
            touched = link.settle([b"touch %d\r\n" % job.id for job in held], b"TOUCHED\r\n")
            for job, is_ours in zip(held, touched, strict=True):
                if is_ours:
                    job.until = now + job.ttr
                else:
                    link.held.pop(job.id, None)
            return touched

        return self._each(tags, touch)

    def count(self) -> Counts:
        return self._overview.count()

    def setup(self) -> None:
        """Do nothing: a tube is there as soon as it is used."""

    def missing(self) -> Sequence[str]:
        return self._overview.missing()

    def peek(self) -> Iterator[Peeked]:
        """Yield what comes next in each state; see `Overview.peek`."""
        return self._overview.peek()

    def kick(self, bound: int) -> int:
        """Make up to so many jobs of each tube ready; see `Overview.kick`."""
        return self._overview.kick(bound)

    def close(self) -> None:
        self._fetcher.stop()
        self._guard.stop()
        self._links.close()

    def _end(self, tags: Sequence[Job], command: Callable[[Job], bytes], done: bytes) -> list[Job]:
        """Settle jobs with one command each; return those that are not ours any more."""

        def settle(link: Link, held: Sequence[Job]) -> list[bool]:
            settled = link.settle([command(job) for job in held], done)
            for job in held:
                link.held.pop(job.id, None)
            return settled

        return self._each(tags, settle)

    def _each(self, tags: Sequence[Job], how: Callable[[Link, Sequence[Job]], list[bool]]) -> list[Job]:
        """Do something to the jobs of each link; return those that it could not be done to."""
        by_link = defaultdict[Link, list[Job]](list)
        for tag in tags:
            by_link[tag.link].append(tag)
        done: set[int] = set()
        takers = self._links.takers
        for link, of_link in by_link.items():
            if link not in takers:
                continue  # Given up, or an earlier connection's: the server has given its jobs back.
            with link.alone():
                held = [job for job in of_link if link.held.get(job.id) is job]
                if not held:
                    continue
                results = how(link, held)
            done.update(id(job) for job, is_done in zip(held, results, strict=True) if is_done)
        return [tag for tag in tags if id(tag) not in done]
