"""What comes from the service, as deliveries; and what comes too early from a FIFO queue, hidden until it is due."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from postbus.errors import TransportError, describe
from postbus.transport import Delivery
from postbus_sqs.clock import Clock
from postbus_sqs.leases import Lease
from postbus_sqs.limits import LONGEST_LEASE
from postbus_sqs.messages import read
from postbus_sqs.options import SqsOptions
from postbus_sqs.settling import Settler
from postbus_sqs.stamps import SqsGroup


class Arrivals:
    """Reads what was received from one queue."""

    def __init__(self, options: SqsOptions, settler: Settler) -> None:
        self._lease = options.visibility_timeout
        self._is_fifo = options.is_fifo
        self._settler = settler
        self._clock = Clock()
        self.wanted = ["ApproximateReceiveCount", "MessageGroupId"]
        """What the service is to tell of each message, beside what somebody has put there."""
        if options.is_fifo:
            self.wanted += ["ApproximateFirstReceiveTimestamp", "SentTimestamp"]

    def read(self, answer: Mapping[str, Any], since: float) -> list[Delivery]:
        """Return what came, as far as it is due, leased since then by the monotonic clock; hide the rest."""
        messages: Sequence[Mapping[str, Any]] = answer.get("Messages") or ()
        if not self._is_fifo:
            return [self._read(message, since)[0] for message in messages]
        self._clock.note(answer)
        due: list[Delivery] = []
        blocked: dict[str | None, list[Lease]] = {}
        for message in messages:
            delivery, early = self._read(message, since)
            if delivery.group in blocked:  # It is not to overtake what is hidden.
                blocked[delivery.group].append(delivery.tag)
            elif early > 0:
                with suppress(TransportError):  # Else it stays hidden for as long as a lease lasts.
                    self._settler.hide([delivery.tag], math.ceil(early))
                blocked[delivery.group] = []
            else:
                due.append(delivery)
        with suppress(TransportError):
            self._settler.show([lease for leases in blocked.values() for lease in leases])
        return due

    def as_handed_out(self, delivery: Delivery) -> Delivery:
        """Return a delivery with what is left of its lease, if it has waited here for a while."""
        left = delivery.tag.until - time.monotonic()
        return delivery if left > 0.95 * self._lease else replace(delivery, lease=left)

    def _read(self, message: Mapping[str, Any], since: float) -> tuple[Delivery, float]:
        """Return a message as a delivery, and for how many seconds more it is to wait."""
        told: Mapping[str, str] = message.get("Attributes") or {}
        group = told.get("MessageGroupId")
        lease = Lease(message["MessageId"], message["ReceiptHandle"], since, self._lease, group)
        count = _number(told.get("ApproximateReceiveCount"))
        try:
            body, headers, delay = read(message)
        except Exception as error:  # A border: whatever it trips over must not cost the message.
            problem = describe(error)
            return Delivery(b"", {}, lease, lease.id, count, (), None, group if self._is_fifo else None, problem), 0.0
        early = 0.0
        if self._is_fifo and 0 < delay <= 1000 * LONGEST_LEASE:
            due = (_number(told.get("SentTimestamp")) or 0) + delay
            early = due / 1000 - self._clock.now()
            if count and (_number(told.get("ApproximateFirstReceiveTimestamp")) or due) < due:
                count = max(1, count - 1)  # When it came too early, no handler saw it.
        # The group of a FIFO queue is a key, which the core knows.
        is_untold = group is not None and not self._is_fifo and SqsGroup.header not in headers
        stamps = (SqsGroup(group),) if group is not None and is_untold else ()
        delivery = Delivery(body, headers, lease, lease.id, count, stamps, None, group if self._is_fifo else None)
        return delivery, early


def _number(text: object) -> int | None:
    return int(text) if isinstance(text, str) and text.isdecimal() else None
