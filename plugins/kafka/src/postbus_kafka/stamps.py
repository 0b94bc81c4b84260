"""The stamps of this plugin; written qualified, like those of the core (``stamps.KafkaRecord``)."""

from __future__ import annotations

from postbus.stamps import Stamp


class KafkaKey(Stamp):
    """The key of the record where it is no text, or is not what messages are handled in the order of.

    It is put on what comes, so that a copy gets it again. For a key that is text there is `postbus.stamps.Key`.
    """

    wire_name = "kafka-key"
    key: bytes | None


class KafkaRecord(Stamp, gc=False):
    """Where a message that came lies, and what its record says besides."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    """Milliseconds since 1970, by the producer's clock or, where the topic says so, by the broker's."""
    key: bytes | None
