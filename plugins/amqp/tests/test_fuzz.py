"""Whatever others publish, a worker goes on."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from plugins.amqp.tests.foreign import nested, publish, short, sized, written
from postbus import Envelope, Postbus, failures
from postbus import stamps as core
from postbus.retry import Backoff
from postbus.serialization import Undecodable
from postbus_amqp import stamps
from tests.brokers.rabbitmq import RabbitMQ
from tests.brokers.server import wait_until

MESSAGES, TOGETHER = 2000, 10
ADDED = {core.ErrorDetails.header, core.Buried.header, core.MessageId.header, stamps.AmqpProperties.header}
NOT_KEPT = {"content_type", "delivery_mode", "timestamp", "cluster_id"}


@dataclass(frozen=True)
class Good:
    number: int


class Foreign(NamedTuple):
    """A message of somebody else's: its properties, each as it is written, and the values of its headers."""

    properties: dict[str, bytes]
    headers: dict[bytes, bytes]
    body: bytes


def octets(size: int) -> st.SearchStrategy[bytes]:
    """Return so many bytes, often the largest or smallest number that they can be."""
    return st.sampled_from([b"\0" * size, b"\xff" * size, b"\x7f" + b"\xff" * (size - 1)]) | st.binary(
        min_size=size, max_size=size
    )


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).map(str.encode)
SHORT = (WORDS | st.binary(max_size=20) | st.sampled_from([b"\xff" * 255, b"a" * 255])).map(short)
FLAT = st.one_of(
    *(
        octets(size).map(kind.encode().__add__)
        for kind, size in {"b": 1, "B": 1, "s": 2, "u": 2, "I": 4, "i": 4, "l": 8, "T": 8, "D": 5}.items()
    ),
    st.booleans().map(lambda value: b"t" + bytes([value])),
    # RabbitMQ closes the connection for what is not finite.
    st.floats(allow_nan=False, allow_infinity=False).map(lambda value: struct.pack(">cd", b"d", value)),
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(lambda value: struct.pack(">cf", b"f", value)),
    st.just(b"V"),
    st.binary(max_size=20).map(lambda value: sized(b"S", value)),
    st.binary(max_size=20).map(lambda value: sized(b"x", value)),
)
NAMES = WORDS | st.binary(max_size=20) | st.sampled_from([b"\xff" * 255, b"a" * 255])
VALUES = st.recursive(
    FLAT,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda values: sized(b"A", b"".join(values)))
        | st.dictionaries(NAMES, inner, max_size=4).map(
            lambda table: sized(b"F", b"".join(short(name) + value for name, value in table.items()))
        )
    ),
    max_leaves=5,
) | st.sampled_from([nested(depth) for depth in (50, 99, 100, 101, 500, 2000)])
OURS = [b"X-Message-Stamp-retried", b"X-Message-Stamp-handled", b"X-Message-Stamp-bus", b"X-Postbus-Wire", b"type"]
TEXT = (WORDS | st.sampled_from([b"[" * 3000, b'[{"count": 1e999}]', b"9" * 5000])).map(lambda text: sized(b"S", text))
HEADERS = st.dictionaries(
    NAMES | st.sampled_from([*OURS, b"x-postbus-", b"x-delivery-count"]), VALUES | TEXT, max_size=5
)
PROPERTIES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("content_type", "correlation_id", "reply_to", "message_id", "type", "app_id"), SHORT),
        "content_encoding": SHORT | st.just(short(b"x-postbus-headers")),
        "delivery_mode": st.sampled_from([b"\1", b"\2"]),
        "priority": octets(1),
        "expiration": st.just(short(b"315360000000")),
        "timestamp": octets(8) | st.just(struct.pack(">Q", 1_764_504_000_000)),
        "cluster_id": SHORT,
    },
)
BODIES = st.one_of(
    st.binary(max_size=100),
    WORDS,
    st.sampled_from(
        [b"[" * 2000 + b"]" * 2000, b"9" * 5000, b'{"number": 1e999}', b'{"number": "\\ud800"}', b"\0\0\0\2[]"]
    ),
)


