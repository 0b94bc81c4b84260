"""Consuming: what the broker pushes, until it is fetched; and what was fetched, until it is settled."""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from msgspec import Struct

from postbus.errors import ConnectionLost, TransportError
from postbus.transport import Delivery
from postbus_amqp.client import NOT_FOUND, Call, Channel, Client, Refused
from postbus_amqp.messages import delivery_of

IDLE = 0.5
"""Seconds after which a consumer from which nobody fetches leaves its messages to others."""

BEGIN = 0.05
"""Seconds that a consumer which has just begun has at least, to bring what waits in its queue."""

ON_ITS_WAY = 0.005
"""Seconds for which a queue may look empty although it is not, after a message of it was fetched."""

MOST = 1024
"""How many messages the broker sends ahead at most, unless it is told."""

LARGEST = 65535
"""The largest prefetch that AMQP has a form for."""

Settlement = Literal["ack", "reject", "requeue"]

_numbers = itertools.count(1)


class Tag(Struct, frozen=True, gc=False):
    """What settles a delivery: its number on one of the channels that this process has opened."""

    channel: int
    number: int


class Subscription:
    """One consumer of a queue, as the broker knows it."""

    def __init__(self, queue: str, name: str, prefetch: int) -> None:
        self.queue = queue
        self.tag = f"{name} {socket.gethostname()}:{os.getpid()} #{next(_numbers)}"
        self.prefetch = prefetch
        self.unsettled = 0
        """How many messages it has brought that are not settled."""
        self.is_left = False
        """Whether what it still brings is given back."""

    @property
    def is_full(self) -> bool:
        """Whether the broker sends it nothing more, so that nothing is on its way."""
        return self.unsettled >= self.prefetch


