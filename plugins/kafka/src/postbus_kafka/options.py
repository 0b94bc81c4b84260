"""The options of a DSN, and what they say together: where the brokers are, and how everything is called."""

from __future__ import annotations

import os
import re
import socket
import ssl
from pathlib import Path
from typing import Any, Literal

from postbus.dsn import Dsn, Options, option
from postbus.errors import DsnError

PORT = 9092

RECONNECTIONS = 4
"""How often a client tries to reach a broker at least before that is lost."""

LEGAL_TOPIC = re.compile("[a-zA-Z0-9._-]{1,249}")


class KafkaOptions(Options):
    """What a DSN of this plugin takes."""

    topics: tuple[str, ...] | None = option(None, "Topics, in place of those in the path; the first is sent to.")
    group: str | None = option(
        None,
        "Consumer group, instead of the topic's name and `.postbus`. Applications that each are to get every message "
        "have one each; those that read different topics must.",
    )
    mode: Literal["group", "store"] = option(
        "group", "`store`: a failure transport, which keeps messages on a compacted topic."
    )
    order: Literal["key", "partition", "none"] = option(
        "key", "What is handled one after the other: records of one key, of one partition, or nothing."
    )
    tombstones: Literal["bury", "skip"] = option("bury", "What to do with a record that has no value.")
    auto_setup: bool = option(True, "Make the topics at the first use.")
    partitions: int = option(6, "Partitions of a topic that is made.", minimum=1)
    replication: int = option(-1, "Copies of each of these; -1 leaves it to the broker.", minimum=-1)
    largest_message: int = option(
        1_000_000, "Bytes of a message; the topic's `max.message.bytes` must allow for them.", minimum=1024
    )
    prefetch: int = option(10_000, "Messages that wait in the worker's process at most.", minimum=1)
    prefetch_bytes: int = option(64 * 1024 * 1024, "Bytes that these have at most.", minimum=1024)
    commit_interval: float = option(
        0.5, "Longest time until what was handled is committed.", unit="seconds", minimum=0.01
    )
    session_timeout: float = option(
        45, "A worker of which nothing was heard for this long is out of the group.", unit="seconds", minimum=0.5
    )
    heartbeat_interval: float = option(
        0.5, "Pause between two signs of life, which is how soon a worker hears of others.", unit="seconds", minimum=0.1
    )
    revoke_wait: float = option(
        2,
        "How long what is handled may take to its end before its partition goes to another.",
        unit="seconds",
        minimum=0,
    )
    idle_timeout: float = option(
        300,
        "A worker that fetches nothing for this long, and has nothing in hand, leaves its messages to others.",
        unit="seconds",
        minimum=0.1,
    )
    metadata_interval: float = option(
        60, "How soon a worker notices partitions that are added, and brokers that change.", unit="seconds", minimum=0.1
    )
    group_instance_id: str | None = option(
        None, "Name of this worker, unique in the group, under which it keeps its partitions when it restarts."
    )
    delays: tuple[str, ...] = option(
        ("1", "5", "30", "60", "300", "900", "3600", "21600", "86400"),
        "Seconds for which there is a topic in which delayed messages wait.",
    )
    transactional: bool = option(
        False,
        "Store the copy of a message that is retried, and settle the original, in one transaction; and so move on what "
        "is delayed.",
    )
    acks: Literal["all", "1"] = option("all", "Replicas that must have a message before it counts as stored.")
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = option("none", "How what is sent is compressed.")
    linger: float = option(5, "How long to gather what is sent.", unit="milliseconds", minimum=0)
    send_timeout: float = option(
        10, "Longest wait until the broker confirms what was sent.", unit="seconds", minimum=0.1
    )
    timeout: float = option(5, "How long connecting may take, and an answer.", unit="seconds", minimum=0.1)
    lost_after: float = option(3, "Brokers none of which answers for this long are lost.", unit="seconds", minimum=0.1)
    client_id: str | None = option(None, "Name in the broker's logs, instead of transport, host and process.")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = option(
        "PLAIN", "How to log in, if the DSN names a user."
    )
    ssl_ca: str | None = option(None, "`kafkas` only: file with the CAs to trust, instead of the system's.")
    ssl_cert: str | None = option(None, "`kafkas` only: file with the client's certificate.")
    ssl_key: str | None = option(None, "`kafkas` only: file with the key of `ssl_cert`, if it is not in there.")
    ssl_key_password: str | None = option(None, "`kafkas` only: what that is encrypted with.")
    ssl_verify: bool = option(True, "`kafkas` only: check the broker's certificate, and the host name in it.")


