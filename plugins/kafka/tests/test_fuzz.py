"""Whatever others write to the topic, a worker goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from plugins.kafka.tests.foreign import write
from postbus import Postbus, failures, stamps
from postbus.envelope import Envelope
from postbus.retry import Backoff
from postbus.serialization import Undecodable
from postbus_kafka.stamps import KafkaKey
from tests.brokers.kafka import Kafka
from tests.brokers.server import wait_until
from tests.strangers import BODIES, BURIED_WITH, HEADER_NAMES, KINDS, MESSAGES, TOGETHER, WORDS, Good

ADDED = {*BURIED_WITH, stamps.Key.header, KafkaKey.header}
"""What is put on a message that is buried, beside what came."""


class Foreign(NamedTuple):
    """A record as another program writes it."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]

    @property
    def texts(self) -> dict[str, str]:
        """Its headers, as they have to come."""
        return {name: (value or b"").decode(errors="backslashreplace") for name, value in self.headers}


VALUES = st.one_of(WORDS.map(str.encode), st.binary(max_size=20), st.sampled_from([b"", b"\xff", b"\x00"]))
HEADERS = st.lists(st.tuples(HEADER_NAMES, VALUES), max_size=4)
TYPED = st.builds(lambda kind, more: [("type", kind.encode()), *more], KINDS, HEADERS)
KEYS = st.one_of(st.none(), st.binary(max_size=10), WORDS.map(str.encode), st.sampled_from([b"", b"\xed\xa0\x80"]))
RECORDS = st.builds(Foreign, KEYS, BODIES, HEADERS | TYPED) | st.builds(Foreign, st.just(b"key"), st.none(), HEADERS)


class Notebook:
    """An app whose worker runs, and what it has handled and buried."""

    def __init__(self, dsn: str) -> None:
        self.app = Postbus(
            transports={"tasks": dsn, "failed": "in-memory://"}, routing={Good: "tasks"}, failure_transport="failed"
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
def name() -> str:
    """Return the name of a topic that no other test uses."""
    return f"fuzz-{uuid4()}"


@pytest.fixture
def running(kafka_plain: Kafka, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    """Give an app whose worker runs; nobody will know strangers' types later either, so they need not come again."""
    monkeypatch.setattr(failures, "UNKNOWN_TYPE", Backoff(max_retries=0))
    notebook = Notebook(f"{kafka_plain.dsn}/{name}?partitions=1&delays[]=1")
    worker = notebook.app.worker("tasks")
    thread = threading.Thread(target=worker.run)
    with closing(notebook.app):
        notebook.app.dispatch(Good(0))
        thread.start()
        yield notebook
        worker.stop()
        thread.join(60)
    assert not thread.is_alive()


# The client's threads take random numbers meanwhile, which Hypothesis would warn of.
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
@pytest.mark.slow
@pytest.mark.once
@settings(
    max_examples=MESSAGES // TOGETHER,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[*HealthCheck],
)
@given(st.lists(RECORDS, min_size=TOGETHER, max_size=TOGETHER))
def test_what_others_write_hurts_nobody(
    kafka_plain: Kafka, name: str, running: Notebook, foreign: list[Foreign]
) -> None:
    """All good messages are handled, in between; all others are in the failure transport, as they came."""
    write(kafka_plain, name, [{"key": one.key, "value": one.value, "headers": one.headers} for one in foreign])
    number = running.handled[-1] + 1 if running.handled else 1
    running.app.dispatch(Good(number))
    buried = running.take_buried(len(foreign))
    wait_until(lambda: running.handled[-1:] == [number], "The good one was not handled.")

    assert [*range(number + 1)] == running.handled
    assert {Undecodable} == {type(envelope.message) for envelope in buried}
    for one, envelope in zip(foreign, buried, strict=True):
        headers = {name: text for name, text in envelope.message.headers.items() if name not in ADDED}
        assert (one.value or b"", one.texts) == (envelope.message.body, headers)
