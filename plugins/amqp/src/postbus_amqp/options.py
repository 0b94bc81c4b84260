"""The options of a DSN, nested ones too, and what they say together."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TypeVar, cast

from postbus.dsn import Dsn, Options, option
from postbus.errors import DsnError

logger = logging.getLogger("postbus")

T = TypeVar("T", bound=Options)

DURABLE, PASSIVE, EXCLUSIVE, AUTO_DELETE, INTERNAL = 2, 4, 8, 16, 32
"""The bits of ``flags``, as PHP's extension numbers them."""

LEAST_FRAME = 4096
"""Bytes that every broker of AMQP 0-9-1 must accept in a frame."""

LARGEST_MESSAGE = 16 * 1024 * 1024
"""Bytes of a body. RabbitMQ 4 takes no larger one, unless its `max_message_size` says so; older ones do."""

SHORT_LIFE = 60.0
"""Seconds. A queue that outlives its last consumer by less keeps one; from others it may be taken for half the time."""

NUMBERS = {
    *("x-delay", "x-expires", "x-max-length", "x-max-length-bytes", "x-max-priority", "x-message-ttl"),
    *("x-consumer-timeout", "x-delivery-limit", "x-queue-version"),
    *("x-quorum-initial-group-size", "x-stream-max-segment-size-bytes"),
}
BOOLEANS = {"x-single-active-consumer"}


class BindingOptions(Options):
    """``exchange[bindings][<source>]``: how the exchange is bound to another one, from which it gets messages."""

    binding_keys: tuple[str, ...] = option(("",), "Routing keys for which messages come from there.")
    binding_arguments: Mapping[str, object] = option(factory=dict, meaning="Arguments of each of these bindings.")


class ExchangeOptions(Options):
    """``exchange``: the exchange that messages are published to."""

    name: str | None = option(
        None, "Its name, instead of the one in the path; an empty one is the broker's default exchange."
    )
    type: str = option(
        "fanout", "`fanout`, `direct`, `topic`, `headers`, or the type that a plugin of the broker brings."
    )
    default_publish_routing_key: str | None = option(None, "Routing key of messages that have no `AmqpRouting` stamp.")
    flags: int = option(
        DURABLE, "Sum of 2 (durable), 4 (passive), 16 (auto-delete) and 32 (internal).", minimum=0, maximum=63
    )
    arguments: Mapping[str, object] = option(
        factory=dict, meaning="Arguments of its declaration, such as `alternate-exchange`."
    )
    bindings: Mapping[str, object] = option(
        factory=dict, meaning="Exchanges that it gets messages from: name → `binding_keys`, `binding_arguments`."
    )


class QueueOptions(Options):
    """``queues[<name>]``: one queue that is bound to the exchange, and consumed."""

    binding_keys: tuple[str, ...] = option(("",), "Routing keys by which it is bound to the exchange.")
    binding_arguments: Mapping[str, object] = option(
        factory=dict, meaning="Arguments of each binding, such as `x-match` for a `headers` exchange."
    )
    flags: int = option(
        DURABLE, "Sum of 2 (durable), 4 (passive), 8 (exclusive) and 16 (auto-delete).", minimum=0, maximum=31
    )
    arguments: Mapping[str, object] = option(
        factory=dict, meaning="Arguments of its declaration, such as `x-queue-type`, `x-max-priority`, `x-message-ttl`."
    )

    @property
    def is_quorum(self) -> bool:
        """Whether it is declared as a quorum queue."""
        return self.arguments.get("x-queue-type") == "quorum"

    @property
    def lifetime(self) -> float:
        """For how many seconds it outlives its last consumer; the broker deletes it then, and what is in it."""
        if self.flags & AUTO_DELETE:
            return 0.0
        expires = self.arguments.get("x-expires")
        return expires / 1000 if isinstance(expires, int) else math.inf

    @property
    def is_short_lived(self) -> bool:
        """Whether it must never be without a consumer, however shortly, once it has one."""
        return self.lifetime < SHORT_LIFE

    @property
    def has_single_consumer(self) -> bool:
        """Whether the broker gives its messages to one consumer at a time."""
        return self.arguments.get("x-single-active-consumer") is True


