"""Consuming: what the broker pushes is kept until it is fetched, and what was fetched until it is settled."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from postbus.errors import ConnectionLost, TransportError
from postbus.transport import Delivery
from postbus_amqp.arrivals import Arrivals
from postbus_amqp.channel import Settlement
from postbus_amqp.client import Client
from postbus_amqp.errors import NOT_FOUND, Refused, again
from postbus_amqp.messages import delivery_of
from postbus_amqp.options import QueueOptions
from postbus_amqp.prefetch import Prefetch
from postbus_amqp.subscription import Subscription, Tag
from postbus_amqp.thread import Call

IDLE = 0.5
"""Seconds after which a consumer from which nobody fetches leaves its messages to others."""

BEGIN = 0.05
"""Seconds that a consumer which has just begun has at least, to bring what waits in its queue."""

SILENCE = 15.0
"""Seconds for which a consumer may get nothing before it is replaced, where there is no heartbeat."""


UNKNOWN = QueueOptions()
"""What stands for the options of a queue that the DSN does not name."""


class Consumer:
    """Consumes from queues. One thread at a time fetches, any may settle."""

    def __init__(self, client: Client) -> None:
        settings = client.settings
        self._client = client
        self._thread = client.thread
        self._prefetch = Prefetch(settings)
        self._counted = {name for name, queue in settings.queues.items() if queue.is_quorum}
        self._arrivals = Arrivals()
        self._error: TransportError | None = None
        # The lock is held to decide whether the consumers stop: not while somebody fetches.
        self._lock = threading.Lock()
        self._is_fetching = False
        self._last_fetch = 0.0
        self._wanted: tuple[Sequence[str], int] | None = None
        # These belong to the client's thread, and others only look at them.
        self._current: dict[str, Subscription] = {}
        self._open: list[Subscription] = []
        """The current ones, and former ones that have brought what is not settled yet."""
        self._left: dict[str, float] = {}
        """Since when there is no consumer for a queue, on the monotonic clock, where that ends it sooner or later."""
        self._is_watched = False
        self._thread.on_turn.append(self._arrivals.announce)
        self._thread.on_end.append(self._on_lost)

    def fetch(self, queues: Sequence[str], limit: int, wait: float) -> list[Delivery]:
        """Return what the broker has pushed, of the first queue first; wait for it if there is nothing."""
        self._raise_error()
        self._client.connect("consume")
        end = time.monotonic() + wait
        prefetch = self._prefetch.for_fetching(limit, queues, in_hand=max(self._unsettled - self.waiting, 0))
        with self._lock:
            self._is_fetching = True
            if self._wanted is None or self._wanted[0] != queues or not Prefetch.fits(prefetch, self._wanted[1]):
                if self._wanted is None:
                    end = max(end, time.monotonic() + BEGIN)
                self._wanted = (queues, prefetch)
                self._thread.post(self._adjust)
        try:
            while not (arrivals := self._arrivals.take(queues, limit)):
                self._arrivals.reset()
                self._raise_error()
                if not self._arrivals.wait(queues, end - time.monotonic()):
                    break
        finally:
            self._last_fetch = time.monotonic()
            self._is_fetching = False
        return [
            delivery_of(by.queue, Tag(by, method.delivery_tag), by.queue in self._counted, method, properties, body)
            for by, method, properties, body in arrivals
        ]

    def settle(self, tags: Sequence[Tag], how: Settlement) -> list[Tag]:
        """Settle deliveries; return those whose channel is closed, and those settled before."""
        return self._send(tags, partial(self._settle, tags, how))

    def release(self, tags: Sequence[Tag]) -> list[Tag]:
        """Give deliveries back; unless somebody fetches, also what has not been fetched yet, and consume no more."""
        return self._send(tags, partial(self._release, tags))

    def drop(self) -> int:
        """Settle everything that is here, fetched or not; return how many messages there were."""
        return self._thread.ask(self._drop) if self._open else 0

    @property
    def waiting(self) -> int:
        """How many messages are here that were not fetched."""
        return len(self._arrivals)

    @property
    def _unsettled(self) -> int:
        return sum(len(subscription.unsettled) for subscription in self._open)

    def _send(self, tags: Sequence[Tag], work: Callable[[], Sequence[Tag]]) -> list[Tag]:
        """Let the thread settle something, and return what it could not, or what may not have reached the broker."""
        if not self._open:  # There is nothing to settle.
            return list(tags)
        lost: list[Tag] = []
        self._client.send("consume", lambda: lost.extend(work()))
        return [tag for tag in tags if tag.subscription.is_lost or (lost and tag in lost)]

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    # in the client's thread

    def _adjust(self) -> None:
        """Consume from the queues that are wanted, and no others, with so many messages sent ahead as are wanted."""
        if self._wanted is None:
            return
        queues, prefetch = self._wanted
        self._settle(self._end([queue for queue in self._current if queue not in queues]), "requeue")
        try:
            for queue in queues:
                if queue in self._current:
                    self._fit(self._current[queue])
                elif not self._is_coming_back(queue):
                    self._begin(queue, prefetch)
        except TransportError as error:
            self._fail(error)

    def _begin(self, queue: str, prefetch: int, on_begin: Callable[[], object] | None = None) -> None:
        self._arrivals.expect(queue)
        subscription = Subscription(self._client, queue, prefetch, self._on_delivery, on_begin, self._on_close)
        self._current[queue] = subscription
        self._left.pop(queue, None)
        self._open.append(subscription)
        if not self._is_watched:
            self._is_watched = True
            self._thread.call_later(IDLE / 2, self._look)

    def _fit(self, subscription: Subscription) -> None:
        """Have as many messages sent ahead as are wanted, if that is another number and can be changed now."""
        if self._wanted is None or self._current.get(subscription.queue) is not subscription:
            return
        if subscription.is_full and subscription.prefetch != self._wanted[1]:
            subscription.refit(self._wanted[1], overlaps=self._queue(subscription.queue).is_short_lived)

    def _queue(self, name: str) -> QueueOptions:
        return self._client.settings.queues.get(name, UNKNOWN)

    def _is_coming_back(self, queue: str) -> bool:
        """Tell whether messages are on their way back to a queue, which those behind them would overtake."""
        return any(subscription.is_giving_back for subscription in self._open if subscription.queue == queue)

    def _end(self, queues: Sequence[str]) -> list[Tag]:
        """Consume no more from these queues; return what they have brought that was not fetched, to be given back."""
        for queue in queues:
            self._current.pop(queue).end(gives_back=True, on_end=partial(self._thread.post, self._adjust))
        return [tag for queue in queues for tag in self._take_back(queue)]

    def _on_delivery(self, subscription: Subscription, method: Any, properties: Any, body: bytes) -> None:
        self._arrivals.add((subscription, method, properties, body))
        if subscription.is_full:
            self._fit(subscription)

    def _look(self) -> None:
        """Leave the messages to others if nobody has fetched for a while and there are, or may come, some."""
        self._is_watched = bool(self._current or self._left)
        if not self._is_watched:
            return
        ahead: list[Tag] = []
        with self._lock:
            is_idle = not self._is_fetching and time.monotonic() - self._last_fetch > IDLE
            has_room = any(not subscription.is_full for subscription in self._current.values())
            if is_idle and (self.waiting or has_room) and not self._prefetch.is_kept(self._current):
                ahead = self._leave()
        self._settle(ahead, "requeue")
        self._renew()
        self._keep_alive()
        self._thread.call_later(IDLE / 2, self._look)

    def _renew(self) -> None:
        """Consume anew from queues that have been silent for long, as the broker may have forgotten who consumes.

        RabbitMQ 3 moves the consumers of a quorum queue that was deleted to one that was declared in its place at
        once, tells nobody, and then sends them nothing of what it takes for sent.
        """
        patience = self._client.settings.options.heartbeat or SILENCE
        for subscription in [*self._current.values()]:
            is_silent = time.monotonic() - subscription.silent_since > patience
            may_change = not subscription.unsettled or not self._prefetch.is_kept([subscription.queue])
            if is_silent and may_change and not subscription.is_full:
                self._replace(subscription)

    def _replace(self, former: Subscription) -> None:
        with suppress(TransportError):  # There is no channel left, but maybe the next time.
            self._begin(former.queue, former.prefetch, partial(former.end, gives_back=False))

    def _keep_alive(self) -> None:
        """Consume again, as little as can be, from a queue that would soon be deleted because nobody does."""
        for queue, since in [*self._left.items()]:
            if time.monotonic() - since > self._queue(queue).lifetime / 2:
                with suppress(TransportError):
                    self._begin(queue, 1)

    def _leave(self) -> list[Tag]:
        """Stop consuming, but where the queue would be deleted; return what was not fetched, to be given back."""
        self._wanted = None
        queues = [queue for queue in self._current if not self._queue(queue).is_short_lived]
        self._left |= {queue: time.monotonic() for queue in queues if self._queue(queue).lifetime < math.inf}
        return self._end(queues)

    def _take_back(self, queue: str) -> list[Tag]:
        return [Tag(by, method.delivery_tag) for by, method, _, _ in self._arrivals.take_back(queue)]

    def _release(self, tags: Sequence[Tag]) -> list[Tag]:
        with self._lock:
            ahead = [] if self._is_fetching else self._leave()
        # In one go, since a quorum queue has them in the order in which they are given back.
        return self._settle([*tags, *ahead], "requeue")

    def _settle(self, tags: Sequence[Tag], how: Settlement) -> list[Tag]:
        """Settle what is in our hands; return the rest: its channel is closed, or it was settled before."""
        lost: list[Tag] = []
        numbers: dict[Subscription, list[int]] = {}
        for tag in tags:
            if tag.subscription in self._open and tag.number in tag.subscription.unsettled:
                numbers.setdefault(tag.subscription, []).append(tag.number)
            else:
                lost.append(tag)
        for subscription, its_own in numbers.items():
            subscription.settle(its_own, how)
        return lost

    def _drop(self, call: Call) -> None:
        former, self._current, self._left, self._wanted = [*self._current.values()], {}, {}, None
        left = len(former)

        def finish() -> None:
            # Nothing comes any more once all have ended, so nothing escapes.
            nonlocal left
            left -= 1
            if left > 0:
                return
            self._arrivals.clear()
            number = self._unsettled
            for subscription in self._open:
                subscription.settle([*subscription.unsettled], "ack")
            call.succeed(number)

        for subscription in former:
            subscription.end(gives_back=False, on_end=finish)
        if not former:
            finish()

    def _on_close(self, subscription: Subscription, error: TransportError | None) -> None:
        """Forget a subscription; tell who fetches if it is not over as it should be."""
        if subscription not in self._open:
            return
        self._open.remove(subscription)
        if self._current.get(subscription.queue) is subscription:
            del self._current[subscription.queue]
            self._settle(self._take_back(subscription.queue), "requeue")
        if error is not None:
            self._fail(self._translated(subscription, error))
        else:
            self._adjust()

    def _on_lost(self, error: TransportError) -> None:
        self._open, self._current, self._left = [], {}, {}
        self._arrivals.clear()
        self._fail(error)

    def _fail(self, error: TransportError) -> None:
        """Let who fetches raise, now or the next time; what is missing then is begun anew."""
        if self._error is None:
            self._error = again(error)
        self._wanted = None
        self._arrivals.wake()

    def _translated(self, subscription: Subscription, error: TransportError) -> TransportError:
        """Return what to raise: a lost connection where a new one will do better, which declares what is missing."""
        if isinstance(error, ConnectionLost):
            return error
        settings = self._client.settings
        is_missing = isinstance(error, Refused) and error.code == NOT_FOUND
        if subscription.has_begun or (
            is_missing and settings.options.auto_setup and subscription.queue in settings.queues
        ):
            return ConnectionLost(f"The broker closed the channel: {error}")
        return TransportError(f"Cannot consume: {error} Look at the name, or run `postbus setup`.")
