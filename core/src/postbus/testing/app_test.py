"""An app under test: whatever its configuration says, its transports are in memory, and nothing waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any, TypeVar
from uuid import uuid4

from msgspec.structs import replace

from postbus import stamps
from postbus.app import Postbus
from postbus.bus import Middleware, Next
from postbus.config import TransportConfig
from postbus.display import one_line
from postbus.envelope import Envelope
from postbus.errors import ConfigurationError, TransportError, describe
from postbus.events import Event, MessageBuried, MessageDropped
from postbus.limits import Limits
from postbus.queue_transport import QueueTransport
from postbus.transport import Counts, SupportsCount, SupportsPurge, supports

M = TypeVar("M")

IN_MEMORY = "in-memory://"

QUEUE = "{queue}"
"""What stands in a DSN for the name of a queue that no other transport, and no other test, has."""

PAUSE = 0.05
"""Seconds until it is looked again whether a broker, whose clock cannot be moved, has something to deliver."""


class AppTest:
    """An app whose transports are elsewhere, by default in memory, from the beginning of a ``with`` block to its end.

    It notes what is dispatched and what fails for good. ``dsn`` is the place for all transports, with ``{queue}`` where
    the name of a queue belongs. ``middleware`` stands before that of each bus, such as what makes faults.
    """

    __test__ = False

    def __init__(self, app: Postbus, dsn: str = IN_MEMORY, *, middleware: Sequence[Middleware] = ()) -> None:
        if QUEUE not in dsn and dsn != IN_MEMORY and len(app.transports) > 1:
            raise ConfigurationError(
                f"All {len(app.transports)} transports would be one queue. Write {QUEUE} where its name belongs in the "
                "DSN."
            )
        self.app = app
        self.dispatched: list[Envelope] = []
        """Each message, as it was dispatched, with its stamps; also what handlers dispatched."""
        self.failed: list[tuple[Any, Exception]] = []
        """What failed for good, and why: the message is in the failure transport, if there is one."""
        self._dsn = dsn
        self._middleware = middleware
        self._run = uuid4().hex[:12]
        self._open = ExitStack()

    def __enter__(self) -> AppTest:
        self.app.observers.add(self._note_failure)
        self._open.callback(self.app.observers.remove, self._note_failure)
        self._open.enter_context(self.app.rewired(self._rewire, self._note, *self._middleware))
        self._open.callback(self._purge)
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def assert_dispatched(
        self, kind: type[M], *, count: int | None = None, where: Callable[[M], bool] | None = None
    ) -> list[M]:
        """Assert that messages of a class were dispatched: so many, or any; return them, oldest first.

        ``where`` says which of them count. Messages of derived classes are among them.
        """
        __tracebackhide__ = True
        messages = [envelope.message for envelope in self.dispatched]
        found = [one for one in messages if isinstance(one, kind) and (where is None or where(one))]
        if bool(found) if count is None else len(found) == count:
            return found
        wanted = "at least once" if count is None else f"{count} times"
        which = " as was asked for" if where is not None else ""
        others = ", ".join(one_line(repr(message), 200) for message in messages) or "nothing"
        raise AssertionError(
            f"{kind.__qualname__} was to be dispatched{which} {wanted}, and was {len(found)} times. Dispatched: "
            f"{others}."
        )

    def settle(self, *, timeout: float = 30.0, allow_failures: bool = False) -> None:
        """Handle what waits, and what comes of it, until nothing is left; the failure transport is left alone.

        In memory, the clock moves to where the next delay ends, so nothing is waited for; a broker takes its time.
        Raises `AssertionError` if a message failed for good, unless that is allowed, or if it does not come to an end
        within ``timeout`` seconds.
        """
        __tracebackhide__ = True
        before, until = len(self.failed), time.monotonic() + timeout
        while (left := self._left()) is not None:
            if time.monotonic() > until:
                raise AssertionError(f"After {timeout:g} s there are still messages: {left}.")
            if left.waiting or left.in_flight:
                self.app.worker(limits=Limits(messages=left.waiting or 1, idle=0)).run()
            else:
                self._let_time_pass()
        if len(self.failed) > before and not allow_failures:
            message, error = self.failed[before]
            more = f" (and {len(self.failed) - before - 1} more)" if len(self.failed) - before > 1 else ""
            raise AssertionError(f"{one_line(repr(message), 200)} failed for good{more}: {describe(error)}") from error

    def _left(self) -> Counts | None:
        """Return how many messages there are for workers; None if there is none."""
        counts = [self._connection(name, SupportsCount).count() for name in self.app.consumable]
        total = Counts(
            waiting=sum(one.waiting for one in counts),
            delayed=sum(one.delayed or 0 for one in counts),
            in_flight=sum(one.in_flight or 0 for one in counts),
        )
        return total if total.waiting or total.delayed or total.in_flight else None

    def _let_time_pass(self) -> None:
        transports: list[Any] = [self.app.transport(name) for name in self.app.consumable]
        ends = [transport.until_next for transport in transports if hasattr(transport, "until_next")]
        if not ends:
            time.sleep(PAUSE)
            return
        for name in self.app.transports:
            clock = getattr(self.app.transport(name), "clock", None)
            if clock is not None:  # One time for all.
                clock.move(max(min(ends), 0.0))

    def _connection(self, name: str, ability: type[M]) -> M:
        transport = self.app.transport(name)
        connection = transport.connection if isinstance(transport, QueueTransport) else None
        if not supports(connection, ability):
            raise ConfigurationError(
                f"What {name!r} is on does not offer what {ability.__name__} asks for. Test it on another DSN."
            )
        return connection

    def _rewire(self, name: str, config: TransportConfig) -> TransportConfig:
        # What would hold a worker up is for production.
        dsn = self._dsn.replace(QUEUE, f"{name}-{self._run}")
        return replace(config, dsn=dsn, options={}, rate_limit=None, kill_switch=None)

    def _note(self, envelope: Envelope, call_next: Next) -> Envelope:
        if not envelope.has(stamps.Received):
            self.dispatched.append(envelope)
        return call_next(envelope)

    def _note_failure(self, event: Event) -> None:
        if isinstance(event, MessageBuried | MessageDropped):
            self.failed.append((event.envelope.message, event.error))

    def _purge(self) -> None:
        """Leave nothing on a broker."""
        if self._dsn == IN_MEMORY:
            return
        for name in self.app.transports:
            with suppress(TransportError, ConfigurationError):
                self._connection(name, SupportsPurge).purge()
