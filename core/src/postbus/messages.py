"""Messages that every app can use: send another message on, run a command or a process, call a webhook.

What handles them is in `postbus.runners`, and is added by hand: what a worker runs for whoever can write into its queue
is for the app to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from msgspec import Raw, Struct
from msgspec.json import Decoder, encode
from msgspec.structs import force_setattr

from postbus.envelope import Envelope
from postbus.errors import ConfigurationError
from postbus.serialization import Codec, TypeRegistry


class Redispatch(Struct, frozen=True):
    """Dispatch another message: to these transports, or where the routing says if none is named.

    So a message that is handled at once, as by a scheduler, may put work into a queue.
    """

    message: Any
    transports: Sequence[str] = ()
    if TYPE_CHECKING:

        def __init__(self, message: Any, transports: str | Sequence[str] = ()) -> None: ...

    def __post_init__(self) -> None:
        if isinstance(self.message, Envelope):
            raise ConfigurationError("Redispatch takes a message, and not an envelope. Give it envelope.message.")
        names = (self.transports,) if isinstance(self.transports, str) else tuple(self.transports)
        force_setattr(self, "transports", names)

    @staticmethod
    def __postbus_codec__(types: TypeRegistry) -> Codec:
        """Write the message inside under its own name, and read it as what is registered there."""
        read = Decoder(_Redispatched).decode

        def write(outer: Redispatch) -> bytes:
            kind: type = outer.message.__class__
            inside = Raw(types.codec_for(kind).encode(outer.message))
            return encode(_Redispatched(types.name_for(kind), inside, outer.transports))

        def read_redispatch(body: bytes) -> Redispatch:
            came = read(body)
            kind = types.type_for(came.type)
            if kind is None:
                raise ValueError(f"$.message: no message is registered as {came.type!r}")
            return Redispatch(types.codec_for(kind).decode(bytes(came.message)), came.transports)

        return Codec(write, read_redispatch)


class _Redispatched(Struct):
    """What travels of it."""

    type: str
    message: Raw
    transports: Sequence[str]


@dataclass(frozen=True)
class RunCommand:
    """Run a line of the app's own command line, such as ``"newsletter send --dry-run"``, in the worker's process.

    With ``check`` an exit code other than 0 is a failure.
    """

    line: str
    check: bool = True


@dataclass(frozen=True)
class RunProcess:
    """Run a program with its arguments, as in ``RunProcess(["convert", "cat.png", "cat.webp"])``.

    With ``shell`` it is one line for the shell instead. ``environment`` is added to that of the worker, ``input`` is
    what the program reads. After ``timeout`` seconds it is killed, with all that it has started, and has failed; None
    is for any time. With ``check`` an exit code other than 0 is a failure.
    """

    command: str | Sequence[str]
    folder: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    input: str | None = None
    timeout: float | None = 60.0
    shell: bool = False
    check: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.command, str) and not self.shell:
            raise ConfigurationError(
                f"RunProcess was given the line {self.command!r}. Give it a list, the program first, or shell=True."
            )
        if self.shell and not isinstance(self.command, str):
            raise ConfigurationError("RunProcess with shell=True takes one line, and no list of arguments.")
        if not self.command:
            raise ConfigurationError("RunProcess names no program. Give it a list, the program first.")


@dataclass(frozen=True)
class PingWebhook:
    """Send a request to a URL, with a text or with what ``json`` is as JSON.

    ``timeout`` is in seconds. With ``check`` an answer of 300 or above is a failure; a redirect is not followed.
    """

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    text: str | None = None
    json: Any = None
    timeout: float = 10.0
    check: bool = True


class Completed(Struct, frozen=True):
    """How a command or a process ended, and what it wrote: of much, the end."""

    exit_code: int
    output: str
    error_output: str


class Answer(Struct, frozen=True):
    """What a webhook answered; of a long text the beginning."""

    status: int
    headers: Mapping[str, str]
    text: str
