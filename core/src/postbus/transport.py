"""The broker contract: what the author of a plugin writes, and what the core promises in return.

A plugin brings a `Connection`, which moves bytes; `postbus.queue_transport` turns it into a transport.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

from msgspec import Struct, field

from postbus import stamps
from postbus.envelope import Envelope
from postbus.events import Observers
from postbus.serialization import Serializer
from postbus.stamps import Stamp

if TYPE_CHECKING:
    from typing_extensions import TypeIs  # In `typing` since Python 3.13.

LONGEST_DELAY = 100 * 365 * 86400.0
"""Seconds; what is to wait for longer is refused, because neither brokers nor calendars go on for ever."""


# --- bytes: between a transport and a connection ---------------------------------------------------

# Both are made after all that they hold, so they are in no cycle, and the garbage collector need not look at them.


class Outgoing(Struct, frozen=True, gc=False):
    """One message as bytes, on its way to a broker."""

    body: bytes
    headers: Mapping[str, str]
    delay: float = 0.0
    """Seconds before it may be delivered; never early. A broker that cannot wait refuses it."""
    stamps: tuple[Stamp, ...] = ()
    """All stamps of the envelope, for a plugin with stamps of its own (a routing key, a transaction)."""

    @property
    def group(self) -> str | None:
        """Its ordering key, any text: what the newest `stamps.Key` says; None if it belongs to nothing.

        A broker that has groups delivers it with a `Delivery.group` of this key's own, and takes that as a key for the
        same group. For one that has none it means nothing.
        """
        key = next((stamp for stamp in reversed(self.stamps) if type(stamp) is stamps.Key), None)
        return key.value if key is not None else None


class Delivery(Struct, frozen=True, gc=False):
    """One message as bytes, as a broker delivered it."""

    body: bytes
    headers: Mapping[str, str]
    tag: Any
    """What this connection settles the delivery by; means nothing to anybody else."""
    id: str | None = None
    """The broker's own id of the message, where it has one."""
    count: int | None = None
    """How often it has been delivered, this time included; None where the broker does not tell."""
    stamps: tuple[Stamp, ...] = ()
    """What the plugin wants handlers to see (the queue, the routing key)."""
    lease: float | None = None
    """For how many seconds this delivery is ours, where that is not what `SupportsKeepalive.lease` says of all."""
    group: str | None = None
    """Its ordering key: messages of one group are handled one after the other, in order, whatever the concurrency.

    What is published with it as `Outgoing.group` is of the same group. So the copies of a message that came without
    `stamps.Key`, from another program, stay in theirs.
    """
    problem: str | None = None
    """Why the plugin could not read what came: a clause. ``body`` and ``headers`` are then as much of it as there is.

    It becomes an `Undecodable` and is buried, so that it costs nobody else anything.
    """


