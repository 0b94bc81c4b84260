"""Delays: a queue for each length of time, in which messages wait until the broker sends them on.

A message expires in such a queue, and is dead-lettered to where it was meant to go. The queue itself never ends by
itself: RabbitMQ renews the life of a quorum queue for nobody who only publishes, and what lies in it would end too.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import Struct

from postbus.errors import MessageRefused, TransportError
from postbus_amqp.channel import Channel
from postbus_amqp.client import Client
from postbus_amqp.errors import Refused
from postbus_amqp.options import QueueOptions, Settings
from postbus_amqp.topology import arguments_for, bind, control_channel, declare_delay_exchange

LONGEST_DELAY = 40 * 86_400.0
"""Seconds. The broker keeps milliseconds in 32 bits."""

LONGEST_NAME = 255
"""Bytes of a name in AMQP."""


OWN_ARGUMENTS = ("x-dead-letter-", "x-expires", "x-message-ttl", "x-overflow")
"""Beginnings of arguments of a delay queue that are no matter of taste."""


class Route(Struct, frozen=True):
    """Where a message is published."""

    exchange: str
    routing_key: str


class DelayQueue(Struct, frozen=True):
    """A queue in which messages wait: all that are to go, so much later, to an exchange, or else to one queue."""

    name: str
    target: Route
    """The routing key counts for a queue only; on its way to an exchange, each message keeps its own."""
    entry: str
    """The type of the exchange of the same name through which messages come to it, if they go to an exchange."""
    arguments: dict[str, Any]


class Delays:
    """The queues in which messages of one transport wait."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._known: set[str] = set()
        """Queues that are declared."""
        self._avoided: dict[str, str] = {}
        """Queues that have not confirmed a message, and which to use in place of each."""

    def route_through(self, target: Route, seconds: float) -> Route:
        """Return where to publish a message so that it goes to a target after so many seconds, or a little later.

        Raises `MessageRefused` if it cannot wait so long, or if the broker lets nobody declare its queue.
        """
        settings = self._client.settings
        if not seconds <= LONGEST_DELAY:
            raise MessageRefused({0: f"RabbitMQ delays by {LONGEST_DELAY:.0f} s at most, and not by {seconds:.0f} s."})
        queue = delay_queue_for(settings, target, rounded_up(seconds))
        name = queue.name
        with self._lock:
            while name in self._avoided:
                name = self._avoided[name]
            if name not in self._known:
                self._declare(name, queue)
        return Route(name, target.routing_key) if target.exchange else Route(settings.delay.exchange_name, name)

    def delete(self, targets: Iterable[Route]) -> int:
        """Delete all queues in which messages for these targets may wait; return how many messages there were."""
        settings, number = self._client.settings, 0
        every = {queue.name for target in targets for queue in delay_queues_for(settings, target)}
        with self._lock, control_channel(self._client, "consume") as channel:
            # Deleting one that does not exist is no error. The exchanges stay, so that whoever still publishes to them
            # has his message returned, and declares the queue anew.
            for name in every | self._known:
                number += channel.ask("queue_delete", queue=name).message_count
            self._known.clear()
        return number

    def avoid(self, names: Iterable[str]) -> None:
        """Let no more messages wait in these queues, as far as they are ours: they do not confirm any.

        RabbitMQ 3.10 leaves a quorum queue dead that it had declared less than a second before it was
        killed: it is there, and takes nothing, and nothing revives it.
        """
        with self._lock:
            for name in {*names} & self._known:
                ending = f"_{len(self._avoided) + 2}"
                self._avoided[name] = name.encode()[: LONGEST_NAME - len(ending)].decode(errors="ignore") + ending

    def forget(self) -> None:
        """Declare everything anew: something is not there any more."""
        with self._lock:
            self._known.clear()

    def _declare(self, name: str, queue: DelayQueue) -> None:
        try:
            with control_channel(self._client, "publish") as channel:
                arguments = arguments_for(channel, queue.arguments)
                channel.ask("queue_declare", queue=name, durable=True, arguments=arguments)
                if queue.target.exchange:
                    self._bind_to_entry(channel, name, queue.entry)
                else:
                    self._bind_for_queue(channel, name, queue.target.routing_key)
        except TransportError as error:
            if not isinstance(error.__cause__, Refused):
                raise
            raise MessageRefused({0: f"A message cannot be delayed: {error}"}) from error
        self._known.add(name)

    def _bind_to_entry(self, channel: Channel, name: str, entry: str) -> None:
        """Let in what the exchange would route by now, as far as that is known: the rest is returned to its sender.

        Else RabbitMQ would keep trying to send it on, and nothing more from this queue beside 32 of such messages.
        """
        channel.ask("exchange_declare", exchange=name, exchange_type=entry, durable=True)
        for queue in [QueueOptions()] if entry == "fanout" else self._client.settings.queues.values():
            bind(channel, name, name, queue)

    def _bind_for_queue(self, channel: Channel, name: str, target: str) -> None:
        settings = self._client.settings
        if target not in settings.queues:
            channel.ask("queue_declare", queue=target, passive=True)
        if settings.delay.exchange_name:
            if settings.options.auto_setup:
                declare_delay_exchange(channel, settings)
            channel.ask("queue_bind", queue=name, exchange=settings.delay.exchange_name, routing_key=name)


