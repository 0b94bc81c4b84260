"""Atomic moves: records are stored, and what they were made of is settled, or neither."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

from postbus.errors import ConnectionLost, MessageRefused, TransportError
from postbus.transport import Outgoing
from postbus_kafka.clients import Opened
from postbus_kafka.errors import text_of
from postbus_kafka.membership import Settlement
from postbus_kafka.options import Settings
from postbus_kafka.publishing import REFUSALS, Publisher, end
from postbus_kafka.records import Record, id_of
from postbus_kafka.untyped import KafkaProducer, errors

FENCED = (errors.ProducerFencedError, errors.InvalidProducerEpochError, errors.FencedInstanceIdError)
"""What is raised once another process has taken over our name."""


class Transactions:
    """A transactional producer of this process's own, opened at the first use.

    Its name is that of the worker in its group, where it has one, and its ``purpose``: then the next one of that name
    ends what this one has left undone. One whose name was taken over moves nothing more, and leaves its successor
    alone.
    """

    def __init__(self, settings: Settings, name: str, publisher: Publisher, *, purpose: str = "transactions") -> None:
        self._settings = settings
        self._name = name
        self._purpose = purpose
        self._publisher = publisher
        self._lock = threading.Lock()
        self._opened: Opened | None = None
        self._is_fenced = self._is_closed = False
        self._pid = os.getpid()
        own = settings.options.group_instance_id or f"{socket.gethostname()}-{os.getpid()}-{uuid4()}"
        self._id = f"postbus-{settings.group}-{own}-{purpose}"

    def replace(self, message: Outgoing, settlement: Settlement) -> str | None:
        """Store the copy and commit the settlement in one transaction; as `SupportsReplace.replace`."""
        record = self._publisher.checked(message, self._publisher.record_for)
        if isinstance(record, str):
            raise MessageRefused({0: record})
        self._publisher.topics.ensure(record.topic)
        [id] = self.move([record], settlement)
        return None if message.delay > 0 else id

    def open(self) -> None:
        """End what a predecessor of our name has left undone, unless that is done."""
        with self._lock:
            self._open()

    def move(self, records: Sequence[Record], settlement: Settlement) -> list[str]:
        """Write records and commit the settlement in one transaction; return their ids.

        `MessageRefused` says that nothing was done, because the broker does not take one of them; it does not tell
        which. After any other error that may be done or not.
        """
        with self._lock:
            opened = self._open()
            try:
                written = self._move(opened, records, settlement)
            except Exception as error:
                raise self._ended(opened, error) from error
        return [id_of(one.topic, one.partition, one.offset) for one in written]

    def close(self) -> None:
        """Let go of the producer, for good. Twice is fine."""
        with self._lock:
            self._is_closed = True
            opened, self._opened = self._opened, None
        if opened is not None and self._pid == os.getpid():
            end(opened)

    def _move(self, opened: Opened, records: Sequence[Record], settlement: Settlement) -> list[Any]:
        producer = opened.client
        manager = producer._transaction_manager
        producer.begin_transaction()
        # The offsets first: the answer to these tells of a successor. With a record, the client would answer that by
        # taking its name back, and so end the successor.
        self._wait(producer, manager.send_offsets_to_transaction(settlement.offsets, settlement.group))
        written = self._write(producer, records)
        self._wait(producer, manager.begin_commit())
        return written

    def _write(self, producer: Any, records: Sequence[Record]) -> list[Any]:
        futures = [producer.send(one.topic, one.value, one.key, list(one.headers)) for one in records]
        with suppress(errors.KafkaError):  # It is looked at below.
            producer.flush(self._settings.options.send_timeout)
        return [future.get(self._settings.options.timeout) for future in futures]

    def _wait(self, producer: Any, result: Any) -> None:
        """Wait for a step of the transaction; the client's own methods would do so for ever."""
        producer._sender.wakeup()
        if not result.wait(int(self._settings.options.send_timeout * 1000)):
            raise errors.KafkaTimeoutError("The broker did not answer in time")

    def _ended(self, opened: Opened, error: Exception) -> TransportError:
        """Undo what was begun, end the producer, and return what to raise."""
        self._opened = None
        self._publisher.topics.forget()  # Of one that was deleted, the client says that it waits in vain.
        translated = opened.translate(error)
        self._is_fenced = isinstance(error, FENCED)
        if not self._is_fenced and not isinstance(translated, ConnectionLost):
            with suppress(Exception):  # The broker undoes it as well, after a while.
                self._wait(opened.client, opened.client._transaction_manager.begin_abort())
        end(opened)
        if self._is_fenced:
            return self._fenced()
        if isinstance(error, REFUSALS):
            return MessageRefused({0: f"{self._settings} refuses the message: {text_of(error)}."})
        return translated

    def _fenced(self) -> TransportError:
        return TransportError(
            f"Another worker has taken over the name {self._id!r}, so this one settles nothing by transactions. Give "
            "each worker its own group_instance_id, and start this one anew."
        )

    def _open(self) -> Opened:
        if self._is_closed:
            raise ConnectionLost("The connection is closed")
        if self._is_fenced:
            raise self._fenced()
        if self._opened is None:
            opened = self._make()
            try:
                opened.client.init_transactions()
            except Exception as error:
                end(opened)
                raise opened.translate(error) from error
            self._opened = opened
        return self._opened

    def _make(self) -> Opened:
        options = self._publisher.options()
        longest = options["delivery_timeout_ms"] + int(self._settings.options.timeout * 1000)
        options |= {"acks": -1, "enable_idempotence": True, "linger_ms": 0}
        return Opened(
            KafkaProducer,
            self._settings,
            self._name,
            self._purpose,
            transactional_id=self._id,
            transaction_timeout_ms=longest,
            **options,
        )
