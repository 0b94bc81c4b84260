"""Mutants for the rules in `postbus.testing.rules.crashes`."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from postbus.dsn import Dsn
from postbus.errors import ConnectionLost
from postbus.queue_transport import QueueTransport
from postbus.transport import Delivery, Outgoing, TransportContext
from postbus_in_memory import InMemoryOptions
from postbus_in_memory.queue import Message, Queue
from tests.contract.healthy import Shared, Shelf
from tests.contract.mutants.entry import breaks


class Hidden(Shelf):
    """Keeps what is in flight in the memory of this process, and nowhere else."""

    def store(self) -> None:
        everything = self.messages
        self.messages = {id: message for id, message in everything.items() if message.tag is None}
        mine, self.in_flight = self.in_flight, {}
        super().store()
        self.messages, self.in_flight = everything, mine

    def load(self) -> None:
        mine = self.in_flight
        super().load()
        self.in_flight = mine
        self.messages |= {message.id: message for message in mine.values()}


@breaks("what_a_killed_process_had_fetched_comes_back_once")
class TakesItsDeliveriesAlong(Shared):
    """Knows only in the process that fetched them which messages are in flight."""

    queue_type = Hidden


class Doubled(Shelf):
    """Puts back what was in flight for too long, and a copy of it."""

    def end_leases(self) -> None:
        before = dict(self.in_flight)
        super().end_leases()
        for tag in before.keys() - self.in_flight.keys():
            self.put(before[tag].content)


@breaks(
    "what_a_killed_process_had_fetched_comes_back_once",
    # All that see nothing left after a lost lease.
    also=["a_late_ack_is_quiet", "a_late_release_takes_nothing_from_another"],
)
class DoublesItsDeliveries(Shared):
    """Delivers twice what a process that died had fetched."""

    queue_type = Doubled


class Reserved(Shelf):
    """Belongs to the process that has something in flight, until that is over."""

    owner: int | None = None

    def take(self, limit: int, lease: float) -> list[Delivery]:
        self.end_leases()
        if self.in_flight and self.owner != os.getpid():
            return []
        self.owner = os.getpid()
        return super().take(limit, lease)


@breaks("what_a_killed_process_had_not_fetched_is_untouched")
class ReservesTheQueue(Shared):
    """Delivers to nobody else while one process has deliveries."""

    queue_type = Reserved


class Late(Shelf):
    """Writes what was published a little later, or when this process next uses the queue."""

    pending: tuple[int, Sequence[Message]] = (0, ())

    def load(self) -> None:
        pid, pending = self.pending
        super().load()
        self.pending = (0, ())
        if pid == os.getpid():
            for message in pending:
                self.messages[message.id] = message
                self._line_up(message)

    def put(self, content: Outgoing) -> str:
        id = super().put(content)
        message = self.messages.pop(id)
        self._schedule = [entry for entry in self._schedule if entry[1] != message.number]
        self.pending = (os.getpid(), [*self.pending[1], message])
        return id

    def store(self) -> None:
        pending, self.pending = self.pending, (0, ())
        super().store()
        self.pending = pending


@breaks("what_a_killed_process_had_published_is_stored")
class PublishesLater(Shared):
    """Returns from `publish` before the messages are in the file."""

    queue_type = Late

    def __init__(self, queue: Queue, *, lease: float) -> None:
        super().__init__(queue, lease=lease)
        self.flushes: list[threading.Timer] = []

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        ids = super().publish(messages)
        flush = threading.Timer(1.0, self.release, [[]])
        flush.daemon = True
        flush.start()
        self.flushes.append(flush)
        return ids

    def close(self) -> None:
        for flush in self.flushes:
            flush.cancel()
        super().close()


@breaks("a_forked_process_has_a_connection_of_its_own")
class SharesItsSocket(Shared):
    """Opens one connection when the transport is made, which a fork does not survive."""

    def __init__(self, queue: Queue, *, lease: float) -> None:
        super().__init__(queue, lease=lease)
        self.pid = os.getpid()

    @classmethod
    def make(cls, dsn: Dsn, context: TransportContext) -> QueueTransport:
        connection = cls(cls.queue_for(dsn), lease=InMemoryOptions.from_dsn(dsn).lease)
        return QueueTransport(lambda: connection, context)

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        if self.pid != os.getpid():
            raise ConnectionLost("Another process talks here.")
        return super().publish(messages)
