"""Exchanges, queues and bindings: declared, and looked for."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from postbus.errors import TransportError
from postbus.transport import Absence
from postbus_amqp.channel import Channel
from postbus_amqp.client import Client, Purpose
from postbus_amqp.errors import ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED, RESOURCE_LOCKED, Refused
from postbus_amqp.options import AUTO_DELETE, DURABLE, EXCLUSIVE, INTERNAL, PASSIVE, QueueOptions, Settings


@contextmanager
def control_channel(client: Client, purpose: Purpose) -> Generator[Channel]:
    """Open a channel for some commands, so that one which is refused closes no other channel; explain why it was."""
    channel = client.channel(purpose)
    try:
        yield channel
    except Refused as error:
        raise TransportError(f"{error} {advice(error)}") from error
    finally:
        channel.close()


def declare(channel: Channel, settings: Settings) -> None:
    """Declare the exchange, the queues and the bindings. What is there already, and alike, stays as it is."""
    name = settings.exchange_name
    if name:
        channel.ask("exchange_declare", **_exchange(settings))
        for source, binding in settings.bindings.items():
            for key in binding.binding_keys:
                arguments = dict(binding.binding_arguments)
                channel.ask("exchange_bind", destination=name, source=source, routing_key=key, arguments=arguments)
    for queue, options in settings.queues.items():
        channel.ask("queue_declare", **_queue(channel, queue, options))
        if name:  # Every queue is bound to the default exchange by its name.
            bind(channel, queue, name, options)


def arguments_for(channel: Channel, arguments: Mapping[str, object]) -> dict[str, object]:
    """Return the arguments of a queue as the server understands them.

    No limit of deliveries is -1 to RabbitMQ 4. Older ones have none anyway, and drop a message with this one the first
    time it is given back.
    """
    limit = arguments.get("x-delivery-limit")
    if isinstance(limit, int) and limit < 0 and channel.server_version < (4,):
        return {name: value for name, value in arguments.items() if name != "x-delivery-limit"}
    return dict(arguments)


def bind(channel: Channel, queue: str, exchange: str, options: QueueOptions) -> None:
    """Bind a queue to an exchange in all the ways that its options say."""
    for key in options.binding_keys:
        arguments = dict(options.binding_arguments)
        channel.ask("queue_bind", queue=queue, exchange=exchange, routing_key=key, arguments=arguments)


def declare_delay_exchange(channel: Channel, settings: Settings) -> None:
    """Declare the exchange that takes retries to the queues in which they wait."""
    if settings.delay.exchange_name:
        channel.ask("exchange_declare", **_delay_exchange(settings))


def missing(client: Client) -> list[str]:
    """Return a sentence for each exchange or queue that is not there, not permitted, or not as described.

    Changes nothing. What is there is declared once more, as at the first use, since only that tells how it differs.
    """
    settings = client.settings
    problems: list[str] = []
    with control_channel(client, "consume") as channel:
        queues = [_queue(channel, queue, options) for queue, options in settings.queues.items()]
    exchanges = [_exchange(settings), _delay_exchange(settings), *({"exchange": name} for name in settings.bindings)]
    wanted = [("exchange", one) for one in exchanges] + [("queue", one) for one in queues]
    for kind, described in wanted:
        name = described[kind]
        if not name:
            continue
        try:
            with control_channel(client, "consume") as channel:
                channel.ask(f"{kind}_declare", **{kind: name}, passive=True)
                if settings.options.auto_setup and name not in settings.bindings:
                    channel.ask(f"{kind}_declare", **described)
        except TransportError as error:
            if not isinstance(error.__cause__, Refused):
                raise
            if error.__cause__.code != NOT_FOUND:
                problems.append(str(error))
            elif not described.get("exclusive"):  # Such a queue is there only as long as whoever consumes it.
                problems.append(Absence(f"{kind.capitalize()} {name!r} does not exist."))
    return problems


def _exchange(settings: Settings) -> dict[str, Any]:
    """Return how the exchange is declared."""
    options = settings.exchange
    return {
        "exchange": settings.exchange_name,
        "exchange_type": options.type,
        "passive": bool(options.flags & PASSIVE),
        "durable": bool(options.flags & DURABLE),
        "auto_delete": bool(options.flags & AUTO_DELETE),
        "internal": bool(options.flags & INTERNAL),
        "arguments": dict(options.arguments),
    }


def _delay_exchange(settings: Settings) -> dict[str, Any]:
    return {"exchange": settings.delay.exchange_name, "exchange_type": "direct", "durable": True}


def _queue(channel: Channel, queue: str, options: QueueOptions) -> dict[str, Any]:
    """Return how a queue is declared."""
    return {
        "queue": queue,
        "passive": bool(options.flags & PASSIVE),
        "durable": bool(options.flags & DURABLE),
        "exclusive": bool(options.flags & EXCLUSIVE),
        "auto_delete": bool(options.flags & AUTO_DELETE),
        "arguments": arguments_for(channel, options.arguments),
    }


def advice(error: Refused) -> str:
    """Return what to do about it."""
    if error.code == PRECONDITION_FAILED:
        return "Give it the arguments and flags that it has, or delete it: it cannot be changed."
    if error.code == ACCESS_REFUSED:
        return "Give the user this permission, or set auto_setup=false and have somebody else run `postbus setup`."
    if error.code == RESOURCE_LOCKED:
        return "It is exclusive: as long as the connection that declared it is open, no other can use it."
    if error.code == NOT_FOUND:
        return "Run `postbus setup`, or look at the name."
    return "Look at the options of the DSN."