class Consumer:
    """Consumes from queues on a channel of its own. One thread at a time fetches, any may settle.

    The broker sends ahead about twice as much as is asked for at a time, so that a fast worker never waits
    and a slow one has nothing that others could handle.
    """

    def __init__(self, client: Client) -> None:
        settings = client.settings
        self._client = client
        self._counted = {name for name, queue in settings.queues.items() if queue.is_quorum}
        # Others may not have their messages anyway, and to stop consuming would be to hand over to one of them.
        self._kept = {name for name, queue in settings.queues.items() if queue.has_single_consumer}
        self._arrived = threading.Event()
        self._buffers: dict[str, deque[tuple[Any, Any, bytes]]] = {}
        self._channel: Channel | None = None
        self._id = 0
        self._error: TransportError | None = None
        # The lock is held to decide whether the consumers stop: not while somebody fetches.
        self._lock = threading.Lock()
        self._is_fetching = False
        self._last_fetch = 0.0
        self._last_queue = ""
        self._wanted: tuple[Sequence[str], int] | None = None
        # These belong to the client's thread.
        self._subscriptions: list[Subscription] = []
        self._beginning = 0
        self._unsettled: dict[int, Subscription] = {}
        self._has_news = False
        self._is_watched = False
        client.on_turn.append(self._on_turn)
        client.on_end.append(self._on_close)

    def fetch(self, queues: Sequence[str], limit: int, wait: float) -> list[Delivery]:
        """Return what the broker has pushed, of the first queue first; wait for it if there is nothing."""
        self._open()
        end = time.monotonic() + wait
        prefetch = self._prefetch_for(queues, limit)
        with self._lock:
            self._is_fetching = True
            if not self._fits(queues, prefetch):
                if self._wanted is None:
                    end = max(end, time.monotonic() + BEGIN)
                self._wanted = (queues, prefetch)
                self._client.post(self._adjust)
        try:
            while not (deliveries := self._take(self._turn(queues), limit)):
                self._arrived.clear()
                self._raise_error()
                if any(self._buffers.get(queue) for queue in self._turn(queues)):
                    continue
                left = end - time.monotonic()
                if left <= 0:
                    break
                self._arrived.wait(left if queues == self._turn(queues) else min(left, ON_ITS_WAY))
            return deliveries
        finally:
            self._last_fetch = time.monotonic()
            self._is_fetching = False

    def _turn(self, queues: Sequence[str]) -> Sequence[str]:
        """Return those of the queues whose turn it is: those behind the last one have to wait for its next message."""
        if self._last_queue in queues[:-1] and time.monotonic() - self._last_fetch < ON_ITS_WAY:
            return queues[: queues.index(self._last_queue) + 1]
        return queues

    def settle(self, tags: Sequence[Tag], how: Settlement) -> None:
        """Settle deliveries. Those of an earlier channel, and those settled before, are passed over."""
        self._send(partial(self._settle, tags, how))

    def release(self, tags: Sequence[Tag]) -> None:
        """Give deliveries back; unless somebody fetches, also what has not been fetched yet, and consume no more."""
        self._send(partial(self._release, tags))

    def drop(self) -> int:
        """Settle everything that is here, fetched or not; return how many messages there were."""
        channel = self._channel
        return 0 if channel is None else self._client.ask(self._drop, self._client.rpc_timeout)

    @property
    def waiting(self) -> int:
        """How many messages are here that were not fetched."""
        return sum(map(len, self._buffers.values()))

    def _send(self, work: Callable[[], object]) -> None:
        channel = self._channel
        if channel is not None:  # else there is nothing to settle
            self._client.send(channel, work)

    def _open(self) -> None:
        self._raise_error()
        if self._channel is None:
            self._id = next(_numbers)
            self._channel = self._client.channel("consume", self._on_close, self._on_cancel)

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            self._channel = None
            raise error

    def _prefetch_for(self, queues: Sequence[str], limit: int) -> int:
        """Return how many messages may be unsettled, what was fetched before included."""
        if (fixed := self._client.settings.options.prefetch_count) is not None:
            return fixed
        if not self._kept.isdisjoint(queues):
            return MOST
        in_hand = max(len(self._unsettled) - self.waiting, 0)
        if limit == 1:
            # Of several queues, the first would look empty while its next message is on its way.
            return min(in_hand + min(len(queues), 2), LARGEST)
        ahead = min(_power_of_two(2 * limit), MOST)
        return min(_power_of_two(in_hand + ahead), LARGEST)

    def _fits(self, queues: Sequence[str], prefetch: int) -> bool:
        if self._wanted is None or self._wanted[0] != queues:
            return False
        return self._wanted[1] // 4 < prefetch <= self._wanted[1]

    def _take(self, queues: Sequence[str], limit: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        for queue in queues:
            buffer, is_counted = self._buffers.get(queue), queue in self._counted
            while buffer and len(deliveries) < limit:
                try:
                    method, properties, body = buffer.popleft()
                except IndexError:  # It has just been given back.
                    break
                tag = Tag(self._id, method.delivery_tag)
                deliveries.append(delivery_of(queue, tag, is_counted, method, properties, body))
            if deliveries:
                self._last_queue = queue
                break
        return deliveries

    # in the client's thread

    def _adjust(self) -> None:
        """Consume from the queues that are wanted, and no others, with so many messages sent ahead as are wanted."""
        if self._wanted is None:
            return
        queues, prefetch = self._wanted
        if [subscription.queue for subscription in self._subscriptions] != [*queues]:
            self._cancel_all(give_back=[queue for queue in self._buffers if queue not in queues])
            for queue in queues:
                self._begin(queue, prefetch)
        for subscription in list(self._subscriptions):
            self._fit(subscription)

    def _begin(self, queue: str, prefetch: int) -> None:
        channel = self._channel
        if channel is None or channel.error is not None:
            return
        self._buffers.setdefault(queue, deque())
        subscription = Subscription(queue, self._client.name, prefetch)
        self._subscriptions.append(subscription)
        self._beginning += 1
        channel.consume(queue, subscription.tag, prefetch, partial(self._on_delivery, subscription), self._on_begun)
        if not self._is_watched:
            self._is_watched = True
            self._client.call_later(IDLE / 2, self._look)

    def _fit(self, subscription: Subscription) -> None:
        """Put another consumer in the place of one with another prefetch, as soon as nothing is on its way to that.

        A quorum queue takes back what is on its way to a consumer that ends, and delivers it later: out of order.
        """
        if self._wanted is None or self._channel is None or not subscription.is_full:
            return
        if subscription.prefetch != self._wanted[1] and subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
            self._channel.cancel(subscription.tag)
            self._begin(subscription.queue, self._wanted[1])

    def _cancel_all(self, give_back: Sequence[str]) -> None:
        """Stop consuming; give back what these queues have brought that was not fetched, and what they still bring."""
        former, self._subscriptions = self._subscriptions, []
        for subscription in former:
            subscription.is_left = subscription.queue in give_back
            if self._channel is not None:
                self._channel.cancel(subscription.tag)
        self._give_back(give_back)

    def _on_begun(self, _: Any) -> None:
        self._beginning -= 1

    def _on_delivery(self, subscription: Subscription, _: Any, method: Any, properties: Any, body: bytes) -> None:
        self._unsettled[method.delivery_tag] = subscription
        subscription.unsettled += 1
        if subscription.is_left:
            self._settle([Tag(self._id, method.delivery_tag)], "requeue")
            return
        self._buffers[subscription.queue].append((method, properties, body))
        self._has_news = True
        if subscription.is_full:
            self._fit(subscription)

    def _on_turn(self) -> None:
        if self._has_news:
            self._has_news = False
            self._arrived.set()

    def _look(self) -> None:
        """Leave the messages to others if nobody has fetched for a while and there are, or may come, some."""
        self._is_watched = bool(self._subscriptions)
        if not self._is_watched:
            return
        with self._lock:
            if (
                not self._is_fetching
                and time.monotonic() - self._last_fetch > IDLE
                and self._wanted is not None
                and self._kept.isdisjoint(self._wanted[0])
                and (self.waiting or len(self._unsettled) < self._wanted[1])
            ):
                self._leave()
        self._client.call_later(IDLE / 2, self._look)

    def _leave(self) -> None:
        """Stop consuming, and give back what was not fetched."""
        self._wanted = None
        self._cancel_all(give_back=list(self._buffers))

    def _give_back(self, queues: Sequence[str]) -> None:
        numbers: list[int] = []
        for queue in queues:
            buffer = self._buffers[queue]
            while buffer:
                try:
                    numbers.append(buffer.popleft()[0].delivery_tag)
                except IndexError:  # It has just been fetched.
                    break
        self._settle([Tag(self._id, number) for number in numbers], "requeue")

    def _release(self, tags: Sequence[Tag]) -> None:
        with self._lock:
            if not self._is_fetching:
                self._leave()
        self._settle(tags, "requeue")

    def _settle(self, tags: Sequence[Tag], how: Settlement) -> None:
        wanted = {tag.number for tag in tags if tag.channel == self._id and tag.number in self._unsettled}
        if not wanted or self._channel is None:
            return
        # The numbers rise, so all up to the first that stays unsettled are settled at once.
        together: list[int] = []
        for number in self._unsettled:
            if number not in wanted:
                break
            together.append(number)
        alone = sorted(wanted.difference(together))
        for number in wanted:
            self._unsettled.pop(number).unsettled -= 1
        self._channel.settle(how, together[-1] if together else None, alone)

    def _drop(self, call: Call) -> None:
        former, self._subscriptions, self._wanted = self._subscriptions, [], None
        open_ends = [subscription.tag for subscription in former]

        def finish(_: Any) -> None:
            # Nothing comes any more once all have ended, so nothing escapes.
            if open_ends:
                open_ends.pop()
            if open_ends:
                return
            for buffer in self._buffers.values():
                buffer.clear()
            number = len(self._unsettled)
            self._settle([Tag(self._id, each) for each in self._unsettled], "ack")
            call.succeed(number)

        if self._channel is not None and former:
            for subscription in former:
                self._channel.cancel(subscription.tag, finish)
        else:
            finish(None)

    def _on_cancel(self, tag: str) -> None:
        for subscription in self._subscriptions:
            if subscription.tag == tag:
                self._on_close(ConnectionLost(f"Queue {subscription.queue!r} was deleted, or its node went away."))

    def _on_close(self, error: TransportError) -> None:
        if self._error is None:
            self._error = self._translated(error)
        self._subscriptions = []
        self._wanted = None
        self._beginning = 0
        self._unsettled.clear()
        for buffer in self._buffers.values():
            buffer.clear()
        self._arrived.set()

    def _translated(self, error: TransportError) -> TransportError:
        """Return what to raise: a lost connection where a new one will do better, which declares what is missing."""
        if isinstance(error, ConnectionLost):
            return ConnectionLost(str(error))
        is_declared = (
            self._client.settings.options.auto_setup
            and self._wanted is not None
            and all(queue in self._client.settings.queues for queue in self._wanted[0])
        )
        if not self._beginning or (isinstance(error, Refused) and error.code == NOT_FOUND and is_declared):
            return ConnectionLost(f"The broker closed the channel: {error}")
        return TransportError(f"Cannot consume: {error} Look at the name, or run `postbus setup`.")


def _power_of_two(number: int) -> int:
    """Return the smallest power of two that is not smaller."""
    return 1 << (number - 1).bit_length()
