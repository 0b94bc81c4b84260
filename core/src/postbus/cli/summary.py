"""What a worker has done, in a few lines at its end."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping

from msgspec import Struct, field

from postbus.bus import never_blocks
from postbus.cli.output import age
from postbus.events import (
    Event,
    LeaseLost,
    MessageBuried,
    MessageDropped,
    MessageFailed,
    MessageHandled,
    MessageReleased,
    MessageRetried,
    MessageRetriedAtOnce,
)

WORDS: Mapping[type[Event], str] = {
    MessageRetriedAtOnce: "retried at once",
    MessageRetried: "sent again",
    MessageBuried: "buried",
    MessageDropped: "dropped",
    LeaseLost: "lost to another worker",
}
"""What became of messages, beside being handled, and in which order that is told."""


class _Transport(Struct):
    handled: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    slowest_type: str = ""
    others: Counter[str] = field(default_factory=Counter[str])


@never_blocks
class Summary:
    """An observer that counts, for each transport, what became of its messages, and how long that took."""

    def __init__(self) -> None:
        self._transports: dict[str, _Transport] = {}
        # Events come from every thread in which a message is handled.
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, MessageHandled | MessageFailed):
                self._took(event)
            if isinstance(event, MessageReleased) and event.begun:
                self._of(event.transport).others["given back unfinished"] += 1
            if isinstance(event, MessageRetriedAtOnce | MessageRetried | MessageBuried | MessageDropped | LeaseLost):
                self._of(event.transport).others[WORDS[type(event)]] += 1

    def lines(self, seconds: float) -> Iterator[str]:
        """Say it, a line for each transport; ``seconds`` is how long the worker has run."""
        for name, transport in self._transports.items():
            what = [f"{transport.handled} handled ({transport.handled / max(seconds, 0.001):.3g} a second)"]
            what += [f"{number} {word}" for word, number in sorted(transport.others.items())]
            number = transport.handled + transport.others.total()
            if transport.slowest_type:
                what.append(f"on average in {_shown(transport.seconds / max(number, 1))}")
                what.append(f"the slowest, {transport.slowest_type}, in {_shown(transport.slowest)}")
            yield f"{name}: {', '.join(what)}."

    def _took(self, event: MessageHandled | MessageFailed) -> None:
        transport = self._of(event.transport)
        transport.handled += isinstance(event, MessageHandled)
        transport.seconds += event.seconds
        if event.seconds >= transport.slowest:
            transport.slowest, transport.slowest_type = event.seconds, type(event.envelope.message).__qualname__

    def _of(self, name: str) -> _Transport:
        return self._transports.setdefault(name, _Transport())


def _shown(seconds: float) -> str | None:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else age(seconds)
