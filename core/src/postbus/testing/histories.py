"""Histories of a queue: whatever several clients do to it, one after the other, it does what a model of it does.

The rules of the contract each look at one promise. What comes of many steps together is looked for here, with
Hypothesis; if one history ends badly, the steps of it are shown.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence
from typing import ClassVar, Protocol

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from postbus.errors import ConnectionLost, TransportError
from postbus.queue_transport import QueueTransport
from postbus.testing.model import Client, Holding, Model, Span
from postbus.testing.workbench import Workbench
from postbus.transport import Connection, Outgoing, SupportsCount, SupportsKeepalive, SupportsReplace, supports

CLIENTS = 3

# What is drawn must not depend on what a broker did, or Hypothesis could not repeat it. So a rule draws whose turn
# it is, and which of the things that he has then, in a row without an end.
WHO = st.integers(0, CLIENTS - 1)
"""One of as many clients as there are at most; where there are fewer, one has several turns."""
WHICH = st.integers(0, 5)
SOME = st.lists(WHICH, min_size=1, max_size=3)
DELAY = st.integers(0, 3)
DELAYS = st.lists(DELAY, min_size=1, max_size=4)


class Clock(Protocol):
    """A clock that can be moved."""

    def now(self) -> float:
        """Return the time in seconds, since some moment that means nothing."""
        ...

    def move(self, seconds: float) -> None:
        """Let so many seconds pass at once."""
        ...


class TransportHistories(Workbench):
    """Any history of a queue, held against a model.

    Subclass it as `TransportContract`, and with the same attributes::

        class TestHistories(TransportHistories):
            guarantees = Guarantees(durable=True, lease=True)
            short_lease = {"redeliver_timeout": 0.3}

            def dsn(self) -> str:
                return f"redis://localhost:6379/histories-{uuid4()}"

    It is for brokers that keep a message until it is asked for. One that hands out messages to whoever has once
    asked, as RabbitMQ does, is another kind of queue: what it has handed to one client, no other gets.

    The histories are always the same. With ``POSTBUS_TEST_HISTORIES=1000`` there are so many, and others each time,
    unless pytest is given ``--hypothesis-seed=7``. Of one that ends badly, every step is shown.
    """

    clients: ClassVar[int] = CLIENTS
    """How many there are; one, where each has a share that no other gets as long as it is there."""
    histories: ClassVar[int] = 30
    """How many there are."""
    steps: ClassVar[int] = 40
    """How long each is."""
    shortest: ClassVar[bool] = False
    """Whether to look for the shortest one that ends badly, which takes minutes."""
    rounding: ClassVar[float] = 0.0
    """By how many seconds a delay or a lease may last longer, because the broker's clock has coarse hands."""
    pause: ClassVar[float] = 0.0
    """How many seconds what was given back waits, as if it had been delayed, before it comes again."""
    counts: ClassVar[bool] = True
    """Whether `count` knows what is waiting, delayed and in flight."""
    held_by_connection: ClassVar[bool] = False
    """Whether what was delivered goes back at once when its connection is lost, although its lease is not over."""

    def clock_of(self, transport: QueueTransport) -> Clock | None:
        """Return the clock that the queue goes by, if a test can move it; else all waiting is done in real time."""
        return None

    def test_any_history_is_one_of_a_queue(self) -> None:
        """Whatever is done, nothing is lost, early, or in two hands; and order and numbers are right."""
        number = os.environ.get("POSTBUS_TEST_HISTORIES")
        run_state_machine_as_test(  # pyright: ignore[reportUnknownMemberType]
            lambda: History(self),  # type: ignore[arg-type]
            settings=settings(
                max_examples=int(number or self.histories),
                stateful_step_count=self.steps,
                derandomize=number is None,
                database=None,
                deadline=None,
                phases=(Phase.generate, Phase.shrink) if self.shortest else (Phase.generate,),
                suppress_health_check=[
                    HealthCheck.too_slow,
                    HealthCheck.data_too_large,
                    HealthCheck.large_base_example,
                ],
            ),
        )


