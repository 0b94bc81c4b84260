"""What the workers of an app are told from afar, by notes at a broker: that a transport is paused, or that all stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import quote
from uuid import uuid4

import msgspec
from msgspec import Struct

from postbus.errors import ConfigurationError, TransportError
from postbus.queue_transport import QueueTransport
from postbus.transport import Transport

LONGEST_NAME = 200
"""Characters of the name of a note; a longer one is replaced by its digest."""

LONGEST_BY = 200
"""Characters of who has written a note."""


class Pause(Struct, frozen=True):
    """That a transport is paused for all workers: by whom, and since when by the clock of whoever that was."""

    by: str = "somebody"
    at: datetime | None = None

    def __str__(self) -> str:
        since = "" if self.at is None else f" since {self.at.astimezone().replace(tzinfo=None):%Y-%m-%d %H:%M:%S}"
        return f"by {self.by}{since}"


class Told(Struct, frozen=True):
    """What the notes in one place say."""

    paused: Mapping[str, Pause]
    """The transports that are paused, by their names."""
    stop: str | None
    """What was written when workers were told to stop last: another text each time. So no clock is asked."""


class Control:
    """The notes that tell the workers of one app what to do, wherever these run.

    Those about a transport lie beside its own queue, if its broker keeps notes; or all in one place, the control store,
    which is the transport of that name. They are of an app, which others that use the same broker are not told by.
    """

    def __init__(self, app: str, transports: Mapping[str, Transport], store: str | None = None) -> None:
        self._app = app
        self._transports = transports
        self._store = store

    def place_for(self, name: str) -> str | None:
        """Return the name of the transport where notes about this one lie; None if nobody keeps any."""
        place = self._store or name
        transport = self._transports[place]
        return place if isinstance(transport, QueueTransport) and transport.guarantees.notes else None

    def reaches_others(self, name: str) -> bool:
        """Say whether a note about this transport is read by other processes than this one."""
        place = self.place_for(name)
        return place is not None and self._transport(place).guarantees.shared

    def require_place_for(self, name: str) -> str:
        """Return the same; raise `ConfigurationError` if nobody keeps any."""
        place = self.place_for(name)
        if place is None:
            raise ConfigurationError(
                f"Transport {name!r} cannot be paused from afar, as {self._store or name!r} is on a broker that keeps "
                "no notes for workers. Name a transport that is on one that does in the configuration: control."
            )
        return place

    def pause(self, name: str, by: str | None = None) -> Pause | None:
        """Let no worker begin a message of this transport before `resume`; return the pause that there was already.

        Workers know within `postbus.worker.listening.Listener.INTERVAL`. Handlers that run finish, and are settled.
        """
        before = self.paused(name)
        if before is None:
            self._write(name, msgspec.json.encode(Pause(by or _whoami(), datetime.now(UTC))).decode())
        return before

    def resume(self, name: str) -> Pause | None:
        """Let workers go on with this transport; return the pause that this ends."""
        before = self.paused(name)
        if before is not None:
            self._write(name, None)
        return before

    def paused(self, name: str) -> Pause | None:
        """Return who has paused this transport for all workers; None if nobody has, or can."""
        place = self.place_for(name)
        return None if place is None else self.look(place, [name]).paused.get(name)

    def stop_workers(self, place: str, by: str | None = None) -> None:
        """Tell all workers that read the notes in this place, and have begun before, to stop."""
        text = msgspec.json.encode({"id": uuid4().hex, "by": by or _whoami(), "at": datetime.now(UTC)}).decode()
        self._transport(place).write_note(self._note("stop-workers"), text)

    def look(self, place: str, names: Sequence[str], *, tells: bool = False) -> Told:
        """Return what the notes in a place say to workers of these transports, in one round trip.

        ``tells``, as a worker does, if the broker is lost, or back again.
        """
        notes = [self._note("stop-workers"), *(self._note("paused", name) for name in names)]
        stop, *pauses = self._transport(place).read_notes(notes, tells=tells)
        return Told({name: _read(text) for name, text in zip(names, pauses, strict=True) if text is not None}, stop)

    def _write(self, name: str, text: str | None) -> None:
        self._transport(self.require_place_for(name)).write_note(self._note("paused", name), text)

    def _transport(self, place: str) -> QueueTransport:
        transport = self._transports[place]
        if not isinstance(transport, QueueTransport):
            raise TransportError(f"Transport {place!r} keeps no notes.")
        return transport

    def _note(self, *what: str) -> str:
        """Return the name of a note, in which nothing but the parts of it can be meant."""
        name = "/".join(quote(part, safe="", errors="surrogatepass") for part in (self._app, *what))
        if len(name) <= LONGEST_NAME:
            return name
        from hashlib import sha256  # noqa: PLC0415  Few have such a name.

        return sha256(name.encode()).hexdigest()


def _read(text: str) -> Pause:
    try:
        return msgspec.json.decode(text, type=Pause)
    except (msgspec.DecodeError, UnicodeError):  # Somebody has written it by hand, or a later version of ours.
        return Pause()


def _whoami() -> str:
    """Return who runs this program, and where, for people."""
    import getpass  # noqa: PLC0415  Who only works need not know.
    import socket  # noqa: PLC0415

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # As in a container, where a user may have no name.
        user = "somebody"
    return f"{user}@{socket.gethostname()}"[:LONGEST_BY]