class Settings:
    """What a DSN says, and how the topics and groups are called that follow from it."""

    def __init__(self, dsn: Dsn) -> None:
        self.options = options = KafkaOptions.from_dsn(dsn, topics=_topics_in(dsn))
        self.scheme = dsn.scheme
        self.is_encrypted = dsn.scheme == "kafkas"
        self.servers = [f"{host._replace(port=host.port or PORT)}" for host in dsn.hosts]
        if not self.servers:
            raise DsnError(f"{dsn.scheme}:// names no server. Write {dsn.scheme}://localhost:9092/messages.")
        self.user, self._password = dsn.user, dsn.password
        self.topics: tuple[str, ...] = options.topics or ("messages",)
        for name in (*self.topics, self.group):
            if not LEGAL_TOPIC.fullmatch(name) or name in (".", ".."):
                raise DsnError(
                    f"{name!r} cannot be the name of a topic or a group of {dsn.scheme}://. Take letters, digits, '.', "
                    "'_' and '-'."
                )
        self.buckets: tuple[float, ...] = _seconds_in(dsn.scheme, options.delays)
        tls = [name for name in ("ssl_ca", "ssl_cert", "ssl_key", "ssl_key_password") if name in dsn.options]
        if tls and not self.is_encrypted:
            raise DsnError(f"Option {tls[0]!r} of kafka:// encrypts nothing. Write kafkas://, or leave it out.")
        if options.heartbeat_interval >= options.session_timeout:
            raise DsnError(
                f"Option 'heartbeat_interval' of {dsn.scheme}:// must be less than session_timeout, better a third."
            )

    @property
    def topic(self) -> str:
        """Where messages are sent."""
        return self.topics[0]

    @property
    def group(self) -> str:
        """The consumer group. One for several topics would stand still whenever anybody at any of them comes."""
        return self.options.group or f"{self.topic}.postbus"

    @property
    def retry_topic(self) -> str:
        """Where a message goes that this group is to try again, which no other group reads."""
        return f"{self.topic}.{self.options.group or 'postbus'}.retry"

    @property
    def bucket_topics(self) -> dict[float, str]:
        """Where a message waits for so many seconds; in that of 0, for less than in the first of the others."""
        return {seconds: f"{self.topic}.delay.{seconds:g}s" for seconds in (0.0, *self.buckets)}

    @property
    def forwarding_group(self) -> str:
        """The group that moves on what has waited for long enough; one for all who read the topic."""
        return f"{self.topic}.delays"

    @property
    def read_topics(self) -> list[str]:
        """What the group reads: the topics, and what it is to try again."""
        return [*self.topics, self.retry_topic]

    def client(self, name: str, purpose: str) -> dict[str, Any]:
        """Return what every client of kafka-python is to be told: servers, login, encryption and patience.

        ``name`` is the transport's, and ``purpose`` says in the broker's logs what this client is for.
        """
        options = self.options
        milliseconds = int(options.timeout * 1000)
        shown = options.client_id or f"{name}-{socket.gethostname()}-{os.getpid()}"
        told: dict[str, Any] = {
            "bootstrap_servers": self.servers,
            "client_id": f"postbus-{shown}-{purpose}",
            "security_protocol": ("SASL_" if self.user else "") + ("SSL" if self.is_encrypted else "PLAINTEXT"),
            "bootstrap_timeout_ms": milliseconds,
            "request_timeout_ms": max(milliseconds, 1000),
            # Several times before it is lost: else it would be, although the broker is back.
            "reconnect_backoff_max_ms": min(int(options.lost_after * 1000 / RECONNECTIONS), 1000),
        }
        if self.user:
            told |= {
                "sasl_mechanism": options.sasl_mechanism,
                "sasl_plain_username": self.user,
                "sasl_plain_password": self._password or "",
            }
        if self.is_encrypted:
            told["ssl_context"] = self._tls()
            told["ssl_check_hostname"] = options.ssl_verify
        return told

    def _tls(self) -> ssl.SSLContext:
        options = self.options
        for name in ("ssl_ca", "ssl_cert", "ssl_key"):
            path: str | None = getattr(options, name)
            if path is not None and not Path(path).exists():
                shown = "" if name == "ssl_key" else f": {path!r}"  # Somebody may have put the key itself there.
                raise DsnError(f"Option {name!r} of kafkas:// names what is not there{shown}. Correct the path.")
        try:
            context = ssl.create_default_context(cafile=options.ssl_ca)
            if options.ssl_cert is not None:
                context.load_cert_chain(options.ssl_cert, options.ssl_key, options.ssl_key_password)
        except OSError as error:
            raise DsnError(
                f"The certificates for {self} cannot be read: {error.strerror or error}. Look at the options 'ssl_ca', "
                "'ssl_cert' and 'ssl_key'."
            ) from error
        if not options.ssl_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def __str__(self) -> str:
        return f"Kafka at {', '.join(self.servers)}"


def _topics_in(dsn: Dsn) -> tuple[str, ...] | None:
    segments = [segment for segment in dsn.segments if segment]
    if len(segments) > 1:
        raise DsnError(
            f"The path of {dsn.scheme}:// is a topic, or several, separated by ','; got {len(segments)} names."
        )
    return tuple(segments[0].split(",")) if segments else None


def _seconds_in(scheme: str, texts: tuple[str, ...]) -> tuple[float, ...]:
    try:
        seconds = sorted({float(text) for text in texts})
    except ValueError:
        seconds = []
    if not seconds or not 0 < seconds[0] <= seconds[-1] < float("inf"):
        raise DsnError(f"Option 'delays' of {scheme}:// must be a list of seconds, written 'delays[]=1&delays[]=60'.")
    return tuple(seconds)
