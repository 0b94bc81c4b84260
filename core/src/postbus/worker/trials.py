"""Messages that workers may have died of, each handled in a process of its own: if that dies too, it was this one."""

from __future__ import annotations

import contextlib
import logging
import pickle
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Literal, cast

from msgspec import Struct

from postbus import stamps
from postbus.envelope import Envelope
from postbus.errors import PostbusError, TransportError, describe
from postbus.failures import identifiers, label
from postbus.queue_transport import QueueTransport
from postbus.serialization import Undecodable
from postbus.stamps import Stamp
from postbus.transport import Delivery
from postbus.worker.deliveries import Deliveries
from postbus.worker.dispatching import Dispatcher, Outcome

logger = logging.getLogger("postbus")

Isolate = Callable[[str, int], "subprocess.Popen[bytes]"]
"""Starts a process like this one that handles messages of the transport of this name, which come by this socket."""

Verdict = Literal["handled", "failed", "rejected", "released", "unreadable", "taken"]
"""What is to be done with the delivery; after failing, a copy is stored. What was only taken is being handled yet."""


class Channel:
    """A socket between a worker and a process that it has started, both of them ours; carries whole objects."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._file = end.makefile("rb")

    def send(self, item: object) -> None:
        """Send an object; raise `OSError` if nobody is there any more."""
        content = pickle.dumps(item)
        self._end.sendall(struct.pack("!Q", len(content)) + content)

    def receive(self) -> object:
        """Return the next object; raise `EOFError` if nobody is there any more."""
        try:
            head = self._file.read(8)
            content = self._file.read(struct.unpack("!Q", head)[0]) if len(head) == 8 else b""
        except OSError as error:
            raise EOFError from error
        return pickle.loads(content)  # noqa: S301  What is sent here comes from this very program.

    def close(self) -> None:
        """Let the other side know that nobody is here any more, and who receives here that nothing comes any more."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        self._end.close()

    def close_after(self, process: subprocess.Popen[bytes]) -> None:
        """Receive nothing any more once a process has ended, though others that it has forked may hold its end."""
        process.wait()
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RD)


class Chamber(Struct):
    """A process for messages of one transport, and the channel to it."""

    process: subprocess.Popen[bytes]
    channel: Channel


