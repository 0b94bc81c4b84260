"""Exchanges, queues and bindings: declared, and looked for."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from postbus.errors import TransportError
from postbus_amqp.channel import Channel
from postbus_amqp.client import Client, Purpose
from postbus_amqp.errors import ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED, Refused
from postbus_amqp.options import AUTO_DELETE, DURABLE, EXCLUSIVE, INTERNAL, PASSIVE, Settings


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
        _declare_exchange(channel, settings)
    for queue, options in settings.queues.items():
        channel.ask(
            "queue_declare",
            queue=queue,
            passive=bool(options.flags & PASSIVE),
            durable=bool(options.flags & DURABLE),
            exclusive=bool(options.flags & EXCLUSIVE),
            auto_delete=bool(options.flags & AUTO_DELETE),
            arguments=dict(options.arguments),
        )
        if not name:  # Every queue is bound to the default exchange by its name.
            continue
        for key in options.binding_keys:
            arguments = dict(options.binding_arguments)
            channel.ask("queue_bind", queue=queue, exchange=name, routing_key=key, arguments=arguments)


def declare_delay_exchange(channel: Channel, settings: Settings) -> None:
    """Declare the exchange that takes messages to the queues in which they wait."""
    if settings.delay.exchange_name:
        channel.ask("exchange_declare", exchange=settings.delay.exchange_name, exchange_type="direct", durable=True)


def missing(client: Client) -> list[str]:
    """Return a sentence for each exchange or queue that is not there, or not permitted; changes nothing."""
    settings = client.settings
    exchanges = [settings.exchange_name, settings.delay.exchange_name, *settings.bindings]
    wanted = [("exchange", name) for name in exchanges if name] + [("queue", name) for name in settings.queues]
    problems: list[str] = []
    for kind, name in wanted:
        try:
            with control_channel(client, "consume") as channel:
                channel.ask(f"{kind}_declare", **{kind: name}, passive=True)
        except TransportError as error:
            if not isinstance(error.__cause__, Refused):
                raise
            is_absent = error.__cause__.code == NOT_FOUND
            problems.append(f"{kind.capitalize()} {name!r} does not exist." if is_absent else str(error.__cause__))
    return problems


def _declare_exchange(channel: Channel, settings: Settings) -> None:
    name, options = settings.exchange_name, settings.exchange
    channel.ask(
        "exchange_declare",
        exchange=name,
        exchange_type=options.type,
        passive=bool(options.flags & PASSIVE),
        durable=bool(options.flags & DURABLE),
        auto_delete=bool(options.flags & AUTO_DELETE),
        internal=bool(options.flags & INTERNAL),
        arguments=dict(options.arguments),
    )
    for source, binding in settings.bindings.items():
        for key in binding.binding_keys:
            arguments = dict(binding.binding_arguments)
            channel.ask("exchange_bind", destination=name, source=source, routing_key=key, arguments=arguments)


def advice(error: Refused) -> str:
    """Return what to do about it."""
    if error.code == PRECONDITION_FAILED:
        return "Give it the arguments and flags that it has, or delete it: it cannot be changed."
    if error.code == ACCESS_REFUSED:
        return "Give the user this permission, or set auto_setup=false and have somebody else run `postbus setup`."
    if error.code == NOT_FOUND:
        return "Run `postbus setup`, or look at the name."
    return "Look at the options of the DSN."
