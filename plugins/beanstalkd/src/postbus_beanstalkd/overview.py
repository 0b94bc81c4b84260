"""What can be seen of tubes without reserving a job, and what was buried or delayed made ready."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import greenstalk
from msgspec import Struct

from postbus.errors import TransportError
from postbus.transport import Counts, Delivery
from postbus_beanstalkd import jobs
from postbus_beanstalkd.links import Links
from postbus_beanstalkd.options import BeanstalkdOptions

State = Literal["ready", "delayed", "buried"]


class Peeked(Struct, frozen=True):
    """The job of a tube that comes next in some state, and how many there are in that state."""

    tube: str
    state: State
    number: int
    delivery: Delivery
    priority: int
    age: int
    """Seconds since it was put."""


class Overview:
    """Looks at the tubes that a connection consumes."""

    def __init__(self, links: Links, options: BeanstalkdOptions) -> None:
        self._links = links
        self._options = options

    def count(self) -> Counts:
        """Count what is in all tubes; a tube that nobody uses has nothing in it."""
        tubes = [stats for tube in self._options.consumed if (stats := self._stats_of(tube)) is not None]
        return Counts(
            waiting=sum(stats["current-jobs-ready"] for stats in tubes),
            delayed=sum(stats["current-jobs-delayed"] for stats in tubes),
            in_flight=sum(stats["current-jobs-reserved"] for stats in tubes),
        )

    def missing(self) -> list[str]:
        """Return a sentence for what is not as it should be."""
        try:
            stats = self._links.talker.ask(lambda client: client.stats())
        except TransportError as error:
            return [str(error)]
        problems: list[str] = []
        if not stats["binlog-current-index"]:
            problems.append(
                f"{self._links} keeps its jobs in memory only, and loses them when it ends. Start it with -b and a "
                "folder for its log."
            )
        if stats["draining"] == "true":
            problems.append(f"{self._links} takes no new messages, as it was told to drain. Restart it.")
        if stats["max-job-size"] < self._options.max_job_size:
            problems.append(
                f"{self._links} takes jobs of up to {stats['max-job-size']} bytes. Start it with "
                f"-z {self._options.max_job_size}, or say max_job_size={stats['max-job-size']}."
            )
        return problems

    def peek(self) -> Iterator[Peeked]:
        """Yield what comes next in each state, as the protocol shows no more of a tube."""
        for tube in self._options.consumed:
            stats = self._stats_of(tube)
            if stats is None:
                continue
            numbers: dict[State, int] = {
                "ready": stats["current-jobs-ready"],
                "delayed": stats["current-jobs-delayed"],
                "buried": stats["current-jobs-buried"],
            }
            for state, number in numbers.items():
                if (delivery := self._peek_at(tube, state, number)) is not None:
                    yield delivery

    def kick(self, bound: int) -> int:
        """Make up to so many jobs of each tube ready: those that are buried, else those that are delayed."""
        kicked = 0
        for tube in self._options.consumed:
            link = self._links.talker
            with link.alone():
                link.use(tube)
                kicked += link.ask(lambda client: client.kick(bound))
        return kicked

    def _stats_of(self, tube: str) -> greenstalk.StatsTube | None:
        try:
            return self._links.talker.ask(lambda client: client.stats_tube(tube))
        except greenstalk.NotFoundError:
            return None

    def _peek_at(self, tube: str, state: State, number: int) -> Peeked | None:
        def peek(client: greenstalk.Client[bytes]) -> greenstalk.Job[bytes]:
            match state:
                case "ready":
                    return client.peek_ready()
                case "delayed":
                    return client.peek_delayed()
                case "buried":
                    return client.peek_buried()

        link = self._links.talker
        try:
            with link.alone():
                link.use(tube)
                job = link.ask(peek)
                stats = link.ask(lambda client: client.stats_job(job))
        except greenstalk.NotFoundError:
            return None
        content = jobs.read(job.body)
        delivery = Delivery(content.body, content.headers, None, str(job.id), problem=content.problem)
        return Peeked(tube, state, number, delivery, stats["pri"], stats["age"])