class Trials:
    """Handles messages in other processes, one after the other in each, so that none endangers another.

    It takes the place of `Dispatcher` for them. Each of its threads starts such a process when it needs it first, and
    all end when no such message is left. They deal with failures as any worker; deliveries are settled by this one.
    """

    AT_ONCE = 4
    """How many such processes there are at most: each takes as much memory as a worker."""
    BEGINS_WITHIN = 120.0
    """Seconds in which such a process must have begun."""

    def __init__(self, dispatcher: Dispatcher, isolate: Isolate) -> None:
        self._dispatcher = dispatcher
        self._isolate = isolate
        self._chambers: dict[tuple[int, str], Chamber] = {}
        self._lock = threading.Lock()
        self._is_over = False
        self.is_possible = True
        """Whether such a process can do anything; it may not be able to begin."""

    def handle(self, deliveries: Deliveries, envelope: Envelope) -> Outcome | None:
        """Have a message handled; return what its worker has to do yet, None if it was interrupted."""
        if isinstance(envelope.message, Undecodable) or deliveries.suspects.deaths(envelope):
            return self._dispatcher.handle(deliveries, envelope)
        chamber = self._chamber_for(deliveries) if self.is_possible else None
        if chamber is None:
            return "left"
        is_taken = False
        try:
            chamber.channel.send(_as_delivery(deliveries, envelope))
            verdict = cast(Verdict, chamber.channel.receive())
            if verdict == "taken":
                is_taken = True
                verdict = cast(Verdict, chamber.channel.receive())
        except (OSError, EOFError):
            return self._take_note_of_death(deliveries, envelope, is_taken=is_taken)
        except Exception:  # A border: something of a plugin's cannot be written down.
            verdict = "unreadable"
        if verdict == "unreadable":
            return self._dispatcher.handle(deliveries, envelope)
        if verdict == "handled":
            if deliveries.switch is not None:
                deliveries.switch.note_handled()
            return "handled"
        if verdict == "released":
            return "left"
        if verdict == "failed":
            return "owed"
        try:
            deliveries.receiver.reject([envelope])
        except TransportError as error:
            logger.warning("Could not reject %s; it comes again: %s", label(envelope), error)
        return "failed"

    def handle_together(
        self, deliveries: Deliveries, envelopes: Sequence[Envelope], tell: Callable[[Envelope, Outcome], None]
    ) -> None:
        """Have each handled by itself; nothing is gathered for these processes."""
        raise NotImplementedError

    def end(self) -> None:
        """End these processes; one that handles a message leaves it unfinished."""
        with self._lock:
            chambers, self._chambers = self._chambers, {}
        for chamber in chambers.values():
            chamber.channel.close()

    def interrupt(self) -> bool:
        """End what they handle, and begin nothing any more; say whether there was anything."""
        self._is_over = True
        is_any = bool(self._chambers)
        self.end()
        return is_any

    def _chamber_for(self, deliveries: Deliveries) -> Chamber | None:
        """Return the process for a transport, which has begun; None if it cannot."""
        key = _key_of(deliveries)
        chamber = self._chambers.get(key)
        if chamber is not None and chamber.process.poll() is None:
            return chamber
        ours, theirs = socket.socketpair()
        chamber = None
        try:
            with theirs:
                theirs.set_inheritable(True)
                ours.settimeout(self.BEGINS_WITHIN)
                chamber = Chamber(self._isolate(deliveries.name, theirs.fileno()), Channel(ours))
            threading.Thread(
                target=chamber.channel.close_after, args=(chamber.process,), name="postbus-trial", daemon=True
            ).start()
            with self._lock:
                if self._is_over:
                    raise EOFError
                self._chambers[key] = chamber
            chamber.channel.receive()  # That it has begun.
            ours.settimeout(None)
        except (OSError, EOFError, PostbusError) as error:
            ours.close()
            self._chambers.pop(key, None)
            if chamber is not None:
                chamber.process.kill()
            if not self._is_over:
                self._note_impossible(describe(error) if str(error) else "it ended before it had begun")
            return None
        return chamber

    def _note_impossible(self, why: str) -> None:
        with self._lock:
            is_news, self.is_possible = self.is_possible, False
        if is_news:
            logger.error("No process can be started for messages that workers died of, so each is alone: %s", why)

    def _take_note_of_death(self, deliveries: Deliveries, envelope: Envelope, *, is_taken: bool) -> Outcome | None:
        """Deal with a message whose process has died, unless it was ended by this one, or before it had begun."""
        with self._lock:
            chamber = self._chambers.pop(_key_of(deliveries), None)
        if chamber is None:
            return None
        chamber.channel.close()
        code = chamber.process.wait()
        if not is_taken:
            return "left"
        logger.error(
            "The process in which %s was handled by itself has died (%s).",
            label(envelope),
            f"exit code {code}" if code >= 0 else signal.Signals(-code).name,
            extra=identifiers(envelope),
        )
        deliveries.suspects.condemn(envelope)
        return self._dispatcher.handle(deliveries, envelope)


def _key_of(deliveries: Deliveries) -> tuple[int, str]:
    return threading.get_ident(), deliveries.name


def _as_delivery(deliveries: Deliveries, envelope: Envelope) -> Delivery:
    """Return a message as it came, for another process."""
    assert isinstance(deliveries.receiver, QueueTransport)
    encoded = deliveries.receiver.encode(envelope)
    received = envelope.last(stamps.Received) or stamps.Received(deliveries.name)
    return Delivery(
        encoded.body, encoded.headers, None, received.id, received.count, _staying(envelope), group=received.group
    )


def _staying(envelope: Envelope) -> tuple[Stamp, ...]:
    """Return what a plugin has put on a message, which no serializer writes."""
    ours = (stamps.Received, stamps.Encoded, stamps.UnknownHeaders)
    return tuple(stamp for stamp in envelope.stamps if stamp.wire_name is None and not isinstance(stamp, ours))
