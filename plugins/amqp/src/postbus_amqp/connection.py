"""The connection: what is published where, and who is asked for what."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence

from postbus import stamps
from postbus.errors import ConnectionLost, MessageRefused, TransportError
from postbus.stamps import Stamp
from postbus.transport import Counts, Delivery, Outgoing
from postbus_amqp.client import Client, Purpose
from postbus_amqp.consumer import Consumer
from postbus_amqp.delays import Delays, Route
from postbus_amqp.errors import NOT_FOUND, PRECONDITION_FAILED, Refused
from postbus_amqp.messages import Message, properties_of, refused
from postbus_amqp.options import Settings
from postbus_amqp.publisher import Answers, Publisher, Unconfirmed, Unroutable
from postbus_amqp.stamps import AmqpReceived, AmqpRouting
from postbus_amqp.subscription import Tag
from postbus_amqp.topology import advice, control_channel, declare, declare_delay_exchange, missing

DELAYING_TYPE = "x-delayed-message"
"""The type of an exchange that keeps delayed messages itself, which a plugin of RabbitMQ brings."""


class AmqpConnection:
    """Moves messages to one exchange and from the queues that are bound to it."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._client = Client(settings, name)
        self._publisher = Publisher(self._client)
        self._consumer = Consumer(self._client)
        self._delays = Delays(self._client)
        self._setting_up = threading.Lock()
        self._is_set_up = not settings.options.auto_setup
        self._default_route = Route(settings.exchange_name, settings.default_routing_key)
        self._queues = set(settings.queues)

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        answers = self._publish(dict(enumerate(messages)))
        unroutable = [position for position, error in answers.errors.items() if isinstance(error, Unroutable)]
        if unroutable:
            # A queue may have been deleted since it was declared, so it is declared once more.
            self._forget()
            try:
                second = self._publish({position: messages[position] for position in unroutable})
            except TransportError as error:
                error.stored = dict.fromkeys(answers.stored)
                raise
            answers.stored |= second.stored
            answers.errors = {position: answers.errors[position] for position in answers.errors.keys() - unroutable}
            answers.errors |= second.errors
        if answers.errors:
            raise _worst(answers)
        return [None] * len(messages)

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        return self.fetch_from(tuple(self._settings.queues), limit, wait)

    def fetch_from(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        """As `fetch`, from these queues, the first of them first; they need not be among those of the DSN."""
        self._set_up_once("consume")
        self._queues.update(queues)
        return self._consumer.fetch(tuple(queues), limit, wait)

    def ack(self, tags: Sequence[Tag]) -> Sequence[Tag]:
        return self._consumer.settle(tags, "ack")

    def reject(self, tags: Sequence[Tag]) -> Sequence[Tag]:
        return self._consumer.settle(tags, "reject")

    def release(self, tags: Sequence[Tag]) -> Sequence[Tag]:
        return self._consumer.release(tags)

    def setup(self) -> None:
        with control_channel(self._client, "consume") as channel:
            declare(channel, self._settings)
            declare_delay_exchange(channel, self._settings)

    def missing(self) -> Sequence[str]:
        return missing(self._client)

    def count(self) -> Counts:
        self._set_up_once("consume")
        with control_channel(self._client, "consume") as channel:
            answers = [channel.ask("queue_declare", queue=queue, passive=True) for queue in self._settings.queues]
        return Counts(sum(answer.message_count for answer in answers) + self._consumer.waiting)

    def purge(self) -> int:
        """As promised, but for what other connections have in flight."""
        settings, number = self._settings, 0
        targets = [Route("", queue) for queue in settings.queues]
        if settings.exchange_name:
            targets.append(self._default_route)
        self._set_up_once("consume")
        with control_channel(self._client, "consume") as channel:
            for queue in settings.queues:
                number += channel.ask("queue_purge", queue=queue).message_count
        number += self._consumer.drop()
        self._forget()  # A queue may have gone with its last consumer.
        return number + self._delays.delete(targets)

    def close(self) -> None:
        self._client.close()

    def _set_up_once(self, purpose: Purpose) -> None:
        if self._is_set_up:
            return
        if self._settings.has_exclusive_queues:  # They belong to the connection that declares them.
            purpose = "consume"
        with self._setting_up:
            if not self._is_set_up:
                with control_channel(self._client, purpose) as channel:
                    declare(channel, self._settings)
                self._is_set_up = True

    def _forget(self) -> None:
        self._is_set_up = not self._settings.options.auto_setup
        self._delays.forget()

    def _publish(self, messages: Mapping[int, Outgoing]) -> Answers:
        """Publish messages by their positions; return what became of each."""
        self._set_up_once("publish")
        prepared: dict[int, Message] = {}
        unprepared: dict[int, TransportError] = {}
        for position, message in messages.items():
            try:
                prepared[position] = self._prepare(message)
            except TransportError as error:
                unprepared[position] = error
        answers = self._publisher.publish(prepared)
        silent = [prepared[position] for position, error in answers.errors.items() if isinstance(error, Unconfirmed)]
        self._delays.avoid(name for message in silent for name in (message.exchange, message.routing_key))
        errors = {position: self._translated(error, messages[position]) for position, error in answers.errors.items()}
        return Answers(answers.stored, unprepared | errors)

    def _translated(self, error: TransportError, message: Outgoing) -> TransportError:
        if isinstance(error, Unroutable) and message.delay > 0:
            # Where it was to go, and not by which way.
            target = self._route_for(message.stamps)
            reason = (
                f"No queue is bound to exchange {target.exchange!r} by the routing key {target.routing_key!r}, as far "
                "as this DSN says, so a delayed message would never arrive. Add the key to the binding_keys of a "
                "queue, or send through a transport without queues if somebody else has bound it."
            )
            return Unroutable({0: reason})
        if not isinstance(error, Refused):
            return error
        if error.code == PRECONDITION_FAILED:
            return refused(f"The broker refused a message: {error}")
        if error.code == NOT_FOUND and self._settings.options.auto_setup:
            return ConnectionLost(f"{error} It is declared anew.")
        return TransportError(f"{error} {advice(error)}")

    def _prepare(self, message: Outgoing) -> Message:
        """Return a message with the place to publish it to."""
        properties = properties_of(message)
        route = self._route_for(message.stamps)
        is_mandatory = True
        if message.delay > 0 and self._settings.exchange.type == DELAYING_TYPE and route.exchange:
            # The plugin looks for queues when the delay is over, so that now it would return every message.
            properties.headers["x-delay"] = math.ceil(message.delay * 1000)
            is_mandatory = False
        elif message.delay > 0:
            route = self._delays.route_through(route, message.delay)
        return Message(route.exchange, route.routing_key, message.body, properties, is_mandatory)

    def _route_for(self, given: Sequence[Stamp]) -> Route:
        """Return where a message goes: back to its queue if it came from one of these, else to the exchange."""
        received: AmqpReceived | None = None
        is_again = False
        for stamp in given:
            if isinstance(stamp, AmqpRouting) and stamp.routing_key is not None:
                return Route(self._settings.exchange_name, stamp.routing_key)
            if isinstance(stamp, AmqpReceived):
                received = stamp if stamp.queue in self._queues else None
            elif isinstance(stamp, stamps.Retried | stamps.Buried):
                is_again = True
        if received is None:
            return self._default_route
        if is_again or received.exchange != self._settings.exchange_name:
            return Route("", received.queue)
        return Route(received.exchange, received.routing_key)


def _worst(answers: Answers) -> TransportError:
    """Return what to raise: that the messages are refused, unless something is wrong with more than them."""
    errors = answers.errors.values()
    stored: dict[int, str | None] = dict.fromkeys(sorted(answers.stored))
    others = [error for error in errors if not isinstance(error, MessageRefused)]
    lost = [error for error in others if isinstance(error, ConnectionLost)]
    if not others:
        return MessageRefused(
            {position: str(answers.errors[position]) for position in sorted(answers.errors)}, stored=stored
        )
    error = (lost or others)[0]
    error.stored = stored
    return error
