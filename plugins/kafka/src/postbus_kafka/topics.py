"""The topics: what is there, what is missing, and making it."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from msgspec import Struct

from postbus.errors import ConnectionLost, TransportError
from postbus.transport import Absence
from postbus_kafka.clients import Opened
from postbus_kafka.options import Settings
from postbus_kafka.untyped import ConfigResource, KafkaAdminClient, errors

OVERHEAD = 32 * 1024
"""Bytes that a record may take besides the message in it: what it is delayed by, and the broker's own."""

DEFAULT_LARGEST = 1_048_588
"""Bytes of a record that a topic takes unless it is told otherwise."""

MADE, TAKEN = 0, 36
"""What the broker says of a topic that is to be made: that it is, or that it was there already."""


class Wanted(Struct, frozen=True):
    """A topic as it is to be."""

    name: str
    partitions: int
    configs: Mapping[str, str]


class Topics:
    """The topics that a transport needs, seen through an admin client that is opened at the first use."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._lock = threading.Lock()
        self._opened: Opened | None = None
        self._is_closed = False
        self._seen: set[str] = set()

    def setup(self) -> None:
        """As `SupportsSetup.setup`: topics, the retry topic, the buckets; or, in mode store, the compacted one."""
        with self._lock:
            wanted = self._wanted()
            self._make([wanted[name] for name in self._absent(wanted)])

    def missing(self) -> Sequence[str]:
        """As `SupportsSetup.missing`."""
        with self._lock:
            wanted = self._wanted()
            absent = self._absent(wanted)
            sentences: list[str] = [
                Absence(f"{self._settings} has no topic {name!r}. Run `postbus setup`.") for name in absent
            ]
            if self._settings.options.mode == "store":
                sentences += self._problems_of_the_store(absent)
            return sentences

    def ensure(self, *names: str) -> None:
        """See, the first time, that topics are there; make them if `auto_setup` says so, else raise `TransportError`.

        Without names these are the topics that the group reads. Nothing is sent, subscribed or asked for before
        this: kafka-python would let the broker make a topic of a typo.
        """
        sought = names or tuple(self._settings.read_topics)
        if self._seen.issuperset(sought):
            return
        with self._lock:
            absent = self._absent(sought)
            if absent:
                if not self._settings.options.auto_setup:
                    raise TransportError(f"{self._settings} has no topic {absent[0]!r}. Run: postbus setup")
                wanted = self._wanted()
                self._make([wanted.get(name) or self._like_a_topic(name) for name in absent])
            self._seen.update(sought)

    def forget(self) -> None:
        """Look again the next time, because something turned out to be missing."""
        self._seen.clear()

    def close(self) -> None:
        """Let go of the admin client, for good. Twice is fine."""
        with self._lock:
            self._is_closed = True
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.client.close()

    def _wanted(self) -> dict[str, Wanted]:
        options = self._settings.options
        if options.mode == "store":
            compacted = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1", "segment.ms": "3600000"}
            found = [Wanted(self._settings.topic, 1, compacted | self._size())]
        else:
            found = [self._like_a_topic(name) for name in self._settings.read_topics]
            # What waits is kept until the forwarder has moved it, and deleted by that; by the broker's own clock it
            # is in the order in which it is due.
            waiting = {"retention.ms": "-1", "message.timestamp.type": "LogAppendTime"} | self._size(OVERHEAD)
            found += [Wanted(name, 1, waiting) for name in self._settings.bucket_topics.values()]
        return {wanted.name: wanted for wanted in found}

    def _like_a_topic(self, name: str) -> Wanted:
        return Wanted(name, self._settings.options.partitions, self._size())

    def _size(self, more: int = 0) -> dict[str, str]:
        largest = max(self._settings.options.largest_message + OVERHEAD, DEFAULT_LARGEST) + more
        return {} if largest == DEFAULT_LARGEST else {"max.message.bytes": str(largest)}

    def _problems_of_the_store(self, absent: Collection[str]) -> list[str]:
        topic = self._settings.topic
        if topic in absent:
            return []
        found = self._ask("describe_configs", [ConfigResource("topic", topic, ["cleanup.policy"])], config_filter="all")
        policy = found.get("topic", {}).get(topic, {}).get("cleanup.policy", {}).get("value")
        if policy in (None, "compact"):
            return []
        return [
            f"Topic {topic!r} has cleanup.policy={policy}, so the broker deletes messages that are to be kept there. "
            "Set it to compact."
        ]

    def _absent(self, names: Collection[str]) -> list[str]:
        """Return which topics are not there."""
        described = self._ask("describe_topics", list(names))
        there: set[str] = set()
        for topic in described:
            error = errors.for_code(topic["error_code"])
            if error is errors.NoError:
                there.add(topic["name"])
            elif issubclass(error, errors.InvalidTopicError):
                raise TransportError(f"{self._settings} does not take {topic['name']!r} as the name of a topic.")
            elif not issubclass(error, errors.UnknownTopicOrPartitionError) and not error.retriable:
                raise self._translated(error(f"topic {topic['name']!r}"))
        return [name for name in names if name not in there]

    def _make(self, wanted: Sequence[Wanted]) -> None:
        if not wanted:
            return
        replication = self._settings.options.replication
        told = {
            topic.name: {
                "num_partitions": topic.partitions,
                "replication_factor": replication,
                "configs": dict(topic.configs),
            }
            for topic in wanted
        }
        made = self._ask("create_topics", told, raise_errors=False)
        for topic in made["topics"]:
            if topic["error_code"] not in (MADE, TAKEN):
                error = errors.for_code(topic["error_code"])
                raise self._translated(error(topic.get("error_message") or f"topic {topic['name']!r}"))
        milliseconds = int(self._settings.options.timeout * 1000)
        self._ask("wait_for_topics", [topic.name for topic in wanted], timeout_ms=milliseconds)

    def _ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the admin client, opened if need be; one that has failed is not used again."""
        if self._is_closed:
            raise ConnectionLost("The connection is closed")
        if self._opened is None:
            self._opened = Opened(KafkaAdminClient, self._settings, self._name, "topics")
        try:
            return getattr(self._opened.client, method)(*arguments, **options)
        except Exception as error:
            translated = self._translated(error)
            opened, self._opened = self._opened, None
            opened.client.close()
            raise translated from error

    def _translated(self, error: BaseException) -> TransportError:
        assert self._opened is not None
        return self._opened.translate(error)
