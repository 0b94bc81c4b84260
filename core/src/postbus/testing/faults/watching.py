"""Connections that are watched: what goes through them is written into the ledger, and a worker may die in them.

They are those of the installed plugins, unchanged, each wrapped; clients and brokers are the real ones.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from postbus.dsn import Dsn
from postbus.errors import ConnectionLost, TransportError
from postbus.hookspecs import RegisterTransport, TransportFactory, hookimpl
from postbus.plugins import Plugin, Plugins
from postbus.queue_transport import QueueTransport
from postbus.testing.faults.deaths import Death, Point, Reaper
from postbus.testing.faults.ledger import AtRisk, Entombed, Ledger, Postponed, Unanswered
from postbus.testing.subject import plugins_for
from postbus.transport import Connection, Delivery, Outgoing, Transport, TransportContext

REMEMBERED = 30.0
"""Seconds for which it is known what was settled, in case that has not reached the broker."""


class Job(msgspec.Struct, frozen=True):
    """The message: its id, and what its handler is to do."""

    id: str
    kind: str = "plain"


class Watch:
    """Watches all connections of this process."""

    def __init__(self, ledger: Ledger, name: str, death: Death | None = None) -> None:
        self.ledger = ledger
        self.name = name
        self.reaper = Reaper(death, self._write_down)
        self._connections: list[Watched] = []
        self._lock = threading.Lock()
        self._copied: list[str] = []

    @contextmanager
    def copying(self, contents: Sequence[Any]) -> Generator[None]:
        """Know of messages that two of each may be left if this process dies in here."""
        ids = _ids(contents)
        with self._lock:
            self._copied += ids
        yield
        with self._lock:
            for id in ids:
                self._copied.remove(id)

    def plugins(self, only: str | None = None) -> Plugins:
        """Return the installed plugins, or the one that is not, with every connection watched."""
        watch = self

        class Hooks:
            CONTRACT = 1

            @staticmethod
            @hookimpl
            def register_transports(register: RegisterTransport) -> None:
                for scheme in plugins_for(only).schemes.values():
                    make = watch._factory(scheme.factory)
                    register(scheme.name, make, options=scheme.options, guarantees=scheme.guarantees)

        plugins = Plugins()
        plugins.add(Hooks, Plugin("watched", "tests", "0"))
        return plugins

    def _factory(self, factory: TransportFactory) -> TransportFactory:
        def make(dsn: Dsn, context: TransportContext) -> Transport:
            transport = factory(dsn, context)
            if isinstance(transport, QueueTransport):
                connect = transport._connect  # pyright: ignore[reportPrivateUsage]  It is this core's own.
                transport._connect = lambda: self._watched(  # pyright: ignore[reportPrivateUsage]
                    connect(), context.name
                )
            return transport

        return make

    def _watched(self, connection: Connection, transport: str) -> Connection:
        kind = type(connection)
        abilities: dict[str, Any] = {}
        for name in dir(kind):
            if not name.startswith("_") and not hasattr(Watched, name):
                abilities[name] = vars(Abilities).get(name) or _forwarded(name)
        watched: Watched = type("Watched", (Watched,), abilities)(connection, transport, self)
        self._connections.append(watched)
        return watched

    def _write_down(self, why: str) -> None:
        self._lock.acquire()  # Nobody begins to copy any more.
        if self._copied:
            self.ledger.write(AtRisk("while copying", self.name, time.monotonic(), self._copied))
        for connection in self._connections:
            connection.end(why)


class Watched:
    """A connection of a plugin, watched. `Abilities` are added, and all others passed on, if it has them."""

    def __init__(self, connection: Connection, transport: str, watch: Watch) -> None:
        self._connection: Any = connection
        self._transport = transport
        self._watch = watch
        self._reaper = watch.reaper
        self._lock = threading.Lock()
        self._held: dict[int, tuple[Any, str, float]] = {}
        self._settled: deque[tuple[float, str]] = deque()
        self._is_lost = False

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        burying = self._transport == "failed"
        self._note_delays(messages)
        try:
            with self._reaper.during(Point.BURYING if burying else Point.RETRYING), self._noticing_loss():
                ids: Sequence[str | None] = self._connection.publish(messages)
        except TransportError as error:
            doubtful = [message for position, message in enumerate(messages) if position not in error.stored]
            self._watch.ledger.write(Unanswered(_ids(doubtful)))
            raise
        if burying:
            self._watch.ledger.write(Entombed(_ids(messages)))
        self._reaper.at(Point.BURIED if burying else Point.RETRIED)
        return ids

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        return self._fetched(lambda: self._connection.fetch(limit, wait))

    def ack(self, tags: Sequence[Any]) -> Sequence[Any]:
        self._reaper.at(Point.HANDLED)
        with self._reaper.during(Point.SETTLING):
            return self._settle(tags, self._connection.ack)

    def reject(self, tags: Sequence[Any]) -> Sequence[Any]:
        return self._settle(tags, self._connection.reject)

    def release(self, tags: Sequence[Any]) -> Sequence[Any]:
        return self._settle(tags, self._connection.release)

    def close(self) -> None:
        self._connection.close()

    def end(self, why: str) -> None:
        """Write down what may come again now that this process ends; whatever other threads fetch goes nowhere."""
        self._lock.acquire()
        self._note_risk(why)

    def _note_risk(self, why: str) -> None:
        held = [id for _, id, _ in self._held.values()]
        settled = [(id, at) for at, id in self._settled]
        self._held.clear()
        self._settled.clear()
        if held or settled:
            self._watch.ledger.write(AtRisk(why, self._watch.name, time.monotonic(), held, settled))

    def _note_delays(self, messages: Sequence[Outgoing]) -> None:
        if delayed := [message for message in messages if message.delay]:
            now = time.monotonic()
            self._watch.ledger.write(Postponed(_ids(delayed), [now + message.delay for message in delayed]))

    def _fetched(self, fetch: Callable[[], Sequence[Delivery]]) -> Sequence[Delivery]:
        since = time.monotonic()  # The earliest time at which a lease can have begun.
        with self._noticing_loss():
            deliveries = fetch()
        got = time.monotonic()
        lease = getattr(self, "lease", None)
        with self._lock:
            # By identity: a tag comes back as the very object, and need not be hashable. Kept, so that it stays unique.
            for delivery in deliveries:
                begun = since if delivery.lease is None or lease is None else min(since, got + delivery.lease - lease)
                self._held[id(delivery.tag)] = (delivery.tag, _id(delivery), begun)
            if self._is_lost:  # Another thread has found that out meanwhile.
                self._note_risk("connection lost")
        if deliveries:
            self._reaper.at(Point.FETCHED)
        return deliveries

    def _settle(self, tags: Sequence[Any], settle: Callable[[Sequence[Any]], Sequence[Any]]) -> Sequence[Any]:
        with self._noticing_loss():
            lost = settle(tags)
        self._note_settled(tags, lost)
        return lost

    def _note_settled(self, tags: Sequence[Any], lost: Sequence[Any] = ()) -> None:
        gone = set(map(id, lost))
        self._note_late([tag for tag in tags if id(tag) not in gone])
        now = time.monotonic()
        with self._lock:
            jobs = [(id(tag), self._held.pop(id(tag))[1]) for tag in tags if id(tag) in self._held]
            self._settled += [(now, job) for tag, job in jobs if tag not in gone]
            while self._settled and self._settled[0][0] < now - REMEMBERED:
                self._settled.popleft()
            if others := [job for tag, job in jobs if tag in gone]:
                self._watch.ledger.write(AtRisk("somebody else's by now", self._watch.name, now, others))

    def _note_late(self, tags: Sequence[Any]) -> None:
        """Write down what was held for longer than its lease: somebody else may have it by now."""
        lease = getattr(self, "lease", None)
        if lease is None:
            return
        now = time.monotonic()
        with self._lock:
            held = [self._held[id(tag)] for tag in tags if id(tag) in self._held]
        late = [job for _, job, since in held if now - since >= lease]
        if late:
            self._watch.ledger.write(AtRisk("held for longer than the lease", self._watch.name, now, late))

    @contextmanager
    def _noticing_loss(self) -> Generator[None]:
        try:
            yield
        except ConnectionLost:
            with self._lock:
                self._is_lost = True
                self._note_risk("connection lost")
            raise


class Abilities(Watched):
    """What a connection may have besides; each is put on a `Watched` whose connection has it."""

    def fetch_from(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        return self._fetched(lambda: self._connection.fetch_from(queues, limit, wait))

    def replace(self, tag: Any, message: Outgoing) -> str | None:
        with self._reaper.during(Point.RETRYING):
            with self._noticing_loss():
                copy: str | None = self._connection.replace(tag, message)
            self._note_settled([tag])
        self._reaper.at(Point.RETRIED)
        return copy

    def keepalive(self, tags: Sequence[Any]) -> Sequence[Any]:
        now = time.monotonic()
        with self._noticing_loss():
            lost: Sequence[Any] = self._connection.keepalive(tags)
        self._note_late(tags)
        gone = set(map(id, lost))
        with self._lock:
            for tag in tags:
                if id(tag) in self._held and id(tag) not in gone:
                    self._held[id(tag)] = (*self._held[id(tag)][:2], now)
        return lost


def _forwarded(name: str) -> property:
    return property(lambda self: getattr(self._connection, name))


def _id(content: Outgoing | Delivery) -> str:
    return msgspec.json.decode(content.body, type=Job).id


def _ids(contents: Iterable[Outgoing | Delivery]) -> list[str]:
    return [_id(content) for content in contents]
