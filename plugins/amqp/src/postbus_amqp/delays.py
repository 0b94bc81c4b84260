"""Delays: a queue for each length of time, in which messages wait until the broker sends them on.

A message expires in such a queue, and is dead-lettered to where it was meant to go.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from postbus.errors import MessageRefused
from postbus_amqp.client import Client
from postbus_amqp.topology import control_channel, declare_delay_exchange

LINGER = 3600.0
"""Seconds for which such a queue outlives the last delay in it."""

LONGEST_DELAY = 40 * 86_400.0
"""Seconds. The broker keeps milliseconds in 32 bits, and the time that a queue lingers comes on top."""

LONGEST_NAME = 255
"""Bytes of a name in AMQP."""


class Route(Struct, frozen=True):
    """Where a message is published."""

    exchange: str
    routing_key: str


class Delays:
    """The queues in which messages of one transport wait."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._known: dict[str, float] = {}
        """Until when a queue need not be declared anew, on the monotonic clock."""
        self._avoided: dict[str, str] = {}
        """Queues that have not confirmed a message, and which to use in place of each."""

    def route_through(self, target: Route, seconds: float) -> Route:
        """Return where to publish a message so that it goes to a target after so many seconds, or a little later."""
        if seconds > LONGEST_DELAY:
            raise MessageRefused({0: f"RabbitMQ delays by {LONGEST_DELAY:.0f} s at most, and not by {seconds:.0f} s."})
        milliseconds = rounded_up(seconds)
        arguments = self._arguments(target, milliseconds)
        name = self._name(target, milliseconds, arguments)
        with self._lock:
            while name in self._avoided:
                name = self._avoided[name]
            if self._known.get(name, 0.0) < time.monotonic():
                self._declare(name, arguments)
        return Route(self._client.settings.delay.exchange_name, name)

    def names(self, targets: Iterable[Route]) -> list[str]:
        """Return the names of all queues in which messages for these targets may wait, and of those that are known."""
        lengths = [(target, length) for target in targets for length in LENGTHS]
        names = [self._name(target, length, self._arguments(target, length)) for target, length in lengths]
        return [*dict.fromkeys([*names, *self._known])]

    def avoid(self, names: Iterable[str]) -> None:
        """Let no more messages wait in these queues, as far as they are ours: they do not confirm any.

        RabbitMQ 3.10 leaves a quorum queue dead that it had declared less than a second before it was
        killed: it is there, and takes nothing, and nothing revives it.
        """
        with self._lock:
            for name in {*names} & self._known.keys():
                ending = f"_{len(self._avoided) + 2}"
                self._avoided[name] = name.encode()[: LONGEST_NAME - len(ending)].decode(errors="ignore") + ending

    def forget(self) -> None:
        """Declare everything anew: something is not there any more."""
        with self._lock:
            self._known.clear()

    def _declare(self, name: str, arguments: dict[str, Any]) -> None:
        settings = self._client.settings
        # Half of the time that it lingers is left for the messages that are published until it is declared anew.
        until = time.monotonic() + LINGER / 2
        with control_channel(self._client, "publish") as channel:
            if settings.options.auto_setup and not self._known:
                declare_delay_exchange(channel, settings)
            channel.ask("queue_declare", queue=name, durable=True, arguments=arguments)
            if settings.delay.exchange_name:
                channel.ask("queue_bind", queue=name, exchange=settings.delay.exchange_name, routing_key=name)
        self._known[name] = until

    def _arguments(self, target: Route, milliseconds: int) -> dict[str, Any]:
        settings = self._client.settings
        arguments: dict[str, Any] = {
            "x-message-ttl": milliseconds,
            "x-expires": milliseconds + int(LINGER * 1000),
            "x-dead-letter-exchange": target.exchange,
            "x-dead-letter-routing-key": target.routing_key,
        }
        # A classic queue sends on without waiting for an answer, so a crash in that moment costs the message.
        arguments["x-queue-type"] = "quorum"
        arguments.update(settings.delay.arguments)
        if arguments["x-queue-type"] == "quorum":
            # It keeps a message until the queue that it goes to has confirmed it; the overflow is what this requires.
            arguments |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
        return arguments

    def _name(self, target: Route, milliseconds: int, arguments: dict[str, Any]) -> str:
        """Return a name that differs where the arguments do, so that no two declarations contradict each other."""
        settings = self._client.settings
        name = settings.delay.queue_name_pattern.replace("%delay%", str(milliseconds))
        name = name.replace("%exchange_name%", settings.exchange_name).replace("%routing_key%", target.routing_key)
        digest = hashlib.sha256(repr(sorted(arguments.items())).encode()).hexdigest()[:8]
        ending = f"_{'delay' if target.exchange else 'retry'}_{digest}"
        return name.encode()[: LONGEST_NAME - len(ending)].decode(errors="ignore") + ending


def rounded_up(seconds: float) -> int:
    """Return a time in milliseconds, with two significant digits: never shorter, and one of few, however it varies."""
    milliseconds = math.ceil(round(seconds * 1000, 3))
    unit = int(10 ** max(len(str(milliseconds)) - 2, 0))
    return math.ceil(milliseconds / unit) * unit


LENGTHS = [*range(1, 100), *(digits * 10**zeros for zeros in range(1, 9) for digits in range(10, 100))]
"""All lengths that a delay can have, in milliseconds."""