def delay_queue_for(settings: Settings, target: Route, milliseconds: int, entry: str | None = None) -> DelayQueue:
    """Return the queue in which messages wait for so long."""
    entry = entry or settings.entry_type
    arguments: dict[str, Any] = {
        # A classic queue sends on without waiting for an answer, so a crash in that moment costs the message.
        "x-queue-type": "quorum",
        **{name: value for name, value in settings.delay.arguments.items() if not name.startswith(OWN_ARGUMENTS)},
        "x-message-ttl": milliseconds,
        "x-dead-letter-exchange": target.exchange,
        "x-overflow": "reject-publish",
    }
    if not target.exchange:
        arguments["x-dead-letter-routing-key"] = target.routing_key
    if arguments["x-queue-type"] == "quorum":
        # It keeps a message until the queue that it goes to has confirmed it; the overflow is what this requires.
        arguments["x-dead-letter-strategy"] = "at-least-once"
    name = settings.delay.queue_name_pattern.replace("%delay%", str(milliseconds))
    name = name.replace("%exchange_name%", settings.exchange_name)
    name = name.replace("%routing_key%", "" if target.exchange else target.routing_key)
    # It differs where the arguments do, so that no two declarations contradict each other.
    digest = hashlib.sha256(repr((entry if target.exchange else "", sorted(arguments.items()))).encode()).hexdigest()
    ending = f"_{'delay' if target.exchange else 'retry'}_{digest[:8]}"
    return DelayQueue(
        name.encode()[: LONGEST_NAME - len(ending)].decode(errors="ignore") + ending, target, entry, arguments
    )


def delay_queues_for(settings: Settings, target: Route) -> Iterator[DelayQueue]:
    """Return every queue in which messages for a target may wait, from whichever DSN of its exchange they came."""
    for entry in {settings.entry_type, "fanout"}:
        for milliseconds in LENGTHS:
            yield delay_queue_for(settings, target, milliseconds, entry)


def rounded_up(seconds: float) -> int:
    """Return a time in milliseconds, with two significant digits: never shorter, and one of few, however it varies."""
    milliseconds = math.ceil(round(seconds * 1000, 3))
    unit = int(10 ** max(len(str(milliseconds)) - 2, 0))
    return math.ceil(milliseconds / unit) * unit


LENGTHS = [*range(1, 100), *(digits * 10**zeros for zeros in range(1, 9) for digits in range(10, 100))]
"""All lengths that a delay can have, in milliseconds."""