class DelayOptions(Options):
    """``delay``: the queues in which messages wait until their delay is over."""

    exchange_name: str = option("delays", "Exchange that takes retries to the queues in which they wait.")
    queue_name_pattern: str = option(
        "delay_%exchange_name%_%routing_key%_%delay%",
        "Beginning of the names of these queues; `%delay%` is in milliseconds, and `%routing_key%` the queue that a "
        "retry goes back to, else nothing.",
    )
    arguments: Mapping[str, object] = option(
        factory=dict, meaning="Arguments of their declaration, beside those that make them work."
    )


class AmqpOptions(Options):
    """What a DSN of this plugin takes."""

    host: str = option("localhost", "Host of the broker.")
    port: int | None = option(None, "Port; 5672, or 5671 for `amqps`.", minimum=1, maximum=65535)
    vhost: str = option("/", "Virtual host.")
    user: str = option("guest", "Who logs in.", symfony="login")
    password: str = option("guest", "Password of the user.")
    exchange: Mapping[str, object] = option(factory=dict, meaning="The exchange; see below.")
    queues: Mapping[str, object] | None = option(
        None, "The queues: name → options, see below. Without it, one that is named like the exchange in the path."
    )
    delay: Mapping[str, object] = option(factory=dict, meaning="The queues of delayed messages; see below.")
    auto_setup: bool = option(True, "Declare exchange, queues and bindings at the first use.")
    prefetch_count: int | None = option(
        None, "Messages that the broker sends ahead, instead of as many as are asked for.", minimum=1, maximum=65535
    )
    heartbeat: int = option(
        15,
        "A broker that is silent for this long, and five seconds more, is lost; 0 never.",
        unit="seconds",
        minimum=0,
        maximum=65535,
    )
    connect_timeout: float = option(10, "Longest wait until a connection is ready.", unit="seconds", minimum=0)
    rpc_timeout: float = option(10, "Longest wait for the answer to a command.", unit="seconds", minimum=0)
    confirm_timeout: float = option(
        30, "Longest wait until the broker confirms what was published.", unit="seconds", minimum=0
    )
    blocked_timeout: float = option(
        10, "Longest wait for a broker that is short of memory or disk.", unit="seconds", minimum=0
    )
    frame_max: int = option(0, "Largest frame in bytes; 0 leaves it to the broker.", minimum=0, maximum=131072)
    channel_max: int = option(0, "Most channels; 0 leaves it to the broker.", minimum=0, maximum=65535)
    sasl_method: int = option(
        0, "How to log in: 0 with user and password, 1 with the certificate `cert`.", minimum=0, maximum=1
    )
    cacert: str | None = option(None, "`amqps` only: file or folder with the CAs to trust, instead of the system's.")
    cert: str | None = option(None, "`amqps` only: file with the client's certificate.")
    key: str | None = option(None, "`amqps` only: file with the key of `cert`, if it is not in there.")
    verify: bool = option(True, "`amqps` only: check the broker's certificate, and the host name in it.")
    connection_name: str | None = option(None, "Name in RabbitMQ's management page, instead of host, process and name.")
    persistent: bool | None = option(None, "Belongs to PHP: connections that outlive a request.", no_effect=True)
    read_timeout: float | None = option(None, "Belongs to PHP: `heartbeat` does it here.", no_effect=True)
    write_timeout: float | None = option(None, "Belongs to PHP: `heartbeat` does it here.", no_effect=True)
    retry: str | None = option(None, "Without meaning in Symfony too.", no_effect=True)


