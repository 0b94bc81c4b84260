"""Whatever others put into the queue, a worker goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.stomp.tests.foreign import Stranger
from tests.brokers.broker import Broker
from tests.strangers import BODIES, HEADER_NAMES, KINDS, WORDS, Came, batches, came, hurt_nobody, thorough


class Sent(NamedTuple):
    """What a stranger sent, and what is to come of it."""

    body: bytes
    headers: Mapping[str, str]
    is_text: bool = False
    read_as: Mapping[str, str] | None = None


def in_pieces(body: bytes, headers: dict[str, str]) -> Sent:
    """Return a message with headers in the form that the README names."""
    text = json.dumps(headers)
    return Sent(body, {"X-Postbus-Headers-0": text[:20], "X-Postbus-Headers-1": text[20:]}, read_as=headers)


def broken(body: bytes, text: str) -> Sent:
    """Return one that says that it has this form, and has not: it comes as it is."""
    return Sent(body, {"X-Postbus-Headers-0": text})


# A NUL ends a frame of STOMP wherever it is but in the body, and a header without a name is refused.
NAMES = HEADER_NAMES.filter(lambda name: "\0" not in name and bool(name))
VALUES = WORDS.filter(lambda value: "\0" not in value)
TEXTS = WORDS.filter(lambda text: "\0" not in text).map(str.encode)
MESSAGES = st.one_of(
    st.builds(lambda body, headers: Sent(body, headers), BODIES, st.dictionaries(NAMES, VALUES, max_size=4)),
    st.builds(lambda text: Sent(text, {}, is_text=True), TEXTS),
    st.builds(lambda body, kind: Sent(body, {"type": kind}), BODIES, KINDS.filter(lambda kind: "\0" not in kind)),
    st.builds(in_pieces, BODIES, st.dictionaries(HEADER_NAMES, WORDS, min_size=2, max_size=4)),
    st.builds(broken, BODIES, st.sampled_from(["{", "[]", "7", '"x"', "[" * 2000])),
)


@pytest.mark.slow
@pytest.mark.once
@thorough
@given(batches(MESSAGES))
def test_what_strangers_write_hurts_nobody(activemq: Broker, messages: list[Sent]) -> None:
    """All good messages are handled, and all others are in the failure transport, as they came."""
    dsn = f"{activemq.dsn}/fuzz-{uuid4()}"
    with Stranger(dsn) as stranger:

        def put(message: Sent) -> Came:
            stranger.put(message.body, message.headers, is_text=message.is_text)
            return came(message.body, message.headers if message.read_as is None else message.read_as)

        hurt_nobody(dsn, messages, put)
