"""The connection: what is published, fetched and settled, each by the part that does it."""

from __future__ import annotations

import threading
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager

from postbus.errors import ConnectionLost
from postbus.transport import Counts, Delivery, Outgoing, SupportsReplace
from postbus_kafka.forwarding import Forwarder
from postbus_kafka.lag import Lag
from postbus_kafka.membership import Membership, Tag
from postbus_kafka.options import Settings
from postbus_kafka.publishing import Publisher
from postbus_kafka.topics import Topics
from postbus_kafka.transactions import Transactions


class KafkaConnection:
    """Moves messages to and from topics, as one member of a group."""

    def __init__(self, settings: Settings, name: str, membership: Membership, forwarder: Forwarder) -> None:
        self._settings = settings
        self._membership = membership
        self._forwarder = forwarder
        self._topics = Topics(settings, name)
        self._publisher = Publisher(settings, name, self._topics)
        self._lag = Lag(settings, name)
        self._is_lost = self._is_closed = False
        self._opening = threading.Lock()
        membership.attach()
        transactional = settings.options.transactional
        self._transactions = Transactions(settings, name, self._publisher) if transactional else None

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        with self._noting_loss():
            return self._publisher.publish(messages)

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        with self._opening:
            if self._is_closed:  # Else it would be opened once more.
                raise ConnectionLost("The connection is closed")
            self._forwarder.start()
            self._membership.open(self._prepare)
        with self._noting_loss():
            return self._membership.fetch(limit, wait)

    def ack(self, tags: Sequence[Tag]) -> Sequence[Tag]:
        return self._membership.settle(tags)

    def reject(self, tags: Sequence[Tag]) -> Sequence[Tag]:
        return self._membership.settle(tags)

    def release(self, tags: Sequence[Tag]) -> Sequence[Tag]:
        return self._membership.release(tags)

    @property
    def lacks(self) -> Collection[type]:
        return () if self._settings.options.transactional else (SupportsReplace,)

    def replace(self, tag: Tag, message: Outgoing) -> str | None:
        assert self._transactions is not None, "Nobody may call this: see `lacks`."
        with self._membership.settling(tag) as settlement:
            return self._transactions.replace(message, settlement)

    def revoked(self) -> Sequence[Tag]:
        return self._membership.revoked()

    def count(self) -> Counts:
        return self._lag.count(self._membership.counts(), self._forwarder.moved())

    def setup(self) -> None:
        self._topics.setup()

    def missing(self) -> Sequence[str]:
        return self._topics.missing()

    def close(self) -> None:
        with self._opening:
            self._is_closed = True
        self._membership.close(leaves=not self._is_lost)
        if not self._is_lost:
            self._forwarder.close()
        if self._transactions is not None:
            self._transactions.close()
        self._publisher.close()
        self._topics.close()
        self._lag.close()

    def _prepare(self) -> None:
        """See that there is what the group reads, all of it."""
        self._topics.ensure()
        if self._transactions is not None:  # Nobody reads behind what a predecessor has left undone.
            self._transactions.open()

    @contextmanager
    def _noting_loss(self) -> Generator[None]:
        """See whether the broker is lost: then the membership is left to the next connection."""
        try:
            yield
        except ConnectionLost:
            self._is_lost = True
            raise
