"""The connection: one queue, and what can be done with it."""

from __future__ import annotations

from collections.abc import Sequence

from postbus.errors import TransportError
from postbus.transport import Absence, Counts, Delivery, Outgoing
from postbus_sqs.crew import Crew
from postbus_sqs.errors import names_of
from postbus_sqs.fetching import Fetcher
from postbus_sqs.leases import Lease
from postbus_sqs.options import Address, SqsOptions
from postbus_sqs.publishing import Doubts, Publisher
from postbus_sqs.redrive import swallows
from postbus_sqs.service import Service
from postbus_sqs.settling import Settler


class SqsConnection:
    """Moves messages into and out of one queue."""

    def __init__(self, address: Address, options: SqsOptions, doubts: Doubts) -> None:
        self._options = options
        self._service = Service(address, options)
        crew = Crew(options.parallel)
        self._settler = Settler(self._service, crew)
        self._publisher = Publisher(self._service, crew, options, doubts)
        self._fetcher = Fetcher(self._service, crew, options, self._settler)

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        return self._publisher.publish(messages)

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        return self._fetcher.fetch(limit, wait)

    def ack(self, tags: Sequence[Lease]) -> Sequence[Lease]:
        lost = self._settler.delete(tags)
        if self._options.is_fifo:
            self._fetcher.go_on([tag for tag in tags if tag.is_settled])
            self._settler.show(self._fetcher.give_up(lost))
        return lost

    def reject(self, tags: Sequence[Lease]) -> Sequence[Lease]:
        return self.ack(tags)

    def release(self, tags: Sequence[Lease]) -> Sequence[Lease]:
        behind = self._fetcher.give_up(tags) if self._options.is_fifo else []
        lost = self._settler.show([*tags, *behind])
        return [tag for tag in tags if tag in lost] if behind else lost

    @property
    def lease(self) -> float:
        return self._options.visibility_timeout

    def keepalive(self, tags: Sequence[Lease]) -> Sequence[Lease]:
        behind = self._fetcher.behind(tags) if self._options.is_fifo else []
        lost = self._settler.hide([*tags, *behind], self.lease)
        if not behind:
            return lost
        lost = [tag for tag in tags if tag in lost]
        self._settler.show(self._fetcher.give_up(lost))
        return lost

    def count(self) -> Counts:
        told = self._attributes()
        waiting, delayed, in_flight = (
            int(told.get(f"ApproximateNumberOfMessages{kind}", 0)) for kind in ("", "Delayed", "NotVisible")
        )
        # What a FIFO queue keeps back is there to be fetched, and in flight when somebody has tried to.
        return Counts(waiting) if self._options.is_fifo else Counts(waiting, delayed, in_flight)

    def purge(self) -> int:
        told = self._attributes()
        number = sum(int(told.get(f"ApproximateNumberOfMessages{kind}", 0)) for kind in ("", "Delayed", "NotVisible"))
        try:
            self._service.call("purge_queue")
        except TransportError as error:
            if error.__cause__ is None or "PurgeQueueInProgress" not in names_of(error.__cause__):
                raise
            if number:
                raise TransportError(
                    f"{self._service} was purged within the last minute, and AWS does so once in a minute. Wait."
                ) from error
        return number

    def setup(self) -> None:
        self._service.create()

    def missing(self) -> Sequence[str]:
        if not self._service.exists():
            return [Absence(f"There is no {self._service}.")]
        found = swallows(self._attributes(), str(self._service))
        return [found] if found else []

    def close(self) -> None:
        self._fetcher.close()

    def _attributes(self) -> dict[str, str]:
        told: dict[str, str] = self._service.call("get_queue_attributes", AttributeNames=["All"])["Attributes"]
        return told
