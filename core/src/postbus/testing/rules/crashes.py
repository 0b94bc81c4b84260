"""A process that dies takes nothing with it; one that forks disturbs nobody."""

from __future__ import annotations

import os
import signal
import traceback

import pytest

from postbus.envelope import Envelope
from postbus.queue_transport import QueueTransport
from postbus.testing.promises import promise
from postbus.testing.subject import Note
from postbus.testing.workbench import Workbench, hear, not_later_than, punctual
from postbus.transport import Outgoing


class Crashes(Workbench):
    """A process that dies takes nothing with it; one that forks disturbs nobody."""

    @promise("crashes-1", since="0.1")
    @punctual
    def test_what_a_killed_process_had_fetched_comes_back_once(self) -> None:
        """All that a process had fetched and not settled when it got SIGKILL comes to another one, no message twice."""
        self.requires(shared=True, redelivery_on_crash=True)
        connection = self.connect(short_lease=True)
        self.publish(connection, [Outgoing(b"%d" % number, {}) for number in range(3)])

        with self.child("fetch", 3, short_lease=True) as child:
            assert "fetched 3" == hear(child)

        deliveries, until = self.take_on_lease(connection, 3)
        connection.ack([delivery.tag for delivery in deliveries])
        not_later_than(until)
        assert {b"0", b"1", b"2"} == {delivery.body for delivery in deliveries}
        self.assert_empty(connection)

    @promise("crashes-2", since="0.1")
    def test_what_a_killed_process_had_not_fetched_is_untouched(self) -> None:
        """The death of one process costs no message that it never had."""
        self.requires(shared=True)
        connection = self.connect()
        self.publish(connection, [Outgoing(b"%d" % number, {}) for number in range(3)])
        with self.child("fetch", 1) as child:
            assert "fetched 1" == hear(child)

        bodies = {delivery.body for delivery in self.take(connection, 2)}

        assert 2 == len(bodies & {b"0", b"1", b"2"})

    @promise("crashes-3", since="0.1")
    def test_what_a_killed_process_had_published_is_stored(self) -> None:
        """What `publish` has returned for needs the process that called it no longer."""
        self.requires(shared=True)
        connection = self.connect()

        with self.child("publish", 3) as child:
            assert -signal.SIGKILL == child.wait(60)

        assert {b"0", b"1", b"2"} == {delivery.body for delivery in self.take(connection, 3)}

    @promise("crashes-4", since="0.1")
    def test_a_forked_process_has_a_connection_of_its_own(self) -> None:
        """Parent and child go on with the same transport, and neither gets in the other's way."""
        self.requires(shared=True)
        if not hasattr(os, "fork"):
            pytest.skip("This system cannot fork.")
        transport = self.transport()
        transport.send([Envelope.wrap(Note("before"))])

        child = os.fork()
        if child == 0:
            self._send_and_handle_one(transport)
        transport.send([Envelope.wrap(Note("from the parent"))])
        _, status = os.waitpid(child, 0)

        assert 0 == os.waitstatus_to_exitcode(status), "The child failed; what it said is above."
        left = self.receive(transport, 2)
        transport.ack(left)
        assert {envelope.message.text for envelope in left} < {"before", "from the parent", "from the child"}
        self.assert_empty(transport.connection)

    def _send_and_handle_one(self, transport: QueueTransport) -> None:
        # This is the child, which must end here whatever happens, and must not outlive the test.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(3 * self.patience) + 1)
        code = 1
        try:
            transport.send([Envelope.wrap(Note("from the child"))])
            transport.ack(self.receive(transport, 1))
            transport.close()  # What is settled may be told to the broker a little later.
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
