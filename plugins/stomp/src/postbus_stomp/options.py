"""What a DSN of ``stomp://`` or ``stomps://`` says."""

from __future__ import annotations

import re
from dataclasses import dataclass

from postbus.dsn import Dsn, Host, Options, option
from postbus.errors import DsnError

PORT, TLS_PORT = 61613, 61612

LARGEST_MESSAGE = 100 * 1024 * 1024
"""What ActiveMQ takes as it comes, in bytes."""

# A comma and wildcards would make several queues of one, and a question mark would begin options of ActiveMQ's.
_QUEUE = re.compile(r"[^,*>?\s\x00-\x1f]+")


class StompOptions(Options):
    """What may stand behind the "?", or in the configuration: read, checked and documented by these lines."""

    user: str | None = option(None, "Who logs in; nobody, if it is left out.", aliases=("login",))
    password: str | None = option(None, "Password of the user.", aliases=("passcode",))
    queue_name: str = option("messages", "The queue; the path of the DSN names it too.")
    prioritized: bool = option(False, "The queue has ActiveMQ's policy `prioritizedMessages`, so priorities count.")
    heartbeat: float = option(
        15.0, "A broker that is silent for one and a half times as long is lost; 0 never.", unit="seconds", minimum=0
    )
    connect_timeout: float = option(10.0, "Longest wait until a connection is ready.", unit="seconds", minimum=0.1)
    confirm_timeout: float = option(
        30.0, "Longest wait until the broker confirms what was sent or settled.", unit="seconds", minimum=0.1
    )
    max_frame_size: int = option(
        LARGEST_MESSAGE, "What ActiveMQ calls `wireFormat.maxFrameSize`, in bytes.", minimum=1024
    )
    cacert: str | None = option(None, "`stomps` only: file or folder with the CAs to trust, instead of the system's.")
    cert: str | None = option(None, "`stomps` only: file with the client's certificate.")
    key: str | None = option(None, "`stomps` only: file with the key of `cert`, if it is not in there.")
    verify: bool = option(True, "`stomps` only: check the broker's certificate, and the host name in it.")


@dataclass(frozen=True, slots=True, init=False)
class Settings:
    """A DSN, read: where the broker is, and what to do there."""

    hosts: tuple[Host, ...]
    is_encrypted: bool
    options: StompOptions

    def __init__(self, dsn: Dsn) -> None:
        path = "/".join(dsn.segments) or None
        options = StompOptions.from_dsn(dsn, user=dsn.user, password=dsn.password, queue_name=path)
        encrypted = dsn.scheme.endswith("s")
        if not _QUEUE.fullmatch(options.queue_name):
            raise DsnError(f"A queue of {dsn.scheme}:// has no ',', '*', '>', '?' or blank in its name. Rename it.")
        if not encrypted and (options.cacert or options.cert or options.key):
            raise DsnError(f"{dsn.scheme}:// is not encrypted. Write {dsn.scheme}s://, or leave the certificates out.")
        if (options.user is None) != (options.password is None):
            raise DsnError(
                f"{dsn.scheme}:// has a user or a password, and not both. Write {dsn.scheme}://user:pw@host."
            )
        port = TLS_PORT if encrypted else PORT
        hosts = tuple(Host(host.name, host.port or port) for host in dsn.hosts or (Host("localhost"),))
        object.__setattr__(self, "hosts", hosts)
        object.__setattr__(self, "is_encrypted", encrypted)
        object.__setattr__(self, "options", options)

    @property
    def destination(self) -> str:
        """The queue, as STOMP names it."""
        return f"/queue/{self.options.queue_name}"

    @property
    def where(self) -> str:
        """The broker, as errors name it."""
        return f"ActiveMQ at {','.join(map(str, self.hosts))}"
