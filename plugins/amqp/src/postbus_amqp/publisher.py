"""Publishing: many messages at once, each confirmed by the broker."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

from postbus.errors import TransportError
from postbus_amqp.client import Client
from postbus_amqp.errors import again
from postbus_amqp.messages import Encoder, Message
from postbus_amqp.thread import Call

CHUNK = 100
"""Messages that are encoded before they are sent, so that the broker is at work meanwhile."""

CONFIRM_TIMEOUT = 30.0
BLOCKED_TIMEOUT = 10.0
"""Seconds, where the options say 0, which is no limit in PHP."""


class Unroutable(TransportError):
    """No queue is bound so that it would get the messages at the positions ``returned``."""

    returned: frozenset[int] = frozenset()


class Unconfirmed(TransportError):
    """The broker has not answered in time; what is not among ``stored`` is in doubt."""


class Batch:
    """Messages that are published together, and what the broker has answered so far.

    It is among the unfinished ones, if it is sent, until everything is settled.
    """

    def __init__(self, messages: Sequence[Message], unfinished: set[Batch]) -> None:
        self.messages = messages
        self._unfinished = unfinished
        self.call = Call()
        self.expected = len(messages)
        self.stored: list[int] = []
        self.returned: set[int] = set()
        self.refused: set[int] = set()

    def settle(self, position: int, is_taken: bool) -> None:
        """Note the broker's answer for one message. What it could not route it has returned before."""
        if not is_taken:
            self.refused.add(position)
        elif position not in self.returned:
            self.stored.append(position)
        self.look()

    def expect(self, number: int) -> None:
        """Wait for so many messages only, because the others were not sent."""
        self.expected = number
        self.look()

    def look(self) -> None:
        """Answer the one who waits, if everything is settled."""
        if len(self.stored) + len(self.returned | self.refused) == self.expected:
            self._unfinished.discard(self)
            self.call.succeed()


class ConfirmingChannel:
    """A channel on which everything that is published is confirmed. All but the opening is for the client's thread."""

    def __init__(self, client: Client) -> None:
        self._pending: dict[int, tuple[Batch, int]] = {}
        self._oldest = 1
        self._next = 1
        self.channel = client.channel("publish", self._on_close)
        self.channel.confirm(self._on_confirm, self._on_return)
        self.encoder = Encoder(self.channel.number, self.channel.largest_frame)

    def send(self, batch: Batch, start: int, frames: Sequence[bytes]) -> None:
        """Send some messages of a batch."""
        if self.channel.error is not None:
            batch.call.fail(again(self.channel.error))
            return
        for position in range(start, start + len(frames)):
            self._pending[self._next] = (batch, position)
            self._next += 1
        self.channel.write(b"".join(frames))

    def _on_confirm(self, is_taken: bool, number: int, is_multiple: bool) -> None:
        first = self._oldest if is_multiple else number
        for one in range(first, number + 1):
            batch, position = self._pending.pop(one, (None, 0))
            if batch is not None:
                batch.settle(position, is_taken)
        if first == self._oldest:
            self._oldest = number + 1

    def _on_return(self, _: Any, method: Any, properties: Any, body: bytes) -> None:
        # The broker does not say which one it returns. Of messages that are alike, it returns all or none.
        for batch, position in self._pending.values():
            if position in batch.returned:
                continue
            if batch.messages[position].is_returned_as(method, properties, body):
                batch.returned.add(position)
                return

    def _on_close(self, error: TransportError) -> None:
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
        self._opening = threading.Lock()
        self._channel: ConfirmingChannel | None = None
        # These belong to the client's thread.
        self._unfinished: set[Batch] = set()
        self._held: deque[tuple[ConfirmingChannel, Batch, int, Sequence[bytes]]] = deque()
        self._blocked: str | None = None
        client.on_blocked.append(self._on_blocked)

    def publish(self, messages: Sequence[Message]) -> None:
        """Return when the broker has taken all; otherwise raise, with ``stored`` exact for what it has answered."""
        if not messages:
            return
        channel = self._open()
        batch = Batch(messages, self._unfinished)
        problem: TransportError | None = None
        for start in range(0, len(messages), CHUNK):
            try:
                frames = [channel.encoder.encode(message) for message in messages[start : start + CHUNK]]
            except TransportError as error:
                problem = error
                self._thread.post(partial(batch.expect, start))
                break
            self._thread.post(partial(self._send, channel, batch, start, frames))
        try:
            batch.call.result(self._confirm_timeout)
        except TimeoutError:
            self._leave(channel)
            problem = Unconfirmed(
                f"{self._client.settings} did not confirm within {self._confirm_timeout:g} s what was published."
            )
        except TransportError as error:
            problem = error
        if problem is not None:  # Else it is not among them any more, and the thread need not be woken for that.
            self._thread.post(partial(self._unfinished.discard, batch))
        problem = problem or self._problem_of(batch)
        if problem is not None:
            problem.stored = dict.fromkeys(batch.stored)
            raise problem

    def _open(self) -> ConfirmingChannel:
        with self._opening:
            if self._channel is None or self._channel.channel.error is not None:
                self._channel = ConfirmingChannel(self._client)
            return self._channel

    def _leave(self, channel: ConfirmingChannel) -> None:
        """Publish on another channel from now on: a queue that is dead may silence all others on the same channel."""
        with self._opening:
            if self._channel is channel:
                self._channel = None
        # Other threads may have their answers yet.
        self._thread.post(partial(self._thread.call_later, self._confirm_timeout, channel.channel.close))

    def _send(self, channel: ConfirmingChannel, batch: Batch, start: int, frames: Sequence[bytes]) -> None:
        if self._blocked is None:
            self._unfinished.add(batch)
            channel.send(batch, start, frames)
        else:
            self._held.append((channel, batch, start, frames))
            self._thread.call_later(self._blocked_timeout, partial(self._give_up, batch))

    def _on_blocked(self, reason: str | None) -> None:
        self._blocked = reason
        if reason is not None:
            for batch in self._unfinished:
                self._thread.call_later(self._blocked_timeout, partial(self._give_up, batch))
            return
        held, self._held = self._held, deque()
        for channel, batch, start, frames in held:
            self._send(channel, batch, start, frames)

    def _give_up(self, batch: Batch) -> None:
        """Let the one who waits raise if the broker is still blocked; what was not sent is not sent any more."""
        if self._blocked is not None:
            self._held = deque(entry for entry in self._held if entry[1] is not batch)
            batch.call.fail(
                TransportError(f"{self._client.settings} takes no messages for now: {self._blocked}. Try again later.")
            )

    def _problem_of(self, batch: Batch) -> TransportError | None:
        if batch.returned:
            message = batch.messages[min(batch.returned)]
            error = Unroutable(
                f"Exchange {message.exchange!r} has no queue for the routing key {message.routing_key!r}. "
                "Bind one to it, or send with another key: stamps.AmqpRouting(routing_key)."
            )
            error.returned = frozenset(batch.returned)
            return error
        if batch.refused:
            message = batch.messages[min(batch.refused)]
            return TransportError(
                f"A queue behind exchange {message.exchange!r} refused a message with the routing key "
                f"{message.routing_key!r}. Look whether it is full."
            )
        return None
