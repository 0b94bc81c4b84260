"""Whatever others put into the queue, a worker goes on."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from contextlib import closing
from string import ascii_letters, digits
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postbus_sqs.limits import BATCH
from tests.brokers.sqs import ElasticMq
from tests.strangers import BODIES, JSON_VALUES, KINDS, WORDS, Came, batches, came, hurt_nobody, thorough

NO_TEXT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Sent(NamedTuple):
    """What a stranger sent, and what is to come of it."""

    text: str
    attributes: Mapping[str, Any]
    body: bytes
    headers: Mapping[str, str]


def string(value: str) -> dict[str, str]:
    return {"DataType": "String", "StringValue": value}


def sent(body: bytes, attributes: Mapping[str, Any], headers: Mapping[str, str]) -> Sent:
    """Return a message; bytes that SQS has no form for are sent in that of MIME, which the README names."""
    try:
        text = body.decode()
        if text and not NO_TEXT.search(text):
            return Sent(text, attributes, body, headers)
    except UnicodeDecodeError:
        pass
    return Sent(
        b64encode(body).decode() or "=", {**attributes, "Content-Transfer-Encoding": string("base64")}, body, headers
    )


def of_texts(body: bytes, headers: dict[str, str]) -> Sent:
    return sent(body, {name: string(value) for name, value in headers.items()}, headers)


def of_json(body: bytes, name: str, value: str) -> Sent:
    """Return a message with a header in the attribute of Symfony's; what is no text in there comes as it is written."""
    return sent(body, {"X-Symfony-Messenger": string(f'{{"{name}": {value}}}')}, {name: value})


def of_others(body: bytes, text: str) -> Sent:
    return sent(body, {"X-Symfony-Messenger": string(text)}, {"X-Symfony-Messenger": text})


NAMES = st.text(f"{ascii_letters}{digits}_-", max_size=30).map("n".__add__)  # Of none that means something here.
TEXTS = WORDS.filter(lambda text: bool(text) and not NO_TEXT.search(text))
MESSAGES = st.one_of(
    st.builds(of_texts, BODIES, st.dictionaries(NAMES, TEXTS, max_size=4)),
    st.builds(
        lambda body, kind: of_texts(body, {"type": kind}),
        BODIES,
        KINDS.filter(lambda kind: not NO_TEXT.search(kind) and bool(kind)),
    ),
    st.builds(of_json, BODIES, NAMES, JSON_VALUES),
    st.builds(of_others, BODIES, st.sampled_from(["{", "[]", "7", '"x"', "[" * 5000, '{"a": "\\'])),
)


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.timeout(600)  # A busy machine takes its time for thousands of requests.
@thorough
@given(batches(MESSAGES))
def test_what_strangers_write_hurts_nobody(elasticmq: ElasticMq, messages: list[Sent]) -> None:
    """All good messages are handled, and all others are in the failure transport, as they came."""
    queue = f"fuzz-{uuid4()}"
    with closing(elasticmq.client()) as client:
        url = client.create_queue(QueueName=queue)["QueueUrl"]
        entries: list[Mapping[str, Any]] = []

        def put(message: Sent) -> Came:
            entry = {"MessageBody": message.text, "MessageAttributes": message.attributes}
            entries.append({"Id": str(len(entries)), **entry})
            if len(entries) == BATCH:  # Of which there is a whole number.
                assert "Failed" not in client.send_message_batch(QueueUrl=url, Entries=entries)
                entries.clear()
            return came(message.body, message.headers)

        hurt_nobody(elasticmq.queue_dsn(queue), messages, put)
        client.delete_queue(QueueUrl=url)
