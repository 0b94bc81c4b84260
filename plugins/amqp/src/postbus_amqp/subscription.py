"""A subscription: a consumer of one queue, and what it has brought that is not settled."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Callable, Collection
from typing import Any

from msgspec import Struct

from postbus.errors import ConnectionLost, TransportError
from postbus_amqp.channel import Settlement
from postbus_amqp.client import Client

LINGER = 0.5
"""Seconds for which a channel outlives its consumer: RabbitMQ may still be at work on the last acknowledgements."""

PATIENCE = 5.0
"""Seconds for which the next consumer waits for what a former one gives back, at most."""

_numbers = itertools.count(1)


class Tag(Struct, frozen=True, gc=False):
    """What settles a delivery: who brought it, and its number there."""

    subscription: Subscription
    number: int


class Subscription:
    """Consumes one queue on a channel of its own, since only its end gives back all that the broker takes for sent.

    It begins when it is made, and belongs to the client's thread. ``on_delivery`` is given what it brings;
    ``on_begin`` is called when the broker has said that it consumes; ``on_close`` when its channel is closed, with the
    reason unless that is because all is settled.
    """

    def __init__(
        self,
        client: Client,
        queue: str,
        prefetch: int,
        on_delivery: Callable[[Subscription, Any, Any, bytes], object],
        on_begin: Callable[[], object] | None,
        on_close: Callable[[Subscription, TransportError | None], object],
    ) -> None:
        self.queue = queue
        self.prefetch = prefetch
        self.unsettled: dict[int, str] = {}
        """The numbers of what is not settled, in the order in which they came, and which consumer brought each."""
        self.has_begun = False
        """Whether the broker has said that it consumes."""
        self.silent_since = time.monotonic()
        """Since when it has brought nothing, although it would have been sent something."""
        self.is_giving_back = False
        """Whether the broker may not have back yet what is given back: who consumes now might get what is behind it."""
        self.is_lost = False
        """Whether its channel was closed before all that it has brought was settled: that comes again."""
        self._client = client
        self._on_delivery = on_delivery
        self._on_begin = on_begin
        self._on_close = on_close
        self._consumer: str | None = None
        self._in_hand = 0
        self._has_ended = False
        self._gives_back = False
        self._is_done = False
        self._channel = client.open("consume", on_open=self._begin, on_close=self._closed, on_cancel=self._on_cancel)

    @property
    def is_full(self) -> bool:
        """Whether the broker sends its consumer nothing more, so that nothing is on its way."""
        return self._in_hand >= self.prefetch

    def refit(self, prefetch: int, *, overlaps: bool) -> None:
        """Put a consumer with another prefetch in the place of one that is full.

        A quorum queue takes back what is on its way to a consumer that ends, and delivers it later: out of order. So
        the next one begins when the former has ended, unless they are to overlap: then the queue is never without one.
        """
        self.prefetch = prefetch
        former = self._consumer
        if overlaps:
            self._consume()
        if former is not None:
            self._channel.cancel(former, _ignore)
        if not overlaps:
            self._consume()

    def end(self, *, gives_back: bool, on_end: Callable[[], object] | None = None) -> None:
        """Consume no more, and give back what still comes, or bring it; what was brought can be settled.

        ``on_end`` is called when nothing comes any more, and the broker has what was given back.
        """
        self._has_ended, self._gives_back = True, gives_back

        def ended(_: Any = None) -> None:
            self.is_giving_back = False
            if on_end is not None:
                on_end()
            self._leave_if_done()

        if self._consumer is None:
            ended()
        elif gives_back:
            self.is_giving_back = True
            self._channel.cancel(self._consumer, lambda _: self._channel.await_all(ended))
            self._client.thread.call_later(PATIENCE, lambda: ended() if self.is_giving_back else None)
        else:
            self._channel.cancel(self._consumer, ended)

    def settle(self, numbers: Collection[int], how: Settlement) -> None:
        """Settle what it has brought. What was settled before is passed over."""
        wanted = self.unsettled.keys() & numbers
        if not wanted:
            return
        # The numbers rise, so all up to the first that stays unsettled are settled at once.
        together: list[int] = []
        for number in self.unsettled:
            if number not in wanted:
                break
            together.append(number)
        alone = sorted(wanted.difference(together))
        for number in wanted:
            if self.unsettled.pop(number) == self._consumer:
                self._in_hand -= 1
        self.silent_since = time.monotonic()
        self._channel.settle(how, together[-1] if together else None, alone)
        self._leave_if_done()

    def _begin(self) -> None:
        if self._has_ended:
            self._leave_if_done()
            return
        self._consume()

    def _consume(self) -> None:
        self.has_begun = False
        self._in_hand = 0
        self._consumer = f"{self._client.name} {socket.gethostname()}:{os.getpid()} #{next(_numbers)}"
        self._channel.consume(self.queue, self._consumer, self.prefetch, self._bring, self._on_begun)

    def _on_begun(self, _: Any) -> None:
        self.has_begun = True
        tell, self._on_begin = self._on_begin, None
        if tell is not None:
            tell()

    def _bring(self, _: Any, method: Any, properties: Any, body: bytes) -> None:
        number, by = method.delivery_tag, method.consumer_tag
        self.unsettled[number] = by
        if by == self._consumer:
            self._in_hand += 1
        self.silent_since = time.monotonic()
        if self._gives_back:
            self.settle([number], "requeue")
        else:
            self._on_delivery(self, method, properties, body)

    def _leave_if_done(self) -> None:
        if self._has_ended and not self.unsettled:
            self._client.thread.call_later(LINGER, self._leave)

    def _leave(self) -> None:
        if not self.unsettled:
            self._is_done = True
            self._channel.close()

    def _on_cancel(self) -> None:
        if not self._has_ended:
            self._closed(ConnectionLost(f"Queue {self.queue!r} was deleted, or its node went away."))
            self._channel.close()

    def _closed(self, error: TransportError) -> None:
        self.is_lost = not self._is_done
        self.unsettled.clear()
        self._on_close(self, None if self._is_done else error)


def _ignore(_: Any) -> None:
    """Pay no heed to an answer."""