class History(RuleBasedStateMachine):
    """One history: what is done to one queue, and to the model of it."""

    def __init__(self, bench: TransportHistories) -> None:
        super().__init__()
        self._bench = bench
        self._dsn = bench.dsn()
        self._clients = [self._make_client() for _ in range(min(bench.clients, CLIENTS))]
        self._clock = bench.clock_of(self._clients[0].transport)
        self._gone: list[Client] = []
        connection = self._clients[0].transport.connection
        self._lease = connection.lease if supports(connection, SupportsKeepalive) else 0.0
        self._model = Model(
            bench.guarantees,
            self._lease or float("inf"),
            bench.rounding,
            pause=bench.pause,
            held_by_connection=bench.held_by_connection,
        )
        self._delays = (0.0, 0.0, bench.short_delay, 2 * bench.short_delay) if bench.guarantees.delay else (0.0,)
        self._is_well = True

    def teardown(self) -> None:
        """Let everything come to its end, unless something was wrong already."""
        try:
            if self._is_well:
                self._drain()
        finally:
            for client in self._clients + self._gone:
                client.transport.close()

    @invariant()
    def all_is_well(self) -> None:
        """Take note that a step has come to its end."""
        self._is_well = True

    # the steps

    @initialize(delays=DELAYS)
    def begin(self, delays: list[int]) -> None:
        """Publish the first messages."""
        self._publish(delays)

    @rule(delays=DELAYS)
    def publish(self, delays: list[int]) -> None:
        """Publish some messages, most of them without a delay."""
        self._publish(delays)

    @rule(who=WHO, limit=st.integers(1, 4))
    def fetch(self, who: int, limit: int) -> None:
        """Fetch some messages."""
        self._fetch(self._clients[who % len(self._clients)], limit)

    @rule(who=WHO, some=SOME, how=st.sampled_from(["ack", "reject"]))
    def settle(self, who: int, some: list[int], how: str) -> None:
        """Settle something, as far as it has not become another's."""
        client = self._clients[who % len(self._clients)]
        self._settle(client, self._held_by(client, some), how)

    @rule(who=WHO, some=SOME)
    def release(self, who: int, some: list[int]) -> None:
        """Give something back."""
        client = self._clients[who % len(self._clients)]
        self._release(client, self._held_by(client, some))

    @rule(who=WHO, some=SOME, how=st.sampled_from(["ack", "reject", "release"]))
    def repeat(self, who: int, some: list[int], how: str) -> None:
        """Settle, or give back, what one has done with, which does nothing."""
        client = self._clients[who % len(self._clients)]
        if not client.past:
            self._release(client, self._held_by(client, some))
        if holdings := _pick(client.past, some):
            self._begin()
            getattr(client.transport.connection, how)([holding.delivery.tag for holding in holdings])

    @rule(who=WHO, some=SOME)
    def keep(self, who: int, some: list[int]) -> None:
        """Keep deliveries alive."""
        client = self._clients[who % len(self._clients)]
        connection, holdings = client.transport.connection, self._held_by(client, some)
        if holdings and supports(connection, SupportsKeepalive):
            begun = self._begin()
            lost = connection.keepalive([holding.delivery.tag for holding in holdings])
            self._model.keep(client, holdings, lost, self._end(begun))

    @rule(who=WHO, which=WHICH, delay=DELAY)
    def replace(self, who: int, which: int, delay: int) -> None:
        """Put a copy in the place of a message."""
        client = self._clients[who % len(self._clients)]
        connection, holdings = client.transport.connection, self._held_by(client, [which])
        if not holdings or not supports(connection, SupportsReplace):
            return
        [copy] = self._make([delay])
        begun = self._begin()
        try:
            connection.replace(holdings[0].delivery.tag, copy)
            is_replaced = True
        except TransportError:
            is_replaced = False
        self._model.replace(client, holdings[0], copy if is_replaced else None, self._end(begun))

    @rule(part=st.sampled_from([0.4, 1.1]), of=st.sampled_from(["delay", "lease"]))
    def wait(self, part: float, of: str) -> None:
        """Let some time pass: less than a delay or a lease, or more."""
        whole = self._bench.short_delay if of == "delay" else self._lease
        self._let_pass(part * (whole + self._bench.rounding))

    @rule(who=WHO, how=st.sampled_from(["lose the connection", "leave", "crash"]))
    def go(self, who: int, how: str) -> None:
        """Go away; the same one comes again, or another one."""
        client = self._clients[who % len(self._clients)]
        self._held_by(client, [0])
        if how == "lose the connection":
            self._reconnect(client)
            return
        if how == "crash" and self._bench.guarantees.lease:
            self._gone.append(client)  # It is heard of no more.
        else:
            begun = self._begin()
            client.transport.close()
            self._model.leave(client, self._end(begun))
        self._clients[who % len(self._clients)] = self._make_client()

    @rule(who=WHO)
    def count(self, who: int) -> None:
        """Count what is there."""
        connection = self._clients[who % len(self._clients)].transport.connection
        if self._bench.counts and supports(connection, SupportsCount):
            begun = self._begin()
            counts = connection.count()
            self._model.check_counts(counts, self._end(begun))

    # what they are made of

    def _make_client(self) -> Client:
        return Client(self._bench.transport(self._dsn, short_lease=True))

    def _now(self) -> float:
        return time.monotonic() if self._clock is None else self._clock.now()

    def _begin(self) -> float:
        self._is_well = False
        return self._now()

    def _end(self, begun: float) -> Span:
        return Span(begun, self._now())

    def _let_pass(self, seconds: float) -> None:
        if self._clock is None:
            threading.Event().wait(seconds)
        else:
            self._clock.move(seconds)

    def _make(self, delays: Iterable[int]) -> list[Outgoing]:
        return self._model.make(self._delays[which % len(self._delays)] for which in delays)

    def _publish(self, delays: Iterable[int]) -> None:
        messages = self._make(delays)
        begun = self._begin()
        self._bench.publish(self._clients[0].transport.connection, messages)
        self._model.publish(messages, self._end(begun))

    def _fetch(self, client: Client, limit: int) -> None:
        if not self._model.unsettled:
            self._publish([0, 0])
        begun = self._begin()
        awaited = self._model.must_come(Span(begun, begun))
        deliveries = self._bench.fetch(client.transport.connection, limit, self._bench.patience if awaited else 0.0)
        assert deliveries or not awaited, f"None came of messages {awaited}, which were waiting."
        assert len(deliveries) <= limit, f"{len(deliveries)} messages came, and {limit} were asked for."
        self._model.fetch(client, deliveries, self._end(begun))

    def _held_by(self, client: Client, some: Iterable[int]) -> list[Holding]:
        """Return some of what a client holds; fetch before, if that is nothing."""
        if not client.held:
            self._fetch(client, 2)
        return _pick(client.held, some)

    def _settle(self, client: Client, holdings: Sequence[Holding], how: str) -> None:
        if holdings:
            begun = self._begin()
            getattr(client.transport.connection, how)([holding.delivery.tag for holding in holdings])
            self._model.settle(client, holdings, self._end(begun))

    def _release(self, client: Client, holdings: Sequence[Holding]) -> None:
        if holdings:
            begun = self._begin()
            client.transport.connection.release([holding.delivery.tag for holding in holdings])
            self._model.release(client, holdings, self._end(begun))

    def _reconnect(self, client: Client) -> None:
        connection = client.transport.connection

        def use(current: Connection) -> None:
            if current is connection:
                raise ConnectionLost("It is lost in this history")

        begun = self._begin()
        client.transport.call(use)
        self._model.reconnect(client, self._end(begun))

    def _drain(self) -> None:
        """Handle everything, as a last client who has time."""
        for client in self._clients:
            self._release(client, list(client.held))
        if self._clock is not None:
            self._let_pass(self._lease + 2 * self._bench.short_delay + self._bench.pause + 2 * self._bench.rounding)
        last = self._clients[0]
        if self._bench.guarantees.release != "own":  # Else nobody else gets what was given back.
            last = self._make_client()
            self._clients.append(last)
        connection = last.transport.connection
        deadline = time.monotonic() + self._bench.patience
        while (missing := self._model.unsettled) or self._is_something_left(connection):
            assert time.monotonic() < deadline, f"Messages {missing} are lost."
            begun = self._begin()
            deliveries = self._bench.fetch(connection, 100, 0.05)
            self._model.fetch(last, deliveries, self._end(begun))
            self._settle(last, list(last.held), "ack")

    def _is_something_left(self, connection: Connection) -> bool:
        counts = connection.count() if self._bench.counts and supports(connection, SupportsCount) else None
        if counts is None or counts.in_flight is None:
            return False
        return bool(counts.waiting or counts.delayed or counts.in_flight)


def _pick(holdings: Sequence[Holding], which: Iterable[int]) -> list[Holding]:
    """Return those that have these positions, counted on from the beginning behind the end; each one once."""
    return list(dict.fromkeys(holdings[position % len(holdings)] for position in which)) if holdings else []