@runtime_checkable
class Connection(Protocol):
    """Moves bytes to and from one broker.

    *Threads.* Safe to use from several: at any moment at most one of them is in `fetch`, while others
    publish and settle. Settling works while a `fetch` waits.

    *Errors.* The client's own errors stop here. `ConnectionLost` when the broker cannot be reached, after
    which this connection is closed and never used again; `MessageRefused` for what will never be taken as it is;
    `TransportError` for everything else. Opening happens in the constructor or at the first use, and raises the
    same.
    """

    def publish(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        """Store all of them, in this order, and return the ids that the broker gave.

        Returns only when the broker has taken responsibility (confirm, commit, fsync as configured).
        Otherwise raises, with ``stored`` telling which it has taken for certain. A message that will never be
        taken is refused alone: all others are stored, and then `MessageRefused` is raised.
        """
        ...

    def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Return up to ``limit`` deliveries; wait up to ``wait`` seconds when there is none.

        Returns as soon as there is at least one; with a wait of 0, what is there now. The wait is the broker's own
        push or long poll, where it has one. Bytes are delivered as they are, and what cannot be read at all comes
        with a ``problem``: nothing about one message raises.

        What this has not returned is for others: a broker that sends ahead must not leave a message, for as long as
        nobody is in here, with a connection that has not been asked for it.
        """
        ...

    def ack(self, tags: Sequence[Any]) -> Sequence[Any]:
        """Settle deliveries that were handled, in one round trip where the broker can.

        Returns those that it did not settle, as far as the broker tells: their lease was lost, they belong to an
        earlier connection and the broker settles them through no other, or they were settled before.
        """
        ...

    def reject(self, tags: Sequence[Any]) -> Sequence[Any]:
        """Settle deliveries that are finished with, badly: the broker does not deliver them again; as `ack`."""
        ...

    def release(self, tags: Sequence[Any]) -> Sequence[Any]:
        """Give deliveries back, unhandled; `Guarantees.release` says who sees them. Returns the same as `ack`."""
        ...

    def close(self) -> None:
        """Let go of everything. Twice is fine; while another thread waits in `fetch` is fine, and ends that wait."""
        ...


# --- optional abilities: asked for with isinstance, where they are used ----------------------------


@runtime_checkable
class SupportsSetup(Protocol):
    """Can make its tables, queues, streams."""

    def setup(self) -> None:
        """Create what is missing. Repeatable, and safe from several processes at once."""
        ...

    def missing(self) -> Sequence[str]:
        """Return a sentence for each thing that is not there, or not permitted; changes nothing.

        What is made at the first use, where the option ``auto_setup`` is on, is an `Absence`.
        """
        ...


@runtime_checkable
class SupportsScript(Protocol):
    """Can say what setting up does, so that somebody else may do it: an administrator, or a migration."""

    def script(self) -> str:
        """Return it in the broker's own language, as `SupportsSetup.setup` does it where nothing is there yet.

        Connects to nothing.
        """
        ...


class Absence(str):
    """A sentence of `SupportsSetup.missing` about what setting up would make, by itself or by ``postbus setup``."""

    __slots__ = ()


class Counts(Struct, frozen=True):
    """How much is on a broker; None for what it cannot tell."""

    waiting: int
    delayed: int | None = None
    in_flight: int | None = None
    oldest_age: float | None = None
    """Seconds since the oldest waiting message could have been delivered."""


@runtime_checkable
class SupportsCount(Protocol):
    """Can tell how many messages it holds."""

    def count(self) -> Counts:
        """Count, at a cost that does not hurt the broker."""
        ...


@runtime_checkable
class SupportsBrowse(Protocol):
    """Can show messages without delivering them; delayed and in-flight ones too."""

    def browse(self, limit: int, after: str | None = None) -> Sequence[Delivery]:
        """Return up to ``limit`` messages, always in the same order, beginning behind the one with id ``after``."""
        ...


@runtime_checkable
class SupportsFind(Protocol):
    """Can show one message without delivering it."""

    def find(self, id: str) -> Delivery | None:
        """Return the message with this id, or None."""
        ...


@runtime_checkable
class SupportsRemove(Protocol):
    """Can delete single messages."""

    def remove(self, ids: Sequence[str]) -> int:
        """Delete the messages with these ids, whatever their state; return how many there were."""
        ...


@runtime_checkable
class SupportsKeepalive(Protocol):
    """Delivers on a lease: what is neither settled nor kept alive for ``lease`` seconds is delivered again."""

    @property
    def lease(self) -> float:
        """The length of a lease, in seconds."""
        ...

    def keepalive(self, tags: Sequence[Any]) -> Sequence[Any]:
        """Begin each lease anew; return the tags whose lease was lost already. From any thread."""
        ...


@runtime_checkable
class SupportsRevocation(Protocol):
    """Is told by its broker which deliveries it gives to somebody else; a worker then begins none of those."""

    def revoked(self) -> Sequence[Any]:
        """Return the tags of deliveries that went to somebody else since the last call, without asking the broker."""
        ...


@runtime_checkable
class SupportsQueues(Protocol):
    """Can fetch from some of its queues only."""

    def fetch_from(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        """As `Connection.fetch`, from these queues, the first of them first.

        A queue that does not exist raises `TransportError`, which names it; the connection goes on.
        """
        ...


@runtime_checkable
class SupportsReplace(Protocol):
    """Can put a copy and settle the original in one atomic step."""

    def replace(self, tag: Any, message: Outgoing) -> str | None:
        """Store the message and settle the delivery, both or neither; return the copy's id.

        If the lease on the delivery has been lost, does neither and raises `TransportError`. A message that is
        refused, at position 0, leaves the delivery in flight.
        """
        ...


@runtime_checkable
class SupportsPurge(Protocol):
    """Can delete every message at once."""

    def purge(self) -> int:
        """Delete all messages, delayed and in-flight ones too; return how many there were."""
        ...


@runtime_checkable
class SupportsNotes(Protocol):
    """Can keep notes: small texts by name, beside the messages of its queue, for all who use that.

    By these the core tells workers on all machines what they are to do, so `Guarantees.notes` promises them. From any
    thread, also while another one waits in `Connection.fetch`.
    """

    def write_note(self, name: str, text: str | None) -> None:
        """Keep a text of up to 1000 characters under a name of up to 200, in place of what is there; None removes it.

        It is kept as well as a message is, for as long as nobody replaces it, whatever becomes of the messages. A name
        has printable ASCII alone, and its case matters. Where several queues lie together, they may share their notes.
        """
        ...

    def read_notes(self, names: Sequence[str]) -> Sequence[str | None]:
        """Return the text under each name, None where there is none, in one round trip; sets nothing up.

        An idle worker asks for that every few seconds, so it costs no more than looking for a message.
        """
        ...


A = TypeVar("A")


@runtime_checkable
class Restricted(Protocol):
    """Lacks some abilities of its class, because of its DSN or of what its broker is."""

    @property
    def lacks(self) -> Collection[type]:
        """The ``Supports…`` protocols whose methods are there and must not be called."""
        ...


def supports(connection: object, ability: type[A]) -> TypeIs[A]:
    """Say whether a connection has an ability: its class does, and it is not one that it lacks all the same."""
    return isinstance(connection, ability) and not (
        isinstance(connection, Restricted) and set(connection.lacks).intersection(ability.__mro__)
    )


# --- what a plugin promises ------------------------------------------------------------------------


class Guarantees(Struct, frozen=True, kw_only=True):
    """What a transport promises. The contract tests hold it to that, the documentation prints it, the core obeys it."""

    durable: bool
    """A stored message survives a restart of the broker."""
    shared: bool = True
    """Several processes can use it at once."""
    ordering: Literal["none", "fifo"] = "none"
    """In which order a single consumer gets messages that became available one after the other.

    What was given back becomes available anew, so it may come before or after what was behind it.
    """
    delay: bool = True
    """A message can be sent now, to be delivered later."""
    longest_delay: float | None = None
    """How long a delay may be, in seconds; None for no limit."""
    groups: bool = False
    """A delivery may tell its ordering key; messages of one key are handled one after the other."""
    priority: bool = False
    """A message of a higher priority overtakes those that wait."""
    lease: bool = False
    """Deliveries run out unless they are kept alive."""
    delivery_count: bool = False
    """A delivery tells how often its message was delivered.

    So a message that three workers died of is buried at the next delivery. Without this, it comes again for ever.
    """
    release: Literal["uncounted", "counted", "own"] = "uncounted"
    """Who sees what was given back: others, at once; or the same consumer alone, later (own).

    Where the broker counts it as a delivery (counted), a message that workers die of is buried at the 21st delivery,
    and so is one that was fetched along with it each time.
    """
    redelivery_on_crash: bool = True
    """What a process that died had fetched is delivered again."""
    transactional_send: bool = False
    """Can send inside a database transaction of the caller's."""
    notes: bool = False
    """Keeps notes beside its messages, so that it can be paused for all workers, and these be stopped, from afar."""
    binary_body: bool = True
    """A body may hold any bytes, not only text."""
    publish_batch: int = 1000
    """How many messages one `Connection.publish` is given at most."""
    fetch_batch: int = 1000
    """How many messages one `Connection.fetch` is asked for at most."""
    largest_message: int | None = None
    """How large a message may be, body and headers as they lie on the broker; None for no limit of its own."""
    longest_wait: float | None = None
    """How long one `Connection.fetch` can wait, in seconds; None for any time."""
    wait_ends_early: bool = True
    """A waiting `Connection.fetch` ends when another thread closes the connection."""


# --- envelopes: what the rest of the core sees -----------------------------------------------------


@runtime_checkable
class Sender(Protocol):
    """Stores envelopes, to be handled later or elsewhere."""

    def send(self, envelopes: Sequence[Envelope]) -> list[Envelope]:
        """Return when all are stored, each with `stamps.Sent`; otherwise raise `TransportError`."""
        ...


@runtime_checkable
class SupportsEncode(Protocol):
    """A sender that makes bytes of an envelope before it stores it, so that what cannot be written is found early."""

    def encode(self, envelope: Envelope) -> Outgoing:
        """Return the envelope as bytes; raise `SerializationError` if it cannot be written, or not be read."""
        ...

    def store(self, envelopes: Sequence[Envelope], outgoing: Sequence[Outgoing]) -> list[Envelope]:
        """As `Sender.send`, for envelopes that `encode` has made bytes of."""
        ...


@runtime_checkable
class Receiver(Protocol):
    """Delivers envelopes, which the caller settles: each is acked, rejected or released."""

    def receive(self, limit: int, wait: float, queues: Sequence[str] = ()) -> list[Envelope]:
        """Return up to ``limit`` envelopes, each with `stamps.Received`; wait up to ``wait`` seconds for the first."""
        ...

    def ack(self, envelopes: Sequence[Envelope]) -> list[Envelope]:
        """Settle what was handled; return what could not be, because it is somebody else's by now."""
        ...

    def reject(self, envelopes: Sequence[Envelope]) -> list[Envelope]:
        """Settle what is finished with, badly; return the same."""
        ...

    def release(self, envelopes: Sequence[Envelope]) -> list[Envelope]:
        """Give back what was not handled; return the same."""
        ...


@runtime_checkable
class Transport(Sender, Protocol):
    """What the factory of a plugin makes. One that can be consumed is a `Receiver` too."""

    @property
    def name(self) -> str:
        """The name that the app knows it by."""
        ...

    def close(self) -> None:
        """Let go of the broker. Twice is fine."""
        ...


class TransportContext(Struct, frozen=True):
    """What the app hands to the factory of a plugin."""

    name: str
    """The transport's name in the app."""
    serializer: Serializer
    dispatch: Callable[[Envelope], Envelope]
    """The app's own buses, for a transport that handles in this process."""
    guarantees: Guarantees
    """What the plugin promised for the scheme; where the DSN decides, its factory replaces it."""
    observers: Observers = field(default_factory=Observers)
    """Who is told of events."""
    verify: bool = True
    """Whether to refuse what would not be read as what it is; the serializer knows, a transport without one asks."""
    serializer_name: str | None = None
    """What the serializer is called in the app."""
    serializers: Callable[[str], Serializer | None] | None = None
    """Returns a serializer by its name, None for an unknown one. Given to failure transports only.

    They keep what came as it came, also if it was read by another serializer than theirs.
    """


def unmet_requirement(name: str, promised: Guarantees, given: Iterable[Stamp]) -> str | None:
    """Return which stamp asks for more than a transport promises, in a sentence; None if none does."""
    for stamp in given:
        if stamp.requires is not None and not getattr(promised, stamp.requires):
            return f"{name!r} cannot do what stamps.{type(stamp).__name__} asks for. Send it to another transport."
    return None