class Settings:
    """What a DSN says: where the broker is, and which exchange and queues are the transport's."""

    def __init__(self, dsn: Dsn) -> None:
        vhost, exchange_name = _read_path(dsn)
        self.options = options = AmqpOptions.from_dsn(
            _without_empty_lists(dsn), host=dsn.host, port=dsn.port, vhost=vhost, user=dsn.user, password=dsn.password
        )
        self.is_encrypted = dsn.scheme == "amqps"
        port = options.port or (5671 if self.is_encrypted else 5672)
        self.addresses = [(options.host, port)]
        if "host" not in dsn.options and len(dsn.hosts) > 1:
            self.addresses = [(host.name, host.port or port) for host in dsn.hosts]
        if 0 < options.frame_max < LEAST_FRAME:
            raise DsnError(
                f"Option 'frame_max' of {dsn.scheme}:// must be 0, or at least {LEAST_FRAME}, got {options.frame_max}."
            )
        if not self.is_encrypted and (tls := [name for name in ("cacert", "cert", "key") if name in dsn.options]):
            raise DsnError(f"Option {tls[0]!r} of amqp:// encrypts nothing. Write amqps://, or leave it out.")

        self.exchange = _read(ExchangeOptions, dsn, "exchange", options.exchange)
        self.exchange_name = exchange_name if self.exchange.name is None else self.exchange.name
        self.bindings = {
            source: _read(BindingOptions, dsn, f"exchange[bindings][{source}]", binding)
            for source, binding in self.exchange.bindings.items()
        }
        given = {exchange_name: None} if options.queues is None else options.queues
        self.queues = {name: _read(QueueOptions, dsn, f"queues[{name}]", queue) for name, queue in given.items()}
        self.delay = _read(DelayOptions, dsn, "delay", options.delay)
        if "x-expires" in self.delay.arguments:
            logger.warning("The delay queues of %s:// never expire: x-expires would end messages too.", dsn.scheme)

    @property
    def has_quorum_queues(self) -> bool:
        """Whether the transport's queues are quorum queues."""
        return any(queue.is_quorum for queue in self.queues.values())

    @property
    def has_exclusive_queues(self) -> bool:
        """Whether any of the transport's queues is for one connection alone."""
        return any(queue.flags & EXCLUSIVE for queue in self.queues.values())

    @property
    def has_priorities(self) -> bool:
        """Whether all of the transport's queues have priorities."""
        return all("x-max-priority" in queue.arguments for queue in self.queues.values())

    @property
    def entry_type(self) -> str:
        """The type of an exchange that routes what the transport's own does by the bindings of these queues.

        Where others bind theirs, or what is not routed goes somewhere else all the same, that is one which routes all.
        """
        knows_all = self.queues and self.options.auto_setup and "alternate-exchange" not in self.exchange.arguments
        return self.exchange.type if knows_all and self.exchange.type in ("direct", "topic", "headers") else "fanout"

    @property
    def default_routing_key(self) -> str:
        """The routing key of a message that says nothing about it; the default exchange takes the name of a queue."""
        if self.exchange.default_publish_routing_key is not None:
            return self.exchange.default_publish_routing_key
        return "" if self.exchange_name else next(iter(self.queues), "")

    def __str__(self) -> str:
        hosts = ", ".join(f"{host}:{port}" for host, port in self.addresses)
        return f"RabbitMQ at {hosts} (vhost {self.options.vhost!r})"


def _read_path(dsn: Dsn) -> tuple[str | None, str]:
    """Return the virtual host, or None, and the exchange that ``/<vhost>/<exchange>`` names."""
    segments = dsn.segments
    if len(segments) > 2:
        raise DsnError(
            f"The path of {dsn.scheme}:// has more than a vhost and an exchange. Percent-encode '/' in a name as %2F."
        )
    vhost, exchange_name = (*segments, None, None)[:2]
    if vhost == "":
        logger.warning("The vhost of %s:// is empty, so it is the default one. Write it as %%2f.", dsn.scheme)
    return vhost or None, exchange_name or "messages"


def _without_empty_lists(dsn: Dsn) -> Dsn:
    # In YAML and PHP, an empty list and an empty mapping look the same.
    empty = {name: dict[str, object]() for name in ("queues", "exchange", "delay") if dsn.options.get(name) == ()}
    return dsn.with_options(empty) if empty else dsn


def _read(options: type[T], dsn: Dsn, place: str, value: object) -> T:
    """Return nested options; what is not a mapping, such as nothing at all, means the defaults."""
    given = cast("Mapping[str, object]", value if isinstance(value, Mapping) else {})
    try:
        read = options.from_dsn(Dsn(dsn.scheme, options=given))
    except DsnError as error:
        raise DsnError(*(f"{place}: {problem}" for problem in error.problems)) from None
    for name in ("arguments", "binding_arguments"):
        if arguments := getattr(read, name, None):
            _cast(arguments, f"{place}[{name}]", dsn.scheme)
    return read


def _cast(arguments: dict[str, object], place: str, scheme: str) -> None:
    """Make numbers and booleans of what a DSN can only write as text, where the broker insists on them."""
    for name, value in arguments.items():
        if not isinstance(value, str):
            continue
        if name in NUMBERS:
            if not value.removeprefix("-").isdigit():
                raise DsnError(f"Argument {name!r} in {place} of {scheme}:// must be an int, got {value!r}.")
            arguments[name] = int(value)
        elif name in BOOLEANS:
            if value.lower() not in ("0", "1", "false", "true"):
                raise DsnError(f"Argument {name!r} in {place} of {scheme}:// must be a bool, got {value!r}.")
            arguments[name] = value.lower() in ("1", "true")
