"""Mutants for the rules in `postbus.testing.rules.fidelity`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from postbus.transport import Outgoing
from tests.contract.healthy import Plain
from tests.contract.mutants.entry import breaks


class Changing(Plain):
    """Stores something else than what was published."""

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        return super().publish(
            [replace(m, body=self.change_body(m.body), headers=self.change_headers(m.headers)) for m in messages]
        )

    def change_body(self, body: bytes) -> bytes:
        return body

    def change_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        return headers


@breaks("a_body_may_be_empty")
class WritesNullForNothing(Changing):
    """Stores an empty body as JSON's null."""

    def change_body(self, body: bytes) -> bytes:
        return body or b"null"


@breaks("a_body_may_hold_every_byte")
class StripsByteOrderMarks(Changing):
    """Takes two bytes at the beginning for a mark of UTF-16."""

    def change_body(self, body: bytes) -> bytes:
        return body.removeprefix(b"\xff\xfe")


@breaks("a_body_may_have_64_kib")
class LosesFullBlocks(Changing):
    """Stores blocks of 64 KiB, and forgets the last one if it is full."""

    def change_body(self, body: bytes) -> bytes:
        return body[:-65536] if body and len(body) % 65536 == 0 else body


@breaks("a_body_may_be_as_large_as_promised")
class CutsLargeBodies(Changing):
    """Has a column for half a megabyte."""

    def change_body(self, body: bytes) -> bytes:
        return body[:500_000]


@breaks("there_need_be_no_headers")
class AddsAHeader(Changing):
    """Says what the content type is if nobody else does."""

    def change_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        return headers or {"Content-Type": "application/octet-stream"}


@breaks("there_may_be_many_headers")
class KeepsTenHeaders(Changing):
    """Has ten attributes for headers."""

    def change_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        return dict(list(headers.items())[:10])


@breaks("a_header_may_hold_any_text")
class DropsEmptyHeaders(Changing):
    """Leaves out headers without a value."""

    def change_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        return {name: value for name, value in headers.items() if value}


@breaks("a_header_may_be_long")
class CutsLongHeaders(Changing):
    """Has a column for 4 000 characters."""

    def change_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        return {name: value[:4000] for name, value in headers.items()}


@breaks("the_name_of_a_header_is_kept")
class MendsHeaderNames(Changing):
    """Replaces what may not be in a name."""

    def change_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        return {name.replace("\\", "-"): value for name, value in headers.items()}


@breaks("stamps_keep_their_order_and_repetitions")
class DropsEqualStamps(Changing):
    """Stores each of the stamps in a header once."""

    def change_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        return {name: self._without_equals(value) for name, value in headers.items()}

    def _without_equals(self, value: str) -> str:
        items = _list_in(value)
        unequal = [item for position, item in enumerate(items) if item not in items[:position]]
        return value if unequal == items else json.dumps(unequal)


@breaks("what_is_unknown_is_sent_on_unchanged")
class WritesHeadersAnew(Changing):
    """Reads the JSON in headers, and writes it in its own way."""

    def change_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        return {name: json.dumps(items) if (items := _list_in(value)) else value for name, value in headers.items()}


def _list_in(value: str) -> list[Any]:
    with contextlib.suppress(ValueError):
        if isinstance(items := json.loads(value), list):
            return items
    return []


@breaks("a_batch_keeps_bodies_and_headers_together")
class MixesUpHeaders(Plain):
    """Writes bodies and headers of a batch separately, the latter from the end."""

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        headers = [message.headers for message in reversed(messages)]
        return super().publish([replace(m, headers=h) for m, h in zip(messages, headers, strict=True)])
