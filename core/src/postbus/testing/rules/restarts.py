"""A broker that goes away costs nothing and deceives nobody; when it is back, all goes on.

These rules apply where `Workbench.broker` returns a broker that may be stopped.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial

import pytest

from postbus.envelope import Envelope
from postbus.errors import ConnectionLost, TransportError
from postbus.events import Event, TransportLost, TransportRestored
from postbus.queue_transport import QueueTransport
from postbus.testing.promises import promise
from postbus.testing.subject import Note
from postbus.testing.workbench import CLOCKS_DIFFER, Broker, Workbench, in_background, not_later_than, punctual
from postbus.transport import Outgoing

MESSAGES = [Outgoing(b"%d" % number, {"is": str(number)}) for number in range(3)]


class Restarts(Workbench):
    """A broker that goes away costs nothing and deceives nobody; when it is back, all goes on."""

    @promise("restarts-1", since="0.1")
    def test_what_was_published_survives_a_restart(self) -> None:
        """What `publish` has returned for is there, whole, when the broker was stopped and started again."""
        self._see_messages_after(self._breakable(), crash=False)

    @promise("restarts-2", since="0.1")
    def test_what_was_published_survives_a_crash(self) -> None:
        """What `publish` has returned for is there, whole, when the broker was killed and started again."""
        self._see_messages_after(self._breakable(), crash=True)

    @promise("restarts-3", since="0.1")
    def test_what_was_in_flight_survives_a_restart(self) -> None:
        """What was delivered before and not settled comes again, once who had it is gone."""
        self.requires(durable=True)
        broker = self._breakable()
        connection = self.connect(short_lease=True)
        self.publish(connection, MESSAGES)
        self.take(connection, 3)

        with _away(broker):
            pass

        self.in_time(in_background(connection.close))
        self.take_all_of(self.connect(short_lease=True), {message.body for message in MESSAGES})

    @promise("restarts-4", since="0.1")
    @punctual
    def test_what_is_delayed_survives_a_restart(self) -> None:
        """It comes when its delay is over, although the broker was away for a while of it, and not before.

        It may come twice: a broker that is stopped just as it hands a message on does so again when it is back.
        """
        self.requires(durable=True, delay=True)
        broker = self._breakable()
        published = time.monotonic()
        self.connect().publish([Outgoing(b"later", {}, 2 * self.short_delay), Outgoing(b"never", {}, self.long_delay)])
        not_later_than(published + self.short_delay)

        with _away(broker):
            pass

        connection = self.connect()
        [delivery] = self.take(connection, 1)
        assert b"later" == delivery.body
        assert time.monotonic() - published >= 2 * self.short_delay - CLOCKS_DIFFER
        assert {b"later"} >= {delivery.body for delivery in self.fetch(connection, 10, self.quiet)}

    @promise("restarts-5", since="0.1")
    def test_a_waiting_fetch_hears_of_a_lost_broker(self) -> None:
        """It ends with `ConnectionLost`, long before its wait is over."""
        broker = self._breakable()
        connection = self.connect()
        waiting = in_background(partial(self.fetch, connection, 10, 3 * self.patience))
        self.assert_still_waiting(waiting)

        with _away(broker, crash=True), pytest.raises(ConnectionLost):
            self.in_time(waiting)

    @promise("restarts-6", since="0.1")
    def test_fetching_without_a_broker_is_a_lost_connection(self) -> None:
        """Neither a connection from before nor a new one waits for messages that cannot come."""
        broker = self._breakable()
        connection = self.connect()
        self.fetch(connection, 10, 0)

        with _away(broker):
            for fetch in (partial(self.fetch, connection, 10, 3 * self.patience), self._connect_and_fetch):
                with pytest.raises(ConnectionLost):
                    self.in_time(in_background(fetch))

    @promise("restarts-7", since="0.1")
    def test_publishing_without_a_broker_is_an_error(self) -> None:
        """`publish` raises soon, and says that nothing is stored, on a connection from before and on a new one."""
        broker = self._breakable()
        connection = self.connect()
        self.publish(connection, MESSAGES[:1])

        with _away(broker):
            for publish in (partial(self.publish, connection, MESSAGES), self._connect_and_publish):
                with pytest.raises(TransportError) as caught:
                    self.in_time(in_background(publish))
                assert {} == caught.value.stored

    @promise("restarts-8", since="0.1")
    def test_closing_without_a_broker_is_quiet(self) -> None:
        """`close` needs nobody at the other end."""
        broker = self._breakable()
        connection = self.connect()
        self.publish(connection, MESSAGES)
        self.take(connection, 1)

        with _away(broker):
            self.in_time(in_background(connection.close))

    @promise("restarts-9", since="0.1")
    def test_a_transport_goes_on_after_a_restart(self) -> None:
        """It sends and receives as before, without being made anew; what was sent earlier is not lost."""
        broker = self._breakable()
        transport = self.transport(short_lease=True)
        transport.send([Envelope.wrap(Note("before"))])

        with _away(broker), pytest.raises(TransportError):
            self.in_time(in_background(partial(transport.send, [Envelope.wrap(Note("meanwhile"))])))
        transport.send([Envelope.wrap(Note("after"))])

        wanted = {"before", "after"} if self.guarantees.durable else {"after"}
        assert wanted == self._receive_all_of(transport, wanted)

    @promise("restarts-10", since="0.1")
    def test_a_transport_receives_after_a_restart(self) -> None:
        """Who only receives, and did nothing while the broker was away, gets what is there and what comes then."""
        broker = self._breakable()
        transport = self.transport()
        transport.receive(1, 0)
        self.transport().send([Envelope.wrap(Note("before"))])

        with _away(broker):
            pass

        self.transport().send([Envelope.wrap(Note("after"))])
        wanted = {"before", "after"} if self.guarantees.durable else {"after"}
        assert wanted == self._receive_all_of(transport, wanted)

    @promise("restarts-11", since="0.1")
    def test_a_transport_settles_after_a_restart(self) -> None:
        """What it received before is settled, or ignored and comes again; both are quiet, and nothing else is hit."""
        broker = self._breakable()
        transport = self.transport(short_lease=True)
        transport.send([Envelope.wrap(Note(text)) for text in ("acked", "released")])
        acked, released = self.receive(transport, 2)

        with _away(broker):
            pass

        transport.ack([acked])
        transport.release([released])
        transport.send([Envelope.wrap(Note("after"))])
        wanted = {released.message.text, "after"} if self.guarantees.durable else {"after"}
        assert wanted == self._receive_all_of(transport, wanted)

    @promise("restarts-12", since="0.1")
    def test_a_loss_is_told_once(self) -> None:
        """However often a transport tries while the broker is away, observers hear of one loss, and then of one return.

        A fetch that ends before it has reached the broker, and so with nothing, is no return.
        """
        broker = self._breakable()
        events: list[Event] = []
        self.observers.add(events.append)
        transport = self.transport()
        transport.receive(1, 0)

        def told() -> list[type[Event]]:
            return [type(event) for event in events if isinstance(event, TransportLost | TransportRestored)]

        with _away(broker):
            for _ in range(2):  # The second waits until it may try again, and does.
                wait = max(self.quiet, 2 * QueueTransport.first_pause)
                assert [] == self.in_time(in_background(partial(transport.receive, 1, wait)))
            assert [TransportLost] == told()
        transport.send([Envelope.wrap(Note("after"))])
        transport.ack(self.receive(transport, 1))
        transport.receive(1, 0)

        assert [TransportLost, TransportRestored] == told()

    def _breakable(self) -> Broker:
        broker = self.broker()
        if broker is None:
            self.unproven("broker()", "No broker is known that may be stopped")
        return broker

    def _see_messages_after(self, broker: Broker, *, crash: bool) -> None:
        self.requires(durable=True)
        self.publish(self.connect(), MESSAGES)

        with _away(broker, crash=crash):
            pass

        deliveries = self.take(self.connect(), 3)
        assert {message.body: message.headers for message in MESSAGES} == {d.body: d.headers for d in deliveries}

    def _connect_and_fetch(self) -> Sequence[object]:
        return self.fetch(self.connect(setup=False), 10, 3 * self.patience)

    def _connect_and_publish(self) -> Sequence[object]:
        return self.publish(self.connect(setup=False), MESSAGES)

    def _receive_all_of(self, transport: QueueTransport, wanted: set[str]) -> set[str]:
        """Receive and ack until all of these have come; return those that did. Others may come besides, and again."""
        deadline = time.monotonic() + self.patience
        seen: set[str] = set()
        while not wanted <= seen and (left := deadline - time.monotonic()) > 0:
            if received := transport.receive(10, left):
                transport.ack(received)
                seen |= {envelope.message.text for envelope in received}
        return seen & wanted


@contextmanager
def _away(broker: Broker, *, crash: bool = False) -> Generator[None]:
    (broker.kill if crash else broker.stop)()
    try:
        yield
    finally:
        broker.start()
