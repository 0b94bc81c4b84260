"""Publishing: many messages at once, each confirmed by the broker."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

from msgspec import Struct, field

from postbus.errors import ConnectionLost, MessageRefused, TransportError
from postbus_amqp.client import Client
from postbus_amqp.errors import NOT_FOUND, PRECONDITION_FAILED, Refused, again
from postbus_amqp.fields import read_properties
from postbus_amqp.messages import Encoder, Message
from postbus_amqp.thread import Call

CHUNK = 100
"""Messages that are encoded before they are sent, so that the broker is at work meanwhile."""

CONFIRM_TIMEOUT = 30.0
BLOCKED_TIMEOUT = 10.0
"""Seconds, where the options say 0, which is no limit in PHP."""

Messages = Mapping[int, Message]
"""Some of the messages that are to be published, by their positions."""


class Unroutable(MessageRefused):
    """No queue is bound so that it would get a message."""


class Unconfirmed(TransportError):
    """The broker has not answered in time, so that it is in doubt whether it has a message."""


class Answers(Struct):
    """What became of messages, by their positions."""

    stored: set[int] = field(default_factory=set[int])
    errors: dict[int, TransportError] = field(default_factory=dict[int, TransportError])


class Batch:
    """Messages that are published together on one channel, and what the broker has answered so far.

    It is among the unfinished ones, if it is sent, until everything is settled. ``first`` is what the message at
    position 0 is known by, and the next ones follow.
    """

    def __init__(self, messages: Messages, first: int, unfinished: set[Batch]) -> None:
        self.messages = messages
        self.first = first
        self._unfinished = unfinished
        self.call = Call()
        self.expected = len(messages)
        self.stored: set[int] = set()
        self.returned: set[int] = set()
        self.unwanted: set[int] = set()
        """What a queue did not take."""
        self.refused: dict[int, MessageRefused] = {}
        """What was not sent, since AMQP has no form for it."""
        self.error: TransportError | None = None
        """Why there is no answer for the others."""

    def settle(self, position: int, is_taken: bool) -> None:
        """Note the broker's answer for one message. What it could not route it has returned before."""
        if not is_taken:
            self.unwanted.add(position)
        elif position not in self.returned:
            self.stored.add(position)
        self.look()

    def expect(self, number: int) -> None:
        """Wait for so many messages only, because the others were not sent."""
        self.expected = number
        self.look()

    def look(self) -> None:
        """Answer the one who waits, if everything is settled."""
        if len(self.stored) + len(self.returned | self.unwanted) == self.expected:
            self._unfinished.discard(self)
            self.call.succeed()

    def tell(self, answers: Answers) -> Messages:
        """Add what is known to the answers; return the others."""
        answers.stored |= self.stored
        for position in self.returned:
            message = self.messages[position]
            reason = (
                f"Exchange {message.exchange!r} has no queue for the routing key {message.routing_key!r}. "
                "Bind one to it, or send with another key: stamps.AmqpRouting(routing_key)."
            )
            answers.errors[position] = Unroutable({0: reason})
        for position in self.unwanted - self.returned:
            message = self.messages[position]
            answers.errors[position] = TransportError(
                f"A queue behind exchange {message.exchange!r} refused a message with the routing key "
                f"{message.routing_key!r}. Look whether it is full."
            )
        answers.errors |= self.refused
        known = answers.stored | answers.errors.keys()
        return {position: message for position, message in self.messages.items() if position not in known}


class ConfirmingChannel:
    """A channel on which everything that is published is confirmed. All but the opening is for the client's thread."""

    def __init__(self, client: Client) -> None:
        self._pending: dict[int, tuple[Batch, int]] = {}
        self._oldest = 1
        self._next = 1
        self.channel = client.channel("publish", self._on_close)
        self.channel.confirm(self._on_confirm, self._on_return)
        self.encoder = Encoder(self.channel.number, self.channel.largest_frame)

    def send(self, batch: Batch, frames: Mapping[int, bytes]) -> None:
        """Send some messages of a batch, by their positions."""
        if self.channel.error is not None:
            batch.call.fail(again(self.channel.error))
            return
        for position in frames:
            self._pending[self._next] = (batch, position)
            self._next += 1
        self.channel.write(b"".join(frames.values()))

    def _on_confirm(self, is_taken: bool, number: int, is_multiple: bool) -> None:
        first = self._oldest if is_multiple else number
        for one in range(first, number + 1):
            batch, position = self._pending.pop(one, (None, 0))
            if batch is not None:
                batch.settle(position, is_taken)
        if first == self._oldest:
            self._oldest = number + 1

    def _on_return(self, _: Any, __: Any, properties: bytes, ___: bytes) -> None:
        number = read_properties(properties).number
        for batch, position in self._pending.values():
            if str(batch.first + position) == number:
                batch.returned.add(position)
                return
        # One of all that is under way, and it will be confirmed as if it were stored.
        self._fail(ConnectionLost("The broker returned a message, and changed it so that nobody can tell which it is."))

    def _on_close(self, error: TransportError) -> None:
        self._fail(error)

    def _fail(self, error: TransportError) -> None:
        for batch, _ in self._pending.values():
            batch.call.fail(again(error))
        self._pending.clear()


