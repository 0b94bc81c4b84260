"""What other programs put on a broker, by the thousand, between good messages, in front of a running worker."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from postbus import Postbus, failures, stamps
from postbus.retry import Backoff
from postbus.serialization import Undecodable
from tests.brokers.server import wait_until

MESSAGES = 2000
"""How many of strangers each fuzz test throws."""

TOGETHER = 100
"""How many of them at a time."""

PATIENCE = 100
"""Seconds that a busy machine may take for that."""

BETWEEN = 5
"""How many of them are between so many good ones."""

thorough = settings(
    max_examples=MESSAGES // TOGETHER,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # What never comes is waited for too long to be looked for in few.
    suppress_health_check=[*HealthCheck],
)
"""For a test that is given a batch of `TOGETHER`."""


@dataclass(frozen=True)
class Good:
    number: int


Came = tuple[bytes, frozenset[tuple[str, str]]]
"""The body and the headers of a message."""


BURIED_WITH = {stamps.ErrorDetails.header, stamps.Buried.header, stamps.MessageId.header}
"""What is added to the headers of a message that is buried."""


def came(body: bytes, headers: Mapping[str, str]) -> Came:
    """Return a message without what was added when it was buried."""
    return body, frozenset((name, value) for name, value in headers.items() if name not in BURIED_WITH)


class Batch(list[Any]):
    """Messages of strangers; all of them together are too much to be shown, and Hypothesis would fail at that."""

    def __repr__(self) -> str:
        return f"<{len(self)} messages>"


def batches(messages: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Return so many messages of strangers."""
    return st.lists(messages, min_size=TOGETHER, max_size=TOGETHER).map(Batch)


def hurt_nobody(dsn: str, strangers: Sequence[Any], put: Callable[[Any], Came]) -> None:
    """Put what strangers wrote on the broker, between good messages; see what becomes of all of them.

    ``put`` puts one there and returns what has to come of it. All good ones are handled, once each; all others are
    in the failure transport, as they came.
    """
    app = Postbus(
        transports={"tasks": dsn, "failed": "in-memory://"},
        routing={Good: "tasks"},
        failure_transport="failed",
    )
    handled: list[int] = []
    app.handler(handles=Good)(lambda good: handled.append(good.number))
    worker = app.worker("tasks")
    running = threading.Thread(target=worker.run, daemon=True)
    # Nobody will know these types later either, so they need not come again first.
    patient, failures.UNKNOWN_TYPE = failures.UNKNOWN_TYPE, Backoff(max_retries=0)
    running.start()
    try:
        expected: list[Came] = []
        for start in range(0, len(strangers), BETWEEN):
            some = strangers[start : start + BETWEEN]
            app.dispatch_many(Good(start + position) for position in range(len(some)))
            expected += map(put, some)
        failed: Any = app.transport("failed")
        wait_until(
            lambda: len(handled) >= len(expected) and failed.connection.count().waiting >= len(expected),
            "Not all were handled or buried.",
            PATIENCE,
        )
        buried = [envelope.message for envelope in failed.receive(len(expected) + 1, 0)]
    finally:
        worker.stop()
        running.join(30)
        failures.UNKNOWN_TYPE = patient
        app.close()

    assert not running.is_alive(), "The worker does not stop."
    assert list(range(len(expected))) == sorted(handled)
    assert {Undecodable} == {type(message) for message in buried}
    assert Counter(expected) == Counter(came(message.body, message.headers) for message in buried)


# What they write.

# Deeper than Pythons before 3.14 read, also while Hypothesis lets them go deeper than usual.
DEEP = "[" * 20_000 + "]" * 20_000

NUMBERS = st.sampled_from(["9" * 5000, "1e999", "-1e-999", "0.1", "-0", "18446744073709551616", "1.50"])

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)

JSON_VALUES: st.SearchStrategy[str] = st.one_of(
    NUMBERS, st.sampled_from(["null", "true", "{}", "[ 1,2 ]", '{"a": [null]}', "[" * 50 + "]" * 50])
)
"""How others write what is no text, in JSON."""

UNREADABLE_JSON: st.SearchStrategy[bytes] = st.sampled_from(
    [DEEP.encode(), b'"\\ud800"', b'"\xff"', b"'single'", b"nan", b'"\x00"', b"[1", b'{"a": 1, "a"}']
)
"""What is no JSON, or none that can be read."""

BODIES: st.SearchStrategy[bytes] = st.one_of(
    st.binary(max_size=60),
    WORDS.map(str.encode),
    NUMBERS.map(str.encode),
    UNREADABLE_JSON,
    st.sampled_from(
        [
            b"",
            b'a:1:{i:0;O:8:"stdClass":0:{}}',
            b's:5:"hello";',
            b'O:36:\\"Symfony\\\\Component\\\\Messenger\\\\Envelope\\":0:{}',
            b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94.",
            b'{"number": 13}',
            b'{"number": "\\ud800"}',
            b'{"body": "{}"}',
            "Größe".encode("latin-1"),
            "Größe".encode("utf-16"),
            bytes(range(256)),
        ]
    ),
)
"""Bodies as other programs write them."""

HEADER_NAMES: st.SearchStrategy[str] = st.one_of(
    WORDS.filter(lambda name: not name.startswith("X-")),
    st.sampled_from(
        ["tenant", "Content-Type", "X-Message-Stamp-", "X-Message-Stamp-unknown", "X-Postbus-Wire ", "a" * 300, "é"]
    ),
)

TEXT_HEADERS: st.SearchStrategy[dict[str, str]] = st.dictionaries(HEADER_NAMES, WORDS, max_size=4)
"""Headers of others that are text, as are ours."""

KINDS = st.sampled_from(["", "no.such.Class", "App\\Message\\Hello", "int", "\x00"])
"""Types that are not known here."""