def shown(value: bytes) -> str | None:
    """Return the text that the value of a header is; None if it is none."""
    try:
        return value[5:].decode() if value[:1] == b"S" else None
    except UnicodeDecodeError:
        return None


def is_text(name: bytes) -> bool:
    """Tell whether a name is one."""
    try:
        return bool(name.decode()) or True
    except UnicodeDecodeError:
        return False


def as_it_came(foreign: Foreign) -> tuple[bytes, dict[str, str], bytes | None]:
    """Return body, text headers, and whatever else there is to be kept, as AMQP writes it."""
    texts = {
        name: text for name, value in foreign.headers.items() if is_text(name) and (text := shown(value)) is not None
    }
    others = {
        name: value
        for name, value in foreign.headers.items()
        if name not in texts and not name.startswith(b"x-delivery-count")
    }
    kept = {name: value for name, value in foreign.properties.items() if name not in {*NOT_KEPT, "expiration"}}
    headers = {name.decode(): text for name, text in texts.items()}
    content_type = foreign.properties.get("content_type", b"\1\xff")[1:]
    if is_text(content_type):
        headers["Content-Type"] = content_type.decode()
    for name in ADDED:
        headers.pop(name, None)
    return foreign.body, headers, written(others or None, **kept) if others or kept else None


class Notebook:
    """An app whose worker runs, and what it has handled and buried."""

    def __init__(self, base: str, name: str) -> None:
        queue = {name: {"arguments": {"x-expires": 600_000}}}
        self.app = Postbus(
            transports={
                "tasks": {"dsn": f"{base}/{name}", "options": {"exchange": {"flags": 18}, "queues": queue}},
                "failed": "in-memory://",
            },
            routing={Good: "tasks"},
            failure_transport="failed",
        )
        self.handled: list[int] = []
        self.app.handler(handles=Good)(lambda good: self.handled.append(good.number))

    def take_buried(self, number: int) -> list[Envelope]:
        """Return so many messages that were buried, once they are."""
        failed: Any = self.app.transport("failed")
        wait_until(lambda: failed.connection.count().waiting >= number, "Not all were buried.")
        buried: list[Envelope] = failed.receive(number + 1, 0)
        failed.ack(buried)
        return buried


@pytest.fixture
def running(rabbitmq: RabbitMQ, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    """Give an app whose worker runs; nobody will know strangers' types later either, so they need not come again."""
    monkeypatch.setattr(failures, "UNKNOWN_TYPE", Backoff(max_retries=0))
    notebook = Notebook(rabbitmq.dsn, name)
    worker = notebook.app.worker("tasks")
    thread = threading.Thread(target=worker.run)
    with closing(notebook.app):
        notebook.app.dispatch(Good(0))
        thread.start()
        yield notebook
        worker.stop()
        thread.join(60)
    assert not thread.is_alive()


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")  # What fails is shown, however long.
@settings(
    max_examples=MESSAGES // TOGETHER,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[*HealthCheck],
)
@given(st.lists(st.builds(Foreign, PROPERTIES, HEADERS, BODIES), min_size=TOGETHER, max_size=TOGETHER))
def test_what_others_publish_hurts_nobody(
    rabbitmq: RabbitMQ, name: str, running: Notebook, foreign: list[Foreign]
) -> None:
    """All good messages are handled, in between; all others are in the failure transport, as they came."""
    publish(rabbitmq.dsn, name, *((written(one.headers, **one.properties), one.body) for one in foreign))
    number = running.handled[-1] + 1 if running.handled else 1
    running.app.dispatch(Good(number))
    buried = running.take_buried(len(foreign))
    wait_until(lambda: running.handled[-1:] == [number], "The good one was not handled.")

    assert [*range(number + 1)] == running.handled
    assert {Undecodable} == {type(envelope.message) for envelope in buried}
    for one, envelope in zip(foreign, buried, strict=True):
        kept = envelope.all(stamps.AmqpProperties)
        headers = {name: text for name, text in envelope.message.headers.items() if name not in ADDED}
        assert as_it_came(one) == (envelope.message.body, headers, kept[-1].encoded if kept else None)
