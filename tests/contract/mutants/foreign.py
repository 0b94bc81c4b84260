"""Mutants for the rules in `postbus.testing.rules.foreign`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from msgspec.structs import replace

from postbus.transport import Delivery
from tests.contract.healthy import Framed
from tests.contract.mutants.entry import breaks


@breaks(
    "what_others_wrote_comes_as_it_is",
    # It is the same look.
    also=["what_others_wrote_is_shown"],
)
class LosesWhatItCannotRead(Framed):
    """Says that it cannot read a message, and keeps what it was to itself."""

    def read(self, delivery: Delivery) -> Delivery:
        read = super().read(delivery)
        return replace(read, body=b"") if read.problem else read


@breaks("headers_of_others_are_text")
class HandsOnNumbers(Framed):
    """Leaves headers as they were written."""

    def read(self, delivery: Delivery) -> Delivery:
        read = super().read(delivery)
        return read if read.problem else replace(read, headers=json.loads(delivery.body)[1])


@breaks("what_others_wrote_is_settled_as_ever")
class KeepsWhatItCannotRead(Framed):
    """Settles only what it could read."""

    def ack(self, tags: Sequence[int]) -> Sequence[int]:
        return super().ack([tag for tag in tags if self._is_readable(tag)])

    def _is_readable(self, tag: int) -> bool:
        message = self.queue.in_flight.get(tag)
        return message is None or self.read(message.as_delivery()).problem is None


@breaks("what_others_wrote_can_be_buried")
class TidiesWhatItBuries(Framed):
    """Stores a message without the headers that it does not know."""

    def frame(self, body: bytes, headers: object) -> bytes:
        known = {name: text for name, text in dict(headers).items() if name not in ("tenant", "tags", "trace")}
        return super().frame(body, known if "X-Message-Stamp-retried" in known and known["type"] == "13" else headers)


@breaks("what_others_wrote_is_shown")
class HidesWhatItCannotRead(Framed):
    """Does not show what it cannot read."""

    def browse(self, limit: int, after: str | None = None) -> Sequence[Delivery]:
        return [shown for shown in super().browse(limit, after) if shown.problem is None]


@breaks("a_transport_goes_on_behind_what_it_cannot_read")
class ForgetsWhatIsBehind(Framed):
    """Takes a large batch for spoilt from the first message on that it cannot read."""

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        deliveries = super().fetch(limit, wait)
        spoilt = next((n for n, delivery in enumerate(deliveries) if delivery.problem is not None), 0)
        return deliveries[: spoilt + 1] if len(deliveries) > 3 and spoilt else deliveries
