"""How a message lies on ActiveMQ: its body as bytes, its headers as headers of STOMP, which JMS calls properties.

A header is one of its own if ActiveMQ gives it back as it was. Those that have a name which means something to STOMP
or ActiveMQ, an odd character or more than 4 KiB are together in one, as JSON, in pieces: ActiveMQ closes the
connection over a header of more than 10 KiB.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import msgspec

from postbus.stamps import Stamp
from postbus.text import JSON_ERRORS
from postbus.transport import Delivery, Outgoing
from postbus_stomp.stamps import StompMessage, StompReceived

GROUP = "JMSXGroupID"
GROUP_TOLD = "X-Postbus-Group"
"""Says the same to who gets a message: ActiveMQ itself does not tell over STOMP."""
DELAY = "AMQ_SCHEDULED_DELAY"
PIECE = "X-Postbus-Headers-"
"""What the names of the pieces begin with; their number follows."""

_TOLD = frozenset(
    """
    ack content-length correlation-id destination expires message-id persistent priority redelivered reply-to
    scheduledJobId subscription timestamp
    """.split()
)
"""What ActiveMQ says about a message, beside its headers."""
_TOLD_TOO = re.compile("AMQ_SCHEDULED_|JMSX|X-Postbus-Headers-|X-Postbus-Group$")
_MEANT = _TOLD | set("amq-msg-type browser id login passcode receipt selector transaction transformation".split())
"""What it would take for something else than a header of a message."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,199}")
_ODD = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]|^[ \t]|[ \t]$")
_LONGEST = 4096
"""Each character may be two on the wire."""
_MOST = 500
"""ActiveMQ closes the connection over a thousand headers."""
_PIECE_SIZE = 4500
"""Each of its characters may be two on the wire."""

_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,199}")


def write(message: Outgoing, destination: str) -> dict[str, str]:
    """Return the headers of the frame that sends a message."""
    odd = {name: value for name, value in message.headers.items() if not _is_plain(name, value)}
    if len(message.headers) - len(odd) > _MOST:
        odd = dict(message.headers)
    frame = {name: value for name, value in message.headers.items() if name not in odd}
    if odd:
        text = json.dumps(odd)
        for number, start in enumerate(range(0, len(text), _PIECE_SIZE)):
            frame[f"{PIECE}{number}"] = text[start : start + _PIECE_SIZE]
    stamp = next((one for one in reversed(message.stamps) if isinstance(one, StompMessage)), None)
    if stamp is not None:
        frame |= _written(stamp, message.delay)
    if message.group is not None:
        frame[GROUP] = frame[GROUP_TOLD] = group_of(message.group)
    if message.delay > 0:
        frame[DELAY] = str(math.ceil(message.delay * 1000) + 1)  # Both clocks count whole milliseconds.
    frame["destination"] = destination
    frame["persistent"] = "true"
    frame["content-length"] = str(len(message.body))  # Else ActiveMQ would take the body for text.
    return frame


def size_of(headers: Mapping[str, str], body: bytes) -> int:
    """Return how many bytes a frame has, at most."""
    return len(body) + sum(2 * (len(name) + len(value.encode()) + 1) for name, value in headers.items())


def group_of(key: str) -> str:
    """Return the name of a group, which is the same for a key and for the name that was made of it."""
    return key if _GROUP.fullmatch(key) else f"sha256:{sha256(key.encode(errors='surrogatepass')).hexdigest()}"


def read(frame: Any, tag: str) -> Delivery:
    """Return the message that a frame brought, whoever has sent it: nothing about it raises."""
    given: dict[str, str] = frame.headers
    headers = {name: value for name, value in given.items() if name not in _TOLD and not _TOLD_TOO.match(name)}
    headers |= _joined(given)
    body = frame.body or b""
    return Delivery(
        body if isinstance(body, bytes) else body.encode(),
        headers,
        tag,
        given.get("message-id"),
        stamps=_stamps(given),
        group=given.get(GROUP_TOLD),
    )


def _is_plain(name: str, value: str) -> bool:
    return bool(
        _NAME.fullmatch(name)
        and name not in _MEANT
        and not _TOLD_TOO.match(name)
        and value
        and len(value) <= _LONGEST
        and not _ODD.search(value)
    )


def _joined(given: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that are in pieces; the pieces, if somebody else has made them."""
    pieces = {name: value for name, value in given.items() if name.startswith(PIECE)}
    if not pieces:
        return {}
    text = "".join(pieces.get(f"{PIECE}{number}", "") for number in range(len(pieces)))
    try:
        return {**msgspec.json.decode(text, type=dict[str, str])}
    except JSON_ERRORS:
        pass
    try:
        found = json.loads(text)  # It reads half of a surrogate.
    except (ValueError, RecursionError):
        return pieces
    is_ours = type(found) is dict and all(type(value) is str for value in found.values())
    return found if is_ours else pieces


def _written(stamp: StompMessage, delay: float) -> dict[str, str]:
    frame: dict[str, str] = {}
    if stamp.priority is not None:
        frame["priority"] = str(stamp.priority)
    if stamp.expiration is not None:
        frame["expires"] = str(math.ceil((time.time() + delay + stamp.expiration) * 1000))
    if stamp.correlation_id:
        frame["correlation-id"] = stamp.correlation_id
    if stamp.reply_to:
        frame["reply-to"] = stamp.reply_to
    return frame


def _stamps(given: Mapping[str, str]) -> tuple[Stamp, ...]:
    priority, correlation_id, reply_to = _number(given, "priority"), given.get("correlation-id"), given.get("reply-to")
    received = StompReceived(
        given.get("destination", ""),
        given.get("redelivered") == "true",
        priority,
        _number(given, "timestamp"),
        correlation_id,
        reply_to,
    )
    if priority in (None, 4) and correlation_id is None and reply_to is None:
        return (received,)
    return received, StompMessage(priority=priority, correlation_id=correlation_id, reply_to=reply_to)


def _number(given: Mapping[str, str], name: str) -> int | None:
    text = given.get(name, "")
    return int(text) if re.fullmatch("[0-9]{1,18}", text, re.ASCII) else None
