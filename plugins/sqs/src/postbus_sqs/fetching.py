"""How messages come: by requests that wait at the service, in threads of their own, so that nobody must wait for one.

A request that waits goes on when the fetch that began it has ended, and the next fetch waits for it too. So an idle
worker sends one in twenty seconds, however often it looks up. What comes when nobody fetches is given back at once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from postbus.errors import ConnectionLost, TransportError, describe
from postbus.transport import Delivery
from postbus_sqs.arrivals import Arrivals
from postbus_sqs.crew import Crew
from postbus_sqs.groups import Lines
from postbus_sqs.leases import Lease
from postbus_sqs.options import SqsOptions
from postbus_sqs.service import Service
from postbus_sqs.settling import Settler


class Request:
    """One that is under way: for how many messages, how long it waits there, and when it should be answered."""

    def __init__(self, limit: int, seconds: int, patience: float) -> None:
        self.limit = limit
        self.seconds = seconds
        self.overdue_at = time.monotonic() + seconds + patience


class Fetcher:
    """Receives messages; one thread at a time is in `fetch`."""

    LINGER = 1.0
    """Seconds for which what came waits for the next fetch, when the one that it came for has ended."""

    def __init__(self, service: Service, crew: Crew, options: SqsOptions, settler: Settler) -> None:
        self._service = service
        self._crew = crew
        self._options = options
        self._settler = settler
        self._arrivals = Arrivals(options, settler)
        self._longest = max(1, options.wait_time)
        self._linger = min(self.LINGER, options.visibility_timeout / 4)
        self._lines = Lines()
        self._changed = threading.Condition()
        self._ready: deque[Delivery] = deque()
        self._requests: set[Request] = set()
        self._error: TransportError | None = None
        self._wanted = 0
        """How many messages the fetch wants that is waiting."""
        self._is_closed = False
        self._is_busy = False
        self._has_answered = False
        """Whether the service has ever answered. Until then, no request waits there, so that this is known soon."""
        self._patience = 1

    def fetch(self, limit: int, wait: float) -> list[Delivery]:
        """Return up to so many deliveries; wait for one for up to so many seconds."""
        deadline = time.monotonic() + wait
        with self._changed:
            self._wanted = limit
            try:
                return self._fetch(limit, deadline)
            finally:
                self._wanted = 0

    def _fetch(self, limit: int, deadline: float) -> list[Delivery]:
        has_asked = bool(self._requests)
        while True:
            if self._is_closed:
                return []
            self._raise_if_lost()
            left = deadline - time.monotonic()
            is_asking = any(not request.seconds for request in self._requests)
            if not is_asking and self._ready and (taken := self._take(limit)):
                return taken
            if not is_asking and has_asked and left <= 0:
                return []
            if not self._requests:
                self._ask(limit, left)
                has_asked = True
                continue
            overdue = min(request.overdue_at for request in self._requests) - time.monotonic()
            self._changed.wait(overdue if is_asking else min(overdue, max(left, 0.0)))

    def _raise_if_lost(self) -> None:
        now = time.monotonic()
        if self._error is None and any(now >= request.overdue_at for request in self._requests):
            self._error = ConnectionLost(f"{self._service} does not answer")
        if self._error is None:
            return
        error = self._error
        if not isinstance(error, ConnectionLost):
            self._error = None
        raise error

    def _take(self, limit: int) -> list[Delivery]:
        """Return what is ready, unless its lease is over."""
        taken: list[Delivery] = []
        while self._ready and len(taken) < limit:
            delivery = self._ready.popleft()
            if not lease_of(delivery).is_over:
                taken.append(self._arrivals.as_handed_out(delivery))
        self._changed.notify_all()
        return taken

    # the requests

    def _ask(self, limit: int, wait: float) -> None:
        """Begin as many requests as bring so many messages, if there are many; the first of them waits if it may."""
        size = self._options.buffer_size
        number = min(-(-limit // size), self._options.parallel) if self._is_busy else 1
        may_wait = wait > 0 and self._has_answered
        waits = min(max(self._patience, int(wait)), self._longest) if may_wait else 0
        patience = self._options.timeout + self._options.read_timeout
        for position in range(number):
            request = Request(min(size, limit - position * size), 0 if position else waits, patience)
            self._requests.add(request)
            self._crew.begin(lambda request=request: self._receive(request))  # type: ignore[misc]

    def _receive(self, request: Request) -> None:
        deliveries, error = self._answer_to(request)
        is_last = False
        with self._changed:
            self._requests.discard(request)
            if error is not None:
                self._error = self._error or error
            self._has_answered = self._has_answered or error is None
            self._is_busy = len(deliveries) >= request.limit
            if self._options.is_fifo:
                deliveries = [delivery for delivery in deliveries if self._lines.join(delivery)]
            self._ready.extend(deliveries)
            if request.seconds:
                self._patience = 1 if deliveries else min(2 * self._patience, self._longest)
            self._changed.notify_all()
            if deliveries and len(self._ready) > self._wanted:
                self._changed.wait_for(lambda: self._is_closed or not self._untaken(deliveries), self._linger)
            abandoned = self._untaken(deliveries) if len(self._ready) > self._wanted or self._is_closed else []
            for delivery in abandoned:
                self._ready.remove(delivery)
            leases = self._leave_lines([lease_of(delivery) for delivery in abandoned])
            if self._is_closed:
                leases += self._lines.clear()
            is_last = self._is_closed and not self._requests
        if leases:
            with suppress(TransportError):  # They come again when their leases are over.
                self._settler.show(leases)
        if is_last:
            self._service.close()

    def _answer_to(self, request: Request) -> tuple[list[Delivery], TransportError | None]:
        asked_at = time.monotonic()
        try:
            answer = self._service.call(
                "receive_message",
                wait=request.seconds,
                MaxNumberOfMessages=request.limit,
                WaitTimeSeconds=request.seconds,
                VisibilityTimeout=self._options.visibility_timeout,
                MessageAttributeNames=["All"],
                MessageSystemAttributeNames=self._arrivals.wanted,
            )
            # When the leases began is known only of a request that has not waited there.
            return self._arrivals.read(answer, time.monotonic() if request.seconds else asked_at), None
        except TransportError as error:
            return [], error
        except Exception as error:  # A border: the thread that fetches is to hear of it.
            return [], ConnectionLost(f"{self._service} cannot be asked: {describe(error)}")

    def _untaken(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        ready = {id(delivery) for delivery in self._ready}
        return [delivery for delivery in deliveries if id(delivery) in ready]

    # the groups of a FIFO queue

    def behind(self, leases: Sequence[Lease]) -> list[Lease]:
        """Return the leases of what waits for these to be settled, and goes where they go."""
        with self._changed:
            return self._lines.behind(leases)

    def go_on(self, leases: Sequence[Lease]) -> None:
        """Hand out what waited for these, because they were settled."""
        with self._changed:
            following = self._lines.leave(leases)
            self._ready.extend(following)
            if following:
                self._changed.notify_all()

    def give_up(self, leases: Sequence[Lease]) -> list[Lease]:
        """Hand out none of what waits behind these, because they were given back or lost; return its leases."""
        with self._changed:
            return self._leave_lines(leases)[len(leases) :]

    def _leave_lines(self, leases: Sequence[Lease]) -> list[Lease]:
        behind = self._lines.behind(leases)
        self._lines.dissolve(leases)
        return [*leases, *behind]

    def close(self) -> None:
        """End a wait, and give back what nobody has; what is still to come, when it comes."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            leases = [lease_of(delivery) for delivery in self._ready]
            self._ready.clear()
            leases = list(dict.fromkeys([*leases, *self._lines.clear()]))
            is_lost = isinstance(self._error, ConnectionLost)
            is_last = not self._requests
            self._changed.notify_all()
        if leases and not is_lost:
            with suppress(TransportError):
                self._settler.show(leases)
        if is_last:
            self._service.close()


def lease_of(delivery: Delivery) -> Lease:
    """Return the tag of a delivery."""
    lease: Lease = delivery.tag
    return lease
