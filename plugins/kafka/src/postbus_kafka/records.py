"""How a message lies on a topic: key, value and headers of a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from postbus import stamps
from postbus.stamps import Stamp
from postbus.text import packed
from postbus.transport import Outgoing
from postbus_kafka.stamps import KafkaKey, KafkaRecord

Headers = Sequence[tuple[str, bytes | None]]


class Record(Struct, frozen=True):
    """What is to be written: kafka-python's arguments, in our words."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()


def as_record(message: Outgoing, topic: str) -> Record:
    """Return a message as it is written to a topic; its key is what its stamps say."""
    headers = [(name, value.encode()) for name, value in message.headers.items()]
    return Record(topic, message.body, key_of(message), headers)


def key_of(message: Outgoing) -> bytes | None:
    """Return the key of a message's record; None lets the producer choose a partition."""
    for stamp in reversed(message.stamps):
        if isinstance(stamp, KafkaKey):
            return stamp.key
    group = message.group
    return None if group is None else group.encode(errors="surrogatepass")


def group_of(key: bytes) -> str:
    """Return the key of a record as text: another one for each key, and no key that is text for one that is none."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        pass
    try:
        return key.decode(errors="surrogatepass")
    except UnicodeDecodeError:
        return key.decode(errors="surrogateescape")


def stamps_of(record: Any, group: str | None, headers: Mapping[str, str]) -> tuple[Stamp, ...]:
    """Return what a record is stamped with: where it lies, and its key, where ``group`` does not say that."""
    found = KafkaRecord(record.topic, record.partition, record.offset, record.timestamp, record.key)
    if record.key is None if group is None else group.encode(errors="replace") == record.key:
        return (found,)
    if stamps.Key.header in headers or group is None:
        return found, KafkaKey(record.key)
    return found, KafkaKey(record.key), stamps.Key(None)


def id_of(topic: str, partition: int, offset: int) -> str:
    """Return the broker's id of a message, the same at both ends: ``topic/partition/offset``."""
    return f"{topic}/{partition}/{offset}"


def headers_of(headers: Headers) -> tuple[Mapping[str, str], str | None]:
    """Return headers as text, and why they cannot all be read: a clause for `Delivery.problem`, or None.

    Of several headers of one name the last one counts, as it does for other clients.
    """
    try:
        return {name: "" if value is None else value.decode() for name, value in headers}, None
    except UnicodeDecodeError:
        shown = {name: "" if value is None else value.decode(errors="backslashreplace") for name, value in headers}
        return packed(shown), "a header of it is no text in UTF-8"