class Publisher:
    """Publishes on a channel of its own, which is opened at the first use, and anew after the broker closed it."""

    def __init__(self, client: Client) -> None:
        options = client.settings.options
        self._client = client
        self._thread = client.thread
        self._confirm_timeout = options.confirm_timeout or CONFIRM_TIMEOUT
        self._blocked_timeout = options.blocked_timeout or BLOCKED_TIMEOUT
        self._lock = threading.Lock()
        self._channel: ConfirmingChannel | None = None
        self._next_number = 0
        # These belong to the client's thread.
        self._unfinished: set[Batch] = set()
        self._held: deque[tuple[ConfirmingChannel, Batch, Mapping[int, bytes]]] = deque()
        self._blocked: str | None = None
        client.on_blocked.append(self._on_blocked)

    def publish(self, messages: Messages) -> Answers:
        """Return what became of each, once the broker has answered for all of them, or is not going to."""
        answers = Answers()
        if not messages:
            return answers
        batch = self._attempt(self._open(), messages)
        doubtful = batch.tell(answers)
        error = batch.error
        if isinstance(error, Refused):
            try:
                self._publish_apart(doubtful, answers)
            except TransportError as another:
                error = another
        if error is not None:
            answers.errors |= dict.fromkeys(doubtful.keys() - answers.stored - answers.errors.keys(), error)
        return answers

    def _publish_apart(self, messages: Messages, answers: Answers) -> None:
        """Publish what is in doubt because the broker closed the channel, for one message, maybe somebody else's.

        On a channel of their own, in halves if it is closed too, until it is certain which one the broker refuses.
        """
        channel = ConfirmingChannel(self._client)
        batch = self._attempt(channel, messages)
        doubtful = batch.tell(answers)
        channel.channel.close()
        if isinstance(batch.error, Refused) and not _is_certain(batch.error, doubtful):
            positions = list(doubtful)
            for half in positions[: len(positions) // 2], positions[len(positions) // 2 :]:
                self._publish_apart({position: doubtful[position] for position in half}, answers)
        elif batch.error is not None:
            answers.errors |= dict.fromkeys(doubtful, batch.error)

    def _attempt(self, channel: ConfirmingChannel, messages: Messages) -> Batch:
        """Publish on a channel, and return with the broker's answers for all, or with an error."""
        with self._lock:
            first = self._next_number
            self._next_number += max(messages) + 1
        batch = Batch(messages, first, self._unfinished)
        positions = list(messages)
        for start in range(0, len(positions), CHUNK):
            frames: dict[int, bytes] = {}
            for position in positions[start : start + CHUNK]:
                try:
                    frames[position] = channel.encoder.encode(messages[position], first + position)
                except MessageRefused as error:
                    batch.refused[position] = error
            self._thread.post(partial(self._send, channel, batch, frames))
        if batch.refused:
            self._thread.post(partial(batch.expect, len(messages) - len(batch.refused)))
        try:
            batch.call.result(self._confirm_timeout)
        except TimeoutError:
            self._leave(channel)
            batch.error = Unconfirmed(
                f"{self._client.settings} did not confirm within {self._confirm_timeout:g} s what was published."
            )
        except TransportError as error:
            batch.error = error
        if batch.error is not None:  # Else it is not among them any more, and the thread need not be woken for that.
            self._thread.post(partial(self._unfinished.discard, batch))
        return batch

    def _open(self) -> ConfirmingChannel:
        with self._lock:
            if self._channel is None or self._channel.channel.error is not None:
                self._channel = ConfirmingChannel(self._client)
            return self._channel

    def _leave(self, channel: ConfirmingChannel) -> None:
        """Publish on another channel from now on: a queue that is dead may silence all others on the same channel."""
        with self._lock:
            if self._channel is channel:
                self._channel = None
        # Other threads may have their answers yet.
        self._thread.post(partial(self._thread.call_later, self._confirm_timeout, channel.channel.close))

    def _send(self, channel: ConfirmingChannel, batch: Batch, frames: Mapping[int, bytes]) -> None:
        if self._blocked is None:
            self._unfinished.add(batch)
            channel.send(batch, frames)
        else:
            self._held.append((channel, batch, frames))
            self._thread.call_later(self._blocked_timeout, partial(self._give_up, batch))

    def _on_blocked(self, reason: str | None) -> None:
        self._blocked = reason
        if reason is not None:
            for batch in self._unfinished:
                self._thread.call_later(self._blocked_timeout, partial(self._give_up, batch))
            return
        held, self._held = self._held, deque()
        for channel, batch, frames in held:
            self._send(channel, batch, frames)

    def _give_up(self, batch: Batch) -> None:
        """Let the one who waits raise if the broker is still blocked; what was not sent is not sent any more."""
        if self._blocked is not None:
            self._held = deque(entry for entry in self._held if entry[1] is not batch)
            batch.call.fail(
                TransportError(f"{self._client.settings} takes no messages for now: {self._blocked}. Try again later.")
            )


def _is_certain(error: Refused, messages: Messages) -> bool:
    """Tell whether each of these messages is refused: there is only one, or it is their common place that is."""
    if error.code == PRECONDITION_FAILED:
        return len(messages) <= 1
    return len({(one.exchange, error.code != NOT_FOUND and one.routing_key) for one in messages.values()}) <= 1
