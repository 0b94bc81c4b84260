"""Where the id of a message travels, too: in the context that Symfony's serializer is given for it.

The receivers of Symfony 6.4 take every id off a message, that of RabbitMQ excepted, and put their broker's on; so one
retry there would make another message of it. The context is an open map, in which each normalizer looks for the options
that it knows, and is sent on unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

from postbus import stamps

CONTEXT = stamps.HEADER + "Symfony\\Component\\Messenger\\Stamp\\SerializerStamp"
"""The header with the context."""

KEY = "postbus_message_id"

is_id = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
"""Tells an id of ours from those that brokers give, which would be the same in other queues."""

_read = msgspec.json.Decoder(list[dict[str, Any]]).decode
_write = msgspec.json.Encoder().encode


def id_in(headers: Mapping[str, str]) -> stamps.MessageId | None:
    """Return the id that the context holds, if there is one."""
    for context in _contexts_in(_stamps_in(headers.get(CONTEXT, "[]"))):
        id = context.get(KEY)
        if isinstance(id, str) and is_id(id):
            return stamps.MessageId(id)
    return None


def with_id(context: str | None, id: str) -> str:
    """Return the header with an id in it, given the one that there is; as it came where there is no place for it."""
    if context is None:
        return f'[{{"context":{{"{KEY}":"{id}"}}}}]'
    found = _stamps_in(context)
    # Symfony reads a body by the first one, and writes it by the last.
    first = next(iter(_contexts_in(found)), None)
    if first is None or first.get(KEY) == id:
        return context
    first[KEY] = id
    return _write(found).decode()


def _stamps_in(context: str) -> list[dict[str, Any]]:
    with suppress(Exception):  # A border: it may hold anything, and is only looked into.
        return _read(context)
    return []


def _contexts_in(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for stamp in found:
        if stamp.get("context") == []:  # What PHP writes for an empty map.
            stamp["context"] = {}
    return [stamp["context"] for stamp in found if isinstance(stamp.get("context"), dict)]
