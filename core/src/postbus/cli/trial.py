"""A process that handles what workers may have died of, one message after the other, for the worker that started it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections import ChainMap
from collections.abc import Callable, MutableMapping, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from postbus.app import Postbus
from postbus.errors import ConfigurationError
from postbus.events import Event, MessageFailed, MessageHandled
from postbus.queue_transport import QueueTransport
from postbus.transport import Delivery, Outgoing, Transport, TransportContext
from postbus.worker.options import Options
from postbus.worker.signals import StopSignals
from postbus.worker.trials import Channel, Verdict
from postbus.worker.worker import Worker

VARIABLE = "POSTBUS_TRIAL"
"""What tells such a process that it is one: the socket to its worker, and the transport."""


def isolate(app: Postbus, name: str, end: int) -> subprocess.Popen[bytes]:
    """Start such a process by the command line that started this one; see `postbus.worker.trials`."""
    for transport in map(app.transport, app.transports):
        if isinstance(transport, QueueTransport) and not transport.guarantees.shared:
            raise ConfigurationError(f"Transport {transport.name!r} exists in this process alone.")
    # To systemd it is no service of its own.
    environment = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
    return subprocess.Popen(  # noqa: S603  It is the command that started this process.
        [sys.executable, *sys.orig_argv[1:]],
        env={**environment, VARIABLE: f"{end}:{name}"},
        stdin=subprocess.DEVNULL,
        pass_fds=[end],
        process_group=0,  # Ctrl+C on a terminal is for its worker.
    )


class Summons(Struct, frozen=True):
    """What such a process was started for."""

    transport: str
    channel: Channel


def summons_in(environment: MutableMapping[str, str]) -> Summons | None:
    """Return what this process was started for, and take it out of the environment; None if it is no such process."""
    end, _, name = environment.pop(VARIABLE, "").partition(":")
    if not end:
        return None
    os.set_inheritable(int(end), False)
    return Summons(name, Channel(socket.socket(fileno=int(end))))


class TrialConnection:
    """Fetches from the worker that started this process, and has it settle; publishes to the real broker."""

    def __init__(self, broker: QueueTransport, channel: Channel) -> None:
        self._broker = broker
        self._channel = channel
        self._arrived: SimpleQueue[Delivery] = SimpleQueue()
        self._has_failed = False
        self.is_busy = False
        """Whether there is a message whose worker has not been told what has come of it."""

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        return self._broker.call(lambda connection: connection.publish(messages))

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        try:
            delivery = self._arrived.get(timeout=wait)
        except Empty:
            return ()
        self._channel.send("taken")
        return [delivery]

    def ack(self, tags: Sequence[Any]) -> Sequence[Any]:
        return self._tell("failed" if self._has_failed else "handled")

    def reject(self, tags: Sequence[Any]) -> Sequence[Any]:
        return self._tell("rejected")

    def release(self, tags: Sequence[Any]) -> Sequence[Any]:
        return self._tell("released")

    def close(self) -> None:
        """Do nothing: the socket lasts as long as the process."""

    def note(self, event: Event) -> None:
        """Take note of what comes of the message."""
        if isinstance(event, MessageFailed | MessageHandled):
            self._has_failed = isinstance(event, MessageFailed)

    def read(self, end: Callable[[], object]) -> None:
        """Take in what is sent as long as there is somebody; without its worker, a message is to be left unfinished."""
        while True:
            try:
                delivery = self._channel.receive()
            except EOFError:
                if self.is_busy:
                    os._exit(1)
                end()
                return
            except Exception:  # A border: something of a plugin's cannot be read here.
                self._tell("unreadable")
                continue
            assert isinstance(delivery, Delivery)
            self._has_failed, self.is_busy = False, True
            self._arrived.put(delivery)

    def _tell(self, verdict: Verdict) -> Sequence[Any]:
        with contextlib.suppress(OSError):  # Its worker is gone.
            self._channel.send(verdict)
        self.is_busy = False
        return ()


def worker_for(app: Postbus, summons: Summons, *, bus: str | None, grace: float, reset: bool = True) -> Worker:
    """Return a worker that handles what is sent, until nobody is there any more; tell that it begins."""
    app.bus(bus)
    broker = app.transport(summons.transport)
    assert isinstance(broker, QueueTransport)
    connection = TrialConnection(broker, summons.channel)
    # Its worker looks after all that is promised beyond moving bytes.
    guarantees = replace(broker.guarantees, lease=False, delivery_count=False, groups=False)
    context = TransportContext(broker.name, broker.serializer, app.handle, guarantees, app.observers)
    transport = QueueTransport(lambda: connection, context)
    transports: ChainMap[str, Transport] = ChainMap({broker.name: transport}, app.transports)  # type: ignore[arg-type]
    worker = Worker(
        {broker.name: transport},
        app.handle if bus is None else partial(app.handle, bus=bus),
        app.failures_among(transports),
        Options(grace=grace, reset=reset),
        observers=app.observers,
        hooks=app.hooks,
    )
    worker.prepare()
    app.observe(connection.note)
    StopSignals.counts_repeats = False
    threading.Thread(
        target=connection.read, args=(lambda: worker.stop("its worker is gone"),), name="postbus-trial", daemon=True
    ).start()
    summons.channel.send("begun")
    return worker
