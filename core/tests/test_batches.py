"""Handlers that get several messages at once: what is in a batch, when it is begun, and what becomes of each message."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from postbus import Batch, ConfigurationError, Envelope, HandlerFailed, Limits, Postbus, Unrecoverable, stamps
from postbus.errors import BatchFailed, PostbusError
from postbus.events import Event, MessageHandled, WorkerStopped

PATIENCE = 30.0
"""Seconds after which something that must happen counts as never happening."""


@dataclass(frozen=True)
class Page:
    number: int


@dataclass(frozen=True)
class Link:
    number: int


def make_app(**options: Any) -> Postbus:
    return Postbus(
        transports={"pages": "in-memory://", "links": "in-memory://", "failed": "in-memory://"},
        routing={Page: "pages", Link: options.pop("links", "pages")},
        failure_transport="failed",
        retry=options.pop("retry", {"max_retries": 1, "delay": 10, "jitter": 0}),
        **options,
    )


@pytest.fixture
def app() -> Postbus:
    return make_app()


def transport(app: Postbus, name: str) -> Any:
    return app.transport(name)


def work(app: Postbus, *names: str, **options: Any) -> WorkerStopped:
    return app.worker(*(names or ("pages",)), limits=Limits(idle=0), **options).run()


def acknowledged(app: Postbus) -> list[int]:
    return sorted(envelope.message.number for envelope in transport(app, "pages").acknowledged)


def buried(app: Postbus) -> list[int]:
    return sorted(envelope.message.number for envelope in transport(app, "failed").sent)


# what is begun when


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_batch_is_handed_over_when_it_is_full(app: Postbus, concurrency: int) -> None:
    """A handler gets as many messages as it wants at most, in their order, and each is settled by itself."""
    batches: list[list[int]] = []

    @app.handler(batch=10, wait=PATIENCE)
    def index(pages: list[Page]) -> None:
        batches.append([page.number for page in pages])

    app.dispatch_many(Page(n) for n in range(30))
    stopped = app.worker("pages", limits=Limits(messages=30), concurrency=concurrency).run()

    assert [[*range(10)], [*range(10, 20)], [*range(20, 30)]] == sorted(batches)
    assert (30, 0) == (stopped.handled, stopped.failed)
    assert [*range(30)] == acknowledged(app)
