"""Delays: topics in which every message waits for the same time, and how a message says until when."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from msgspec import Struct

from postbus.transport import Outgoing
from postbus_kafka.options import Settings
from postbus_kafka.records import Headers, Record, as_record

DUE = "X-Postbus-Kafka-Due"
"""Header: until when it waits, in milliseconds since 1970 by the sender's clock."""

TARGET = "X-Postbus-Kafka-Target"
"""Header: the topic that it goes to then."""


class Waiting(Struct, frozen=True):
    """What a record in a bucket says."""

    due: float
    """By the clock, in seconds since 1970."""
    target: str
    headers: Headers
    """Those of the message."""


def delayed(message: Outgoing, target: str, settings: Settings) -> Record:
    """Return the record that lets a message wait; its headers say until when, and where it goes then."""
    record = as_record(message, target)
    due = time.time() + message.delay
    waiting = [*record.headers, (DUE, str(int(due * 1000) + 1).encode()), (TARGET, target.encode())]
    return Record(bucket_for(message.delay, settings.bucket_topics), record.value, record.key, waiting)


def bucket_for(seconds: float, buckets: Mapping[float, str]) -> str:
    """Return the topic of the longest wait that is not too long."""
    return buckets[max(length for length in buckets if length <= max(seconds, 0))]


def read_waiting(headers: Iterable[tuple[str, bytes | None]]) -> Waiting | None:
    """Return what the headers of a record in a bucket say; None if somebody else has put it there."""
    ours = {DUE: b"", TARGET: b""}
    others: list[tuple[str, bytes | None]] = []
    for name, value in headers:
        if name in ours:
            ours[name] = value or b""
        else:
            others.append((name, value or b""))
    try:
        due, target = int(ours[DUE]), ours[TARGET].decode("ascii")
    except ValueError:
        return None
    return Waiting(due / 1000, target, others) if target else None
