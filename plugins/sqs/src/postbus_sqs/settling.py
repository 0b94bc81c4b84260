"""How deliveries are settled and kept: ten in a request, several requests at a time, answered one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from postbus.errors import ConnectionLost, TransportError
from postbus_sqs.crew import Crew
from postbus_sqs.errors import LOST
from postbus_sqs.leases import Lease
from postbus_sqs.limits import BATCH
from postbus_sqs.service import Service, failed

ATTEMPTS = 3
"""How often a request is sent for what the service failed to do, which it says."""

Describe = Callable[[Lease], dict[str, Any]]
"""What an entry says of a lease, beside by what it is known."""
Note = Callable[[Lease, float], None]
"""What is to be noted of a lease when that is done, and since when at the earliest it is."""


class Settler:
    """Deletes messages, and changes for how long they are hidden."""

    def __init__(self, service: Service, crew: Crew) -> None:
        self._service = service
        self._crew = crew

    def delete(self, leases: Sequence[Lease]) -> list[Lease]:
        """Delete the messages; return the leases that were lost."""
        return self._change("delete_message_batch", leases, lambda _: {}, lambda lease, _: lease.settle())

    def hide(self, leases: Sequence[Lease], seconds: float) -> list[Lease]:
        """Hide the messages for so many seconds from now, or as long as they can be; return the lost leases."""
        return self._change(
            "change_message_visibility_batch",
            leases,
            lambda lease: {"VisibilityTimeout": lease.possible(seconds)},
            lambda lease, since: lease.extend(since, seconds),
        )

    def show(self, leases: Sequence[Lease]) -> list[Lease]:
        """Let others have the messages at once; return the lost leases."""
        return self._change(
            "change_message_visibility_batch",
            leases,
            lambda _: {"VisibilityTimeout": 0},
            lambda lease, _: lease.end(),
        )

    def _change(self, operation: str, leases: Sequence[Lease], describe: Describe, note: Note) -> list[Lease]:
        lost = [lease for lease in leases if lease.is_over and not lease.is_settled]
        ours = [lease for lease in leases if not lease.is_over]
        if not ours:
            return lost

        def change(batch: Sequence[Lease]) -> list[Lease] | TransportError:
            try:
                return self._change_batch(operation, batch, describe, note)
            except TransportError as error:
                return error

        for outcome in self._crew.map(change, [ours[start : start + BATCH] for start in range(0, len(ours), BATCH)]):
            if isinstance(outcome, TransportError):
                raise outcome
            lost += outcome
        return lost

    def _change_batch(self, operation: str, batch: Sequence[Lease], describe: Describe, note: Note) -> list[Lease]:
        lost: list[Lease] = []
        left = list(batch)
        for _ in range(ATTEMPTS):
            entries = [{"Id": str(n), "ReceiptHandle": lease.handle, **describe(lease)} for n, lease in enumerate(left)]
            since = time.monotonic()
            answer = self._service.call(operation, Entries=entries)
            failures = {int(entry["Id"]): entry for entry in failed(answer)}
            again: list[Lease] = []
            for position, lease in enumerate(left):
                failure = failures.get(position)
                if failure is None:
                    note(lease, since)
                elif failure.get("SenderFault") or failure.get("Code", "").rpartition(".")[2] in LOST:
                    lost.append(lease)
                    lease.end()
                else:
                    again.append(lease)
            left = again
            if not left:
                return lost
        raise ConnectionLost(f"{self._service} does not settle messages at the moment")
