"""Publishing: one producer, every record checked before it is sent and looked at afterwards."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from postbus import stamps
from postbus.errors import ConnectionLost, MessageRefused, TransportError
from postbus.text import packed
from postbus.transport import LONGEST_DELAY, Outgoing
from postbus_kafka.clients import Opened
from postbus_kafka.delays import delayed
from postbus_kafka.errors import text_of
from postbus_kafka.options import Settings
from postbus_kafka.records import Record, as_record, id_of
from postbus_kafka.topics import OVERHEAD, Topics
from postbus_kafka.untyped import KafkaProducer, errors

BATCH = 128 * 1024
"""Bytes of one batch of records; larger ones are written faster."""

GLANCE = 0.25
"""Seconds between two looks at whether the brokers are still there."""

LEAVING = 1.0
"""Seconds for the producer's thread to end."""

REFUSALS = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError, errors.InvalidRecordError)
"""The client's errors that are about a record; each ends an idempotent producer, whatever it is given next."""

ENDED = (errors.IllegalStateError,)
"""What it says to others that use a producer, when we end it for that."""


class Publisher:
    """Writes records; opens its producer at the first use, and a fresh one after a record was refused."""

    def __init__(self, settings: Settings, name: str, topics: Topics) -> None:
        self._settings = settings
        self._name = name
        self.topics = topics
        self._lock = threading.Lock()
        self._opened: Opened | None = None
        self._is_closed = False
        self._pid = os.getpid()

    def publish(self, messages: Sequence[Outgoing]) -> list[str | None]:
        """As `Connection.publish`; what is delayed goes to a bucket, and what is retried to the retry topic."""
        # The id is that of the record which is delivered, and what waits is not written as that yet.
        return self.publish_as(messages, self.record_for, lambda message, _, id: None if message.delay > 0 else id)

    def publish_as(
        self,
        messages: Sequence[Outgoing],
        record_for: Callable[[Outgoing], Record],
        id_for: Callable[[Outgoing, Record, str], str | None],
    ) -> list[str | None]:
        """As `Connection.publish`, as the records that a function makes of messages, with the ids of another one."""
        records: dict[int, Record] = {}
        refused: dict[int, str] = {}
        for position, message in enumerate(messages):
            record = self.checked(message, record_for)
            if isinstance(record, str):
                refused[position] = record
            else:
                records[position] = record

        def named(stored: Mapping[int, str | None]) -> dict[int, str | None]:
            return {
                position: id_for(messages[position], records[position], id)
                for position, id in stored.items()
                if id is not None
            }

        try:
            ids = named(self._write(records, refused))
        except TransportError as error:
            error.stored = named(error.stored)
            raise
        if refused:
            raise MessageRefused(refused, stored=ids)
        return [ids[position] for position in range(len(messages))]

    def checked(self, message: Outgoing, record_for: Callable[[Outgoing], Record]) -> Record | str:
        """Return the record of a message, or why it will never be taken: a sentence."""
        if not message.delay <= LONGEST_DELAY:
            return f"A delay of {message.delay} s cannot be kept."
        try:
            record = record_for(message)
        except UnicodeEncodeError:  # Half a character, as a file's name may have it.
            record = record_for(replace(message, headers=packed(message.headers)))
        size = size_of(record)
        largest = self._settings.options.largest_message
        if size > largest:
            return f"The message has {size} bytes, and {self._settings} is to take {largest} (option largest_message)."
        return record

    def record_for(self, message: Outgoing) -> Record:
        """Return the record of a message: where it goes, or where it waits before."""
        is_retry = stamps.Retried in map(type, message.stamps)
        topic = self._settings.retry_topic if is_retry else self._settings.topic
        return delayed(message, topic, self._settings) if message.delay > 0 else as_record(message, topic)

    def write(self, records: Sequence[Record]) -> list[str]:
        """Write records as they are, and return their ids; raises as `Connection.publish`."""
        refused: dict[int, str] = {}
        stored = self._write(dict(enumerate(records)), refused)
        if refused:
            raise MessageRefused(refused, stored=stored)
        return [stored[position] for position in range(len(records))]

    def close(self) -> None:
        """Let go of the producer. Twice is fine, from any thread, and without a broker."""
        with self._lock:
            self._is_closed = True
            opened, self._opened = self._opened, None
        if opened is not None and self._pid == os.getpid():
            end(opened)

    def _write(self, records: dict[int, Record], refused: dict[int, str]) -> dict[int, str]:
        """Write what is not refused; adds what the broker refuses, and returns the ids of all others."""
        stored: dict[int, str] = {}
        if not records:
            return stored
        try:
            self.topics.ensure(*{record.topic for record in records.values()})
            doubtful = self._write_together(self._open(), records, stored)
            if doubtful:
                self._write_singly({position: records[position] for position in doubtful}, stored, refused)
        except TransportError as error:
            error.stored = dict(stored)
            raise
        return stored

    def _write_singly(self, records: dict[int, Record], stored: dict[int, str], refused: dict[int, str]) -> None:
        """Write each record by itself, and with nobody beside it, to see which of them are refused.

        A refused record fails all that the client has in hand, of other threads too, and it does not tell which one.
        """
        opened: Opened | None = None
        try:
            for position, record in records.items():
                if self._is_closed:
                    raise ConnectionLost("The connection is closed")
                opened = opened or self._make()
                failed = self._write_together(opened, {position: record}, stored)
                if failed:
                    refused[position] = f"{self._settings} refuses the message: {failed[position]}."
                    opened = None
        finally:
            if opened is not None:
                end(opened)

    def _write_together(self, opened: Opened, records: dict[int, Record], stored: dict[int, str]) -> dict[int, str]:
        """Write records, and add their ids; return those that may have been refused, each with the reason.

        Raises whatever else comes of one of them, when all have come to an end. The producer is of no use then.
        """
        refusals: dict[int, str] = {}
        problems: list[BaseException] = []
        futures: dict[int, Any] = {}
        for position, record in records.items():
            try:
                futures[position] = self._send(opened, record)
            except Exception as error:
                _sort(position, error, refusals, problems)
                if problems:
                    break  # Such as topics that nobody knows: it would be waited for with each of them.
        self._wait(opened, futures, problems)
        for position, future in futures.items():
            if not future.is_done:
                continue
            if future.succeeded():
                written = future.value
                stored[position] = id_of(written.topic, written.partition, written.offset)
            else:
                _sort(position, future.exception, refusals, problems)
        if refusals or problems:
            self._abandon(opened)
        if problems:
            raise self._failure(opened, problems[0], stored)
        return refusals

    def _send(self, opened: Opened, record: Record) -> Any:
        return opened.client.send(record.topic, record.value, record.key, list(record.headers))

    def _wait(self, opened: Opened, futures: dict[int, Any], problems: list[BaseException]) -> None:
        """Return when everything was confirmed or has failed; or when no broker has been there for too long."""
        options = self._settings.options
        now = time.monotonic()
        deadline, seen_at = now + options.send_timeout, now
        while True:
            try:
                opened.client.flush(GLANCE)
                return
            except errors.KafkaError as error:  # Of a batch that was divided it does not say that it is a timeout.
                now = time.monotonic()
                if opened.is_connected:
                    seen_at = now
                if now >= deadline or now >= seen_at + options.lost_after or self._is_closed:
                    if not all(future.is_done for future in futures.values()):
                        problems.append(error)
                    return

    def _failure(self, opened: Opened, problem: BaseException, stored: dict[int, str]) -> TransportError:
        error = opened.translate(problem)
        self.topics.forget()  # Of one that was deleted, the client says that it waits in vain.
        failure = type(error)(str(error), stored=stored)
        failure.__cause__ = problem
        return failure

    def _open(self) -> Opened:
        with self._lock:
            if self._is_closed:
                raise ConnectionLost("The connection is closed")
            if self._opened is None:
                self._opened = self._make()
            return self._opened

    def _make(self) -> Opened:
        return Opened(KafkaProducer, self._settings, self._name, "producer", **self.options())

    def options(self) -> dict[str, Any]:
        """Return what a producer of ours is to be told, besides where the brokers are."""
        options = self._settings.options
        milliseconds = int(options.timeout * 1000)
        least = max(milliseconds, 1000) + int(options.linger) + 1
        return {
            "metrics_enabled": False,
            "acks": -1 if options.acks == "all" else 1,
            "enable_idempotence": options.acks == "all",
            "compression_type": None if options.compression == "none" else options.compression,
            "linger_ms": options.linger,
            "batch_size": BATCH,
            "max_request_size": options.largest_message + 2 * OVERHEAD,
            "max_block_ms": milliseconds,
            "delivery_timeout_ms": max(int(options.send_timeout * 1000), least),
            "allow_auto_create_topics": False,
            "metadata_max_age_ms": int(options.metadata_interval * 1000),
        }

    def _abandon(self, opened: Opened) -> None:
        """Let the next one take a fresh producer; this one may be of no use any more."""
        with self._lock:
            if self._opened is opened:
                self._opened = None
        end(opened)


def end(opened: Opened) -> None:
    """Close a producer, without waiting for what it could not send."""
    # Else its own close would raise for that, and leave its thread behind.
    opened.client._sender.force_close()
    with suppress(errors.KafkaError):
        opened.client.close(LEAVING)


def size_of(record: Record) -> int:
    """Return how many bytes there are in a record: key, value and headers."""
    size = len(record.key or b"") + len(record.value or b"")
    for name, value in record.headers:
        size += len(name.encode()) + len(value or b"")
    return size


def _sort(position: int, error: BaseException, refusals: dict[int, str], problems: list[BaseException]) -> None:
    if isinstance(error, REFUSALS + ENDED):
        refusals[position] = text_of(error)
    else:
        problems.append(error)
