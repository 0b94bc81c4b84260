"""What a worker holds ahead of its handlers is bounded by bytes, too."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from postbus import ConfigurationError, Limits, Postbus, stamps
from postbus.envelope import Envelope
from postbus.testing import RecordingTransport
from postbus.worker.deliveries import Deliveries
from postbus.worker.fetching import FetchSize

KIB = 1024


@dataclass(frozen=True)
class Page:
    text: str


class Library:
    """An app, and how many messages at most its worker had in hand while one was handled, of each transport."""

    def __init__(self, *names: str) -> None:
        self.app = Postbus(transports={name: f"in-memory://{uuid4().hex}" for name in names}, routing={"*": names[0]})
        self.most = dict.fromkeys(names, 0)
        self.most_together = 0
        self.looks_at: int | None = None
        """The length of the pages during which that is looked at; None for all."""
        self._lock = threading.Lock()
        self.app.handler(self.handle, handles=Page)

    def handle(self, page: Page) -> None:
        if self.looks_at not in (None, len(page.text)):
            return
        with self._lock:
            held = {name: self.held(name) for name in self.most}
            self.most = {name: max(most, held[name]) for name, most in self.most.items()}
            self.most_together = max(self.most_together, sum(held.values()))

    def held(self, name: str) -> int:
        transport: Any = self.app.transport(name)
        return int(transport.connection.count().in_flight)

    def fill(self, name: str, number: int, size: int) -> None:
        self.app.dispatch_many((Page("x" * size) for _ in range(number)), stamps.TransportNames([name]))

    def work(self, messages: int, **options: Any) -> None:
        stopped = self.app.worker(limits=Limits(messages=messages), **options).run()
        assert (messages, 0) == (stopped.handled, stopped.failed)


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("fetch_size", [None, 40])
def test_large_messages_are_held_by_the_byte(concurrency: int, fetch_size: int | None) -> None:
    """As many as fit into the bytes are, beside those that are being handled; a few at once, and never all."""
    library = Library("pages")
    library.fill("pages", 200, 100 * KIB)
    library.work(200, concurrency=concurrency, fetch_size=fetch_size, prefetch_bytes=1000 * KIB)
    assert 2 <= library.most["pages"] <= 10 + concurrency


@pytest.mark.parametrize("concurrency", [1, 4])
def test_small_messages_are_held_by_the_number(concurrency: int) -> None:
    """Bytes that nobody reaches change nothing, and neither do none."""
    for prefetch_bytes in (1000 * KIB, None):
        library = Library("pages")
        library.fill("pages", 400, 100)
        library.work(400, concurrency=concurrency, fetch_size=80, prefetch_bytes=prefetch_bytes)
        assert 40 <= library.most["pages"]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_message_larger_than_all_comes_by_itself(concurrency: int) -> None:
    """It is handled all the same, with no other ahead."""
    library = Library("pages")
    library.fill("pages", 20, 100 * KIB)
    library.work(20, concurrency=concurrency, prefetch_bytes=10 * KIB)
    assert library.most["pages"] <= concurrency + 1


def test_all_transports_share_the_bytes() -> None:
    """Several transports of a worker hold together what one would."""
    names = [f"pages-{number}" for number in range(5)]
    library = Library(*names)
    for name in names:
        library.fill(name, 60, 100 * KIB)
    library.work(300, concurrency=2, strategy="round-robin", prefetch_bytes=1000 * KIB)
    assert library.most_together <= 10 + 2 + len(names)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_larger_messages_than_before(concurrency: int) -> None:
    """The fetch that brings them may bring too many; those that follow do not."""
    library = Library("pages")
    library.fill("pages", 400, 10)
    library.fill("pages", 200, 100 * KIB)
    library.fill("pages", 100, 100 * KIB + 1)
    library.looks_at = 100 * KIB + 1
    library.work(700, concurrency=concurrency, fetch_size=40, prefetch_bytes=1000 * KIB)
    assert 2 <= library.most["pages"] <= 10 + concurrency


def test_the_size_is_that_of_the_largest_of_late() -> None:
    """One large message makes all count as large, and is forgotten after a while; headers count too."""
    deliveries = Deliveries("pages", RecordingTransport("pages"))
    assert deliveries.size is None

    def come(*sizes: int) -> float:
        deliveries.take_in([envelope(size) for size in sizes], 0.0)
        deliveries.waiting.clear()
        assert deliveries.size is not None
        return deliveries.size

    assert 100 == come(100)
    assert 5000 == come(100, 5000, 200)
    assert 100 < come(100) < 5000
    assert 110 > [come(100) for _ in range(100)][-1] >= 100
    assert 7000 == come(7000)


def test_how_many_are_fetched_of_a_size() -> None:
    """As many as fit, and at least one; as many as handlers are fast enough for, and no more."""
    size = FetchSize(500, 32 * 1024 * KIB)
    assert 500 == size.limit_for(0)
    assert 500 == size.limit_for(KIB)
    assert 32 == size.limit_for(1024 * KIB)
    assert 1 == size.limit_for(100 * 1024 * KIB)
    assert 128 == size.limit_for(None)
    assert 1 == FetchSize(None, 32 * 1024 * KIB).limit_for(KIB)
    assert 500 == FetchSize(500).limit_for(10**12)


def test_no_bytes() -> None:
    """To hold nothing is no bound but a mistake."""
    with pytest.raises(ConfigurationError, match=r"^The bytes to prefetch must be 1 or more, got 0\.$"):
        Library("pages").app.worker(prefetch_bytes=0)


def envelope(size: int) -> Envelope:
    original = stamps.Original(b"x" * (size - 10), {"type": "y" * 6, "a": "y" * 4}, "json")
    return Envelope.wrap(Page(""), stamps.Received("pages", original=original))
