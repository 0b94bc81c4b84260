"""The options of a DSN, and where it leads."""

from __future__ import annotations

import logging
import re

from msgspec import Struct

from postbus.dsn import Dsn, Options, option
from postbus.errors import DsnError
from postbus_beanstalkd.limits import LARGEST, MOST, SHORTEST_TTR

PORT = 11300

logger = logging.getLogger("postbus")

# A line break in a name would be the end of one command, and what follows it another one.
_TUBE = re.compile(r"[A-Za-z0-9+/;.$_()][A-Za-z0-9+/;.$_()-]{0,199}", re.ASCII)


class BeanstalkdOptions(Options):
    """What every DSN of this plugin takes."""

    tube_name: str = option("default", "Tube that messages are put into.")
    tubes: tuple[str, ...] | None = option(None, "Tubes that are consumed; if none are given, that of tube_name.")
    priority: int = option(1024, "Priority of a message; 0 is the most urgent.", minimum=0, maximum=MOST)
    ttr: int = option(
        90,
        "A message in flight for longer, and not kept alive, is delivered again.",
        unit="seconds",
        minimum=SHORTEST_TTR,
        maximum=MOST,
    )
    bury_on_reject: bool = option(False, "Bury a message that was rejected, instead of deleting it.")
    max_job_size: int = option(
        LARGEST, "Bytes of the largest job, as the server's option -z has it.", minimum=1, maximum=2**30
    )
    connect_timeout: float = option(5, "How long connecting may take; 0 means for ever.", unit="seconds", minimum=0)
    read_timeout: float = option(
        5, "How long an answer may take beyond what it waits for; 0 means for ever.", unit="seconds", minimum=0
    )
    timeout: int = option(0, "How long Symfony waits for a message.", unit="seconds", minimum=0, no_effect=True)

    def __post_init__(self) -> None:
        for name, tubes in (("tube_name", (self.tube_name,)), ("tubes", self.tubes or ())):
            for tube in tubes:
                if (why := tube_problem(tube)) is not None:
                    raise DsnError(f"Option {name!r} of beanstalkd:// holds {why}.")
        if self.tubes is not None and not self.tubes:
            raise DsnError("Option 'tubes' of beanstalkd:// is empty. Leave it out, or name a tube.")
        if self.tubes is not None and len(set(self.tubes)) < len(self.tubes):
            raise DsnError("Option 'tubes' of beanstalkd:// names a tube twice. Name each once.")

    @property
    def consumed(self) -> tuple[str, ...]:
        """The tubes that are consumed."""
        return self.tubes or (self.tube_name,)


class Address(Struct, frozen=True):
    """Where the server is: a host and its port, or a Unix socket."""

    host: str
    port: int
    socket: str | None = None

    def __str__(self) -> str:
        if self.socket is not None:
            return self.socket
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address_of(dsn: Dsn) -> Address:
    """Return where a DSN leads; raise `DsnError` if it leads nowhere, or to more than one server."""
    if len(dsn.hosts) > 1:
        raise DsnError(
            f"{dsn.scheme}:// names several servers, which know nothing of each other. Make a transport for each."
        )
    if dsn.user or dsn.password:
        logger.warning("beanstalkd knows no users; those of its DSN are without effect.")
    path = "/".join(dsn.segments)
    if dsn.hosts:
        if path:
            logger.warning("The path of %s:// is without effect. Write ?tube_name=... for a tube.", dsn.scheme)
        return Address(dsn.hosts[0].name, dsn.hosts[0].port or PORT)
    if not path:
        raise DsnError(f"{dsn.scheme}:// names no server. Write {dsn.scheme}://localhost:{PORT}.")
    return Address("", 0, f"/{path}")


def tube_problem(name: str) -> str | None:
    """Return what is wrong with the name of a tube, as a clause; None if nothing is."""
    if _TUBE.fullmatch(name):
        return None
    if not name:
        return "an empty name of a tube"
    return (
        f"{name[:200]!r}, which is no name of a tube: 1 to 200 letters, digits and characters of '-+/;.$_()', "
        "and no '-' at its beginning"
    )
